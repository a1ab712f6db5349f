"""What every database of measurements, recordings and acquisitions does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Estimate
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc.ids import RecordingKey
from storage_svc.measurements import MeasurementStore, RowFilter, WriteCounts
from storage_svc.measurements.base import acquisition_cursor, measurement_cursor, recording_cursor
from storage_svc.measurements.spooled import SpooledMeasurements
from storage_svc.measurements.sql import SqlMeasurements
from tests.contract.storage.messages import (
    EVERYTHING,
    SUMMARY,
    T0_UNIX_NS,
    WINDOW,
    acquisition,
    full_measurement,
    measurement,
    recording,
)


async def ask(rows: MeasurementStore, query: str) -> list[dict[str, Any]]:
    """Returns the rows of a query that only SQL asks."""
    store = rows._inner if isinstance(rows, SpooledMeasurements) else rows
    assert isinstance(store, SqlMeasurements)
    return [dict(row) for row in await store._fetch(query, {})]


async def test_measurement_comes_back_as_it_was(rows: MeasurementStore) -> None:
    made = full_measurement()
    assert (await rows.write_measurements([made])).inserted == 1
    assert await rows.query_measurements(SUMMARY, EVERYTHING, None, 10) == [made]
    assert await rows.query_measurements(WINDOW, EVERYTHING, None, 10) == []


async def test_first_measurement_wins(rows: MeasurementStore) -> None:
    first = measurement(sample_count=1)
    windows = [measurement(scope=WINDOW, first_sample_index=index) for index in (0, 12_000)]
    assert (await rows.write_measurements([first, *windows])).inserted == 3
    assert (await rows.write_measurements([measurement(sample_count=2), *windows, measurement("task-2")])).inserted == 1
    assert await rows.query_measurements(SUMMARY, RowFilter(task_id="task-1"), None, 10) == [first]


async def test_the_first_of_two_in_one_call_wins(rows: MeasurementStore) -> None:
    assert (await rows.write_measurements([measurement(sample_count=1), measurement(sample_count=2)])).inserted == 1
    (stored,) = await rows.query_measurements(SUMMARY, EVERYTHING, None, 10)
    assert stored.sample_count == 1


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        (RowFilter(start_unix_ns=T0_UNIX_NS + 1), {"b", "c"}),
        (RowFilter(end_unix_ns=T0_UNIX_NS + 1), {"a"}),
        (RowFilter(start_unix_ns=T0_UNIX_NS + 1, end_unix_ns=T0_UNIX_NS + 2), {"b"}),
        (RowFilter(min_frequency_hz=100_000.0), {"b", "c"}),
        (RowFilter(min_frequency_hz=77_500.0, max_frequency_hz=100_000.0), {"a", "b"}),
        (RowFilter(receiver_ids=("rx-1", "rx-3")), {"a", "c"}),
        (RowFilter(task_id="b"), {"b"}),
        (RowFilter(task_id="b", receiver_ids=("rx-1",)), set()),
    ],
)
async def test_filters(rows: MeasurementStore, selected: RowFilter, expected: set[str]) -> None:
    facts = [("a", "rx-1", 0, 77_500.0), ("b", "rx-2", 1, 100_000.0), ("c", "rx-3", 2, 7.1e6)]
    for task, receiver, delay_ns, frequency_hz in facts:
        made = measurement(task, receiver, first_sample_unix_ns=T0_UNIX_NS + delay_ns, center_frequency_hz=frequency_hz)
        row = recording(task, receiver, window_start_unix_ns=T0_UNIX_NS + delay_ns)
        row.segment.center_frequency_hz = frequency_hz
        await rows.write_measurements([made])
        await rows.put_recording(row)
    found = await rows.query_measurements(SUMMARY, selected, None, 10)
    assert {entry.acquisition_id for entry in found} == expected
    listed = await rows.list_recordings(selected, None, 10)
    assert {entry.acquisition_id for entry in listed} == expected


async def test_pages_are_newest_first_and_stable_under_inserts(rows: MeasurementStore) -> None:
    for number in range(7):
        # Several share one time, so that the order among them has to be decided too.
        moment = T0_UNIX_NS + number // 3
        await rows.write_measurements([measurement(f"t{number}", first_sample_unix_ns=moment)])
        await rows.put_recording(recording(f"t{number}", window_start_unix_ns=moment))
        row = acquisition(f"t{number}")
        row.create_time.FromNanoseconds(moment)
        await rows.put_acquisition(row, 0)
    expected = [f"t{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    seen: dict[str, list[str]] = {"measurements": [], "recordings": [], "acquisitions": []}
    m = r = a = None
    for place in range(4):
        measurements = await rows.query_measurements(SUMMARY, EVERYTHING, m, 2)
        recordings = await rows.list_recordings(EVERYTHING, r, 2)
        acquisitions = await rows.list_acquisitions([], a, 2)
        seen["measurements"] += [entry.acquisition_id for entry in measurements]
        seen["recordings"] += [entry.acquisition_id for entry in recordings]
        seen["acquisitions"] += [entry.acquisition_id for entry in acquisitions]
        m = measurement_cursor(measurements[-1])
        r = recording_cursor(recordings[-1])
        a = acquisition_cursor(acquisitions[-1])
        newer = T0_UNIX_NS + 1_000_000_000 + place
        await rows.write_measurements([measurement(f"n{place}", first_sample_unix_ns=newer)])
        await rows.put_recording(recording(f"n{place}", window_start_unix_ns=newer))
        later = acquisition(f"n{place}")
        later.create_time.FromNanoseconds(newer)
        await rows.put_acquisition(later, 0)
    assert seen == {"measurements": expected, "recordings": expected, "acquisitions": expected}


async def test_recording_is_replaced(rows: MeasurementStore) -> None:
    key = RecordingKey("task-1", "rx-1")
    assert await rows.get_recording(key) is None
    await rows.put_recording(recording(state=Recording.State.STATE_WRITING))
    await rows.put_recording(recording())
    assert await rows.get_recording(key) == recording()
    assert await rows.list_recordings(EVERYTHING, None, 10) == [recording()]


async def test_stored_recording_is_not_replaced_by_one_with_other_samples(rows: MeasurementStore) -> None:
    stored = recording(data_sha512="a" * 128)
    await rows.write_measurements([measurement()])
    await rows.put_recording(stored)
    states = Recording.State
    for other in (
        recording(state=states.STATE_WRITING),
        recording(state=states.STATE_DISCARDED, data_object_key=""),
        recording(complete=False, data_object_key="", sample_count=0),
        recording(data_sha512="b" * 128),
        recording(data_sha512="a" * 128, complete=False),
    ):
        await rows.put_recording(other)
        assert await rows.get_recording(RecordingKey("task-1", "rx-1")) == stored
        (row,) = await ask(rows, "SELECT object_key, state FROM measurements")
        assert (row["object_key"], row["state"]) == (stored.data_object_key, "STORED")
    again = recording(data_sha512="a" * 128, location="s3://elsewhere")
    await rows.put_recording(again)
    assert await rows.get_recording(RecordingKey("task-1", "rx-1")) == again


async def test_stored_recording_without_samples_or_end_is_replaced(rows: MeasurementStore) -> None:
    """Each of them by the next."""
    for better in (
        recording(complete=False, data_object_key="", sample_count=0),
        recording(data_sha512="a" * 128, complete=False),
        recording(data_sha512="a" * 128, complete=False, location="s3://elsewhere"),
        recording(data_sha512="a" * 128),
    ):
        await rows.put_recording(better)
        assert await rows.get_recording(RecordingKey("task-1", "rx-1")) == better


async def test_acquisition_moves_from_revision_to_revision(rows: MeasurementStore) -> None:
    assert await rows.get_acquisition("task-1") is None
    await rows.put_acquisition(acquisition(), 0)
    second = acquisition(revision=2, state=Acquisition.State.STATE_PREPARING)
    await rows.put_acquisition(second, 1)
    await rows.put_acquisition(second, 1)
    assert await rows.get_acquisition("task-1") == second


@pytest.mark.parametrize(("expected", "stored"), [(0, 2), (1, 2), (3, 2)])
async def test_wrong_revision_is_a_conflict(rows: MeasurementStore, expected: int, stored: int) -> None:
    await rows.put_acquisition(acquisition(revision=stored), 0)
    with pytest.raises(HeimdallError) as caught:
        await rows.put_acquisition(acquisition(revision=9), expected)
    assert caught.value.reason == ErrorReason.ERROR_REASON_REVISION_CONFLICT
    assert caught.value.metadata["stored_revision"] == str(stored)
    assert await rows.get_acquisition("task-1") == acquisition(revision=stored)


async def test_of_concurrent_writers_one_wins(rows: MeasurementStore) -> None:
    await rows.put_acquisition(acquisition(), 0)
    results = await asyncio.gather(
        *(rows.put_acquisition(acquisition(revision=2, request_id=f"w{n}"), 1) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(result is False for result in results) == 1
    conflicts = [result for result in results if isinstance(result, HeimdallError)]
    assert len(conflicts) == 19


async def test_acquisitions_by_state(rows: MeasurementStore) -> None:
    await rows.put_acquisition(acquisition("a"), 0)
    await rows.put_acquisition(acquisition("b", state=Acquisition.State.STATE_FAILED), 0)
    await rows.put_acquisition(acquisition("c", state=Acquisition.State.STATE_SUCCEEDED), 0)
    over = (Acquisition.State.STATE_FAILED, Acquisition.State.STATE_SUCCEEDED)
    found = await rows.list_acquisitions(over, None, 10)
    assert {entry.acquisition_id for entry in found} == {"b", "c"}


async def test_concurrent_writes_are_all_stored(rows: MeasurementStore) -> None:
    counts = await asyncio.gather(*(rows.write_measurements([measurement(f"t{n}")]) for n in range(60)))
    assert counts == [WriteCounts(1)] * 60
    assert len(await rows.query_measurements(SUMMARY, EVERYTHING, None, 100)) == 60


async def test_ping(rows: MeasurementStore) -> None:
    await rows.ping()


@pytest.mark.parametrize("scope", [SUMMARY, WINDOW])
async def test_repeat_at_another_time_changes_nothing(rows: MeasurementStore, scope: Any) -> None:
    first = measurement(scope=scope, first_sample_index=12_000)
    later = measurement(scope=scope, first_sample_index=12_000, first_sample_unix_ns=T0_UNIX_NS + 3 * 3600 * 10**9)
    earlier = measurement(scope=scope, first_sample_index=12_000, first_sample_unix_ns=T0_UNIX_NS - 1)
    assert (await rows.write_measurements([first])).inserted == 1
    assert (await rows.write_measurements([later, earlier])).inserted == 0
    assert await rows.query_measurements(scope, EVERYTHING, None, 10) == [first]


async def test_windows_differ_by_their_index_at_one_time(rows: MeasurementStore) -> None:
    made = [measurement(scope=WINDOW, first_sample_index=index) for index in range(3)]
    assert (await rows.write_measurements([*made, *made])).inserted == 3
    assert await rows.query_measurements(WINDOW, EVERYTHING, None, 10) == made[::-1]


async def test_of_concurrent_writes_of_the_same_rows_one_inserts(rows: MeasurementStore) -> None:
    made = [measurement(), *(measurement(scope=WINDOW, first_sample_index=index) for index in range(4))]
    counts = await asyncio.gather(*(rows.write_measurements(made) for _ in range(20)))
    assert sum(count.inserted for count in counts) == len(made)
    assert len(await rows.query_measurements(WINDOW, EVERYTHING, None, 100)) == 4


@pytest.mark.parametrize("is_first", [True, False])
async def test_measurements_know_their_recording(rows: MeasurementStore, is_first: bool) -> None:
    key = "sessions/task-1/rx-1.sigmf-data"
    made = [measurement(), measurement(scope=WINDOW), measurement("task-2"), measurement(receiver="rx-2")]
    if is_first:
        await rows.put_recording(recording())
    await rows.write_measurements(made)
    if not is_first:
        await rows.put_recording(recording())
    for table, others in (("measurements", 2), ("measurement_windows", 0)):
        found = await ask(rows, f"SELECT task_id, receiver_id, object_key, state FROM {table}")
        known = [tuple(row.values()) for row in found if row["object_key"] is not None or row["state"] is not None]
        assert known == [("task-1", "rx-1", key, "STORED")]
        assert len(found) == 1 + others


async def test_recording_that_is_being_written_is_not_told(rows: MeasurementStore) -> None:
    await rows.write_measurements([measurement()])
    await rows.put_recording(recording(state=Recording.State.STATE_WRITING))
    (row,) = await ask(rows, "SELECT object_key, state FROM measurements")
    assert (row["object_key"], row["state"]) == (None, None)


async def test_view_for_analysts_of_the_predecessor(rows: MeasurementStore) -> None:
    measured, limited = full_measurement(), measurement("task-2", center_frequency_hz=7.1e6)
    measured.power_dbm.CopyFrom(Estimate(value=-80.5, validity=Estimate.Validity.VALIDITY_VALID))
    limited.snr_db.CopyFrom(Estimate(value=-3.0, validity=Estimate.Validity.VALIDITY_UPPER_LIMIT))
    measured.snr_db.CopyFrom(Estimate(value=31.5, validity=Estimate.Validity.VALIDITY_VALID))
    await rows.write_measurements([measured, limited])
    await rows.put_recording(recording())
    first, second = await ask(rows, "SELECT * FROM measurements_v0 ORDER BY frequency_mhz")
    times = [first.pop("timestamp_utc"), second.pop("timestamp_utc")]
    assert times[0] == times[1]
    assert str(times[0]).replace("T", " ").startswith("2023-11-14 22:13:20.123456")
    assert first == {
        "websdr_id": "rx-1",
        "frequency_mhz": 0.0775,
        "sample_rate_khz": 12.00025,
        "samples_count": 60_000,
        "snr_db": 31.5,
        "frequency_offset_hz": 0.0,
        "power_dbm": -80.5,
        "s3_path": "s3://heimdall-raw-iq/sessions/task-1/rx-1.sigmf-data",
    }
    empty = ("snr_db", "frequency_offset_hz", "power_dbm", "s3_path")
    assert (second["frequency_mhz"], [second[name] for name in empty]) == (7.1, [None] * 4)
