"""The host clock, handed in so that tests can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970 as this host knows it."""
        ...


class SystemClock:
    """The clock of this host."""

    def unix_ns(self) -> int:
        """Returns UTC in ns since 1970."""
        return time.time_ns()
