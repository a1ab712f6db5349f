"""Stamps: GPS time of week, ages, steps, missing fix."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from simulator import StationSpec
from simulator.frame import Stamp
from simulator.gnss import NS_PER_S, WEEK_NS, GnssClock

START_NS = int(datetime(2020, 8, 13, 6, 52, 20, tzinfo=UTC).timestamp()) * NS_PER_S


def clock(**changes: Any) -> GnssClock:
    spec = StationSpec(id="a", latitude_deg=45, longitude_deg=7, altitude_m=0, **changes)
    return GnssClock(spec, START_NS, seed=1)


def week_ns(stamp: Stamp) -> int:
    return stamp.gps_second * NS_PER_S + stamp.gps_nanosecond


def test_time_of_week_is_that_of_the_real_recordings() -> None:
    # They began at 06:52:20 UTC and their first good stamps have the second 370358.
    assert clock(stamp_jitter_ns=0).stamp(START_NS) == Stamp(0, 370_358, 0)


def test_week_ends_on_saturday_18_s_before_midnight_utc() -> None:
    end_ns = int(datetime(2026, 11, 28, 23, 59, 42, tzinfo=UTC).timestamp()) * NS_PER_S
    true = clock(stamp_jitter_ns=0)
    assert true.stamp(end_ns - 1).gps_second == 604_799
    assert week_ns(true.stamp(end_ns)) == 0


def test_age_counts_0_1_and_stamps_step_50_to_200_ns_every_2_s() -> None:
    station = clock()
    times_ns = START_NS + np.arange(0, 60 * NS_PER_S, NS_PER_S // 4)
    stamps = [station.stamp(int(t)) for t in times_ns]
    assert [s.age_s for s in stamps[:12]] == [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    truth = 370_358 * NS_PER_S + times_ns - START_NS
    error_ns = np.array([week_ns(s) for s in stamps]) - truth
    steps_ns = np.abs(np.diff(error_ns))
    at_solution = steps_ns[7::8]
    assert (at_solution >= 49).all()
    assert (at_solution <= 201).all()
    assert np.delete(steps_ns, np.arange(7, steps_ns.size, 8)).max() == 0
    assert np.abs(error_ns).max() <= 100


def test_no_fix_gives_time_since_boot_and_age_255() -> None:
    stamp = clock(gnss="no_fix", uptime_s=47_015.0).stamp(START_NS + 500_000_000)
    assert stamp == Stamp(255, 47_015, 500_000_000)


def test_stamps_off_are_all_zero() -> None:
    assert clock(gnss="off").stamp(START_NS) == Stamp(0, 0, 0)


def test_clock_offset_moves_the_stamp() -> None:
    assert clock(stamp_jitter_ns=0, clock_offset_s=7200.5).stamp(START_NS) == Stamp(0, 377_558, 500_000_000)


def test_week_can_be_made_to_wrap() -> None:
    station = clock(stamp_jitter_ns=0)
    station.wrap_week_at(START_NS + NS_PER_S)
    assert week_ns(station.stamp(START_NS + NS_PER_S - 1)) == WEEK_NS - 1
    assert week_ns(station.stamp(START_NS + NS_PER_S)) == 0
