"""Uploads one file: read once, checked on the way, a few parts of it in memory. Blocks, and runs in threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import google_crc32c
import urllib3
from minio import Minio
from minio.error import S3Error
from urllib3.response import BaseHTTPResponse

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.objects.base import ObjectNotFoundError, Stretch
from storage_svc.spool.room import disk_failure

PARALLEL_PARTS: Final = 2
"""Parts of one file that are sent at once; the next one is read meanwhile."""

_MAX_PART_COUNT: Final = 10_000
"""Most parts that an object of S3 has."""

_CHECKSUM_NAME: Final = "sha512"
"""Under which an object tells its checksum, so that a repeated upload sees that it is there."""

_OK_STATUS: Final = range(200, 300)


class Upload:
    """One file on its way into the store."""

    def __init__(
        self,
        make_client: Callable[[urllib3.PoolManager], Minio],
        connections: urllib3.PoolManager,
        bucket: str,
        key: str,
        path: Path,
        *,
        data_sha512: str,
        stretches: Sequence[Stretch],
        part_bytes: int,
    ) -> None:
        """Prepares an upload.

        Args:
            make_client: Returns a client of the store that uses these connections.
            connections: Connections to the store.
            bucket: The bucket.
            key: The object.
            path: The file.
            data_sha512: SHA-512 of its content, in hexadecimal; told with the object.
            stretches: What the file must consist of.
            part_bytes: Size of the parts of an object that is larger than that.
        """
        self._make_client = make_client
        self._connections = connections
        self._bucket = bucket
        self._key = key
        self._path = path
        self._data_sha512 = data_sha512
        self._stretches = stretches
        self._part_bytes = part_bytes
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Ends the upload before its next part; for another thread to call."""
        self._given_up.set()

    def run(self) -> None:
        """Uploads the file, unless the object is there already; returns when the store has confirmed its size.

        Raises:
            ObjectNotFoundError: If there is neither file nor object.
            HeimdallError: CHECKSUM_MISMATCH if the content is wrong; BACKEND_UNAVAILABLE if the disk fails, the
                upload was given up, or the store has another size than it took.
            Exception: One of `failures.FAILURES`.
        """
        client = self._make_client(self._connections)
        if self._is_stored(client):
            return
        try:
            file = self._path.open("rb")
        except FileNotFoundError as error:
            raise ObjectNotFoundError(f"there is neither an object {self._key} nor its file {self._path}") from error
        except OSError as error:
            raise disk_failure(error, f"open {self._path}") from error
        with file:
            size_bytes = os.fstat(file.fileno()).st_size
            self._put(CheckedFile(file, self._stretches, self._given_up), size_bytes)
        stored_bytes = client.stat_object(self._bucket, self._key).size
        if stored_bytes != size_bytes:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
                f"the object store took {size_bytes} bytes of {self._key} and says that it has {stored_bytes}",
                metadata={"backend": "objects", "key": self._key},
            )

    def _is_stored(self, client: Minio) -> bool:
        try:
            stored = client.stat_object(self._bucket, self._key)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return False
        return (stored.metadata or {}).get(f"x-amz-meta-{_CHECKSUM_NAME}") == self._data_sha512

    def _put(self, file: CheckedFile, size_bytes: int) -> None:
        # The client does not read an empty file, and that is to be checked too.
        file.read(0)
        try:
            self._make_client(_GuardedConnections(self._connections, file)).put_object(
                self._bucket,
                self._key,
                cast(BinaryIO, file),
                size_bytes,
                metadata={_CHECKSUM_NAME: self._data_sha512},
                part_size=max(self._part_bytes, -(-size_bytes // _MAX_PART_COUNT)),
                num_parallel_uploads=PARALLEL_PARTS,
            )
        except Exception:
            # The client drops the parts after a failure; if that fails too, it raises only the latter.
            if file.failure is not None:
                raise file.failure from None
            raise


class CheckedFile:
    """A file that is read once to its end, and says then whether it held what it should.

    Reading never fails: the client's threads that send parts would wait for ever. Instead it goes on with zeros, which
    the guarded connections do not let through.
    """

    def __init__(self, file: BufferedReader, stretches: Sequence[Stretch], given_up: threading.Event) -> None:
        """Takes a file at its beginning.

        Args:
            file: The file.
            stretches: What it must consist of.
            given_up: Set when nothing more is to be sent.
        """
        self.failure: HeimdallError | None = None
        """Why the file can not become an object."""
        self.refused = False
        """Whether the store failed to take a part, so that there is no use in reading on."""
        self._file = file
        self._stretches = deque(stretches)
        self._given_up = given_up
        self._checked_bytes = 0
        self._begun = Stretch(0, 0)
        """What was read of the first of the stretches."""
        size_bytes = os.fstat(file.fileno()).st_size
        expected_bytes = sum(stretch.size_bytes for stretch in stretches)
        if size_bytes != expected_bytes:
            self._fail(f"it has {size_bytes} bytes, must have {expected_bytes}")

    def read(self, size_bytes: int) -> bytes:
        """Returns the next bytes, all that were asked for up to the end."""
        if self._given_up.is_set() and self.failure is None:
            self.failure = HeimdallError(
                ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
                f"the upload of {self._file.name} was given up, as the service stops",
                metadata={"backend": "objects"},
            )
        if self.failure is not None or self.refused:
            return bytes(size_bytes)
        try:
            content = self._file.read(size_bytes)
        except OSError as error:
            self.failure = disk_failure(error, f"read {self._file.name}")
            return bytes(size_bytes)
        self._check(content)
        if len(content) < size_bytes and self._stretches:
            self._fail(f"it ended after {self._checked_bytes + self._begun.size_bytes} bytes while it was read")
        return bytes(size_bytes) if self.failure is not None else content

    def _check(self, content: bytes) -> None:
        """Compares the stretches that end in what was read, and begins the one after them."""
        place = 0
        while place < len(content) and self._stretches:
            wanted, begun = self._stretches[0], self._begun
            part = content[place : place + wanted.size_bytes - begun.size_bytes]
            place += len(part)
            self._begun = Stretch(begun.size_bytes + len(part), google_crc32c.extend(begun.crc32c, part))
            if self._begun.size_bytes < wanted.size_bytes:
                return
            first, end = self._checked_bytes, self._checked_bytes + wanted.size_bytes
            if self._begun.crc32c != wanted.crc32c:
                self._fail(
                    f"bytes {first} to {end} have the CRC32C {self._begun.crc32c:08x}, must have {wanted.crc32c:08x}"
                )
                return
            self._checked_bytes, self._begun = end, Stretch(0, 0)
            self._stretches.popleft()

    def _fail(self, why: str) -> None:
        self.failure = HeimdallError(
            ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH,
            f"{self._file.name} does not hold the samples that were received: {why}",
        )


class _GuardedConnections(urllib3.PoolManager):
    """Connections through which a file goes; once that can not become an object, nothing passes but what drops it."""

    def __init__(self, connections: urllib3.PoolManager, file: CheckedFile) -> None:
        super().__init__()
        self._connections = connections
        self._file = file

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> BaseHTTPResponse:  # type: ignore[override]  # as PoolManager
        """Sends a request.

        Raises:
            HeimdallError: Why the file can not become an object.
            Exception: One of `failures.FAILURES`.
        """
        if method != "DELETE" and self._file.failure is not None:
            raise self._file.failure
        try:
            response = self._connections.urlopen(method, url, redirect, **options)
        except Exception:
            self._file.refused = True
            raise
        if response.status not in _OK_STATUS:
            self._file.refused = True
        return response
