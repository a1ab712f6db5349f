"""What every database makes of many measurements: numbers an hour, or a longer time, receiver and frequency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import pytest

from heimdall.common.v1.measurement_pb2 import Estimate, Measurement
from heimdall.storage.v1.storage_pb2 import MeasurementAggregate
from storage_svc.measurements import Cursor, MeasurementStore, RowFilter
from storage_svc.measurements.base import aggregate_cursor
from tests.contract.storage.messages import EVERYTHING, WINDOW, measurement

HOUR_NS = 3_600_000_000_000
DAY_HOUR = 19_675 * 24
"""Midnight of a day in November 2023, in hours since 1970."""
DECIBELS = ("power_dbfs", "power_dbm", "noise_dbfs_per_hz", "snr_db")
HERTZ = ("frequency_offset_hz", "occupied_bandwidth_hz")


def measured(task: str, hour: float, values: dict[str, float], receiver: str = "rx-1", **facts: Any) -> Measurement:
    """Returns a summary that begins at a time in hours since 1970, with valid values."""
    made = measurement(task, receiver, first_sample_unix_ns=round(hour * HOUR_NS), **facts)
    for name, value in values.items():
        getattr(made, name).CopyFrom(Estimate(value=value, validity=Estimate.Validity.VALIDITY_VALID))
    return made


def mean_of_ratios_db(values: Sequence[float]) -> float:
    return 10 * math.log10(fmean(10 ** (value / 10) for value in values))


async def aggregates(rows: MeasurementStore, hours: int = 1, selected: RowFilter = EVERYTHING) -> list[Any]:
    """Returns hour, receiver, frequency and number of measurements of every aggregate."""
    found = await rows.aggregate_measurements(selected, hours, None, 100)
    return [
        (one.bucket_start_time.seconds / 3600, one.receiver_id, one.center_frequency_hz, one.measurement_count)
        for one in found
    ]


@pytest.mark.parametrize("bucket_hours", [1, 24, 7 * 24])
async def test_numbers_of_an_aggregate(rows: MeasurementStore, bucket_hours: int) -> None:
    facts = [
        {name: 0.7 * place - 30 + 11 * number for place, name in enumerate(DECIBELS + HERTZ)} for number in range(5)
    ]
    hours = (0.0, 0.25, 0.5, 0.75, 0.999) if bucket_hours == 1 else (0.0, 0.25, 7.5, 7.75, 23.999)
    made = [
        measured(f"t{number}", DAY_HOUR + hour, values, sample_count=1000 + number, lost_sample_count=number)
        for number, (hour, values) in enumerate(zip(hours, facts, strict=True))
    ]
    await rows.write_measurements(made)
    (found,) = await rows.aggregate_measurements(EVERYTHING, bucket_hours, None, 10)
    assert found.bucket_start_time.seconds == DAY_HOUR // bucket_hours * bucket_hours * 3600
    assert (found.receiver_id, found.center_frequency_hz) == ("rx-1", 77_500.0)
    assert (found.measurement_count, found.sample_count, found.lost_sample_count) == (5, 5010, 10)
    for name in DECIBELS + HERTZ:
        quantity = getattr(found, name)
        values = [fact[name] for fact in facts]
        assert (quantity.value_count, quantity.min, quantity.max) == (5, min(values), max(values))
        assert quantity.mean == pytest.approx(mean_of_ratios_db(values) if name in DECIBELS else fmean(values))
        assert quantity.HasField("standard_deviation") == (name in HERTZ)
    for name in HERTZ:
        expected = stdev(fact[name] for fact in facts)
        assert getattr(found, name).standard_deviation == pytest.approx(expected)


async def test_a_small_deviation_of_large_values_is_exact(rows: MeasurementStore) -> None:
    values = [1_000_000.0 + 0.001 * number for number in range(8)]
    for number, value in enumerate(values):
        hour = DAY_HOUR + number // 4
        await rows.write_measurements([measured(f"t{number}", hour, {"frequency_offset_hz": value})])
    (found,) = await rows.aggregate_measurements(EVERYTHING, 24, None, 10)
    assert found.frequency_offset_hz.standard_deviation == pytest.approx(stdev(values), rel=1e-5)


async def test_only_valid_values_count(rows: MeasurementStore) -> None:
    limit, absent = Estimate.Validity.VALIDITY_UPPER_LIMIT, Estimate.Validity.VALIDITY_ABSENT
    made = [measured("a", DAY_HOUR, {"snr_db": 10.0, "frequency_offset_hz": 2.0}), measurement("b"), measurement("c")]
    for other in made[1:]:
        other.first_sample_unix_ns = DAY_HOUR * HOUR_NS
    made[1].snr_db.CopyFrom(Estimate(value=-20.0, validity=limit, reason="BELOW_LIMIT"))
    made[1].frequency_offset_hz.CopyFrom(Estimate(validity=absent, reason="NO_LINE"))
    await rows.write_measurements(made)
    (found,) = await rows.aggregate_measurements(EVERYTHING, 1, None, 10)
    assert found.measurement_count == 3
    snr, offset, power = found.snr_db, found.frequency_offset_hz, found.power_dbfs
    assert (snr.value_count, snr.min, snr.max) == (1, 10.0, 10.0)
    assert snr.mean == pytest.approx(10.0)
    assert (offset.value_count, offset.mean, offset.HasField("standard_deviation")) == (1, 2.0, False)
    assert power.value_count == 0
    assert not any(power.HasField(name) for name in ("mean", "standard_deviation", "min", "max"))


async def test_windows_do_not_count(rows: MeasurementStore) -> None:
    await rows.write_measurements([measurement(scope=WINDOW)])
    assert await aggregates(rows) == []


async def test_hours_receivers_and_frequencies_are_apart(rows: MeasurementStore) -> None:
    ns = 1 / HOUR_NS
    made = [
        measured("a", DAY_HOUR, {}),
        measured("b", DAY_HOUR + 1 - 10_000 * ns, {}),
        measured("c", DAY_HOUR + 1, {}),
        measured("d", DAY_HOUR + 1, {}, "rx-2"),
        measured("e", DAY_HOUR + 1, {}, "rx-10"),
        measured("f", DAY_HOUR + 1, {}, center_frequency_hz=7.1e6),
        measured("g", DAY_HOUR + 24, {}),
    ]
    made[1].first_sample_unix_ns = (DAY_HOUR + 1) * HOUR_NS - 1
    await rows.write_measurements(made)
    assert await aggregates(rows) == [
        (DAY_HOUR + 24, "rx-1", 77_500.0, 1),
        (DAY_HOUR + 1, "rx-1", 77_500.0, 1),
        (DAY_HOUR + 1, "rx-1", 7.1e6, 1),
        (DAY_HOUR + 1, "rx-10", 77_500.0, 1),
        (DAY_HOUR + 1, "rx-2", 77_500.0, 1),
        (DAY_HOUR, "rx-1", 77_500.0, 2),
    ]
    day = [
        (DAY_HOUR, "rx-1", 77_500.0, 3),
        (DAY_HOUR, "rx-1", 7.1e6, 1),
        (DAY_HOUR, "rx-10", 77_500.0, 1),
        (DAY_HOUR, "rx-2", 77_500.0, 1),
    ]
    assert await aggregates(rows, 24) == [(DAY_HOUR + 24, "rx-1", 77_500.0, 1), *day]


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        (RowFilter(start_unix_ns=(DAY_HOUR + 1) * HOUR_NS), [2, 1]),
        (RowFilter(end_unix_ns=(DAY_HOUR + 2) * HOUR_NS), [1, 0]),
        (RowFilter(min_frequency_hz=77_501.0), [2]),
        (RowFilter(max_frequency_hz=77_500.0), [1, 0]),
        (RowFilter(receiver_ids=("rx-0", "rx-2")), [2, 0]),
        (RowFilter(receiver_ids=("rx-7",)), []),
    ],
)
async def test_filters_of_aggregates(rows: MeasurementStore, selected: RowFilter, expected: list[int]) -> None:
    for place, frequency_hz in enumerate((77_400.0, 77_500.0, 7.1e6)):
        made = measured(f"t{place}", DAY_HOUR + place + 0.5, {}, f"rx-{place}", center_frequency_hz=frequency_hz)
        await rows.write_measurements([made])
    assert [hour - DAY_HOUR for hour, *_ in await aggregates(rows, 1, selected)] == expected


async def test_a_longer_bucket_holds_only_the_hours_selected(rows: MeasurementStore) -> None:
    for place in range(4):
        await rows.write_measurements([measured(f"t{place}", DAY_HOUR + place, {})])
    selected = RowFilter(start_unix_ns=(DAY_HOUR + 1) * HOUR_NS, end_unix_ns=(DAY_HOUR + 3) * HOUR_NS)
    assert await aggregates(rows, 24, selected) == [(DAY_HOUR, "rx-1", 77_500.0, 2)]


@pytest.mark.parametrize("bucket_hours", [1, 5])
async def test_pages_of_aggregates_are_stable_under_inserts(rows: MeasurementStore, bucket_hours: int) -> None:
    made = [
        measured(f"t{hour}-{receiver}-{place}", DAY_HOUR + hour, {}, receiver, center_frequency_hz=frequency_hz)
        for hour in (0, 1, 5)
        for receiver in ("rx-2", "rx-10")
        for place, frequency_hz in enumerate((77_500.0, 0.1 + 0.2))
    ]
    await rows.write_measurements(made)
    whole = await rows.aggregate_measurements(EVERYTHING, bucket_hours, None, 100)
    seen = list[MeasurementAggregate]()
    after: Cursor | None = None
    for place in range(len(whole) + 1):
        page = await rows.aggregate_measurements(EVERYTHING, bucket_hours, after, 1)
        seen += page
        if not page:
            break
        after = aggregate_cursor(page[-1])
        await rows.write_measurements([measured(f"n{place}", DAY_HOUR + 50 + 5 * place, {})])
    assert len(whole) == (12 if bucket_hours == 1 else 8)
    assert seen == whole
