"""Watchers see every change of state at once, progress seldom, and never hold anything up."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from coordinator_svc.report import PROGRESS_INTERVAL_S, Report
from heimdall.clock import Clock, SystemClock
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from tests.clock import SetClock


def make_report(clock: Clock | None = None) -> Report:
    outcome = ReceiverOutcome(receiver_id="torino")
    acquisition = Acquisition(acquisition_id="a", revision=1, state=Acquisition.STATE_CAPTURING, outcomes=[outcome])
    return Report(acquisition, SystemClock() if clock is None else clock)


async def test_the_current_snapshot_comes_first_and_the_terminal_one_last() -> None:
    report = make_report()
    seen = []

    async def watch() -> None:
        async for snapshot in report.watch():
            seen.append((snapshot.revision, snapshot.state))

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    report.live.state = Acquisition.STATE_FINISHING
    report.changed()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    final = report.snapshot()
    final.revision, final.state = 9, Acquisition.STATE_SUCCEEDED
    report.end(final)
    await asyncio.wait_for(watching, 1)
    assert seen[0] == (1, Acquisition.STATE_CAPTURING)
    assert (2, Acquisition.STATE_FINISHING) in seen
    assert seen[-1] == (9, Acquisition.STATE_SUCCEEDED)
    assert report.ended.is_set()


async def test_progress_comes_at_most_five_times_a_second_and_is_the_newest() -> None:
    report = make_report()
    loop = asyncio.get_running_loop()
    async with aclosing(report.watch()) as snapshots:
        await anext(snapshots)
        started_s = loop.time()
        for count in range(1, 100):
            report.outcome(0).received_sample_count = count
            report.progressed()
        snapshot = await anext(snapshots)
        took_s = loop.time() - started_s
        assert snapshot.outcomes[0].received_sample_count == 99
        assert PROGRESS_INTERVAL_S * 0.9 <= took_s <= PROGRESS_INTERVAL_S * 3


async def test_a_change_of_state_does_not_wait_for_the_progress_interval() -> None:
    report = make_report()
    loop = asyncio.get_running_loop()
    async with aclosing(report.watch()) as snapshots:
        await anext(snapshots)
        report.progressed()
        following = asyncio.ensure_future(anext(snapshots))
        await asyncio.sleep(0)
        started_s = loop.time()
        report.changed()
        snapshot = await following
        assert loop.time() - started_s < PROGRESS_INTERVAL_S / 2
        assert snapshot.revision == 3


async def test_a_slow_watcher_gets_the_newest_only() -> None:
    report = make_report()
    async with aclosing(report.watch()) as snapshots:
        await anext(snapshots)
        for _ in range(1000):
            report.changed()
        assert (await anext(snapshots)).revision == 1001


async def test_watching_an_ended_report_gives_one_snapshot() -> None:
    report = make_report()
    final = report.snapshot()
    final.state = Acquisition.STATE_FAILED
    report.end(final)
    assert [snapshot.state async for snapshot in report.watch()] == [Acquisition.STATE_FAILED]


async def test_a_snapshot_does_not_change_afterwards() -> None:
    report = make_report()
    snapshot = report.snapshot()
    report.outcome(0).received_sample_count = 5
    assert snapshot.outcomes[0].received_sample_count == 0


async def test_times_of_a_report_never_go_back() -> None:
    clock = SetClock()
    report = make_report(clock)
    report.changed()
    before_ns = report.live.update_time.ToNanoseconds()
    clock.step(-3600)
    report.progressed()
    assert report.live.update_time.ToNanoseconds() == report.now_unix_ns() == before_ns
    clock.step(3605)
    report.progressed()
    assert 5e9 <= report.live.update_time.ToNanoseconds() - before_ns < 10e9
