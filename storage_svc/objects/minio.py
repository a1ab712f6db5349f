"""An object store with the S3 protocol, such as MinIO, through its synchronous client in threads of its own."""

from __future__ import annotations

import asyncio
import io
import math
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeVar

import structlog
import urllib3
from minio import Minio
from minio.error import S3Error

from heimdall.runtime.settings import MinioSettings, SettingsError, read_secret
from storage_svc.ids import BUCKET
from storage_svc.objects.base import ObjectNotFoundError, Stretch
from storage_svc.objects.failures import FAILURES, unavailable
from storage_svc.objects.upload import PARALLEL_PARTS, Upload

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_CALL_COUNT: Final = 8
"""Most calls at once that are no uploads of files."""

_PROBE_KEY: Final = ".heimdall/probe"
"""Object that is written and removed to know whether the store can be written; no recording has such a key."""

_CLOSE_TIMEOUT_S: Final = 5.0
"""Longest wait for uploads that are given up; a thread that still waits for the store ends at its timeout."""


class MinioObjects:
    """Keeps objects in a bucket, which is made when it is missing."""

    def __init__(self, settings: MinioSettings, bucket: str = BUCKET) -> None:
        """Prepares the client; the store may be away.

        Args:
            settings: Where the store is, and who we are there.
            bucket: The bucket.

        Raises:
            SettingsError: If the user, the password or the certificates can not be had.
        """
        self._bucket = bucket
        self._part_bytes = settings.part_bytes
        self._timeout_s = settings.timeout_s
        self._make_client = _client_maker(settings, "minio.endpoint", settings.endpoint)
        self._connections = _connections(settings)
        self._client = self._make_client(self._connections)
        # A signature holds for one host; making it asks nobody.
        public = settings.public_endpoint or settings.endpoint
        self._signer = _client_maker(settings, "minio.public_endpoint", public)(self._connections)
        self._calls = ThreadPoolExecutor(_CALL_COUNT, thread_name_prefix="objects")
        self._uploaders = ThreadPoolExecutor(settings.upload_count, thread_name_prefix="upload")
        self._uploads: dict[Future[None], Upload] = {}

    async def start(self) -> None:
        """Does nothing: MinIO itself drops uploads that a killed service left, after a day, and nobody sees them."""

    async def put_file(self, key: str, path: Path, *, data_sha512: str, stretches: Sequence[Stretch]) -> None:
        """Uploads a file in parts, unless the object holds the same content already."""
        upload = Upload(
            self._make_client,
            self._connections,
            self._bucket,
            key,
            path,
            data_sha512=data_sha512,
            stretches=stretches,
            part_bytes=self._part_bytes,
        )
        task = self._uploaders.submit(self._in_bucket, upload.run)
        self._uploads[task] = upload
        try:
            await self._outcome("store", key, task)
        except asyncio.CancelledError:
            upload.give_up()
            raise
        finally:
            self._uploads = {task: upload for task, upload in self._uploads.items() if not task.done()}

    async def put_bytes(self, key: str, content: bytes) -> None:
        """Makes or replaces a small object."""
        await self._call("store", key, lambda: self._in_bucket(lambda: self._put(key, content)))

    async def get_bytes(self, key: str) -> bytes:
        """Returns a small object whole."""
        return await self._call("read", key, lambda: self._get(key, 0, 0))

    async def read_range(self, key: str, offset_bytes: int, size_bytes: int) -> bytes:
        """Returns a part of an object; shorter than asked for where the object ends."""
        return await self._call("read", key, lambda: self._get_range(key, offset_bytes, size_bytes))

    async def size_bytes(self, key: str) -> int:
        """Returns the size of an object."""
        return await self._call("read", key, lambda: self._client.stat_object(self._bucket, key).size or 0)

    async def url(self, key: str, lifetime_s: float) -> str:
        """Returns a presigned URL; it is made without asking the store.

        Args:
            key: The object.
            lifetime_s: How long the URL holds; rounded up to whole seconds, at most 7 days.
        """
        return self._signer.presigned_get_object(self._bucket, key, timedelta(seconds=math.ceil(lifetime_s)))

    def location(self, key: str) -> str:
        """Returns bucket and key as s3://bucket/key; where the store is say the settings."""
        return f"s3://{self._bucket}/{key}"

    async def ping(self) -> None:
        """Writes a small object and removes it; makes the bucket if it is missing."""
        await self._call("write to", f"bucket {self._bucket}", self._probe)

    async def close(self) -> None:
        """Gives up what is being uploaded, and waits a little for that."""
        for upload in self._uploads.values():
            upload.give_up()
        for executor in (self._uploaders, self._calls):
            executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(wait, list(self._uploads), _CLOSE_TIMEOUT_S)
        self._connections.clear()

    async def _call(self, what: str, key: str, work: Callable[[], T]) -> T:
        return await self._outcome(what, key, self._calls.submit(work))

    async def _outcome(self, what: str, key: str, task: Future[T]) -> T:
        """Waits for a thread; every request in it has its own time limit."""
        try:
            return await asyncio.wrap_future(task)
        except S3Error as error:
            # The next write makes the bucket again; until then, what was in it is as missing as then.
            if what == "read" and error.code in ("NoSuchKey", "NoSuchBucket"):
                raise ObjectNotFoundError(f"there is no object {key}") from error
            raise unavailable(error, what, key, self._timeout_s) from error
        except FAILURES as error:
            raise unavailable(error, what, key, self._timeout_s) from error

    def _in_bucket(self, write: Callable[[], object]) -> None:
        """Writes; if the bucket is missing, makes it and writes again."""
        try:
            write()
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise
            self._make_bucket()
            write()

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        else:
            _log.info("bucket_made", bucket=self._bucket)

    def _put(self, key: str, content: bytes) -> None:
        self._client.put_object(self._bucket, key, io.BytesIO(content), len(content))

    def _probe(self) -> None:
        self._in_bucket(lambda: self._put(_PROBE_KEY, b"probe"))
        self._client.remove_object(self._bucket, _PROBE_KEY)

    def _get_range(self, key: str, offset_bytes: int, size_bytes: int) -> bytes:
        if size_bytes == 0:
            # S3 has no empty range; what is missing is told all the same.
            self._client.stat_object(self._bucket, key)
            return b""
        try:
            return self._get(key, offset_bytes, size_bytes)
        except S3Error as error:
            if error.code != "InvalidRange":
                raise
            return b""

    def _get(self, key: str, offset_bytes: int, size_bytes: int) -> bytes:
        """Returns a part of an object; all from the offset if the size is 0."""
        response = self._client.get_object(self._bucket, key, offset_bytes, size_bytes)
        try:
            return response.read()
        finally:
            # One that was read to its end has given its connection back.
            response.close()


def _connections(settings: MinioSettings) -> urllib3.PoolManager:
    """Returns the connections that all threads share; they repeat nothing by themselves.

    Raises:
        SettingsError: If the certificates can not be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise SettingsError(f"minio.ca_file: {settings.ca_file}: can not be used: {error}") from error
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=settings.timeout_s, read=settings.timeout_s),
        maxsize=_CALL_COUNT + settings.upload_count * PARALLEL_PARTS,
        retries=False,
        ssl_context=context,
    )


def _client_maker(settings: MinioSettings, key: str, endpoint: str) -> Callable[[urllib3.PoolManager], Minio]:
    """Returns what makes a client that uses given connections; with the region it asks nobody where the bucket is.

    Args:
        settings: Who we are.
        key: The setting that names the endpoint.
        endpoint: Scheme, host and port.

    Raises:
        SettingsError: If there is no user or password.
    """
    access_key = read_secret("minio.access_key", settings.access_key, settings.access_key_file)
    secret_key = read_secret("minio.secret_key", settings.secret_key, settings.secret_key_file)
    for name, secret in (("access_key", access_key), ("secret_key", secret_key)):
        if not secret:
            raise SettingsError(f"minio.{name}: is missing, and storage.objects is minio; set it or minio.{name}_file")
    scheme, address = endpoint.split("://")

    def make(connections: urllib3.PoolManager) -> Minio:
        return Minio(
            address,
            access_key,
            secret_key,
            secure=scheme == "https",
            region=settings.region,
            http_client=connections,
        )

    try:
        make(urllib3.PoolManager())
    except ValueError as error:
        raise SettingsError(f"{key}: {endpoint!r} can not be used: {error}") from error
    return make
