"""What a training job reads: recordings by band and time, straight into arrays."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf

from heimdall.client import HeimdallClient, record_filter
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, IqEvent, SampleFormat, Status
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.storage.v1.storage_pb2 import RecordFilter, WriteMeasurementsRequest
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from storage_svc.definition import define
from tests.integration.storage.support import (
    BLOCK,
    WINDOW_START_UNIX_NS,
    block,
    end_at,
    gap,
    opening,
    sample_bytes,
    segment,
    solution,
    storage_settings,
    write,
)

GAP = 340
TOTAL = 3 * BLOCK + GAP + 60
RATE_HZ = 12_000.25


class Bench:
    """A client, and the means to put recordings into its storage."""

    def __init__(self, client: HeimdallClient, stub: Any) -> None:
        self.client = client
        self.stub = stub

    async def record(self, task_id: str, receiver_id: str = "rx-1", *, center_frequency_hz: float = 77_500.0) -> None:
        """Writes one block."""
        await write(
            self.stub,
            [segment(receiver_id, center_frequency_hz=center_frequency_hz), block(0)],
            end_at(BLOCK),
            opening(task_id, receiver_id),
        )

    async def found(self, **values: Any) -> list[str]:
        listed = self.client.list_recordings(record_filter(**values))
        return sorted([f"{recording.acquisition_id}/{recording.receiver_id}" async for recording in listed])


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    settings = storage_settings(tmp_path)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(running_server(define(settings), settings))
        channel = await stack.enter_async_context(open_channel("storage", address))
        # Nothing of the coordinator is asked.
        client = await stack.enter_async_context(HeimdallClient("127.0.0.1:1", address))
        yield Bench(client, StorageServiceStub(channel))


async def write_example(bench: Bench) -> Recording:
    """Two blocks, a gap, one block, a changed gain, sixty samples more."""
    first = 2 * BLOCK + GAP
    return await write(
        bench.stub,
        [
            segment(),
            block(0),
            block(BLOCK, overload=True),
            gap(2 * BLOCK, GAP),
            block(first),
            segment(first_sample_index=first + BLOCK, gain_db=20.0),
            block(first + BLOCK, 60),
            IqEvent(status=Status(time_solution=solution(RATE_HZ))),
        ],
        end_at(TOTAL, time_solution=solution(RATE_HZ)),
    )


async def test_samples_are_those_that_sigmf_reads_from_the_stored_pair(bench: Bench) -> None:
    recording = await write_example(bench)
    found = await bench.client.read_samples("task-1", "rx-1")

    reference = sigmf.fromfile(recording.location)
    captures = reference.get_captures()
    assert [run.first_sample_index for run in found.runs] == [capture["core:global_index"] for capture in captures]
    for place, (run, capture) in enumerate(zip(found.runs, captures, strict=True)):
        np.testing.assert_array_equal(run.samples, reference.read_samples_in_capture(place))
        assert run.first_sample_unix_ns == capture["heimdall:first_sample_unix_ns"]
        assert run.segment.center_frequency_hz == found.center_frequency_hz == capture["core:frequency"]
    assert found.sample_rate_hz == RATE_HZ == reference.get_global_field("core:sample_rate")
    assert [(run.first_sample_index, run.samples.size, run.overload) for run in found.runs] == [
        (0, 2 * BLOCK, True),
        (2 * BLOCK + GAP, BLOCK, False),
        (TOTAL - 60, 60, False),
    ]
    assert [run.segment.gain_db for run in found.runs] == [0.0, 0.0, 20.0]
    assert found.gaps == (gap(2 * BLOCK, GAP).gap,)
    filled = found.filled_with_nan()
    assert np.flatnonzero(np.isnan(filled)).tolist() == list(range(2 * BLOCK, 2 * BLOCK + GAP))


async def test_a_part_begins_at_its_index_and_lists_the_part_of_the_gap(bench: Bench) -> None:
    await write_example(bench)
    first, end = BLOCK + 7, 2 * BLOCK + 40
    found = await bench.client.read_samples("task-1", "rx-1", sample_range=(first, end))
    expected = np.frombuffer(sample_bytes(first, 2 * BLOCK - first), "<i2").reshape(-1, 2) / 32768
    (run,) = found.runs
    np.testing.assert_array_equal(run.samples.view(np.float32).reshape(-1, 2), expected)
    assert run.first_sample_index == found.first_sample_index == first
    assert run.first_sample_unix_ns == WINDOW_START_UNIX_NS + round(first * 1e9 / RATE_HZ)
    assert found.gaps == (gap(2 * BLOCK, 40).gap,)
    assert found.end_sample_index == end
    with pytest.raises(HeimdallError, match="holds no sample and no gap") as caught:
        await bench.client.read_samples("task-1", "rx-1", sample_range=(TOTAL + 5, TOTAL + 9))
    assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_FIELD


async def test_large_recordings_stream_in_runs_of_bounded_size(bench: Bench) -> None:
    rate_hz, count = 2_400_000.0, 262_144
    samples = np.random.default_rng(20261126).integers(0, 256, 2 * count, np.uint8).tobytes()
    opening_segment = segment(
        sample_rate_hz=rate_hz, sample_format=SampleFormat.SAMPLE_FORMAT_CU8, full_scale=127.5, zero_offset=127.5
    )
    whole = Block(first_sample_unix_ns=WINDOW_START_UNIX_NS, sample_count=count, samples=samples)
    await write(bench.stub, [opening_segment, IqEvent(block=whole)], end_at(count))
    runs = [run async for run in bench.client.stream_samples("task-1", "rx-1")]
    assert max(run.samples.size for run in runs) <= 256 * 1024 // 2
    assert [run.first_sample_index for run in runs[1:]] == [run.end_sample_index for run in runs[:-1]]
    expected = np.frombuffer(samples, np.uint8).astype(np.float64).view(np.complex128) / 127.5 - (1 + 1j)
    np.testing.assert_allclose(np.concatenate([run.samples for run in runs]), expected, atol=1e-6)


async def test_recordings_are_found_by_band_with_its_edges_and_by_time(bench: Bench) -> None:
    for place, frequency_hz in enumerate([77_494.9, 77_495.0, 77_500.0, 77_505.0, 77_505.1]):
        await bench.record(f"task-{place}", center_frequency_hz=frequency_hz)
    await bench.record("task-2", "rx-2")
    assert await bench.found(frequency_hz=77_500.0, tolerance_hz=5.0) == [
        "task-1/rx-1",
        "task-2/rx-1",
        "task-2/rx-2",
        "task-3/rx-1",
    ]
    assert await bench.found(frequency_hz=77_500, tolerance_hz=0, receiver_ids=["rx-2"]) == ["task-2/rx-2"]
    assert await bench.found(acquisition_id="task-4") == ["task-4/rx-1"]
    start = datetime.fromtimestamp(WINDOW_START_UNIX_NS / 1e9, UTC)
    moment = timedelta(microseconds=1)
    assert len(await bench.found(start=start, end=start + moment)) == 6
    assert await bench.found(start=start + moment) == []
    assert await bench.found(end=start) == []
    age = datetime.now(UTC) - start
    assert len(await bench.found(last=age + timedelta(minutes=1))) == 6
    assert await bench.found(last=age - timedelta(minutes=1)) == []


async def test_a_training_job_has_its_samples_in_two_lines(bench: Bench) -> None:
    await bench.record("task-1")
    selected = record_filter(frequency_hz=77.5e3, tolerance_hz=1e3)
    found = [await bench.client.read_samples(recording.acquisition_id, recording.receiver_id)
             async for recording in bench.client.list_recordings(selected)]  # fmt: skip
    ((run,),) = [samples.runs for samples in found]
    codes = (run.samples.view(np.float32) * 32768).astype("<i2").tobytes()
    assert hashlib.sha512(codes).digest() == hashlib.sha512(sample_bytes(0, BLOCK)).digest()


async def test_aggregates_come_from_every_page(bench: Bench) -> None:
    """Three hours, two of them with a measurement of each of two receivers."""
    hour_ns = 3600 * 1_000_000_000
    start_ns = WINDOW_START_UNIX_NS // hour_ns * hour_ns
    example = [
        Measurement(
            acquisition_id=f"task-{hour}",
            receiver_id=receiver_id,
            scope=MeasurementScope.MEASUREMENT_SCOPE_SUMMARY,
            first_sample_unix_ns=start_ns + hour * hour_ns + 5,
            sample_count=100,
            center_frequency_hz=77_500.0,
            sample_rate_hz=12_000.0,
        )
        for hour in (0, 2)
        for receiver_id in ("rx-1", "rx-2")
    ]
    await bench.stub.WriteMeasurements(WriteMeasurementsRequest(measurements=example), timeout=5)

    async def found(bucket: timedelta, selected: RecordFilter | None = None) -> list[tuple[int, str, int]]:
        listed = bench.client.aggregate_measurements(selected, bucket=bucket, page_size=1)
        return sorted(
            [((one.bucket_start_time.ToNanoseconds() - start_ns) // hour_ns, one.receiver_id, one.measurement_count)
             async for one in listed]
        )  # fmt: skip

    assert await found(timedelta(hours=1)) == [(0, "rx-1", 1), (0, "rx-2", 1), (2, "rx-1", 1), (2, "rx-2", 1)]
    only = record_filter(start=datetime.fromtimestamp(start_ns / 1e9, UTC) + timedelta(hours=1), receiver_ids=["rx-2"])
    assert await found(timedelta(hours=1), only) == [(2, "rx-2", 1)]
    days = await found(timedelta(days=366))
    assert [counts[1:] for counts in days] == [("rx-1", 2), ("rx-2", 2)]
