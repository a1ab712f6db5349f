"""When to try a broken stream again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_TRANSPORT = frozenset(
    {
        ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE,
        ErrorReason.ERROR_REASON_STREAM_IDLE,
        ErrorReason.ERROR_REASON_CANCELLED,
        ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
        ErrorReason.ERROR_REASON_DRAINING,
        ErrorReason.ERROR_REASON_OVERLOADED,
        ErrorReason.ERROR_REASON_INTERNAL,
    }
)


def is_transport_failure(error: HeimdallError) -> bool:
    """Returns whether a call failed on its way or in the service itself, and not for what was asked."""
    return error.reason in _TRANSPORT


_MAX_REFUSED_TRIES: Final = 3


@dataclass
class Backoff:
    """Full jitter: each delay is uniform between min_s and a bound that doubles from 2 min_s to max_s."""

    min_s: float = 0.2
    """Shortest delay in s."""
    max_s: float = 5.0
    """Longest delay in s."""
    tries: int = 0
    """Number of delays since the last success."""

    def next_delay_s(self) -> float:
        """Returns the delay before the next try, in s."""
        self.tries += 1
        return random.uniform(self.min_s, min(self.max_s, self.min_s * 2**self.tries))

    def delay_after_s(self, error: HeimdallError) -> float | None:
        """Returns the wait before the next try after a failure, in s; None if there is no point in one.

        A peer that can not be reached is tried for as long as the caller likes; one that answers, and refuses or fails,
        three times in a row, and never before it says.
        """
        delay_s = self.next_delay_s()
        if is_transport_failure(error) and error.reason != ErrorReason.ERROR_REASON_INTERNAL:
            return delay_s
        if self.tries > _MAX_REFUSED_TRIES or not (is_transport_failure(error) or error.retry_delay_s is not None):
            return None
        return max(delay_s, error.retry_delay_s or 0.0)

    def succeeded(self) -> None:
        """Starts again with short delays."""
        self.tries = 0
