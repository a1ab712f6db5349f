"""What follows from each way a receiver can fail: does a running stream try again, and how long is it left alone."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

MAX_DELAY_S: Final = 600.0
BREAKER_FAILURE_COUNT: Final = 3
BREAKER_SPAN_S: Final = 60.0
BREAKER_DELAY_S: Final = 30.0
TRIAL_DELAY_S: Final = 10.0
"""Wait before asking again while somebody else's connect decides whether a receiver is well."""
CONNECT_SPAN_S: Final = 3600.0
"""The span in which connects are counted."""
MAX_RECONNECT_DELAY_S: Final = 15.0
_JITTER: Final = 0.25
_MAX_REST_JITTER_S: Final = 30.0
"""A rest of hours has been made long enough by who asked for it."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What to do after one kind of failure."""

    reconnect_delay_s: float | None
    """Wait before a running stream connects again; None: the stream ends."""
    rest_s: float = 0.0
    """How long new streams leave the receiver alone; 0: only after repeated failures."""


def _recoveries() -> Mapping[ErrorReason.ValueType, Recovery]:
    reason = ErrorReason
    return MappingProxyType(
        {
            reason.ERROR_REASON_UPSTREAM_CONNECTION_LOST: Recovery(0.5),
            reason.ERROR_REASON_UPSTREAM_CLOSED: Recovery(0.5),
            reason.ERROR_REASON_UPSTREAM_STALLED: Recovery(0.5),
            reason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR: Recovery(0.5),
            reason.ERROR_REASON_UPSTREAM_SETUP_TIMEOUT: Recovery(15, 15),
            reason.ERROR_REASON_UPSTREAM_UNREACHABLE: Recovery(15, 15),
            reason.ERROR_REASON_UPSTREAM_NOT_FOUND: Recovery(15, 15),
            reason.ERROR_REASON_UPSTREAM_BUSY: Recovery(15, 15),
            reason.ERROR_REASON_UPSTREAM_APP_LIMIT: Recovery(None, 600),
            reason.ERROR_REASON_UPSTREAM_REDIRECT_LOOP: Recovery(None),
            reason.ERROR_REASON_UPSTREAM_PASSWORD_REFUSED: Recovery(None, 60),
            reason.ERROR_REASON_UPSTREAM_NOT_READY: Recovery(10, 10),
            reason.ERROR_REASON_UPSTREAM_LOGIN_REFUSED: Recovery(None, 600),
            reason.ERROR_REASON_UPSTREAM_ONE_PER_ADDRESS: Recovery(None, 15),
            reason.ERROR_REASON_UPSTREAM_DISABLED: Recovery(None, 3600),
            reason.ERROR_REASON_UPSTREAM_UPDATING: Recovery(300, 300),
            reason.ERROR_REASON_UPSTREAM_EXCLUSIVE_USE: Recovery(300, 300),
            reason.ERROR_REASON_UPSTREAM_WIDEBAND_ONLY: Recovery(None, 600),
            # The quota is a daily one, and five tries over it lead to a blacklisting.
            reason.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT: Recovery(None, 86_400),
            reason.ERROR_REASON_UPSTREAM_INACTIVITY_TIMEOUT: Recovery(None, 60),
            reason.ERROR_REASON_UPSTREAM_KICKED: Recovery(None, 1800),
            reason.ERROR_REASON_UPSTREAM_PASSWORD_TIMEOUT: Recovery(None, 60),
        }
    )


RECOVERIES: Final = _recoveries()
"""Every failure of a receiver that is not the caller's fault; any other ends the stream and leads to no rest."""


def reconnect_delay_s(error: HeimdallError, failure_count: int) -> float | None:
    """Returns how long a running stream waits before it connects again; None if it must end.

    The delay is that of the reason, doubled for each failure in a row, with up to a quarter of jitter.

    Args:
        error: Why the connection failed.
        failure_count: Failures in a row including this one, 1 or more.
    """
    recovery = RECOVERIES.get(error.reason)
    if recovery is None or recovery.reconnect_delay_s is None:
        return None
    first_s = recovery.reconnect_delay_s
    if error.reason == ErrorReason.ERROR_REASON_UPSTREAM_NOT_READY and error.retry_delay_s is not None:
        first_s = error.retry_delay_s
    ceiling_s = max(first_s, MAX_RECONNECT_DELAY_S if first_s < MAX_RECONNECT_DELAY_S else MAX_DELAY_S)
    return min(first_s * 2.0 ** min(failure_count - 1, 16), ceiling_s) * _jitter()


class Rest:
    """Says whether a receiver is to be left alone, after one grave failure or three ordinary ones within a minute.

    After a rest it is on trial: a single connect decides. Until it succeeds every further failure means another rest,
    each twice as long as the last, up to 10 min. All times are monotonic.
    """

    def __init__(self) -> None:
        self._until_s = -math.inf
        self._length_s = 0.0
        self._error: HeimdallError | None = None
        self._failed_at_s = -math.inf
        self._failures: deque[float] = deque(maxlen=BREAKER_FAILURE_COUNT)
        self._rest_count = 0

    @property
    def last_error(self) -> HeimdallError | None:
        """Why the last connection failed; None if it did not."""
        return self._error

    def remaining_s(self, now_s: float) -> float:
        """Returns how much longer the receiver is left alone."""
        return max(0.0, self._until_s - now_s)

    def is_on_trial(self, now_s: float) -> bool:
        """Returns whether a rest is over and no connect has succeeded since."""
        return self._rest_count > 0 and now_s >= self._until_s

    def failed(self, error: HeimdallError, now_s: float) -> bool:
        """Notes a failed connection; returns whether that says anything about the receiver.

        Args:
            error: Why it failed.
            now_s: Now.
        """
        recovery = RECOVERIES.get(error.reason)
        if recovery is None:
            return False
        self._failed_at_s = now_s
        self._failures.append(now_s)
        rest_s = recovery.rest_s
        if rest_s and error.retry_delay_s is not None:
            rest_s = max(rest_s, error.retry_delay_s)
        crowded = len(self._failures) == BREAKER_FAILURE_COUNT and now_s - self._failures[0] <= BREAKER_SPAN_S
        # What was under way when a rest began fails too, and is no second failure after it.
        resting = now_s < self._until_s
        # After a rest a single try decides; only success closes the matter.
        if not rest_s and not resting and (crowded or self._rest_count):
            rest_s = BREAKER_DELAY_S
        if rest_s:
            ceiling_s = max(rest_s, MAX_DELAY_S)
            rest_s = min(rest_s * 2.0 ** min(self._rest_count - resting, 16), ceiling_s)
            rest_s += min(rest_s * _JITTER, _MAX_REST_JITTER_S) * random.random()
            self._rest_count += not resting
        if now_s + rest_s > self._until_s:
            self._error = error
            if rest_s:
                self._until_s, self._length_s = now_s + rest_s, rest_s
        return True

    def succeeded(self, begun_s: float) -> bool:
        """Notes that samples came; returns whether that closes an earlier failure.

        Args:
            begun_s: When that connect began. One from before the last failure says nothing about that.
        """
        if self._error is None or begun_s < self._failed_at_s:
            return False
        self._until_s = -math.inf
        self._error = None
        self._rest_count = 0
        self._failures.clear()
        return True

    def check(self, receiver_id: str, now_s: float) -> None:
        """Refuses a connect while the receiver is left alone.

        Raises:
            HeimdallError: RECEIVER_BACKING_OFF with the cause.
        """
        remaining_s = self.remaining_s(now_s)
        if remaining_s <= 0 or self._error is None:
            return
        raise HeimdallError(
            ErrorReason.ERROR_REASON_RECEIVER_BACKING_OFF,
            f"{receiver_id} is left alone for another {remaining_s:.0f} s: {self._error.message}",
            metadata={
                "receiver_id": receiver_id,
                "remaining_s": round(remaining_s, 1),
                "cause": self._error.reason_name,
            },
            retry_delay_s=remaining_s,
        )

    def keep(self, now_s: float) -> KeptRest | None:
        """Returns what has to outlive the process; None without a failure."""
        if self._error is None:
            return None
        return KeptRest(self._error, self.remaining_s(now_s), self._length_s, self._rest_count)

    def resume(self, kept: KeptRest, now_s: float) -> None:
        """Goes on with the rest of an earlier process."""
        self._error = kept.error
        self._until_s, self._length_s = now_s + kept.remaining_s, kept.length_s
        self._rest_count = kept.rest_count


@dataclass(frozen=True, slots=True)
class KeptRest:
    """The last failure of a receiver and the rest after it, as they outlive a process."""

    error: HeimdallError
    """The failure."""
    remaining_s: float
    """What is left of the rest; 0 if there is none."""
    length_s: float
    """How long the rest was in all: no clock can make what is left of it longer."""
    rest_count: int
    """Rests without a success since the first."""


class ConnectCount:
    """Counts the connects of the last hour, a sliding one: no hour, wherever it begins, has more than allowed."""

    def __init__(self, limit: int) -> None:
        """Begins with none.

        Args:
            limit: Most connects within an hour.
        """
        self.limit = limit
        self._times: deque[float] = deque()

    def add(self, now_s: float) -> None:
        """Notes a connect; the oldest comes first.

        Args:
            now_s: When it was, monotonic.
        """
        self._times.append(now_s)

    def times_s(self, now_s: float) -> list[float]:
        """Returns when the connects of the last hour were, the oldest first."""
        while self._times and self._times[0] <= now_s - CONNECT_SPAN_S:
            self._times.popleft()
        return list(self._times)

    def wait_s(self, now_s: float) -> float:
        """Returns how long until one more connect is allowed."""
        times_s = self.times_s(now_s)
        return 0.0 if len(times_s) < self.limit else times_s[-self.limit] + CONNECT_SPAN_S - now_s


def _jitter() -> float:
    return 1.0 + random.random() * _JITTER
