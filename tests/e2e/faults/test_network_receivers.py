"""Connections between the fetcher and receivers that break, fall silent, slow down or double."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import ReceiverOutcome
from simulator import Fault
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, describe, problems, station, until
from tests.e2e.faults.relayed import BEFORE, CRAWL, assert_whole, begun, checked, relayed, seconds_late
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import FRAME_SAMPLES
from tests.integration.mesh import state_names

SPOILED: Final[dict[str, list[Fault]]] = {
    "sound": [],
    "reset": [],
    "silent": [],
    "crawling": [],
    "mute": [],
    "doubled": [],
    "strict": [Fault(kind="badp", code=5, connection=2)],
}


@fault_case(
    Group.NETWORK,
    fault="of the connections to seven receivers one is reset, one goes silent without an end, one slows to 1 byte a "
    "second, one is taken and never answered, and two break at our end only: one of these stations holds the old one "
    "beside the new, the other allows one connection for an address and refuses",
    sees="PARTIALLY_SUCCEEDED, on time; RECONNECT gaps with UPSTREAM_CONNECTION_LOST or UPSTREAM_STALLED; EARLY_END "
    "with UPSTREAM_STALLED; FAILED with UPSTREAM_SETUP_TIMEOUT; EARLY_END with UPSTREAM_ONE_PER_ADDRESS; the sound one "
    "SUCCEEDED",
    stored="every sample that arrived, at its index",
)
async def test_connections_to_receivers_fail(tmp_path: Path) -> None:
    stations = [station(name, fault=faults) for name, faults in SPOILED.items()]
    async with relayed(tmp_path, list(SPOILED)[1:], stations) as (bench, relays):
        relays["mute"].freeze(coming=True)
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 10.0, list(SPOILED), max_wait_s=3.0))
        names = list(SPOILED)
        async for snapshot in bench.client.watch_acquisition(acquisition_id):
            if sum(outcome.stored_sample_count >= BEFORE for outcome in snapshot.outcomes) == len(names) - 1:
                break
        assert relays["reset"].reset() == 1
        relays["silent"].freeze()
        relays["crawling"].conduct(up=CRAWL, down=CRAWL)
        assert relays["doubled"].orphan() == relays["strict"].orphan() == 1
        await until(lambda: bench.simulator.stations["doubled"].clients == 2)
        final = await bench.ended(acquisition_id)
        mute = final.outcomes.pop(names.index("mute"))
        assert seconds_late(final) < 3.0
        found = {outcome.receiver_id: (outcome, recording) for outcome, recording in await checked(bench, final)}
    assert (mute.state, problems(mute)) == (ReceiverOutcome.STATE_FAILED, ["UPSTREAM_SETUP_TIMEOUT"])
    assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["SUCCEEDED"] + ["PARTIALLY_SUCCEEDED"] * 5), describe(final)
    lost, stalled, refused = "UPSTREAM_CONNECTION_LOST", "UPSTREAM_STALLED", "UPSTREAM_ONE_PER_ADDRESS"
    assert {name: (problems(outcome), recording.reasons) for name, (outcome, recording) in found.items()} == {
        "sound": ([], []),
        "reset": ([lost, "SAMPLES_LOST"], ["RECONNECT"]),
        "silent": ([stalled, "SAMPLES_LOST"], ["RECONNECT"]),
        "crawling": ([stalled, "SAMPLES_LOST"], ["EARLY_END"]),
        "doubled": ([lost, "SAMPLES_LOST"], ["RECONNECT"]),
        "strict": ([refused, lost, "SAMPLES_LOST"], ["EARLY_END"]),
    }
    for name, least_s, most_s in (("reset", 0.5, 6.0), ("silent", 3.5, 8.0), ("doubled", 0.5, 6.0)):
        assert least_s * SAMPLE_RATE_HZ - FRAME_SAMPLES < found[name][1].lost_count < most_s * SAMPLE_RATE_HZ, name
    # Missed is only what was under way when the connection was reset, and that is not much.
    assert found["reset"][1].missed_count < SAMPLE_RATE_HZ
    assert found["sound"][1].missed_count == 0


@fault_case(
    Group.NETWORK,
    fault="receivers.toml grants two slots of a station that allows one connection for an address",
    sees="the first acquisition SUCCEEDED; the second, with another tuning, FAILED with UPSTREAM_ONE_PER_ADDRESS",
    stored="the first, complete",
)
async def test_second_connection_refused(tmp_path: Path) -> None:
    strict = station("rx-1", fault=[Fault(kind="badp", code=5, connection=2)])
    async with relayed(tmp_path, [], [strict], receivers={"rx-1": {"slots": 2}}) as (bench, _):
        first = await begun(bench, 5.0, ["rx-1"])
        second = await bench.start_acquisition(acquisition_spec(DIAL_HZ + 10e3, 2.0, ["rx-1"]))
        final = await bench.ended(second)
        assert state_names(final) == ("FAILED", ["FAILED"]), describe(final)
        assert problems(final.outcomes[0]) == ["UPSTREAM_ONE_PER_ADDRESS"]
        await assert_whole(bench, await bench.ended(first))
        assert len(bench.simulator.stations["rx-1"].connection_times) == 2
