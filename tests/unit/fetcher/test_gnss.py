"""GNSS week seconds to UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fetcher_svc.gnss import StampQuality, StampRule, resolve_week

NS = 1_000_000_000


def unix_ns(moment: datetime) -> int:
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * NS


def week_second(moment: datetime) -> int:
    """GPS second of the week by the calendar: GPS weeks begin on Sunday, and GPS is 18 s ahead of UTC."""
    gps = moment + timedelta(seconds=18)
    return (gps.isoweekday() % 7) * 86_400 + gps.hour * 3600 + gps.minute * 60 + gps.second


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2020, 8, 13, 6, 52, 20, tzinfo=UTC),
        datetime(2026, 11, 21, 23, 59, 41, tzinfo=UTC),
        datetime(2026, 11, 21, 23, 59, 42, tzinfo=UTC),
        datetime(2026, 11, 22, 0, 0, 0, tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("host_error_s", [-59, 0, 59])
def test_stamp_is_put_into_the_right_week(moment: datetime, host_error_s: int) -> None:
    resolved = resolve_week(week_second(moment), 123_456_789, unix_ns(moment) + host_error_s * NS)
    assert resolved == unix_ns(moment) + 123_456_789


def test_the_week_wraps_on_saturday_at_23_59_42_utc() -> None:
    assert week_second(datetime(2026, 11, 21, 23, 59, 42, tzinfo=UTC)) == 0
    last = datetime(2026, 11, 21, 23, 59, 41, tzinfo=UTC)
    host = unix_ns(last)
    step = resolve_week(0, 0, host) - resolve_week(604_799, 0, host)
    assert step == NS


def test_real_file_of_known_date() -> None:
    """The DCF77 files say 20200813T065220Z in their names; JO51xl's second stamp is 370358 s of the week."""
    host = unix_ns(datetime(2020, 8, 13, 6, 52, 20, tzinfo=UTC))
    assert resolve_week(370_358, 769_799_718, host) == host + 769_799_718


@pytest.mark.parametrize(
    ("second", "age_s", "offset_s", "quality"),
    [
        (1000, 0, 0, StampQuality.GOOD),
        (1000, 252, 59, StampQuality.GOOD),
        (1000, 0, 61, StampQuality.FAR_FROM_HOST),
        (1000, 0, -61, StampQuality.FAR_FROM_HOST),
        (1000, 253, 0, StampQuality.NO_FIX),
        (1000, 255, 0, StampQuality.NO_FIX),
        (0, 0, 0, StampQuality.ABSENT),
    ],
)
def test_quality(second: int, age_s: int, offset_s: int, quality: StampQuality) -> None:
    host = resolve_week(second, 0, 1_700_000_000 * NS) - offset_s * NS
    stamp_ns, judged = StampRule().judge(second, 0, age_s, host)
    assert judged is quality
    assert (stamp_ns is None) == (quality is StampQuality.ABSENT)


def test_limit_and_leap_seconds_are_configurable() -> None:
    host = resolve_week(1000, 0, 1_700_000_000 * NS)
    assert StampRule(host_limit_s=0.5, gps_utc_offset_s=18).judge(1000, 0, 0, host)[1] is StampQuality.GOOD
    assert StampRule(host_limit_s=0.5, gps_utc_offset_s=19).judge(1000, 0, 0, host)[1] is StampQuality.FAR_FROM_HOST
    later, _ = StampRule(gps_utc_offset_s=19).judge(1000, 0, 0, host)
    assert later == host - NS
