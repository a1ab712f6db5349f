"""GNSS week seconds to UTC, and whether a stamp can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

GPS_EPOCH_UNIX_S: Final = 315_964_800
"""6 January 1980, 00:00 UTC, where GPS week 0 begins, in s since 1970."""

GPS_UTC_OFFSET_S: Final = 18
"""GPS time minus UTC since 2017 (IERS Bulletin C); the configuration can override it."""

WEEK_S: Final = 604_800
AGE_WITHOUT_FIX_S: Final = 253
"""Ages from here on (253 to 255) do not state an age: the receiver has no solution."""

_NS: Final = 1_000_000_000


class StampQuality(Enum):
    """What became of one time stamp."""

    GOOD = "good"
    LEADING = "leading"
    """First frames of a connection, which carry zero or somebody else's stamp."""
    ABSENT = "absent"
    """Zero, which is no time: the owner switched the stamps off."""
    NO_FIX = "no_fix"
    """The receiver never had a GNSS solution; differences hold, times do not."""
    FAR_FROM_HOST = "far_from_host"
    """Further from the host clock than the limit."""


@dataclass(frozen=True, slots=True)
class StampRule:
    """Turns seconds of the GPS week into judged UTC."""

    host_limit_s: float = 60.0
    """Largest distance from the host clock at which a stamp is trusted."""
    gps_utc_offset_s: int = GPS_UTC_OFFSET_S
    """Leap seconds between GPS and UTC."""

    def judge(
        self, gps_second: int, gps_nanosecond: int, age_s: int, host_unix_ns: int
    ) -> tuple[int | None, StampQuality]:
        """Returns the UTC of a stamp and what it is worth.

        Args:
            gps_second: Second of the GPS week, 0 to 604799.
            gps_nanosecond: Nanosecond within it, 0 to 999999999.
            age_s: Age of the receiver's last GNSS solution in s; 253 and above mean that there is none.
            host_unix_ns: Host clock when the stamp arrived, in ns since 1970.

        Returns:
            UTC in ns since 1970 in the week that puts it nearest to the host clock (None for the zero stamp), and
            its quality.
        """
        if gps_second == 0 and gps_nanosecond == 0:
            return None, StampQuality.ABSENT
        unix_ns = resolve_week(gps_second, gps_nanosecond, host_unix_ns, self.gps_utc_offset_s)
        if age_s >= AGE_WITHOUT_FIX_S:
            return unix_ns, StampQuality.NO_FIX
        if abs(unix_ns - host_unix_ns) > self.host_limit_s * _NS:
            return unix_ns, StampQuality.FAR_FROM_HOST
        return unix_ns, StampQuality.GOOD


def resolve_week(
    gps_second: int, gps_nanosecond: int, host_unix_ns: int, gps_utc_offset_s: int = GPS_UTC_OFFSET_S
) -> int:
    """Returns the UTC, in ns since 1970, of a GPS time of week in the week nearest to the host clock.

    UTC = GPS epoch + week * 604800 s + time of week - (GPS - UTC), with the week that minimises the distance.

    Args:
        gps_second: Second of the GPS week, 0 to 604799.
        gps_nanosecond: Nanosecond within it, 0 to 999999999.
        host_unix_ns: Host clock in ns since 1970, right to within half a week.
        gps_utc_offset_s: Leap seconds between GPS and UTC.
    """
    week_ns = WEEK_S * _NS
    in_week_zero_ns = (GPS_EPOCH_UNIX_S + gps_second - gps_utc_offset_s) * _NS + gps_nanosecond
    week = (host_unix_ns - in_week_zero_ns + week_ns // 2) // week_ns
    return in_week_zero_ns + week * week_ns
