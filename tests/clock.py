"""A host clock that a test sets."""

from __future__ import annotations

from heimdall.clock import SteadyClock, SystemClock


class SetClock:
    """A host clock that is right until it is set; the real one may do what it likes meanwhile."""

    def __init__(self, unix_ns: int | None = None) -> None:
        """Begins at a time.

        Args:
            unix_ns: UTC in ns since 1970; default: that of this host.
        """
        self._steady = SteadyClock(SystemClock())
        self._ahead_ns = 0 if unix_ns is None else unix_ns - self._steady.unix_ns()

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970."""
        return self._steady.unix_ns() + self._ahead_ns

    def step(self, by_s: float) -> None:
        """Sets the clock forward, or back if below zero."""
        self._ahead_ns += round(by_s * 1e9)
