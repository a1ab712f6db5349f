"""Sample time from the host clock, for receivers whose own time can not be trusted."""

from __future__ import annotations

import math
from typing import Final

BUCKET_NS: Final = 30_000_000_000
SERVER_DELAY_SIGMA_NS: Final = 100_000_000.0
"""Bound of what a receiver may hold back before it sends: filters, frame queue, audio look-ahead. Nothing tells it."""

_NS: Final = 1e9


class ArrivalModel:
    """Relates positions to the host clock by the fastest arrivals of the last 30 to 60 s.

    A frame can only come late, never early, so the least of arrival - (end of frame) / rate is nearest to the truth.
    """

    def __init__(self) -> None:
        self._bucket_start_ns: int | None = None
        self._least_ns: int | None = None
        self._most_ns = 0
        self._previous: tuple[int, int] | None = None

    def add(self, end_position: int, arrival_ns: int, rate_hz: float) -> None:
        """Adds the arrival of a frame.

        Args:
            end_position: Position after its last sample.
            arrival_ns: UTC when it came, in ns since 1970, by a clock without steps.
            rate_hz: Sample rate.
        """
        origin_ns = arrival_ns - round(end_position * _NS / rate_hz)
        if self._bucket_start_ns is None or arrival_ns - self._bucket_start_ns >= BUCKET_NS:
            if self._least_ns is not None:
                self._previous = (self._least_ns, self._most_ns)
            self._bucket_start_ns = arrival_ns
            self._least_ns, self._most_ns = origin_ns, origin_ns
        elif self._least_ns is not None:
            self._least_ns = min(self._least_ns, origin_ns)
            self._most_ns = max(self._most_ns, origin_ns)

    @property
    def origin_ns(self) -> int | None:
        """UTC of position 0 in ns since 1970; None before the first frame."""
        if self._least_ns is None:
            return None
        return self._least_ns if self._previous is None else min(self._least_ns, self._previous[0])

    def time_at(self, position: int, rate_hz: float) -> int | None:
        """Returns the UTC of a sample in ns since 1970; None before the first frame."""
        origin_ns = self.origin_ns
        return None if origin_ns is None else origin_ns + round(position * _NS / rate_hz)

    def sigma_ns(self, round_trip_s: float) -> float:
        """Returns a bound of the uncertainty: round trip, spread of the arrivals, and what a receiver may hold back.

        Args:
            round_trip_s: Time that the connect took.
        """
        spread_ns = 0 if self._least_ns is None else self._most_ns - self._least_ns
        return math.hypot(round_trip_s * _NS, spread_ns, SERVER_DELAY_SIGMA_NS)
