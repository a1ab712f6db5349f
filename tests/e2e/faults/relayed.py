"""A bench with relays between the services, and what its cases have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from simulator import StationSpec
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, FaultBench, describe, fault_bench, station
from tests.e2e.faults.relay import Conduct, Relay
from tests.e2e.faults.truth import StoredRecording, check_recording
from tests.integration.mesh import state_names

NAMES: Final = ("rx-1", "rx-2")
BEFORE: Final = 18_000
"""Samples, 1.5 s, that are stored before anything happens to a connection."""
IMPATIENT: Final = {"HEIMDALL_MESH_HEARTBEAT_INTERVAL_S": "1", "HEIMDALL_MESH_IDLE_TIMEOUT_S": "3"}
CRAWL: Final = Conduct(bytes_per_s=1)


@asynccontextmanager
async def relayed(
    folder: Path,
    links: Sequence[str],
    stations: Iterable[StationSpec] | None = None,
    *,
    variables: Mapping[str, str] | None = None,
    receivers: Mapping[str, Mapping[str, int]] | None = None,
    is_doubling: bool = False,
) -> AsyncIterator[tuple[FaultBench, dict[str, Relay]]]:
    """Runs a bench with a relay in front of services, as the coordinator sees them, and of receivers."""
    specs = [station(name) for name in NAMES] if stations is None else list(stations)
    async with AsyncExitStack() as stack:
        relays = {link: await stack.enter_async_context(Relay()) for link in links}
        ids = {spec.id for spec in specs}
        bench = await stack.enter_async_context(
            fault_bench(
                folder,
                specs,
                targets={link: relay.target for link, relay in relays.items() if link not in ids},
                urls={link: relay.url for link, relay in relays.items() if link in ids},
                variables=variables,
                receivers=receivers,
                start=False,
            )
        )
        for link, relay in relays.items():
            relay.is_doubling = is_doubling
            relay.forward_to(bench.simulator.stations[link].url if link in ids else bench.mesh.targets[link])
        await bench.start()
        yield bench, relays
        assert bench.crashes() == []


async def begun(bench: FaultBench, duration_s: float, names: Sequence[str] = NAMES) -> str:
    """Starts an acquisition and waits until each receiver has stored a second and a half of it; returns its id."""
    acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, duration_s, names))
    await bench.stored(acquisition_id, BEFORE)
    return acquisition_id


async def checked(bench: FaultBench, final: Acquisition) -> list[tuple[ReceiverOutcome, StoredRecording]]:
    """Holds each recording against what its station sent; returns it beside its outcome."""
    found = []
    for outcome in final.outcomes:
        sent = bench.simulator.stations[outcome.receiver_id].sent
        recording = await check_recording(bench.client, sent, final.acquisition_id, outcome.receiver_id)
        assert recording.end_index == pytest.approx(duration_s(final) * SAMPLE_RATE_HZ, abs=1)
        assert recording.sample_count == outcome.stored_sample_count == outcome.received_sample_count
        assert recording.lost_count == outcome.lost_sample_count
        found.append((outcome, recording))
    return found


def duration_s(final: Acquisition) -> float:
    return (final.window_end_unix_ns - final.window_start_unix_ns) / 1e9


def seconds_late(final: Acquisition) -> float:
    """Returns how long after the end of its window an acquisition ended."""
    return (final.end_time.ToNanoseconds() - final.window_end_unix_ns) / 1e9


async def assert_whole(bench: FaultBench, final: Acquisition) -> None:
    """Nothing is missing, and nothing is there that was not sent."""
    count = len(final.outcomes)
    assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * count), describe(final)
    for outcome, recording in await checked(bench, final):
        assert recording.gaps == []
        assert recording.missed_count == 0
        assert outcome.HasField("measurement")
        assert outcome.attempt_count == 1
