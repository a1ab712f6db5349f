"""The window of an acquisition, and how it is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NS: Final = 1_000_000_000
"""Nanoseconds in a second."""

MAX_LEAD_NS: Final = 10 * NS
"""How far ahead of the others one receiver's time may put the start of everybody's window.

Waiting costs no samples, as long as it ends well before the deadline.
"""

_GRID_NS: Final = 1_000_000


@dataclass(frozen=True)
class Window:
    """An interval of UTC sample time, start inclusive, end exclusive, in ns since 1970."""

    start_unix_ns: int
    """First instant."""
    end_unix_ns: int
    """First instant after it."""

    @property
    def duration_ns(self) -> int:
        """Length in ns."""
        return self.end_unix_ns - self.start_unix_ns

    def sample_count(self, sample_rate_hz: float) -> int:
        """Returns how many samples it holds at a rate; the true count may differ by what the rate is off."""
        return round(self.duration_ns * sample_rate_hz / NS)


def choose_window(available_from_unix_ns: Sequence[int], duration_ns: int, now_unix_ns: int) -> Window:
    """Returns the window that begins as soon as every receiver that answered can deliver it.

    The start is the latest first sample among them, on a whole millisecond. A receiver whose clock is far ahead of the
    host's and of another receiver's does not make the others wait: it then begins late.

    Args:
        available_from_unix_ns: UTC of the first sample that each receiver can deliver, one or more.
        duration_ns: Length of the window.
        now_unix_ns: UTC by the host clock.
    """
    # The host's clock may be behind as well as a receiver's, but hardly behind all of them where it is right.
    limit = max(now_unix_ns, min(available_from_unix_ns)) + MAX_LEAD_NS
    latest = max(unix_ns for unix_ns in available_from_unix_ns if unix_ns <= limit)
    start = -(-latest // _GRID_NS) * _GRID_NS
    return Window(start, start + duration_ns)
