"""What the exit status of a command means."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit status of every command."""

    COMPLETE = 0
    """Everything was done."""
    FAILED = 1
    """Nothing useful came of it."""
    USAGE = 2
    """The command line, the configuration or the request is wrong; nothing was done."""
    PARTIAL = 3
    """Something is kept, and something is missing."""
