"""What the service needs of an object store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol


class ObjectNotFoundError(Exception):
    """There is no object under this key."""


class Stretch(NamedTuple):
    """A stretch of a file, and the checksum that its content must have."""

    size_bytes: int
    """Its length."""
    crc32c: int
    """CRC32C of its content."""


class ObjectStore(Protocol):
    """Keeps objects under keys such as sessions/a/b.sigmf-data. An object is there whole or not at all.

    Every method raises HeimdallError BACKEND_UNAVAILABLE if the store can not be reached or written.
    """

    async def start(self) -> None:
        """Clears what an earlier process left half done in places of its own."""

    async def put_file(self, key: str, path: Path, *, data_sha512: str, stretches: Sequence[Stretch]) -> None:
        """Makes the content of a file the object; the file may be gone afterwards.

        A repeat after a crash changes nothing, also with the object there and the file gone.

        Args:
            key: The object.
            path: The file; nobody writes to it any more.
            data_sha512: SHA-512 of the content, in hexadecimal, by which a store knows it again.
            stretches: What the file consists of, from its beginning to its end. A store that copies compares what it
                reads with their checksums.

        Raises:
            ObjectNotFoundError: If there is neither file nor object.
            HeimdallError: CHECKSUM_MISMATCH if the file does not hold what it should; there is no object then.
        """

    async def put_bytes(self, key: str, content: bytes) -> None:
        """Makes or replaces a small object."""

    async def get_bytes(self, key: str) -> bytes:
        """Returns a small object whole.

        Raises:
            ObjectNotFoundError: If there is no such object.
        """

    async def read_range(self, key: str, offset_bytes: int, size_bytes: int) -> bytes:
        """Returns a part of an object; shorter than asked for where the object ends.

        Raises:
            ObjectNotFoundError: If there is no such object.
        """

    async def size_bytes(self, key: str) -> int:
        """Returns the size of an object.

        Raises:
            ObjectNotFoundError: If there is no such object.
        """

    async def url(self, key: str, lifetime_s: float) -> str:
        """Returns a URL under which an object can be downloaded for a while.

        Raises:
            HeimdallError: URL_UNSUPPORTED if this store has none.
        """

    def location(self, key: str) -> str:
        """Returns where an object is, for a person to find: a path or a URL."""

    async def ping(self) -> None:
        """Returns if the store can be read and written now."""

    async def close(self) -> None:
        """Disconnects; what is being uploaded ends first, or is given up and leaves nothing that can be seen."""
