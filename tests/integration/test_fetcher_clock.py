"""The host clock is set while a fetcher streams: it makes no samples, loses none, and moves no window."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from heimdall.common.v1 import iq_pb2
from heimdall.fetcher.v1 import fetcher_pb2
from simulator import Fault
from tests.clock import SetClock
from tests.integration.fetcher_bench import (
    SECOND,
    Bench,
    Caught,
    assert_bit_exact,
    collect,
    mesh,
    next_of,
    reason,
    send_window,
    station,
)

RATE_HZ = 11_998.902
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


async def record(
    bench: Bench, clock: SetClock, step_s: float, duration_s: float, *, fields: Mapping[str, Any] = NO_FIELDS
) -> Caught:
    """Records a window, and sets the clock once its first block is there."""
    async with bench.stream(**fields) as stream:
        first = (await next_of(stream, "segment")).segment
        start_ns = first.available_from_unix_ns
        await send_window(stream, start_ns, start_ns + round(duration_s * SECOND))
        caught = Caught(segments=[first], blocks=[(await next_of(stream, "block")).block])
        clock.step(step_s)
        return await collect(stream, caught)


@pytest.mark.parametrize("step_s", [-3600.0, -5.0, 5.0])
async def test_a_step_does_not_touch_times_from_gnss(tmp_path: Path, step_s: float) -> None:
    clock = SetClock()
    drop = Fault(kind="drop", after_frame=30, connection=1)
    async with mesh(tmp_path, station(fault=[drop]), clock=clock) as (simulator, bench):
        caught = await record(bench, clock, step_s, 2.5)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    assert_bit_exact(caught, sent)
    assert caught.end.end_sample_index == pytest.approx(2.5 * RATE_HZ, abs=1)
    ((count, _, why),) = caught.gap_list()
    before = [frame for frame in sent if frame.connection == 1][-1]
    after = next(frame for frame in sent if frame.connection == 2)
    assert (count, why) == (after.first_sample - before.first_sample - 512, "RECONNECT")
    # The new connection, too, is judged by the clock as it was when the stream began.
    assert {segment.time_source for segment in caught.segments} == {iq_pb2.TIME_SOURCE_GNSS}
    solution = caught.end.time_solution
    assert solution.time_sigma_ns < 2_000
    assert solution.degradation == iq_pb2.TIME_DEGRADATION_UNSPECIFIED
    # Frames 1 and 2 of each connection have no stamp to use.
    assert solution.stamp_dropped_count == 4


@pytest.mark.parametrize("step_s", [-5.0, 5.0])
async def test_a_step_does_not_reach_times_by_arrival(tmp_path: Path, step_s: float) -> None:
    clock = SetClock()
    faults = [
        Fault(kind="drop", after_frame=30, connection=1),
        Fault(kind="silent_loss", after_frame=15, connection=2, sample_count=340),
    ]
    async with mesh(tmp_path, station(gnss="no_fix", fault=faults), clock=clock) as (simulator, bench):
        caught = await record(bench, clock, step_s, 3.0)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    assert caught.end.end_sample_index == pytest.approx(3.0 * RATE_HZ, abs=1)
    (reconnect, silent) = caught.gap_list()
    before = [frame for frame in sent if frame.connection == 1][-1]
    after = next(frame for frame in sent if frame.connection == 2)
    # By the clock, so as exact as arrivals are: frames leave on chunk borders, and this machine is busy.
    assert reconnect[0] == pytest.approx(after.first_sample - before.first_sample - 512, abs=0.3 * RATE_HZ)
    assert reconnect[1:] == (False, "RECONNECT")
    assert silent == (340, True, "TIMESTAMP")
    solution = caught.end.time_solution
    assert solution.source == iq_pb2.TIME_SOURCE_HOST_ARRIVAL
    assert 4.99e9 < solution.time_sigma_ns < 6e9
    assert f"the host clock was set by {step_s:+.3f} s" in solution.degradation_message


@pytest.mark.parametrize("step_s", [-5.0, 3600.0])
async def test_a_step_does_not_move_the_end_of_a_receiver_that_stays_away(tmp_path: Path, step_s: float) -> None:
    clock = SetClock()
    faults = [
        Fault(kind="drop", after_frame=15, connection=1),
        *(Fault(kind="http_404", connection=number) for number in range(2, 9)),
    ]
    async with mesh(tmp_path, station(fault=faults), clock=clock) as (_, bench):
        began = asyncio.get_running_loop().time()
        caught = await record(bench, clock, step_s, 1.5)
    # The window begins with the first sample, and what is late is waited for a quarter of a second.
    assert 1.5 < caught.end_at - began < 1.5 + 4.0
    assert [why for _, _, why in caught.gap_list()] == ["EARLY_END"]
    assert caught.end.error.reason == reason("UPSTREAM_NOT_FOUND")
    assert caught.end.end_sample_index == pytest.approx(1.5 * RATE_HZ, abs=1)


@pytest.mark.parametrize("step_s", [-3600.0, 5.0])
async def test_a_step_does_not_move_the_time_to_give_up(tmp_path: Path, step_s: float) -> None:
    clock = SetClock()
    opening = fetcher_pb2.StreamIqRequest.Open()
    opening.give_up_time.FromNanoseconds(clock.unix_ns() + 2 * SECOND)
    async with mesh(tmp_path, station(), clock=clock) as (_, bench):
        caught = await record(bench, clock, step_s, 30.0, fields={"give_up_time": opening.give_up_time})
    assert caught.end.error.reason == reason("RECEIVER_NOT_READY")
    assert 1.0 * RATE_HZ < caught.end.received_sample_count < 3.0 * RATE_HZ


async def test_a_resumed_stream_by_a_clock_set_back_is_not_joined(tmp_path: Path) -> None:
    clock = SetClock()
    async with mesh(tmp_path, station(gnss="no_fix"), clock=clock) as (_, bench):
        async with bench.stream() as stream:
            origin_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
            await send_window(stream, origin_ns, origin_ns + 60 * SECOND)
            kept = (await next_of(stream, "block")).block.sample_count
        clock.step(-5.0)
        resumed: dict[str, Any] = {"resume": True, "resume_sample_index": kept, "resume_origin_unix_ns": origin_ns}
        async with bench.stream(**resumed) as stream:
            await send_window(stream, origin_ns, origin_ns + 60 * SECOND)
            gap = (await next_of(stream, "gap")).gap
            block = (await next_of(stream, "block")).block
    assert (gap.first_lost_index, gap.lost_sample_count, gap.exact) == (kept, 1, False)
    assert gap.reason == iq_pb2.GAP_REASON_SERVICE_RESTART
    # None of what comes after the break is thrown away for coming at a time that was there before.
    assert block.first_sample_index == kept + 1
