"""The host clock is set while the coordinator works: no deadline moves, no window, and no time goes back."""

from __future__ import annotations

import asyncio
import time

import pytest

from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import GapReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import reason_name
from tests.clock import SetClock
from tests.unit.coordinator.scripted import Call, Peers, Responses, endless, failure, gap, good, scripted_peers
from tests.unit.coordinator.test_pipeline import STATE, check_counts, reasons, run, spec

STEPS_S = (-3600.0, -5.0, 5.0, 3600.0)
SECOND = 10**9


def check_times(final: Acquisition) -> None:
    """The times of a report are in order and as far apart as the moments were."""
    created_ns, ended_ns = final.create_time.ToNanoseconds(), final.end_time.ToNanoseconds()
    assert 0 < ended_ns - created_ns < 10 * SECOND
    assert created_ns <= final.update_time.ToNanoseconds() <= ended_ns


@pytest.mark.parametrize("step_s", STEPS_S)
async def test_the_window_is_where_the_receivers_are(step_s: float) -> None:
    clock = SetClock()

    async def stepping(call: Call) -> Responses:
        segment = call.segment()
        clock.step(step_s)
        yield segment
        total = await call.expected_count()
        for first in range(0, total, 100):
            yield await call.block(first)
        yield call.end(total)

    async with scripted_peers({"a": [stepping], "b": [good]}, clock=clock) as peers:
        before_ns = time.time_ns()
        final = await run(peers, spec("a", "b"))
        assert STATE(final.state) == "STATE_SUCCEEDED"
        assert 0 <= final.window_start_unix_ns - before_ns < SECOND
        assert final.window_end_unix_ns - final.window_start_unix_ns == 4 * SECOND // 10
        check_times(final)


@pytest.mark.parametrize("step_s", [-3600.0, 5.0])
async def test_a_silent_receiver_is_given_up_at_the_end_of_the_window(step_s: float) -> None:
    clock = SetClock()

    async def stepping(call: Call) -> Responses:
        clock.step(step_s)
        async for event in good(call):
            yield event

    async def silent(call: Call) -> Responses:
        await call.stopped.wait()
        yield call.segment()

    async with scripted_peers({"a": [stepping], "b": [silent]}, clock=clock) as peers:
        started = time.monotonic()
        final = await run(peers, spec("a", "b", duration_s=1.0, max_wait_s=0.3))
        assert 1.0 <= time.monotonic() - started < 10
        assert final.outcomes[0].state == ReceiverOutcome.STATE_SUCCEEDED
        assert reasons(final.outcomes[1]) == ["RECEIVER_NOT_READY"]
        check_times(final)


@pytest.mark.parametrize("step_s", STEPS_S)
async def test_a_broken_stream_is_called_again(step_s: float) -> None:
    clock = SetClock()

    async def breaking(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        clock.step(step_s)
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    async def resumed(call: Call) -> Responses:
        yield call.segment()
        await call.wait_for_window()
        yield gap(100, 1800, GapReason.GAP_REASON_SERVICE_RESTART)
        yield await call.block(1900)
        yield call.end(2000)

    async with scripted_peers({"a": [breaking, resumed]}, clock=clock) as peers:
        final = await run(peers, spec("a", duration_s=2.0))
        check_counts(final.outcomes[0], expected=2000, received=200, stored=200, gaps=1)
        assert reasons(final.outcomes[0]) == ["SAMPLES_LOST"]
        check_times(final)
        first, second = (opening.give_up_time.ToNanoseconds() for opening in peers.fetcher.openings)
        # The same moment on the clock as it was and as it is.
        assert second - first == pytest.approx(step_s * SECOND, abs=SECOND // 100)


@pytest.mark.parametrize("step_s", [-5.0, 3600.0])
async def test_a_stream_that_stays_broken_is_given_up_after_the_window(step_s: float) -> None:
    clock = SetClock()

    async def breaking(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        clock.step(step_s)
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)

    async def away(call: Call) -> Responses:
        raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)
        yield call.segment()

    async with scripted_peers({"a": [breaking, away]}, clock=clock) as peers:
        started = time.monotonic()
        final = await run(peers, spec("a", duration_s=1.5))
        assert time.monotonic() - started < 10
        # The first delay is 0.4 s at most, so it was called again at least once.
        assert len(peers.fetcher.openings) > 1
        check_counts(final.outcomes[0], expected=1500, received=100, stored=100, gaps=1)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_the_deadline_stays_where_it_was(step_s: float) -> None:
    clock = SetClock()

    async def stalling(call: Call) -> Responses:
        yield call.segment()
        yield await call.block(0)
        clock.step(step_s)
        await asyncio.Event().wait()

    async with scripted_peers({"a": [stalling]}, clock=clock, finish_allowance_s=1.0) as peers:
        started = time.monotonic()
        final = await run(peers, spec("a", max_wait_s=0.1))
        assert 1.0 <= time.monotonic() - started < 10
        assert reasons(final.outcomes[0])[0] == "ACQUISITION_DEADLINE"
        check_times(final)


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_a_start_comes_by_whichever_clock_is_first(step_s: float) -> None:
    """The clock was wrong before it was set, or it is now. Too early costs a wait, too late costs samples."""
    clock = SetClock()
    real_lead_s = 2.5 if step_s < 0 else 3602.5

    async with scripted_peers({"a": [good]}, clock=clock) as peers:
        wanted = spec("a", max_wait_s=0.5)
        wanted.start_time.FromNanoseconds(clock.unix_ns() + round(real_lead_s * SECOND))
        before = time.monotonic()
        started = await peers.client.start_acquisition(wanted)
        clock.step(step_s)
        async with asyncio.timeout(10):
            snapshots = [one async for one in peers.client.watch_acquisition(started.acquisition_id)]
        assert 1.9 <= time.monotonic() - before < 10
        assert STATE(snapshots[-1].state) == "STATE_SUCCEEDED"
        assert snapshots[-1].window_start_unix_ns == wanted.start_time.ToNanoseconds()


async def test_what_a_coordinator_left_is_closed_though_the_clock_was_set_back() -> None:
    clock = SetClock()
    async with scripted_peers({"a": [endless]}, clock=clock) as peers:
        crashed = await crash(peers, spec("a", duration_s=60))
        clock.step(-3600)
        await peers.restart_coordinator()
        settled = await peers.client.start_acquisition(spec("a", duration_s=60), "r")
        assert reason_name(settled.error.reason) == "COORDINATOR_RESTARTED"
        assert reasons(settled.outcomes[0])[0] == "COORDINATOR_RESTARTED"
        assert settled.outcomes[0].recording.state == Recording.STATE_STORED
        epochs = peers.storage.kept["a"].epochs
        assert epochs == sorted(set(epochs))
        assert settled.end_time.ToNanoseconds() >= crashed.update_time.ToNanoseconds()


async def crash(peers: Peers, wanted: AcquisitionSpec) -> Acquisition:
    """Starts an acquisition and leaves it as a coordinator that crashed in the middle of it would."""
    started = await peers.client.start_acquisition(wanted, "r")
    async with asyncio.timeout(10):
        async for snapshot in peers.client.watch_acquisition(started.acquisition_id):
            if snapshot.outcomes[0].stored_sample_count:
                break
    crashed = Acquisition()
    crashed.CopyFrom(peers.storage.acquisitions[started.acquisition_id])
    blocks = list(peers.storage.kept["a"].blocks)
    await peers.stop("coordinator")
    peers.storage.acquisitions[crashed.acquisition_id] = crashed
    peers.storage.kept["a"].finish = None
    peers.storage.kept["a"].blocks, peers.storage.kept["a"].gaps = blocks, []
    return crashed
