"""What the vitals of a service over time come down to: how much it grows, and whether it does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import theilslopes

SETTLED_MINUTE: Final = 2.0
"""By then a service has what it needs to work."""
SPAN_MINUTES: Final = 10.0
"""The time in which a service may grow by so much and no more."""
BIN_MINUTES: Final = 0.5
"""Readings of this time are taken together."""
_MIB: Final = 2**20

Numbers: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Readings:
    """The vitals of one service, in the order of time."""

    minutes: Numbers
    """When they were read, in minutes since the start of the window."""
    resident_mib: Numbers
    """Resident memory in MiB."""
    open_file_count: Numbers
    """Open files."""
    thread_count: Numbers
    """Threads."""
    task_count: Numbers
    """Tasks of the event loop."""


@dataclass(frozen=True)
class Level:
    """What became of a count."""

    last: int
    """Its least in the last half-minute."""
    rise: int
    """Most by which the least of a half-minute lies above an earlier one, at most 10 min before."""

    def __str__(self) -> str:
        return f"{self.last} (+{self.rise})"


@dataclass(frozen=True)
class Figures:
    """What became of one service from minute 2 to the end of the window."""

    first_resident_mib: float
    """Resident memory in the first half-minute."""
    last_resident_mib: float
    """Resident memory in the last half-minute."""
    rise_mib: float
    """Most by which the median of a half-minute lies above an earlier one, at most 10 min before."""
    slope_mib: float
    """Growth in 10 min by a straight line through all readings."""
    open_files: Level
    """Open files."""
    threads: Level
    """Threads."""
    tasks: Level
    """Tasks of the event loop."""


def read_vitals(lines: Iterable[str], start_unix_ns: int) -> Readings:
    """Reads the vitals out of a log in JSON.

    Args:
        lines: The log.
        start_unix_ns: UTC from which minutes are counted, in ns since 1970.

    Raises:
        ValueError: If there are none.
    """
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    vitals = [event for event in events if event["event"] == "vitals"]
    if not vitals:
        raise ValueError(f"none of {len(events)} lines of the log are vitals; is [log] vitals_interval_s set?")
    unix_s = np.array([datetime.fromisoformat(line["timestamp"]).timestamp() for line in vitals])
    return Readings(
        minutes=(unix_s - start_unix_ns / 1e9) / 60.0,
        resident_mib=np.array([line["resident_bytes"] for line in vitals]) / _MIB,
        open_file_count=np.array([line["open_file_count"] for line in vitals], dtype=np.float64),
        thread_count=np.array([line["thread_count"] for line in vitals], dtype=np.float64),
        task_count=np.array([line["task_count"] for line in vitals], dtype=np.float64),
    )


def evaluate(readings: Readings, end_minute: float) -> Figures:
    """Returns the figures of one service.

    Args:
        readings: Its vitals.
        end_minute: End of the window.

    Raises:
        ValueError: If half a minute is without a reading, or there are not two of them.
    """
    parts = half_minutes(readings.minutes, readings.resident_mib, end_minute)
    resident_mib = np.array([float(np.median(part)) for part in parts])
    measured = (readings.minutes >= SETTLED_MINUTE) & (readings.minutes < end_minute)
    line = theilslopes(readings.resident_mib[measured], readings.minutes[measured])
    return Figures(
        first_resident_mib=float(resident_mib[0]),
        last_resident_mib=float(resident_mib[-1]),
        rise_mib=greatest_rise(resident_mib),
        slope_mib=float(line.slope) * SPAN_MINUTES,
        open_files=_level(readings.minutes, readings.open_file_count, end_minute),
        threads=_level(readings.minutes, readings.thread_count, end_minute),
        tasks=_level(readings.minutes, readings.task_count, end_minute),
    )


def half_minutes(minutes: Numbers, values: Numbers, end_minute: float) -> list[Numbers]:
    """Returns the values of each whole half-minute from minute 2 to the end.

    Args:
        minutes: When the values were read.
        values: The values.
        end_minute: The end.

    Raises:
        ValueError: If half a minute is without a value, or there are not two of them.
    """
    bin_count = int((end_minute - SETTLED_MINUTE) / BIN_MINUTES)
    if bin_count < 2:
        raise ValueError(f"{end_minute:g} minutes are too short; 3 or more are needed")
    bins = np.floor((minutes - SETTLED_MINUTE) / BIN_MINUTES)
    found = [values[bins == number] for number in range(bin_count)]
    if not all(len(part) for part in found):
        raise ValueError("half a minute is without vitals")
    return found


def greatest_rise(levels: Numbers) -> float:
    """Returns the most by which a half-minute lies above an earlier one, at most 10 min before; 0 if none does."""
    reach = round(SPAN_MINUTES / BIN_MINUTES)
    rises = [float(np.max(levels[first : first + reach + 1]) - level) for first, level in enumerate(levels)]
    return max(rises)


def _level(minutes: Numbers, counts: Numbers, end_minute: float) -> Level:
    # What a call takes for its moment comes and goes; what leaks raises the least for good.
    least = np.array([part.min() for part in half_minutes(minutes, counts, end_minute)])
    return Level(int(least[-1]), int(greatest_rise(least)))
