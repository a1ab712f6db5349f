from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from heimdall.client import record_filter
from heimdall.storage.v1.storage_pb2 import RecordFilter


def test_nothing_given_selects_everything() -> None:
    assert record_filter() == RecordFilter()


@pytest.mark.parametrize(
    ("frequency_hz", "tolerance_hz", "low_hz", "high_hz"),
    [
        (145.5e6, 5e3, 145_495_000.0, 145_505_000.0),
        (77_500, 0, 77_500.0, 77_500.0),
        # In binary floating point 518000.7 - 0.1 is above 518000.6, and 145500000.1 + 0.2 below 145500000.3: both edges
        # would be left out.
        (518_000.7, 0.1, 518_000.6, 518_000.8),
        (145_500_000.1, 0.2, 145_499_999.9, 145_500_000.3),
        (1_000.0, 5_000.0, 0.0, 6_000.0),
    ],
)
def test_a_band_has_its_edges_as_they_are_written(
    frequency_hz: float, tolerance_hz: float, low_hz: float, high_hz: float
) -> None:
    made = record_filter(frequency_hz=frequency_hz, tolerance_hz=tolerance_hz)
    assert (made.min_frequency_hz, made.max_frequency_hz) == (low_hz, high_hz)
    assert not made.HasField("start_time")


def test_times_are_taken_in_any_zone() -> None:
    rome = timezone(timedelta(hours=1))
    made = record_filter(
        start=datetime(2026, 1, 31, 13, tzinfo=rome), end=datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)
    )
    assert made.start_time.ToNanoseconds() == 1_769_860_800_000_000_000
    assert made.end_time.ToNanoseconds() == 1_769_860_800_000_001_000


def test_last_counts_from_now() -> None:
    before = time.time_ns() // 1000 * 1000
    made = record_filter(last=timedelta(hours=24), receiver_ids=["torino"], acquisition_id="a1")
    after = time.time_ns()
    assert before <= made.start_time.ToNanoseconds() + 86_400_000_000_000 <= after
    assert list(made.receiver_ids) == ["torino"]
    assert made.acquisition_id == "a1"
    assert not made.HasField("end_time")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"frequency_hz": 1e6}, "frequency_hz is 1000000.0 and tolerance_hz is None; give both or none"),
        ({"tolerance_hz": 1e3}, "frequency_hz is None and tolerance_hz is 1000.0; give both or none"),
        ({"frequency_hz": 1e6, "tolerance_hz": -1}, "tolerance_hz is -1, must be 0 or more"),
        ({"frequency_hz": 1e6, "tolerance_hz": float("nan")}, "tolerance_hz is nan, must be 0 or more"),
        ({"last": timedelta(0)}, "last is 0:00:00, must be above 0"),
        ({"last": timedelta(1), "start": datetime(2026, 1, 1, tzinfo=UTC)}, "last and start are both given"),
        ({"end": datetime(2026, 1, 1)}, "end 2026-01-01T00:00:00 has no time zone"),  # noqa: DTZ001
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="^" + text.replace(".", r"\.")):
        record_filter(**values)
