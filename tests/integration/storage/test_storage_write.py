"""Recordings written over real gRPC: what is acknowledged, refused, resumed, taken over, finished."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import EndReason, GapReason, IqEvent, Status
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc import durable
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.spool.files import SpoolFiles
from tests.integration.storage.support import (
    BLOCK,
    DISCARD,
    KEEP,
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

TOTAL = 5 * BLOCK + 340


def events_with_gap() -> list[IqEvent]:
    return [
        segment(),
        block(0),
        block(BLOCK, overload=True),
        gap(2 * BLOCK, 340, GapReason.GAP_REASON_TIMESTAMP),
        block(2 * BLOCK + 340),
        IqEvent(status=Status(time_solution=solution())),
        block(3 * BLOCK + 340),
        block(4 * BLOCK + 340),
    ]


def captures_of(recording: Recording) -> list[dict[str, Any]]:
    captures: list[dict[str, Any]] = json.loads(Path(recording.location).read_bytes())["captures"]
    return captures


def names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


async def test_recording_with_gap_is_stored_byte_exact(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        recording = await write(stub, events_with_gap(), end_at(TOTAL, time_solution=solution(), attempt_count=1))
    expected = sample_bytes(0, 2 * BLOCK) + sample_bytes(2 * BLOCK + 340, 3 * BLOCK)
    assert recording.state == Recording.State.STATE_STORED
    assert recording.complete
    assert (recording.sample_count, recording.lost_sample_count, recording.gap_count) == (5 * BLOCK, 340, 1)
    assert recording.data_size_bytes == len(expected)
    assert recording.data_sha512 == hashlib.sha512(expected).hexdigest()
    assert recording.first_sample_unix_ns == WINDOW_START_UNIX_NS
    assert recording.last_sample_unix_ns == time_ns(TOTAL - 1, 12_000.25)
    meta_path = tmp_path / "heimdall-raw-iq" / recording.meta_object_key
    assert Path(recording.location) == meta_path
    assert meta_path.with_suffix(".sigmf-data").read_bytes() == expected
    captures = captures_of(recording)
    assert [(c["core:sample_start"], c["core:global_index"]) for c in captures] == [
        (0, 0),
        (2 * BLOCK, 2 * BLOCK + 340),
    ]
    assert not any((tmp_path / "spool").iterdir())


async def test_written_events_come_back(tmp_path: Path) -> None:
    sent = events_with_gap()
    async with running_storage(storage_settings(tmp_path)) as stub:
        await write(stub, sent, end_at(TOTAL, time_solution=solution(), attempt_count=3))
        *events, last = await read(stub)
    assert events == [event for event in sent if not event.HasField("status")]
    assert last.end.end_sample_index == TOTAL
    assert last.end.reason == EndReason.END_REASON_WINDOW_COMPLETE
    assert last.end.time_solution == solution()
    assert (last.end.received_sample_count, last.end.lost_sample_count) == (5 * BLOCK, 340)
    assert last.end.attempt_count == 3


async def test_acknowledgements_never_run_ahead_of_the_files(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub, Writer(stub) as writer:
        assert await writer.open() == 0
        await writer.send(segment(), block(0), block(BLOCK))
        await writer.acknowledged_up_to(2 * BLOCK)
        on_disk = (tmp_path / "spool" / "task-1" / "rx-1" / "samples").read_bytes()
        assert on_disk == sample_bytes(0, 2 * BLOCK)
        await writer.send(gap(2 * BLOCK, 10))
        await writer.acknowledged_up_to(2 * BLOCK + 10)


async def test_idle_stream_gets_heartbeats_and_ends_after_silence(tmp_path: Path) -> None:
    settings = storage_settings(tmp_path, mesh={"heartbeat_interval_s": 0.05, "idle_timeout_s": 0.5})
    async with running_storage(settings) as stub, Writer(stub) as writer:
        await writer.open()
        failure = await writer.failure()
        assert failure.reason == ErrorReason.ERROR_REASON_STREAM_IDLE
        assert writer.heartbeat_count >= 2


async def test_half_close_leaves_the_recording_resumable(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as first:
            await first.open(opening(epoch=1))
            await first.send(segment(), block(0), gap(BLOCK, 7))
            await first.half_close()
            assert first.acknowledged[-1] == BLOCK + 7
        async with Writer(stub) as second:
            assert await second.open(opening(epoch=2)) == BLOCK + 7
            await second.send(segment(), block(BLOCK + 7))
            recording = await second.finish(end_at(2 * BLOCK + 7))
        assert recording.sample_count == 2 * BLOCK
        assert samples_of(await read(stub)) == sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 7, BLOCK)


async def test_higher_epoch_takes_over_and_lower_is_refused(tmp_path: Path) -> None:
    async with (
        running_storage(storage_settings(tmp_path)) as stub,
        Writer(stub) as old,
        Writer(stub) as new,
        Writer(stub) as late,
    ):
        await old.open(opening(epoch=5))
        await old.send(segment(), block(0))
        await old.acknowledged_up_to(BLOCK)
        assert await new.open(opening(epoch=6)) == BLOCK
        failure = await old.failure()
        assert failure.reason == ErrorReason.ERROR_REASON_WRITER_SUPERSEDED
        assert failure.metadata == {"writer_epoch": "6"}
        with pytest.raises(HeimdallError) as caught:
            await late.open(opening(epoch=5))
        assert caught.value.reason == ErrorReason.ERROR_REASON_WRITER_SUPERSEDED
        await new.send(block(BLOCK))
        assert (await new.finish(end_at(2 * BLOCK))).sample_count == 2 * BLOCK


async def test_lost_writer_leaves_an_incomplete_readable_recording(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path, resume_window_s=0.05)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(segment(), block(0))
            await writer.acknowledged_up_to(BLOCK)
        async with asyncio.timeout(10):
            while True:
                listed = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
                if listed[0].state == Recording.State.STATE_STORED:
                    break
        assert not listed[0].complete
        assert listed[0].incomplete_cause.reason == ErrorReason.ERROR_REASON_WRITER_LOST
        *_, last = events = await read(stub)
        assert samples_of(events) == sample_bytes(0, BLOCK)
        assert last.end.reason == EndReason.END_REASON_FAILED
        assert last.end.error.reason == ErrorReason.ERROR_REASON_WRITER_LOST


async def test_writer_lost_while_it_opens_leaves_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, put_recording = asyncio.Event(), SqliteMeasurements.put_recording

    async def held(rows: SqliteMeasurements, recording: Recording) -> None:
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        await put_recording(rows, recording)

    monkeypatch.setattr(SqliteMeasurements, "put_recording", held)
    async with running_storage(storage_settings(tmp_path, resume_window_s=0.05)) as stub:
        async with Writer(stub) as writer:
            await writer.send_raw(pb.WriteRecordingRequest(open=opening()))
            await asyncio.wait_for(begun.wait(), 10)
        async with asyncio.timeout(10):
            while True:
                listed = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
                if listed and listed[0].state == Recording.State.STATE_STORED:
                    break
        assert listed[0].incomplete_cause.reason == ErrorReason.ERROR_REASON_WRITER_LOST


async def test_failed_stream_is_kept_as_incomplete_with_its_cause(tmp_path: Path) -> None:
    end = end_at(BLOCK, reason=EndReason.END_REASON_FAILED)
    end.error.reason = ErrorReason.ERROR_REASON_UPSTREAM_STALLED
    end.error.message = "nothing came for 3 s"
    async with running_storage(storage_settings(tmp_path)) as stub:
        recording = await write(stub, [segment(), block(0)], end)
    assert not recording.complete
    assert recording.incomplete_cause == end.error


async def test_repeated_finish_returns_the_same_recording(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        first = await write(stub, [segment(), block(0)], end_at(BLOCK))
        async with Writer(stub) as again:
            assert await again.open(opening(epoch=2)) == BLOCK
            assert await again.finish(end_at(BLOCK)) == first
        for bad_end, disposition in ((end_at(BLOCK + 1), KEEP), (end_at(BLOCK), DISCARD)):
            async with Writer(stub) as again:
                await again.open(opening(epoch=2))
                with pytest.raises(HeimdallError) as caught:
                    await again.finish(bad_end, disposition)
                assert caught.value.reason == ErrorReason.ERROR_REASON_RECORDING_FINISHED
        async with Writer(stub) as again:
            await again.open(opening(epoch=2))
            await again.send(segment())
            assert (await again.failure()).reason == ErrorReason.ERROR_REASON_RECORDING_FINISHED


@pytest.mark.parametrize("blocked", [(SpoolFiles, "finish"), (durable, "replace_file")])
async def test_finish_goes_on_when_its_writer_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: tuple[object, str]
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    work = getattr(*blocked)

    def held(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return work(*arguments)

    monkeypatch.setattr(*blocked, held)
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(segment(), block(0))
            finish = pb.WriteRecordingRequest.Finish(disposition=KEEP, end=end_at(BLOCK))
            await writer.send_raw(pb.WriteRecordingRequest(finish=finish))
            assert await asyncio.to_thread(begun.wait, 10)
        go_on.set()
        async with asyncio.timeout(10):
            while True:
                (listed,) = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
                if listed.state == Recording.State.STATE_STORED:
                    break
        async with Writer(stub) as again:
            assert await again.open(opening(epoch=2)) == BLOCK
            assert (await again.finish(end_at(BLOCK))).complete


async def test_status_sent_again_after_the_finish_does_no_harm(tmp_path: Path) -> None:
    # A writer that did not hear of the finish repeats what was not acknowledged, and a status never is by itself.
    async with running_storage(storage_settings(tmp_path)) as stub:
        status = IqEvent(status=Status(time_solution=solution()))
        first = await write(stub, [segment(), block(0), status], end_at(BLOCK))
        async with Writer(stub) as again:
            assert await again.open(opening(epoch=2)) == BLOCK
            await again.send(status)
            assert await again.finish(end_at(BLOCK)) == first


async def test_discard_removes_the_samples(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(segment(), block(0))
            recording = await writer.finish(None, DISCARD)
        assert recording.state == Recording.State.STATE_DISCARDED
        assert not recording.data_object_key
        assert names_below(tmp_path).isdisjoint({"samples", "rx-1.sigmf-data", "rx-1.sigmf-meta"})
        with pytest.raises(HeimdallError) as caught:
            await read(stub)
        assert caught.value.reason == ErrorReason.ERROR_REASON_RECORDING_NOT_FOUND


async def test_recording_without_a_sample_is_a_row_without_a_pair(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        recording = await write(stub, [segment(), gap(0, 60_000, GapReason.GAP_REASON_LATE_START)], end_at(60_000))
        assert (recording.sample_count, recording.lost_sample_count) == (0, 60_000)
        assert not recording.data_object_key
        listed = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
        assert list(listed) == [recording]
        with pytest.raises(HeimdallError, match="no samples"):
            await read(stub)


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("acquisition_id", "../../etc", "open.acquisition_id"),
        ("acquisition_id", "", "open.acquisition_id"),
        ("acquisition_id", "a" * 64, "open.acquisition_id"),
        ("writer_epoch", -1, "open.writer_epoch"),
        ("window_start_unix_ns", 0, "open.window_start_unix_ns"),
        ("window_end_unix_ns", WINDOW_START_UNIX_NS, "open.window_end_unix_ns"),
    ],
)
async def test_bad_opening_names_the_field(tmp_path: Path, name: str, value: object, field: str) -> None:
    message = opening()
    setattr(message, name, value)
    async with running_storage(storage_settings(tmp_path)) as stub, Writer(stub) as writer:
        with pytest.raises(HeimdallError) as caught:
            await writer.open(message)
        assert caught.value.reason == ErrorReason.ERROR_REASON_INVALID_FIELD
        assert [violation.field for violation in caught.value.violations] == [field]
        assert not any((tmp_path / "spool").iterdir())


async def test_receiver_id_can_not_leave_the_folder(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub, Writer(stub) as writer:
        with pytest.raises(HeimdallError) as caught:
            await writer.open(opening(receiver_id=".."))
        assert caught.value.violations[0].field == "open.receiver.receiver_id"


def changed(event: IqEvent, path: str, value: object) -> IqEvent:
    *parents, name = path.split(".")
    target = event
    for parent in parents:
        target = getattr(target, parent)
    setattr(target, name, value)
    return event


SEGMENT, BLOCK_EVENT, GAP = "event.segment.", "event.block.", "event.gap."
SOLUTION = "event.status.time_solution."


@pytest.mark.parametrize(
    ("before", "bad", "reason", "field"),
    [
        ([], block(0), "UNEXPECTED_MESSAGE", "event.block"),
        ([], gap(0, 1), "UNEXPECTED_MESSAGE", "event.gap"),
        ([segment()], IqEvent(end=end_at(0)), "UNEXPECTED_MESSAGE", "event.end"),
        ([segment()], IqEvent(), "INVALID_FIELD", "event"),
        ([segment()], block(1), "INDEX_MISMATCH", BLOCK_EVENT + "first_sample_index"),
        ([segment(), block(0)], block(0), "INDEX_MISMATCH", BLOCK_EVENT + "first_sample_index"),
        ([segment(), block(0)], gap(BLOCK + 1, 5), "INDEX_MISMATCH", GAP + "first_lost_index"),
        ([segment()], gap(0, 0), "INVALID_FIELD", GAP + "lost_sample_count"),
        ([segment()], gap(0, 1 << 62), "INVALID_FIELD", GAP + "lost_sample_count"),
        ([segment()], gap(0, 1, GapReason.GAP_REASON_UNSPECIFIED), "INVALID_FIELD", GAP + "reason"),
        ([segment()], changed(block(0), "block.sample_count", 7), "BLOCK_LENGTH_MISMATCH", BLOCK_EVENT + "samples"),
        ([segment()], changed(block(0), "block.sample_count", 0), "INVALID_FIELD", BLOCK_EVENT + "sample_count"),
        ([segment()], block(0, 262_145), "BLOCK_TOO_LARGE", BLOCK_EVENT + "samples"),
        (
            [segment()],
            changed(block(0), "block.first_sample_unix_ns", 0),
            "INVALID_FIELD",
            BLOCK_EVENT + "first_sample_unix_ns",
        ),
        ([], segment(sample_format=0), "UNKNOWN_SAMPLE_FORMAT", SEGMENT + "sample_format"),
        ([], segment(sample_format=77), "UNKNOWN_SAMPLE_FORMAT", SEGMENT + "sample_format"),
        ([], segment("rx-2"), "INVALID_FIELD", SEGMENT + "receiver_id"),
        ([], segment(sample_rate_hz=0.0), "INVALID_FIELD", SEGMENT + "sample_rate_hz"),
        ([], segment(sample_rate_hz=float("nan")), "INVALID_FIELD", SEGMENT + "sample_rate_hz"),
        ([segment()], segment(sample_rate_hz=24_000.0), "INVALID_FIELD", SEGMENT + "sample_rate_hz"),
        (
            [segment()],
            IqEvent(status=Status(time_solution=solution(1.0))),
            "INVALID_FIELD",
            SOLUTION + "sample_rate_hz",
        ),
    ],
)
async def test_bad_event_is_refused_and_what_came_before_stays(
    tmp_path: Path, before: list[IqEvent], bad: IqEvent, reason: str, field: str
) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(*before, bad)
            failure = await writer.failure()
        assert failure.reason_name == reason
        assert [violation.field for violation in failure.violations] == [field]
        async with Writer(stub) as again:
            assert await again.open() == sum(event.block.sample_count for event in before)


async def test_messages_in_wrong_order_are_refused(tmp_path: Path) -> None:
    def name_it(failure: HeimdallError) -> list[str]:
        assert failure.reason == ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE
        return [violation.field for violation in failure.violations]

    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.send(segment())
            assert name_it(await writer.failure()) == ["event"]
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send_raw(pb.WriteRecordingRequest(open=opening()))
            assert name_it(await writer.failure()) == ["open"]
        async with Writer(stub) as writer:
            await writer.half_close_empty()
            assert name_it(await writer.failure()) == ["request"]


@pytest.mark.parametrize(
    ("end", "disposition", "field"),
    [
        (None, KEEP, "finish.end"),
        (end_at(0, reason=EndReason.END_REASON_UNSPECIFIED), KEEP, "finish.end.reason"),
        (end_at(0), 0, "finish.disposition"),
        (end_at(0), 9, "finish.disposition"),
    ],
)
async def test_bad_finish_names_the_field(tmp_path: Path, end: object, disposition: int, field: str) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub, Writer(stub) as writer:
        await writer.open()
        with pytest.raises(HeimdallError) as caught:
            await writer.finish(end, disposition)  # type: ignore[arg-type]
        assert caught.value.violations[0].field == field


async def test_end_must_be_what_was_written(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub, Writer(stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        with pytest.raises(HeimdallError) as caught:
            await writer.finish(end_at(BLOCK - 1))
        assert caught.value.reason == ErrorReason.ERROR_REASON_INDEX_MISMATCH
        assert caught.value.metadata["next_sample_index"] == str(BLOCK)


async def test_other_window_under_the_same_name_is_refused(tmp_path: Path) -> None:
    other = opening(epoch=2)
    other.window_end_unix_ns += 1
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
        async with Writer(stub) as writer:
            with pytest.raises(HeimdallError) as caught:
                await writer.open(other)
        assert caught.value.violations[0].field == "open.window_end_unix_ns"


async def test_full_spool_refuses_and_has_room_again_after_a_discard(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path, spool_max_bytes=40_000)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(segment(), *(block(index * BLOCK) for index in range(4)))
            failure = await writer.failure()
        assert failure.reason == ErrorReason.ERROR_REASON_SPOOL_FULL
        assert failure.retry_delay_s == 10
        async with Writer(stub) as writer:
            assert await writer.open() == 3 * BLOCK
            await writer.finish(None, DISCARD)
        recording = await write(stub, [segment(), block(0)], end_at(BLOCK), opening("task-2"))
        assert recording.state == Recording.State.STATE_STORED


async def test_segment_change_starts_a_capture(tmp_path: Path) -> None:
    changed_gain = segment(first_sample_index=BLOCK, gain_db=12.0)
    sent = [segment(), block(0), changed_gain, block(BLOCK)]
    async with running_storage(storage_settings(tmp_path)) as stub:
        recording = await write(stub, sent, end_at(2 * BLOCK))
        *events, _ = await read(stub)
        late = await read(stub, sample_range={"first_sample_index": BLOCK + 5})
    assert events == sent
    assert late[0] == changed_gain
    captures = captures_of(recording)
    assert [capture["core:sample_start"] for capture in captures] == [0, BLOCK]


async def test_status_may_come_before_the_segment(tmp_path: Path) -> None:
    early = IqEvent(status=Status(time_solution=solution(1.0)))
    early.status.notices.add(message="the password was accepted")
    async with running_storage(storage_settings(tmp_path)) as stub:
        recording = await write(stub, [early, segment(), block(0)], end_at(BLOCK))
    assert not recording.HasField("time_solution")
    assert recording.last_sample_unix_ns == time_ns(BLOCK - 1)


async def test_unfinished_recording_is_listed_and_read(tmp_path: Path) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub, Writer(stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        (listed,) = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
        assert listed.state == Recording.State.STATE_WRITING
        assert listed.sample_count == BLOCK
        assert samples_of(await read(stub)) == sample_bytes(0, BLOCK)
