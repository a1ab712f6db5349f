"""The host clock, handed in so that tests can set it, and UTC that goes on steadily when it is set."""

from __future__ import annotations

import time
from typing import Final, Protocol


class Clock(Protocol):
    """Tells the time."""

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970."""
        ...


class SystemClock:
    """The clock of this host. It can be set, forward or back, between any two readings."""

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970."""
        return time.time_ns()


class SteadyClock:
    """UTC by one reading of the host clock, carried on by the monotonic clock.

    Two times of one steady clock are as far apart as the moments were, whatever happens to the host clock.
    """

    def __init__(self, host: Clock) -> None:
        """Reads the host clock.

        Args:
            host: The host clock.
        """
        self.host: Final = host
        """The host clock."""
        self._offset_ns = host.unix_ns() - time.monotonic_ns()

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970."""
        return self._offset_ns + time.monotonic_ns()

    @property
    def step_ns(self) -> int:
        """By how much the host clock was set since it was read, in ns: above zero if forward."""
        return self.host.unix_ns() - self.unix_ns()
