"""Reads, lists, measurements and acquisitions over real gRPC."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sigmf.sigmffile import SigMFCollection

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import EndReason, IqEvent, Status
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.definition import FULL_NAME, define
from storage_svc.spool.journal import encode_event
from tests.integration.storage.support import (
    BLOCK,
    RATE_HZ,
    WINDOW_START_UNIX_NS,
    Writer,
    block,
    end_at,
    gap,
    opening,
    read,
    running_storage,
    sample_bytes,
    samples_of,
    segment,
    solution,
    storage_settings,
    time_ns,
    write,
)

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

GAP = 340
TOTAL = 4 * BLOCK + GAP


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[StorageServiceAsyncStub]:
    async with running_storage(storage_settings(tmp_path)) as made:
        yield made


async def write_example(stub: StorageServiceAsyncStub) -> Recording:
    """Blocks 0 to 2 BLOCK, a gap of 340, blocks to the end; fitted rate as announced, so that times are easy."""
    return await write(
        stub,
        [
            segment(),
            block(0),
            block(BLOCK, overload=True),
            gap(2 * BLOCK, GAP),
            block(2 * BLOCK + GAP),
            IqEvent(status=Status(time_solution=solution(RATE_HZ))),
            block(3 * BLOCK + GAP),
        ],
        end_at(TOTAL, time_solution=solution(RATE_HZ)),
    )


def stored_between(first: int, end: int) -> bytes:
    """Returns the samples of the example inside a range of indices."""
    parts = []
    for low, high in ((0, 2 * BLOCK), (2 * BLOCK + GAP, TOTAL)):
        low, high = max(low, first), min(high, end)
        if low < high:
            parts.append(sample_bytes(low, high - low))
    return b"".join(parts)


@pytest.mark.parametrize(
    ("first", "end"),
    [
        (0, 1),
        (0, TOTAL),
        (5, BLOCK),
        (BLOCK - 1, BLOCK + 1),
        (BLOCK, 2 * BLOCK + 7),
        (2 * BLOCK + 3, 2 * BLOCK + GAP),
        (2 * BLOCK + GAP, TOTAL),
        (TOTAL - 1, TOTAL),
        (100, 0),
        (TOTAL - 5, TOTAL + 1000),
    ],
)
async def test_range_of_samples(stub: StorageServiceAsyncStub, first: int, end: int) -> None:
    await write_example(stub)
    sample_range = {"first_sample_index": first, "end_sample_index": end}
    head, *events, last = await read(stub, sample_range=sample_range)
    end = min(end or TOTAL, TOTAL)
    assert head == segment()
    assert samples_of(events) == stored_between(first, end)
    index = first
    for event in events:
        if event.HasField("block"):
            assert event.block.first_sample_index == index
            # Rounded to ns once in the block and once in the part of it.
            assert abs(event.block.first_sample_unix_ns - time_ns(index)) <= 1
            low, high = index, index + event.block.sample_count
            expected = [stamp for stamp in range(0, TOTAL, 512) if low <= stamp < high]
            if BLOCK <= index < 2 * BLOCK:
                assert event.block.overload
            assert [stamp.sample_index for stamp in event.block.stamps] == expected
            index = high
        else:
            assert event.gap.first_lost_index == index
            index += event.gap.lost_sample_count
    assert index == end == last.end.end_sample_index
    assert last.end.received_sample_count == len(stored_between(first, end)) // 4
    assert last.end.received_sample_count + last.end.lost_sample_count == end - first


async def test_range_of_times(stub: StorageServiceAsyncStub) -> None:
    await write_example(stub)
    time_range = {"start_unix_ns": time_ns(100), "end_unix_ns": time_ns(BLOCK) + 1}
    _, *events, last = await read(stub, time_range=time_range)
    assert samples_of(events) == stored_between(100, BLOCK + 1)
    assert last.end.reason == EndReason.END_REASON_STOPPED
    assert last.end.time_solution == solution(RATE_HZ)


@pytest.mark.parametrize("when_s", [-100, 100])
async def test_range_of_times_outside_the_recording_is_empty(stub: StorageServiceAsyncStub, when_s: int) -> None:
    await write_example(stub)
    start = WINDOW_START_UNIX_NS + when_s * 1_000_000_000
    events = await read(stub, time_range={"start_unix_ns": start, "end_unix_ns": start + 1_000_000_000})
    assert samples_of(events) == b""
    assert events[-1].HasField("end")


async def test_large_blocks_are_cut_when_read(stub: StorageServiceAsyncStub) -> None:
    """A block of 1 MiB is accepted; readers get at most 256 KiB and 250 ms at a time."""
    rate_hz = 2_400_000.0
    await write(stub, [segment(sample_rate_hz=rate_hz), block(0, 262_144)], end_at(262_144))
    _, *events, _ = await read(stub)
    assert max(len(event.block.samples) for event in events) == 256 * 1024
    assert samples_of(events) == sample_bytes(0, 262_144)
    assert [event.block.first_sample_index for event in events] == [0, 65_536, 131_072, 196_608]
    assert events[1].block.first_sample_unix_ns == WINDOW_START_UNIX_NS + round(65_536e9 / rate_hz)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"acquisition_id": "../x"}, "acquisition_id"),
        ({"receiver_id": ""}, "receiver_id"),
        ({"sample_range": {"first_sample_index": -1}}, "sample_range.first_sample_index"),
        ({"sample_range": {"first_sample_index": 5, "end_sample_index": 5}}, "sample_range.end_sample_index"),
        ({"time_range": {"start_unix_ns": 5, "end_unix_ns": 5}}, "time_range.end_unix_ns"),
    ],
)
async def test_bad_read_names_the_field(stub: StorageServiceAsyncStub, values: dict[str, Any], field: str) -> None:
    with pytest.raises(HeimdallError) as caught:
        await read(stub, **values)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_unknown_recording_is_not_found(stub: StorageServiceAsyncStub) -> None:
    with pytest.raises(HeimdallError) as caught:
        await read(stub, receiver_id="rx-9")
    assert caught.value.reason == ErrorReason.ERROR_REASON_RECORDING_NOT_FOUND


@pytest.mark.parametrize("damage", ["changed", "short", "gone", "meta"])
async def test_damaged_samples_are_noticed(stub: StorageServiceAsyncStub, damage: str) -> None:
    recording = await write_example(stub)
    spoil(Path(recording.location), damage)
    with pytest.raises(HeimdallError) as caught:
        await read(stub)
    assert caught.value.reason == ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH


async def test_journal_that_says_nonsense_is_a_damaged_recording(stub: StorageServiceAsyncStub, tmp_path: Path) -> None:
    async with Writer(stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        append(tmp_path / "spool" / "task-1" / "rx-1" / "journal", encode_event(0, gap(0, 1).SerializeToString()))
        with pytest.raises(HeimdallError, match=f"its journal can not be read: at sample {BLOCK}: ") as caught:
            await read(stub)
    assert caught.value.reason == ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH


def append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


def spoil(meta: Path, damage: str) -> None:
    data = meta.with_suffix(".sigmf-data")
    content = data.read_bytes()
    if damage == "changed":
        data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "short":
        data.write_bytes(content[:-1])
    elif damage == "gone":
        data.unlink()
    else:
        meta.write_bytes(b"{}")


async def call(awaitable: Any) -> Any:
    try:
        return await awaitable
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "storage") from error


async def test_recordings_are_listed_in_pages_and_filtered(stub: StorageServiceAsyncStub) -> None:
    for receiver_id in ("rx-1", "rx-2", "rx-3"):
        await write(stub, [segment(receiver_id), block(0)], end_at(BLOCK), opening(receiver_id=receiver_id))
    seen, token = [], ""
    while True:
        request = pb.ListRecordingsRequest(page_size=2, page_token=token)
        answer = await call(stub.ListRecordings(request, timeout=5))
        seen += [recording.receiver_id for recording in answer.recordings]
        token = answer.next_page_token
        if not token:
            break
    assert sorted(seen) == ["rx-1", "rx-2", "rx-3"]
    selected = pb.RecordFilter(receiver_ids=["rx-2"], min_frequency_hz=77_000.0, max_frequency_hz=78_000.0)
    answer = await call(stub.ListRecordings(pb.ListRecordingsRequest(filter=selected), timeout=5))
    assert [recording.receiver_id for recording in answer.recordings] == ["rx-2"]
    selected = pb.RecordFilter(min_frequency_hz=78_000.0)
    assert not (await call(stub.ListRecordings(pb.ListRecordingsRequest(filter=selected), timeout=5))).recordings


@pytest.mark.parametrize(
    ("request_fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "rubbish"}, "page_token"),
        ({"filter": {"receiver_ids": ["ok", "NO"]}}, "filter.receiver_ids[1]"),
        ({"filter": {"acquisition_id": "a/b"}}, "filter.acquisition_id"),
        ({"filter": {"min_frequency_hz": -1.0}}, "filter.min_frequency_hz"),
        ({"filter": {"min_frequency_hz": 2.0, "max_frequency_hz": 1.0}}, "filter.max_frequency_hz"),
        ({"filter": {"start_time": {"seconds": 5}, "end_time": {"seconds": 5}}}, "filter.end_time"),
        ({"filter": {"start_time": {"nanos": -1}}}, "filter.start_time"),
    ],
)
async def test_bad_list_names_the_field(
    stub: StorageServiceAsyncStub, request_fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(HeimdallError) as caught:
        await call(stub.ListRecordings(pb.ListRecordingsRequest(**request_fields), timeout=5))
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_folder_has_no_urls(stub: StorageServiceAsyncStub) -> None:
    await write_example(stub)
    request = pb.GetRecordingUrlRequest(acquisition_id="task-1", receiver_id="rx-1")
    with pytest.raises(HeimdallError) as caught:
        await call(stub.GetRecordingUrl(request, timeout=5))
    assert caught.value.reason == ErrorReason.ERROR_REASON_URL_UNSUPPORTED
    assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
    request.lifetime.seconds = 8 * 86400
    with pytest.raises(HeimdallError) as caught:
        await call(stub.GetRecordingUrl(request, timeout=5))
    assert caught.value.violations[0].field == "lifetime"


def window_measurement(index: int, **values: Any) -> Measurement:
    made = Measurement(
        acquisition_id="task-1",
        receiver_id="rx-1",
        scope=MeasurementScope.MEASUREMENT_SCOPE_WINDOW,
        first_sample_index=index * 12_000,
        first_sample_unix_ns=time_ns(index * 12_000),
        sample_count=12_000,
        center_frequency_hz=77_500.0,
        sample_rate_hz=RATE_HZ,
    )
    made.snr_db.CopyFrom(Estimate(value=index / 3, sigma=0.1, validity=Estimate.Validity.VALIDITY_VALID))
    for name, value in values.items():
        setattr(made, name, value)
    return made


async def test_measurements_are_stored_once_and_streamed_newest_first(stub: StorageServiceAsyncStub) -> None:
    made = [window_measurement(index) for index in range(25)]
    request = pb.WriteMeasurementsRequest(measurements=made)
    answer = await call(stub.WriteMeasurements(request, timeout=5))
    assert (answer.inserted_count, answer.duplicate_count) == (25, 0)
    answer = await call(stub.WriteMeasurements(request, timeout=5))
    assert (answer.inserted_count, answer.duplicate_count) == (0, 25)
    query = pb.QueryMeasurementsRequest(
        scope=MeasurementScope.MEASUREMENT_SCOPE_WINDOW, batch_size=10, filter=pb.RecordFilter(acquisition_id="task-1")
    )
    batches = [list(batch.measurements) async for batch in stub.QueryMeasurements(query, timeout=5)]
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [entry for batch in batches for entry in batch] == made[::-1]
    query.max_count = 12
    batches = [list(batch.measurements) async for batch in stub.QueryMeasurements(query, timeout=5)]
    assert [len(batch) for batch in batches] == [10, 2]


async def test_large_measurements_come_in_smaller_batches(stub: StorageServiceAsyncStub) -> None:
    """Ten windows of 0.8 MiB each, as spectrum statistics of 16,384 bins have it: three are more than a batch."""
    made = [window_measurement(index) for index in range(10)]
    for measurement in made:
        measurement.products.spectrum_statistics.traces.add().power_dbfs_per_hz.extend([-100.0] * 200_000)
        await call(stub.WriteMeasurements(pb.WriteMeasurementsRequest(measurements=[measurement]), timeout=10))
    query = pb.QueryMeasurementsRequest(
        scope=MeasurementScope.MEASUREMENT_SCOPE_WINDOW, filter=pb.RecordFilter(acquisition_id="task-1")
    )
    batches = [list(batch.measurements) async for batch in stub.QueryMeasurements(query, timeout=20)]
    assert [len(batch) for batch in batches] == [2, 2, 2, 2, 2]
    assert [entry for batch in batches for entry in batch] == made[::-1]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"acquisition_id": "A"}, "measurements[0].acquisition_id"),
        ({"scope": 0}, "measurements[0].scope"),
        ({"sample_rate_hz": 0.0}, "measurements[0].sample_rate_hz"),
        ({"sample_count": -1}, "measurements[0].sample_count"),
        ({"center_frequency_hz": float("inf")}, "measurements[0].center_frequency_hz"),
    ],
)
async def test_bad_measurement_stores_nothing(
    stub: StorageServiceAsyncStub, values: dict[str, Any], field: str
) -> None:
    request = pb.WriteMeasurementsRequest(measurements=[window_measurement(0, **values), window_measurement(1)])
    with pytest.raises(HeimdallError) as caught:
        await call(stub.WriteMeasurements(request, timeout=5))
    assert [violation.field for violation in caught.value.violations] == [field]
    query = pb.QueryMeasurementsRequest(scope=MeasurementScope.MEASUREMENT_SCOPE_WINDOW)
    assert [batch async for batch in stub.QueryMeasurements(query, timeout=5)] == []


async def test_number_that_is_not_finite_is_refused(stub: StorageServiceAsyncStub) -> None:
    made = window_measurement(0)
    made.snr_db.value = float("nan")
    with pytest.raises(HeimdallError) as caught:
        await call(stub.WriteMeasurements(pb.WriteMeasurementsRequest(measurements=[made]), timeout=5))
    assert caught.value.violations[0].field == "measurements[0].snr_db"


def acquisition(revision: int, state: Acquisition.State.ValueType) -> Acquisition:
    made = Acquisition(acquisition_id="task-1", revision=revision, state=state)
    made.create_time.FromNanoseconds(WINDOW_START_UNIX_NS)
    return made


async def put(stub: StorageServiceAsyncStub, made: Acquisition, expected: int) -> Acquisition:
    request = pb.PutAcquisitionRequest(acquisition=made, expected_revision=expected)
    stored: Acquisition = (await call(stub.PutAcquisition(request, timeout=5))).acquisition
    return stored


async def test_terminal_acquisition_gets_its_collection(stub: StorageServiceAsyncStub, tmp_path: Path) -> None:
    await put(stub, acquisition(1, Acquisition.State.STATE_ACCEPTED), 0)
    for receiver_id in ("rx-1", "rx-2"):
        await write(stub, [segment(receiver_id), block(0)], end_at(BLOCK), opening(receiver_id=receiver_id))
    folder = tmp_path / "heimdall-raw-iq" / "sessions" / "task-1"
    path = folder / "session.sigmf-collection"
    assert not path.exists()
    await put(stub, acquisition(2, Acquisition.State.STATE_SUCCEEDED), 1)
    verify_collection(path, ["rx-1", "rx-2"])
    # A recording that comes late is added.
    await write(stub, [segment("rx-3"), block(0)], end_at(BLOCK), opening(receiver_id="rx-3"))
    verify_collection(path, ["rx-1", "rx-2", "rx-3"])
    path.unlink()
    await put(stub, acquisition(2, Acquisition.State.STATE_SUCCEEDED), 1)
    verify_collection(path, ["rx-1", "rx-2", "rx-3"])


def verify_collection(path: Path, names: list[str]) -> None:
    collection = SigMFCollection(metadata=json.loads(path.read_bytes()), base_path=path.parent)
    collection.verify_stream_hashes()
    assert collection.get_stream_names() == names


async def test_acquisitions_are_put_got_and_listed(stub: StorageServiceAsyncStub) -> None:
    first = acquisition(1, Acquisition.State.STATE_ACCEPTED)
    assert await put(stub, first, 0) == first
    with pytest.raises(HeimdallError) as caught:
        await put(stub, acquisition(7, Acquisition.State.STATE_FAILED), 3)
    assert caught.value.reason == ErrorReason.ERROR_REASON_REVISION_CONFLICT
    assert caught.value.metadata["stored_revision"] == "1"
    got = await call(stub.GetAcquisition(pb.GetAcquisitionRequest(acquisition_id="task-1"), timeout=5))
    assert got.acquisition == first
    listed = await call(stub.ListAcquisitions(pb.ListAcquisitionsRequest(), timeout=5))
    assert list(listed.acquisitions) == [first]
    request = pb.ListAcquisitionsRequest(states=[Acquisition.State.STATE_FAILED])
    assert not (await call(stub.ListAcquisitions(request, timeout=5))).acquisitions
    with pytest.raises(HeimdallError) as caught:
        await call(stub.GetAcquisition(pb.GetAcquisitionRequest(acquisition_id="task-2"), timeout=5))
    assert caught.value.reason == ErrorReason.ERROR_REASON_ACQUISITION_NOT_FOUND


async def test_bad_acquisition_names_every_field(stub: StorageServiceAsyncStub) -> None:
    with pytest.raises(HeimdallError) as caught:
        await put(stub, Acquisition(), -1)
    assert {violation.field for violation in caught.value.violations} == {
        "acquisition.acquisition_id",
        "acquisition.state",
        "acquisition.create_time",
        "expected_revision",
    }


async def test_health_names_the_backends(tmp_path: Path) -> None:
    settings = storage_settings(tmp_path)
    async with running_server(define(settings), settings) as address, open_channel("storage", address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in (FULL_NAME, *(f"{FULL_NAME}/{backend}" for backend in ("objects", "measurements", "spool"))):
            async for answer in health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=10):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
