"""Keeps the spool within its bound on disk, and says what a failing disk means to a writer."""

from __future__ import annotations

import errno

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.ids import RecordingKey
from storage_svc.spool.progress import MAX_BLOCK_BYTES


class SpoolRoom:
    """Counts the bytes that the spool takes on disk."""

    def __init__(self, limit_bytes: int) -> None:
        """Starts empty.

        Args:
            limit_bytes: Most bytes to take.
        """
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._by_key: dict[RecordingKey, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether a full block would find no room."""
        return self._used_bytes + MAX_BLOCK_BYTES > self._limit_bytes

    def take(self, key: RecordingKey, size_bytes: int) -> None:
        """Takes room for bytes that are going to be written.

        Raises:
            HeimdallError: SPOOL_FULL if they do not fit.
        """
        if self._used_bytes + size_bytes > self._limit_bytes:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SPOOL_FULL,
                f"the spool holds {self._used_bytes} of at most {self._limit_bytes} bytes and {size_bytes} more do not "
                "fit; repeat when recordings have left it, or raise storage.spool_max_bytes",
                metadata={"used_bytes": self._used_bytes, "limit_bytes": self._limit_bytes},
            )
        self._count(key, size_bytes)

    def recount(self, key: RecordingKey, size_bytes: int) -> None:
        """Counts a recording anew, as it was found on disk, whether it fits or not."""
        self.release(key)
        self._count(key, size_bytes)

    def release(self, key: RecordingKey) -> None:
        """Frees the room of a recording that was removed."""
        self._used_bytes -= self._by_key.pop(key, 0)

    def _count(self, key: RecordingKey, size_bytes: int) -> None:
        self._by_key[key] = self._by_key.get(key, 0) + size_bytes
        self._used_bytes += size_bytes


def disk_failure(error: OSError, what: str) -> HeimdallError:
    """Returns what a failed file operation means to the caller.

    Args:
        error: The failure.
        what: What was being done, such as "write the samples".
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = ErrorReason.ERROR_REASON_SPOOL_FULL
    else:
        reason = ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
    cause = error.strerror or type(error).__name__
    return HeimdallError(reason, f"storage could not {what}: {cause}", metadata={"errno": error.errno or 0})
