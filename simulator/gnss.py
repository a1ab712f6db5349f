"""A station's idea of time: GPS stamps with the small steps and the ageing of the real ones."""

from __future__ import annotations

import zlib

import numpy as np

from simulator.frame import NO_STAMP, Stamp
from simulator.scenario import StationSpec

NS_PER_S = 1_000_000_000
GPS_EPOCH_UNIX_S = 315_964_800
GPS_MINUS_UTC_S = 18
WEEK_S = 604_800
WEEK_NS = WEEK_S * NS_PER_S
_SOLUTION_INTERVAL_NS = 2 * NS_PER_S
_AGE_WITHOUT_FIX_S = 255


def gps_time_ns(unix_ns: int) -> int:
    """GPS time since its epoch, in ns, of a UTC time given as ns since the Unix epoch."""
    return unix_ns + (GPS_MINUS_UTC_S - GPS_EPOCH_UNIX_S) * NS_PER_S


def week_start_unix_ns(unix_ns: int) -> int:
    """UTC time, in ns since the Unix epoch, at which the GPS week of a moment began."""
    return unix_ns - gps_time_ns(unix_ns) % WEEK_NS


def stamp_of_week_ns(week_ns: int, age_s: int) -> Stamp:
    """The stamp of a GPS time of week in ns, taken modulo the week."""
    second, nanosecond = divmod(week_ns % WEEK_NS, NS_PER_S)
    return Stamp(age_s, second, nanosecond)


class GnssClock:
    """Turns the true time of a sample into the stamp that one station gives it.

    A new solution comes every 2 s; between two solutions the error is constant, at a solution it steps by
    a quarter of `stamp_jitter_ns` up to all of it, and it stays within half of it.
    """

    def __init__(self, spec: StationSpec, start_unix_ns: int, seed: int) -> None:
        self._spec = spec
        self._start_unix_ns = start_unix_ns
        self._key = [seed, zlib.crc32(spec.id.encode())]
        self._offset_ns = round(spec.clock_offset_s * NS_PER_S)
        self._error_at: tuple[int, int] = (-1, 0)

    def wrap_week_at(self, unix_ns: int) -> None:
        """Puts the station's time off by whole seconds, so that its week ends within 1 s after `unix_ns`."""
        left_ns = WEEK_NS - gps_time_ns(unix_ns) % WEEK_NS
        self._offset_ns = left_ns // NS_PER_S * NS_PER_S

    def stamp(self, unix_ns: int) -> Stamp:
        """The stamp of a sample taken at a true UTC time in ns since the Unix epoch."""
        if self._spec.gnss == "off":
            return NO_STAMP
        since_start_ns = unix_ns - self._start_unix_ns
        if self._spec.gnss == "no_fix":
            uptime_ns = since_start_ns + round(self._spec.uptime_s * NS_PER_S)
            return stamp_of_week_ns(uptime_ns, _AGE_WITHOUT_FIX_S)
        solution, since_solution_ns = divmod(since_start_ns, _SOLUTION_INTERVAL_NS)
        week_ns = gps_time_ns(unix_ns) + self._offset_ns + self._error_ns(solution)
        return stamp_of_week_ns(week_ns, since_solution_ns // NS_PER_S)

    def _error_ns(self, solution: int) -> int:
        if self._error_at[0] != solution:
            # Alternating signs keep every step within the stated limits and the mean error near zero.
            draw = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, 1, solution])).random()
            size_ns = self._spec.stamp_jitter_ns * (0.125 + 0.375 * draw)
            self._error_at = (solution, round(size_ns if solution % 2 else -size_ns))
        return self._error_at[1]
