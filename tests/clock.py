"""A host clock that a test sets."""

from __future__ import annotations

from heimdall.clock import SteadyClock, SystemClock


class SetClock:
    """A host clock that is right until it is set; the real one may do what it likes meanwhile."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        """Begins ahead of the host's clock.

        Args:
            ahead_s: By how much; it is behind if below zero.
        """
        self._steady = SteadyClock(SystemClock())
        self.ahead_s = ahead_s
        """By how much it is ahead of the right time."""

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970."""
        return self._steady.unix_ns() + round(self.ahead_s * 1e9)

    def step(self, by_s: float) -> None:
        """Sets the clock forward, or back if below zero."""
        self.ahead_s += by_s
