"""The pipeline among peers that follow a script: what each failure leads to, with exact counts."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, EndReason, GapReason, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, reason_name
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from tests.unit.coordinator.scripted import (
    BLOCK_COUNT,
    RATE_HZ,
    Call,
    Peers,
    Responses,
    Script,
    dropping,
    endless,
    failure,
    gap,
    good,
    refusing,
    scripted_peers,
)

STATE = Acquisition.State.Name


def spec(*receiver_ids: str, duration_s: float = 0.4, max_wait_s: float = 2.0, **values: object) -> AcquisitionSpec:
    return acquisition_spec(7.1e6, duration_s, receiver_ids, max_wait_s=max_wait_s, **values)  # type: ignore[arg-type]


async def run(peers: Peers, wanted: AcquisitionSpec, request_id: str = "") -> Acquisition:
    async with asyncio.timeout(20):
        snapshots = [snapshot async for snapshot in peers.client.acquire(wanted, request_id)]
    revisions = [snapshot.revision for snapshot in snapshots]
    assert all(before < after for before, after in itertools.pairwise(revisions))
    return snapshots[-1]


def reasons(outcome: ReceiverOutcome) -> list[str]:
    return [reason_name(problem.reason) for problem in outcome.problems]


def check_counts(outcome: ReceiverOutcome, *, expected: int, received: int, stored: int, gaps: int) -> None:
    assert outcome.expected_sample_count == expected
    assert outcome.received_sample_count == received
    assert outcome.lost_sample_count == expected - received
    assert outcome.stored_sample_count == stored
    assert outcome.gap_count == len(outcome.gaps) == gaps


async def test_good_receivers_succeed() -> None:
    async with scripted_peers({"a": [good], "b": [good]}) as peers:
        final = await run(peers, spec("a", "b"))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        assert not final.HasField("error")
        assert final.window_end_unix_ns - final.window_start_unix_ns == 400_000_000
        for outcome in final.outcomes:
            check_counts(outcome, expected=400, received=400, stored=400, gaps=0)
            assert outcome.measurement.sample_count == 400
            assert outcome.first_sample_unix_ns == final.window_start_unix_ns
            assert outcome.last_sample_unix_ns == final.window_end_unix_ns - 1_000_000
            assert outcome.attempt_count == 1
            kept = peers.storage.kept[outcome.receiver_id]
            assert [block.first_sample_index for block in kept.blocks] == [0, 100, 200, 300]
            assert len(kept.segments) == 1
        assert peers.storage.acquisitions[final.acquisition_id] == final
        assert [STATE(put.state) for put in peers.storage.puts] == [
            "STATE_ACCEPTED",
            "STATE_CAPTURING",
            "STATE_SUCCEEDED",
        ]


async def test_each_failure_stays_with_its_receiver() -> None:
    busy = ErrorReason.ERROR_REASON_UPSTREAM_BUSY
    scripts: dict[str, list[Script]] = {
        "a": [good],
        "b": [refusing(busy)],
        "c": [dropping(150, GapReason.GAP_REASON_SEQUENCE)],
    }
    async with scripted_peers(scripts) as peers:
        final = await run(peers, spec("a", "b", "c"))
        assert STATE(final.state) == "STATE_PARTIALLY_SUCCEEDED"
        whole, refused, holed = final.outcomes
        assert whole.state == ReceiverOutcome.STATE_SUCCEEDED
        assert refused.state == ReceiverOutcome.STATE_FAILED
        assert reasons(refused) == ["UPSTREAM_BUSY"]
        assert not refused.HasField("recording")
        assert holed.state == ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED
        assert reasons(holed) == ["SAMPLES_LOST"]
        assert holed.problems[0].metadata["lost_sequence"] == "150"
        check_counts(holed, expected=400, received=250, stored=250, gaps=1)
        assert "b (UPSTREAM_BUSY)" in final.error.message
        assert "c (SAMPLES_LOST)" in final.error.message


async def test_no_receiver_ready_is_failed_with_each_cause() -> None:
    async def silent(call: Call) -> Responses:
        await call.stopped.wait()
        yield call.segment()

    scripts: dict[str, list[Script]] = {"a": [refusing(ErrorReason.ERROR_REASON_UPSTREAM_DISABLED)], "b": [silent]}
    async with scripted_peers(scripts) as peers:
        started = time.monotonic()
        final = await run(peers, spec("a", "b", max_wait_s=0.5))
        assert 0.5 <= time.monotonic() - started < 2
        assert STATE(final.state) == "STATE_FAILED"
        assert reason_name(final.error.reason) == "TOO_FEW_RECEIVERS"
        assert [reasons(outcome) for outcome in final.outcomes] == [["UPSTREAM_DISABLED"], ["RECEIVER_NOT_READY"]]
        assert final.window_start_unix_ns == 0


async def test_all_refused_ends_without_waiting() -> None:
    async with scripted_peers({"a": [refusing(ErrorReason.ERROR_REASON_UPSTREAM_BUSY)]}) as peers:
        started = time.monotonic()
        final = await run(peers, spec("a", max_wait_s=30))
        assert STATE(final.state) == "STATE_FAILED"
        assert time.monotonic() - started < 5


async def test_a_receiver_that_joins_late_gets_the_window_too() -> None:
    windowed = asyncio.Event()

    async def early(call: Call) -> Responses:
        async for event in good(call):
            if event.HasField("block"):
                windowed.set()
            yield event

    async def late(call: Call) -> Responses:
        await windowed.wait()
        yield call.segment()
        await call.wait_for_window()
        yield gap(0, 300, GapReason.GAP_REASON_LATE_START)
        yield await call.block(300)
        yield call.end(400)

    async with scripted_peers({"a": [early], "b": [late]}) as peers:
        final = await run(peers, spec("a", "b", max_wait_s=0.3))
        assert STATE(final.state) == "STATE_PARTIALLY_SUCCEEDED"
        check_counts(final.outcomes[1], expected=400, received=100, stored=100, gaps=1)
        assert final.outcomes[1].gaps[0].reason == GapReason.GAP_REASON_LATE_START


async def test_one_clock_far_ahead_does_not_hold_up_the_others() -> None:
    async def ahead(call: Call) -> Responses:
        yield call.segment(time.time_ns() + 40 * 10**9)
        total = await call.expected_count()
        yield gap(0, total, GapReason.GAP_REASON_LATE_START)
        yield call.end(total)

    async with scripted_peers({"a": [good], "b": [ahead]}) as peers:
        final = await run(peers, spec("a", "b"))
        assert final.window_start_unix_ns <= time.time_ns() + 10**9
        assert final.outcomes[0].state == ReceiverOutcome.STATE_SUCCEEDED
        assert final.outcomes[1].state == ReceiverOutcome.STATE_FAILED
        check_counts(final.outcomes[1], expected=400, received=0, stored=0, gaps=1)


async def test_a_start_time_is_the_window() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        wanted = spec("a")
        start_unix_ns = time.time_ns() + 10**9
        wanted.start_time.FromNanoseconds(start_unix_ns)
        final = await run(peers, wanted)
        assert STATE(final.state) == "STATE_SUCCEEDED"
        assert final.window_start_unix_ns == start_unix_ns


async def test_a_broken_fetcher_stream_goes_on_where_it_broke() -> None:
    async def breaking(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        yield await call.block(100)
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    async def resumed(call: Call) -> Responses:
        assert call.opening.resume
        assert call.opening.resume_sample_index == 200
        yield call.segment()
        window = await call.wait_for_window()
        assert call.opening.resume_origin_unix_ns == window.start_unix_ns
        yield gap(200, 1500, GapReason.GAP_REASON_SERVICE_RESTART)
        for first in range(1700, 2000, BLOCK_COUNT):
            yield await call.block(first)
        yield call.end(2000)

    async with scripted_peers({"a": [breaking, resumed]}) as peers:
        final = await run(peers, spec("a", duration_s=2.0))
        outcome = final.outcomes[0]
        check_counts(outcome, expected=2000, received=500, stored=500, gaps=1)
        assert outcome.gaps[0].reason == GapReason.GAP_REASON_SERVICE_RESTART
        assert outcome.attempt_count == 2
        # The new stream said nothing new of the receiver, so storage is not told again.
        assert len(peers.storage.kept["a"].segments) == 1
        assert STATE(final.state) == "STATE_PARTIALLY_SUCCEEDED"


async def test_a_hole_behind_our_own_silence_is_for_backpressure_until_samples_come_again() -> None:
    silent = failure(ErrorReason.ERROR_REASON_STREAM_IDLE)
    away = failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    def breaking(error: HeimdallError, *blocks: int) -> Script:
        async def script(call: Call) -> Responses:
            yield call.segment()
            for first in blocks:
                yield await call.block(first)
            raise error

        return script

    # The fetcher missed us; it came back and could not be reached once; it went away for a reason of its own.
    scripts: dict[str, list[Script]] = {"a": [breaking(silent, 0), breaking(away), breaking(away, 100), good]}
    async with scripted_peers(scripts) as peers:
        final = await run(peers, spec("a", duration_s=3.0))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        reasons_sent = [GapReason.Name(opening.resume_gap_reason) for opening in peers.fetcher.openings[1:]]
        assert reasons_sent == ["GAP_REASON_BACKPRESSURE"] * 2 + ["GAP_REASON_SERVICE_RESTART"]


async def test_a_fetcher_that_falls_silent_itself_leaves_no_backpressure() -> None:
    async def silent(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        await call.stopped.wait()

    settings = {"heartbeat_interval_s": 0.1, "idle_timeout_s": 0.3}
    async with scripted_peers({"a": [silent, good]}, mesh=settings) as peers:
        final = await run(peers, spec("a", duration_s=3.0))
        check_counts(final.outcomes[0], expected=3000, received=3000, stored=3000, gaps=0)
        (opening,) = peers.fetcher.openings[1:]
        assert opening.resume_gap_reason == GapReason.GAP_REASON_SERVICE_RESTART


async def test_a_resumed_stream_continues_from_its_last_block_whatever_the_clock_really_does() -> None:
    drift = 100e-6  # by which the receiver is slower than it announces

    async def breaking(call: Call) -> Responses:
        yield call.segment()
        for first in (0, 100, 200):
            event = await call.block(first)
            event.block.first_sample_unix_ns += round(first * drift * 10**9 / RATE_HZ)
            yield event
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    async def resumed(call: Call) -> Responses:
        # At its next connect the receiver announces a better estimate, and is still the same receiver.
        yield call.segment(sample_rate_hz=RATE_HZ * (1 - drift), attenuation_db=10.0, first_sample_index=300)
        window = await call.wait_for_window()
        # So reckoned, the announced rate errs over the samples since the last block, not over all of them.
        assert call.opening.resume_origin_unix_ns == window.start_unix_ns + round(200 * drift * 10**9 / RATE_HZ)
        yield await call.block(300)
        yield call.end(400)

    async with scripted_peers({"a": [breaking, resumed]}) as peers:
        final = await run(peers, spec("a"))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        segments = peers.storage.kept["a"].segments
        assert [segment.sample_rate_hz for segment in segments] == [RATE_HZ, RATE_HZ]
        assert segments[1].attenuation_db == 10.0


async def test_a_receiver_that_comes_back_with_another_rate_is_not_joined() -> None:
    async def breaking(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    async def other(call: Call) -> Responses:
        yield call.segment(sample_rate_hz=RATE_HZ * 1.01)
        await call.stopped.wait()

    async with scripted_peers({"a": [breaking, other]}) as peers:
        final = await run(peers, spec("a"))
        assert reasons(final.outcomes[0])[0] == "UPSTREAM_FORMAT_CHANGED"
        check_counts(final.outcomes[0], expected=400, received=100, stored=100, gaps=1)


async def test_a_fetcher_that_never_comes_back_leaves_a_gap_to_the_end() -> None:
    async def breaking(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    scripts: dict[str, list[Script]] = {"a": [breaking, refusing(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)]}
    async with scripted_peers(scripts) as peers:
        final = await run(peers, spec("a", duration_s=1.0))
        outcome = final.outcomes[0]
        check_counts(outcome, expected=1000, received=100, stored=100, gaps=1)
        assert outcome.gaps[0].reason == GapReason.GAP_REASON_SERVICE_RESTART
        assert reasons(outcome)[0] == "SERVICE_UNAVAILABLE"
        assert not outcome.recording.complete
        finish = peers.storage.kept["a"].finish
        assert finish is not None
        assert finish.end.reason == EndReason.END_REASON_FAILED
        assert finish.end.end_sample_index == 1000


async def test_an_error_at_the_end_of_the_stream_is_the_first_problem() -> None:
    async def failing(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        cause = failure(ErrorReason.ERROR_REASON_UPSTREAM_KICKED).to_detail()
        yield gap(100, 300, GapReason.GAP_REASON_EARLY_END)
        end = call.end(400, EndReason.END_REASON_FAILED)
        end.end.error.CopyFrom(cause)
        yield end

    async with scripted_peers({"a": [failing]}) as peers:
        final = await run(peers, spec("a"))
        assert reasons(final.outcomes[0]) == ["UPSTREAM_KICKED", "SAMPLES_LOST"]
        check_counts(final.outcomes[0], expected=400, received=100, stored=100, gaps=1)


async def test_a_fetcher_that_skips_samples_without_a_word_is_not_believed() -> None:
    async def skipping(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        yield await call.block(250)
        yield call.end(350)

    async with scripted_peers({"a": [skipping]}) as peers:
        final = await run(peers, spec("a"))
        assert reasons(final.outcomes[0])[0] == "INDEX_MISMATCH"
        check_counts(final.outcomes[0], expected=400, received=100, stored=100, gaps=1)


@pytest.mark.parametrize("events_before", [0, 1, 2, 4])
async def test_a_broken_write_goes_on_where_storage_got_to(events_before: int) -> None:
    async with scripted_peers({"a": [good]}) as peers:
        peers.storage.break_after = [events_before, 3, -1]
        final = await run(peers, spec("a", duration_s=1.0))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        kept = peers.storage.kept["a"]
        samples = b"".join(block.samples for block in kept.blocks)
        assert samples == b"".join(index.to_bytes(4, "little") for index in range(1000))
        assert len(kept.epochs) == 3
        assert kept.epochs == sorted(set(kept.epochs))


async def test_storage_is_told_which_recordings_were_opened_before() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        peers.storage.open_failures = [failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)]
        peers.storage.break_after = [2, -1]
        final = await run(peers, spec("a", duration_s=1.0))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        # Where the first call failed nothing was opened, so that the second is still the first opening.
        assert [opening.resumed for opening in peers.storage.openings] == [False, False, True]


async def test_a_storage_that_refuses_for_good_ends_the_stream() -> None:
    async with scripted_peers({"a": [endless]}) as peers:
        peers.storage.refusal = failure(ErrorReason.ERROR_REASON_WRITER_SUPERSEDED)
        final = await run(peers, spec("a", duration_s=30.0))
        assert STATE(final.state) == "STATE_FAILED"
        assert reasons(final.outcomes[0])[0] == "WRITER_SUPERSEDED"
        assert peers.fetcher.active_count == 0


async def test_a_storage_that_acknowledges_nothing_slows_the_fetcher_down() -> None:
    sent = 0

    async def flood(call: Call) -> Responses:
        nonlocal sent
        yield call.segment()
        for first in itertools.count(0, 50_000):
            yield await call.block(first, 50_000)
            sent += 1

    async with scripted_peers(
        {"a": [flood]}, unacknowledged_bytes=1_000_000, max_duration_s=3600, finish_allowance_s=1
    ) as peers:
        peers.storage.acknowledging = False
        started = await peers.client.start_acquisition(spec("a", duration_s=3600))
        before = -1
        async with asyncio.timeout(10):
            while not sent or sent != before:
                before = sent
                await asyncio.sleep(0.5)
        # 1 MB held here, and what the flow control windows of two streams hold.
        assert 5 <= sent <= 25
        final = await peers.client.cancel_acquisition(started.acquisition_id)
        assert STATE(final.state) == "STATE_CANCELLED"


async def test_dsp_loses_measurements_and_never_samples() -> None:
    async with scripted_peers({"a": [good], "b": [good]}) as peers:
        peers.dsp.fail_after = 2
        final = await run(peers, spec("a", "b"))
        assert STATE(final.state) == "STATE_PARTIALLY_SUCCEEDED"
        for outcome in final.outcomes:
            assert outcome.state == ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED
            check_counts(outcome, expected=400, received=400, stored=400, gaps=0)
            assert reasons(outcome) == ["MEASUREMENT_MISSING"]
            assert outcome.problems[0].metadata["cause"] == "INTERNAL"
            assert outcome.recording.complete


async def test_large_measurements_are_stored_in_messages_that_fit_and_reports_stay_small() -> None:
    """Nine windows and a summary of 0.8 MiB each, which together are twice what a message can have."""
    async with scripted_peers({"a": [good]}) as peers:
        peers.dsp.window_count, peers.dsp.trace = 9, [-100.0] * 200_000
        final = await run(peers, spec("a"))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        assert len(peers.storage.measurements) == 10
        for measurement in peers.storage.measurements:
            assert len(measurement.products.spectrum_statistics.traces[0].power_dbfs_per_hz) == 200_000
        assert final.outcomes[0].measurement.sample_count == 400
        assert not final.outcomes[0].measurement.HasField("products")
        assert final.ByteSize() < 10_000


async def test_a_dsp_that_is_away_costs_no_time() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        await peers.stop("dsp")
        started = time.monotonic()
        final = await run(peers, spec("a"))
        assert time.monotonic() - started < 3
        assert reasons(final.outcomes[0]) == ["MEASUREMENT_MISSING"]
        assert final.outcomes[0].stored_sample_count == 400


async def test_a_stalled_dsp_holds_nobody_up() -> None:
    async def big(call: Call) -> Responses:
        yield call.segment()
        for first in range(0, 1_000_000, 50_000):
            yield await call.block(first, 50_000)
        yield call.end(1_000_000)

    async with scripted_peers({"a": [big]}) as peers:
        peers.dsp.reading.clear()
        final = await run(peers, spec("a", duration_s=1000 / 4))
        assert reasons(final.outcomes[0]) == ["MEASUREMENT_MISSING"]
        assert final.outcomes[0].problems[0].metadata["cause"] == "OVERLOADED"
        assert final.outcomes[0].stored_sample_count == 1_000_000


async def test_cancel_frees_the_receivers_and_keeps_what_came() -> None:
    async with scripted_peers({"a": [endless], "b": [endless]}) as peers:
        started = await peers.client.start_acquisition(spec("a", "b", duration_s=60))
        await _captured(peers, started.acquisition_id, 2)
        before = time.monotonic()
        first, second = await asyncio.gather(
            peers.client.cancel_acquisition(started.acquisition_id),
            peers.client.cancel_acquisition(started.acquisition_id),
        )
        assert max(peers.fetcher.ended_s) - before < 1
        assert peers.fetcher.active_count == 0
        assert STATE(first.state) == "STATE_CANCELLED"
        # What has ended stays as it is.
        assert first == second == await peers.client.cancel_acquisition(started.acquisition_id, discard=True)
        for outcome in first.outcomes:
            assert outcome.state == ReceiverOutcome.STATE_CANCELLED
            check_counts(outcome, expected=100, received=100, stored=100, gaps=0)
            assert outcome.recording.state == Recording.STATE_STORED


async def test_cancel_can_discard() -> None:
    async with scripted_peers({"a": [endless]}) as peers:
        started = await peers.client.start_acquisition(spec("a", duration_s=60))
        await _captured(peers, started.acquisition_id, 1)
        final = await peers.client.cancel_acquisition(started.acquisition_id, discard=True)
        assert STATE(final.state) == "STATE_CANCELLED"
        assert final.outcomes[0].recording.state == Recording.STATE_DISCARDED
        assert final.outcomes[0].stored_sample_count == 0


async def test_cancel_while_preparing() -> None:
    async def silent(call: Call) -> Responses:
        await call.stopped.wait()
        yield call.segment()

    async with scripted_peers({"a": [silent]}) as peers:
        started = await peers.client.start_acquisition(spec("a", max_wait_s=30))
        before = time.monotonic()
        final = await peers.client.cancel_acquisition(started.acquisition_id)
        assert time.monotonic() - before < 1
        assert STATE(final.state) == "STATE_CANCELLED"
        assert reasons(final.outcomes[0]) == ["CANCELLED"]


async def test_cancel_before_a_future_start() -> None:
    async with scripted_peers({"a": [good]}) as peers:
        wanted = spec("a")
        wanted.start_time.FromNanoseconds(time.time_ns() + 3600 * 10**9)
        started = await peers.client.start_acquisition(wanted)
        assert started.deadline_time.ToNanoseconds() > time.time_ns() + 3600 * 10**9
        assert peers.fetcher.openings == []
        final = await peers.client.cancel_acquisition(started.acquisition_id)
        assert STATE(final.state) == "STATE_CANCELLED"


async def test_the_deadline_always_wins() -> None:
    async def stalling(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        await asyncio.Event().wait()

    async with scripted_peers({"a": [good], "b": [stalling]}, finish_allowance_s=1.5) as peers:
        wanted = spec("a", "b", max_wait_s=0.1)
        started = time.monotonic()
        final = await run(peers, wanted)
        assert 1.5 <= time.monotonic() - started <= 0.1 + 0.4 + 1.5 + 0.5
        assert STATE(final.state) == "STATE_PARTIALLY_SUCCEEDED"
        assert reason_name(final.error.reason) == "ACQUISITION_DEADLINE"
        assert final.outcomes[0].state == ReceiverOutcome.STATE_SUCCEEDED
        assert reasons(final.outcomes[1])[0] == "ACQUISITION_DEADLINE"
        check_counts(final.outcomes[1], expected=400, received=100, stored=100, gaps=1)


async def test_a_service_that_stays_away_is_named() -> None:
    async with scripted_peers({"a": [good]}, finish_allowance_s=1.5) as peers:
        peers.storage.refusal = failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE, "storage is away")
        final = await run(peers, spec("a", max_wait_s=0.1))
        named = {reason_name(problem.reason): problem.message for problem in final.outcomes[0].problems}
        assert reasons(final.outcomes[0])[0] == "ACQUISITION_DEADLINE"
        assert named["SERVICE_UNAVAILABLE"] == "storage is away"
    away = failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE, "the fetcher is away")
    async with scripted_peers({"a": [good], "b": [refusing(away.reason, away.message)]}) as peers:
        final = await run(peers, spec("a", "b", max_wait_s=0.5))
        named = {reason_name(problem.reason): problem.message for problem in final.outcomes[1].problems}
        assert reasons(final.outcomes[1])[0] == "RECEIVER_NOT_READY"
        assert named["SERVICE_UNAVAILABLE"] == "the fetcher is away"


async def test_storage_that_hangs_does_not_outlast_the_deadline() -> None:
    async with scripted_peers({"a": [good]}, finish_allowance_s=1.0) as peers:
        started = await peers.client.start_acquisition(spec("a", max_wait_s=0.2))
        peers.storage.hung.clear()
        before = time.monotonic()
        async with asyncio.timeout(10):
            final = [snapshot async for snapshot in peers.client.watch_acquisition(started.acquisition_id)][-1]
        assert time.monotonic() - before <= 0.2 + 0.4 + 1.0 + 1.0
        assert STATE(final.state) == "STATE_SUCCEEDED"
        peers.storage.hung.set()


async def test_too_few_receivers_is_failed_though_samples_are_stored() -> None:
    scripts: dict[str, list[Script]] = {"a": [good], "b": [refusing(ErrorReason.ERROR_REASON_UPSTREAM_BUSY)]}
    async with scripted_peers(scripts) as peers:
        final = await run(peers, spec("a", "b", min_receivers=2))
        assert STATE(final.state) == "STATE_FAILED"
        assert reason_name(final.error.reason) == "TOO_FEW_RECEIVERS"
        assert final.outcomes[0].state == ReceiverOutcome.STATE_SUCCEEDED


async def test_blocks_before_the_window_are_refused() -> None:
    refused = asyncio.Event()

    async def hasty(call: Call) -> Responses:
        try:
            yield call.segment()
            yield IqEvent(block=Block(sample_count=1, samples=b"1234"))
            await call.stopped.wait()
        finally:
            refused.set()

    async def patient(call: Call) -> Responses:
        await refused.wait()
        async for event in good(call):
            yield event

    async with scripted_peers({"a": [hasty], "b": [patient]}) as peers:
        final = await run(peers, spec("a", "b"))
        assert reasons(final.outcomes[0])[0] == "UNEXPECTED_MESSAGE"
        assert final.outcomes[1].state == ReceiverOutcome.STATE_SUCCEEDED


async def test_a_finish_message_carries_what_was_counted() -> None:
    async with scripted_peers({"a": [dropping(50, GapReason.GAP_REASON_TIMESTAMP)]}) as peers:
        await run(peers, spec("a"))
        finish = peers.storage.kept["a"].finish
        assert finish is not None
        assert finish.disposition == WriteRecordingRequest.Finish.DISPOSITION_KEEP
        assert (finish.end.received_sample_count, finish.end.lost_sample_count) == (350, 50)


async def _captured(peers: Peers, acquisition_id: str, receiver_count: int) -> None:
    """Waits until samples of so many receivers are stored."""
    async with asyncio.timeout(10):
        async for snapshot in peers.client.watch_acquisition(acquisition_id):
            if sum(outcome.stored_sample_count > 0 for outcome in snapshot.outcomes) == receiver_count:
                return
    raise HeimdallError(ErrorReason.ERROR_REASON_INTERNAL, "the acquisition ended first")
