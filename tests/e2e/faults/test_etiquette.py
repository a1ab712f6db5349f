"""What a station asked for holds for every acquisition that follows, and for the next life of the fetcher."""

from __future__ import annotations

from pathlib import Path

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import ReceiverOutcome
from heimdall.common.v1.receiver_pb2 import Receiver
from simulator import Fault
from tests.e2e.faults.bench import DIAL_HZ, FaultBench, eventually, fault_bench, problems, station
from tests.e2e.faults.table import Group, fault_case

WINDOW_S = 3.0


async def acquire(bench: FaultBench, *names: str) -> list[ReceiverOutcome]:
    """Acquires once; returns the outcomes in the order of the names."""
    acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, WINDOW_S, list(names)))
    return list((await bench.ended(acquisition_id)).outcomes)


async def renew_fetcher(bench: FaultBench) -> None:
    """Kills the fetcher and starts it again."""
    await bench.kill("fetcher")
    await bench.start("fetcher")

    async def is_found() -> bool:
        return not (await bench.client.list_receivers()).unreachable_fetchers

    await eventually(is_found)


@fault_case(
    Group.RECEIVERS,
    fault="a receiver has kicked us, or used up the day's quota, and is asked for again by the next acquisition, "
    "after the fetcher was killed too",
    sees="RECEIVER_BACKING_OFF, which names UPSTREAM_KICKED or UPSTREAM_ADDRESS_LIMIT and how long; "
    "`heimdall receivers` shows BACKING_OFF; it is not connected again",
    stored="nothing more of it",
)
async def test_a_refusal_outlives_the_fetcher(tmp_path: Path) -> None:
    faults = {"kicking": Fault(kind="kiwi_kick", after_s=1.0), "quota": Fault(kind="ip_limit")}
    stations = [station("good"), *(station(name, fault=[fault]) for name, fault in faults.items())]
    async with fault_bench(tmp_path, stations) as bench:
        await acquire(bench, "good", *faults)
        await renew_fetcher(bench)
        good, *refused = await acquire(bench, "good", *faults)
        shown = {receiver.receiver_id: receiver for receiver in (await bench.client.list_receivers()).receivers}
        tries = {name: len(bench.simulator.stations[name].connection_times) for name in faults}
    assert good.state == ReceiverOutcome.STATE_SUCCEEDED, good
    assert [problems(outcome) for outcome in refused] == [["RECEIVER_BACKING_OFF"]] * 2
    causes = [outcome.problems[0].metadata["cause"] for outcome in refused]
    assert causes == ["UPSTREAM_KICKED", "UPSTREAM_ADDRESS_LIMIT"]
    assert {shown[name].state for name in faults} == {Receiver.STATE_BACKING_OFF}
    assert tries == {"kicking": 1, "quota": 1}


@fault_case(
    Group.RECEIVERS,
    fault="a receiver is asked for more often than `max_connects_per_hour` allows, the fetcher being killed in between",
    sees="RECEIVER_BACKING_OFF with the cause MAX_CONNECTS_PER_HOUR and when there is room again",
    stored="nothing more of it until then",
)
async def test_connects_of_an_hour_are_bounded(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station("a")], receivers={"a": {"max_connects_per_hour": 2}}) as bench:
        (first,) = await acquire(bench, "a")
        await renew_fetcher(bench)
        (second,), (third,) = await acquire(bench, "a"), await acquire(bench, "a")
        assert len(bench.simulator.stations["a"].connection_times) == 2
    assert [first.state, second.state] == [ReceiverOutcome.STATE_SUCCEEDED] * 2
    assert problems(third) == ["RECEIVER_BACKING_OFF"]
    assert third.problems[0].metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
    assert 3500 < third.problems[0].retry_delay.ToTimedelta().total_seconds() <= 3600
