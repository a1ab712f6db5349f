"""Keeps the spool within its bound and the file system from filling up, and says what a failing disk means."""

from __future__ import annotations

import errno
from typing import Final

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.ids import RecordingKey
from storage_svc.spool.progress import MAX_BLOCK_BYTES

RESERVE_BYTES: Final = 16 * 1024 * 1024
"""Free space that samples may not take: without it nothing could be finished, stored and thereby cleared away."""

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
"""What a file operation fails with when there is no room, or none for this user."""


class SpoolRoom:
    """Counts the bytes that the spool takes, and those that its file system has left."""

    def __init__(self, limit_bytes: int) -> None:
        """Starts empty, on a file system that was not looked at yet.

        Args:
            limit_bytes: Most bytes to take.
        """
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._by_key: dict[RecordingKey, int] = {}
        self._free_bytes: int | None = None

    def check(self, size_bytes: int = MAX_BLOCK_BYTES) -> None:
        """Refuses what does not fit; by default, a full block.

        Raises:
            HeimdallError: SPOOL_FULL, naming what is full.
        """
        if self._used_bytes + size_bytes > self._limit_bytes:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SPOOL_FULL,
                f"the spool holds {self._used_bytes} of at most {self._limit_bytes} bytes and {size_bytes} more do not "
                "fit; repeat when recordings have left it, or raise storage.spool_max_bytes",
                metadata={"used_bytes": self._used_bytes, "limit_bytes": self._limit_bytes},
            )
        if self._free_bytes is not None and self._free_bytes - size_bytes < RESERVE_BYTES:
            free_bytes = max(self._free_bytes, 0)
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SPOOL_FULL,
                f"the file system of the spool has {free_bytes} bytes left and {size_bytes} more do not fit: "
                f"{RESERVE_BYTES} stay free for finishing recordings; make room in storage.data_dir",
                metadata={"free_bytes": free_bytes, "reserve_bytes": RESERVE_BYTES},
            )

    def take(self, key: RecordingKey, size_bytes: int) -> None:
        """Takes room for bytes that are going to be written.

        Raises:
            HeimdallError: SPOOL_FULL if they do not fit.
        """
        self.check(size_bytes)
        self._count(key, size_bytes)
        if self._free_bytes is not None:
            self._free_bytes -= size_bytes

    def recount(self, key: RecordingKey, size_bytes: int) -> None:
        """Counts a recording anew, as it was found on disk, whether it fits or not."""
        self.release(key)
        self._count(key, size_bytes)

    def release(self, key: RecordingKey) -> None:
        """Frees the room of a recording that was removed."""
        self._used_bytes -= self._by_key.pop(key, 0)

    def measured(self, free_bytes: int) -> None:
        """Takes note of the free space of the file system; what others write shows at the next measurement."""
        self._free_bytes = free_bytes

    def failed(self, error: OSError) -> None:
        """Takes note of a failed write: if it found no room, there is none until the next measurement."""
        if error.errno in NO_ROOM:
            self._free_bytes = 0

    def _count(self, key: RecordingKey, size_bytes: int) -> None:
        self._by_key[key] = self._by_key.get(key, 0) + size_bytes
        self._used_bytes += size_bytes


def disk_failure(error: OSError, what: str) -> HeimdallError:
    """Returns what a failed file operation means to the caller.

    Args:
        error: The failure.
        what: What was being done, such as "write the samples".
    """
    if error.errno in NO_ROOM:
        reason = ErrorReason.ERROR_REASON_SPOOL_FULL
    else:
        reason = ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
    cause = error.strerror or type(error).__name__
    return HeimdallError(reason, f"storage could not {what}: {cause}", metadata={"errno": error.errno or 0})
