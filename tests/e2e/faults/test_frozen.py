"""A process that stands still in mid-acquisition, by SIGSTOP for 30 s, and then goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import grpc
import pytest
from grpc_health.v1 import health_pb2

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.local import SERVICE_NAMES
from heimdall.local.mesh import full_name
from tests.e2e.faults.bench import (
    DIAL_HZ,
    POLL_S,
    SAMPLE_RATE_HZ,
    FaultBench,
    describe,
    fault_bench,
    problems,
    station,
    until,
)
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import StoredRecording, check_recording
from tests.integration.mesh import state_names

NAMES = ("rx-1", "rx-2", "rx-3")
STATIONS = [station(name) for name in NAMES]
DURATION_S = 38.0
STANDSTILL_S: Final = 30.0
SHORT_STANDSTILL_S: Final = 8.0
BEFORE = 24_000
"""Samples, 2 s, that are stored before anything stands still."""
UNDER_WAY = 4 * 512
"""Samples that a receiver may have sent when the fetcher leaves it, and that have not arrived."""
NOTICED_S = 20.0
"""Within it a silence of 15 s is noticed, also on a busy machine."""
GROWTH_BYTES = 8 * 1024 * 1024
"""What a receiver may cost any process beyond what it takes when idle."""


class MemoryWatch:
    """Measures what the processes take while it runs."""

    def __init__(self, bench: FaultBench) -> None:
        self._bench = bench
        self._idle = {name: bench.resident_bytes(name) for name in SERVICE_NAMES}
        self._most = dict(self._idle)

    async def run(self) -> None:
        while True:
            for name in SERVICE_NAMES:
                self._most[name] = max(self._most[name], self._bench.resident_bytes(name))
            await asyncio.sleep(POLL_S)

    def check(self) -> None:
        growth = {name: most - self._idle[name] for name, most in self._most.items()}
        assert max(growth.values()) <= len(NAMES) * GROWTH_BYTES, growth


@asynccontextmanager
async def memory_watched(bench: FaultBench) -> AsyncIterator[None]:
    """Checks at the end that no process took more than it may."""
    watch = MemoryWatch(bench)
    running = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    watch.check()


@asynccontextmanager
async def standing_still(bench: FaultBench, *names: str, for_s: float = STANDSTILL_S) -> AsyncIterator[None]:
    """Stops processes, and lets them go on at the end, that long after they were stopped."""
    for name in names:
        bench.signal(name, signal.SIGSTOP)
    going_on = asyncio.get_running_loop().time() + for_s
    yield
    await asyncio.sleep(going_on - asyncio.get_running_loop().time())
    for name in names:
        bench.signal(name, signal.SIGCONT)


async def health(bench: FaultBench, name: str) -> str:
    """Probes a service as an orchestrator does, and returns what it answers or the code of the failed probe."""
    async with grpc.aio.insecure_channel(bench.mesh.targets[name]) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        request = health_pb2.HealthCheckRequest(service=full_name(name)).SerializeToString()
        try:
            answer = health_pb2.HealthCheckResponse.FromString(await check(request, timeout=2))
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def logged(bench: FaultBench, name: str, text: str, count: int) -> None:
    """Waits until a service has logged something so often."""
    await until(lambda: bench.log(name).count(text) >= count, timeout_s=NOTICED_S)


async def capturing(bench: FaultBench, duration_s: float = DURATION_S) -> str:
    acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, duration_s, NAMES))
    await bench.stored(acquisition_id, BEFORE)
    return acquisition_id


async def checked(bench: FaultBench, final: Acquisition) -> list[StoredRecording]:
    return [
        await check_recording(bench.client, bench.simulator.stations[name].sent, final.acquisition_id, name)
        for name in NAMES
    ]


@fault_case(
    Group.FROZEN,
    fault="all four stand still for 8 s, as when their machine sleeps",
    sees="SUCCEEDED: nobody takes another for gone so soon, nor because it stood still itself",
    stored="everything",
)
async def test_all_stand_still_for_a_short_time(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench:
        acquisition_id = await capturing(bench, 14.0)
        async with standing_still(bench, *SERVICE_NAMES, for_s=SHORT_STANDSTILL_S):
            pass
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * len(NAMES)), describe(final)
        for recording in await checked(bench, final):
            assert recording.sample_count == 14.0 * SAMPLE_RATE_HZ
            assert recording.gaps == []
        for name in SERVICE_NAMES:
            assert "reason=STREAM_IDLE" not in bench.log(name)


@fault_case(
    Group.FROZEN,
    fault="the coordinator stands still for 30 s",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one BACKPRESSURE gap, and MEASUREMENT_MISSING, which "
    "names STREAM_IDLE; after 15 s its receivers are free",
    stored="everything that was received until its receivers were let go, and from then on when it goes on",
)
async def test_coordinator_stands_still(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench, memory_watched(bench):
        acquisition_id = await capturing(bench)
        async with standing_still(bench, "coordinator"):
            assert await health(bench, "coordinator") == "DEADLINE_EXCEEDED"
            stations = bench.simulator.stations.values()
            await until(lambda: not any(one.clients for one in stations), timeout_s=NOTICED_S)
            await logged(bench, "fetcher", "event=caller_silent", len(NAMES))
            for name in ("dsp", "storage"):
                await logged(bench, name, "reason=STREAM_IDLE", len(NAMES))
                assert await health(bench, name) == "SERVING"
            connected_until = {name: bench.simulator.stations[name].sent[-1].true_unix_ns for name in NAMES}
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SAMPLES_LOST", "MEASUREMENT_MISSING"], describe(final)
            assert outcome.problems[1].metadata["cause"] == "STREAM_IDLE"
            assert recording.reasons == ["BACKPRESSURE"]
            assert recording.end_index == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
            # What lay in buffers when it went on was read and kept, so all that is missing was never received.
            assert recording.missed_count <= UNDER_WAY
            assert recording.sample_count == outcome.stored_sample_count
            first_lost_ns = final.window_start_unix_ns + recording.gaps[0].first_lost_index * 1e9 / SAMPLE_RATE_HZ
            assert first_lost_ns == pytest.approx(connected_until[outcome.receiver_id], abs=0.25e9)


@fault_case(
    Group.FROZEN,
    fault="the fetcher stands still for 30 s",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one SERVICE_RESTART gap",
    stored="every recording on both sides of the gap, at its true index; the summary of all good samples",
)
async def test_fetcher_stands_still(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench, memory_watched(bench):
        acquisition_id = await capturing(bench)
        async with standing_still(bench, "fetcher"):
            assert await health(bench, "fetcher") == "DEADLINE_EXCEEDED"
            await logged(bench, "coordinator", "event=receiver_stream_broken", len(NAMES))
            running = await bench.client.get_acquisition(acquisition_id)
            assert running.state == Acquisition.STATE_CAPTURING
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert recording.reasons == ["SERVICE_RESTART"]
            assert outcome.HasField("measurement")
            assert recording.end_index == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
            assert recording.sample_count == outcome.stored_sample_count
            assert STANDSTILL_S * SAMPLE_RATE_HZ - 2 * 3000 < recording.lost_count < (STANDSTILL_S + 7) * SAMPLE_RATE_HZ


@fault_case(
    Group.FROZEN,
    fault="DSP stands still for 30 s",
    sees="PARTIALLY_SUCCEEDED; each outcome has the problem MEASUREMENT_MISSING, which names STREAM_IDLE or "
    "SERVICE_UNAVAILABLE",
    stored="every recording, complete and without a gap; no summary",
)
async def test_dsp_stands_still(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench, memory_watched(bench):
        acquisition_id = await capturing(bench)
        async with standing_still(bench, "dsp"):
            assert await health(bench, "dsp") == "DEADLINE_EXCEEDED"
            await logged(bench, "coordinator", "event=measurement_lost", len(NAMES))
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["MEASUREMENT_MISSING"], describe(final)
            assert outcome.problems[0].metadata["cause"] in ("STREAM_IDLE", "SERVICE_UNAVAILABLE")
            assert outcome.recording.complete
            assert recording.sample_count == DURATION_S * SAMPLE_RATE_HZ
            assert recording.gaps == []


@fault_case(
    Group.FROZEN,
    fault="storage stands still for 30 s",
    sees="SUCCEEDED: the coordinator holds what was not acknowledged, 4 MiB a receiver",
    stored="everything, nothing twice",
)
async def test_storage_stands_still(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench, memory_watched(bench):
        acquisition_id = await capturing(bench)
        async with standing_still(bench, "storage"):
            assert await health(bench, "storage") == "DEADLINE_EXCEEDED"
            await logged(bench, "coordinator", "event=recording_stream_broken", len(NAMES))
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * len(NAMES)), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert outcome.HasField("measurement")
            assert recording.sample_count == DURATION_S * SAMPLE_RATE_HZ
            assert recording.gaps == []


@fault_case(
    Group.FROZEN,
    fault="storage stands still for 30 s, with buffers of 256 KiB in the coordinator and in the fetcher",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one BACKPRESSURE gap, its count exact",
    stored="everything but the oldest samples that the fetcher's ring had no room for; the summary of all good samples",
)
async def test_storage_stands_still_for_longer_than_the_buffers_hold(tmp_path: Path) -> None:
    small = {"HEIMDALL_FETCHER_RING_BYTES": "262144", "HEIMDALL_COORDINATOR_UNACKNOWLEDGED_BYTES": "262144"}
    async with fault_bench(tmp_path, STATIONS, variables=small) as bench, memory_watched(bench):
        acquisition_id = await capturing(bench)
        async with standing_still(bench, "storage"):
            pass
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert outcome.HasField("measurement")
            assert recording.reasons == ["BACKPRESSURE"]
            assert recording.gaps[0].exact
            # The station sent every sample of it: the count is what was dropped here, to the sample.
            assert recording.missed_count == recording.lost_count
            assert recording.end_index == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
            # At least the two buffers were kept of what came during the standstill.
            assert recording.lost_count < STANDSTILL_S * SAMPLE_RATE_HZ - 2 * 262_144 / 4
