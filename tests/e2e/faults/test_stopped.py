"""A process told to stop in mid-acquisition, by SIGTERM: it drains, ends with 0, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import grpc
import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.coordinator.v1.coordinator_pb2 import StartAcquisitionRequest
from heimdall.coordinator.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from heimdall.errors import from_rpc_error, reason_name
from heimdall.local import SERVICE_NAMES
from tests.e2e.faults.bench import (
    DIAL_HZ,
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
from tests.integration.mesh import last, state_names

NAMES = ("rx-1", "rx-2")
STATIONS = [station(name) for name in NAMES]
SHORT_S = 5.0
"""A window that ends well within the default drain timeout."""
LONG_S = 10.0
"""A window that outlasts a drain of 2 s."""
LONGEST_S = 20.0
"""A window that leaves time for a fetcher to be started again and to be found again."""
SHORT_DRAIN = {"HEIMDALL_MESH_DRAIN_TIMEOUT_S": "2"}
BEFORE = 12_000
"""Samples, 1 s, that are stored before anything is told to stop."""
UNDER_WAY = 4 * 512
"""Samples that a receiver may have sent when the fetcher leaves it, and that have not arrived."""


async def capturing(bench: FaultBench, duration_s: float) -> tuple[str, Acquisition]:
    """Starts an acquisition and waits until it stores samples; returns its id and what it says then."""
    acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, duration_s, NAMES))
    return acquisition_id, await bench.stored(acquisition_id, BEFORE)


async def checked(bench: FaultBench, final: Acquisition) -> list[StoredRecording]:
    return [
        await check_recording(bench.client, bench.simulator.stations[name].sent, final.acquisition_id, name)
        for name in NAMES
    ]


async def check_complete(bench: FaultBench, final: Acquisition, duration_s: float) -> None:
    """Checks that an acquisition lost nothing at all."""
    assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * len(NAMES)), describe(final)
    for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
        assert outcome.HasField("measurement")
        assert recording.sample_count == duration_s * SAMPLE_RATE_HZ
        assert recording.gaps == []


def waited_for(before: Acquisition) -> bool:
    """Returns whether the window of an acquisition is over by now."""
    return time.time_ns() >= before.window_end_unix_ns


async def refusal_of_new_work(target: str) -> str:
    """Asks a coordinator for an acquisition, on a channel that does not heed its health; returns why it refuses."""
    async with grpc.aio.insecure_channel(target) as channel:
        request = StartAcquisitionRequest(spec=acquisition_spec(DIAL_HZ, 1.0, NAMES))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CoordinatorServiceStub(channel).StartAcquisition(request, timeout=5)
    return from_rpc_error(caught.value, "coordinator").reason_name


@fault_case(
    Group.STOPPED,
    fault="the coordinator is told to stop, and the window ends within its drain timeout",
    sees="the acquisition goes on to SUCCEEDED, and who watches it sees that; new ones are refused as DRAINING",
    stored="everything",
)
async def test_coordinator_told_to_stop(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench:
        acquisition_id, before = await capturing(bench, SHORT_S)
        snapshots = bench.client.watch_acquisition(acquisition_id)
        await anext(snapshots)
        watching = asyncio.create_task(last(snapshots))
        stopping = asyncio.create_task(bench.terminate("coordinator"))
        await until(lambda: "event=service_stopping" in bench.log("coordinator"))
        # Once more while it drains: that changes nothing.
        bench.signal("coordinator", signal.SIGTERM)
        assert await refusal_of_new_work(bench.mesh.targets["coordinator"]) == "DRAINING"
        assert await stopping == 0
        assert waited_for(before)
        watched = await watching
        await bench.start("coordinator")
        final = await bench.ended(acquisition_id)
        assert watched == final
        await check_complete(bench, final, SHORT_S)


@fault_case(
    Group.STOPPED,
    fault="the fetcher and DSP are told to stop, and the window ends within their drain timeout",
    sees="SUCCEEDED; both end after the window",
    stored="everything",
)
async def test_fetcher_and_dsp_told_to_stop(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench:
        acquisition_id, before = await capturing(bench, SHORT_S)
        statuses = await asyncio.gather(bench.terminate("fetcher"), bench.terminate("dsp"))
        assert set(statuses) == {0}
        assert waited_for(before)
        await check_complete(bench, await bench.ended(acquisition_id), SHORT_S)


@fault_case(
    Group.STOPPED,
    fault="storage is told to stop, the window ends within its drain timeout, and it is started again",
    sees="SUCCEEDED; recordings that are being written are finished first, rows and the end of the acquisition wait",
    stored="everything",
)
async def test_storage_told_to_stop(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench:
        acquisition_id, before = await capturing(bench, SHORT_S)
        assert await bench.terminate("storage") == 0
        assert waited_for(before)
        assert "event=recording_stream_broken" not in bench.log("coordinator")
        await bench.start("storage")
        await check_complete(bench, await bench.ended(acquisition_id), SHORT_S)


@fault_case(
    Group.STOPPED,
    fault="the coordinator and storage are told to stop at once, and storage is started again",
    sees="SUCCEEDED: the coordinator waits for storage until its drain timeout",
    stored="everything",
)
async def test_coordinator_and_storage_told_to_stop_at_once(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench:
        acquisition_id, before = await capturing(bench, SHORT_S)
        stopping = asyncio.create_task(bench.terminate("coordinator"))
        assert await bench.terminate("storage") == 0
        assert waited_for(before)
        assert not stopping.done()
        await bench.start("storage")
        assert await stopping == 0
        await bench.start("coordinator")
        await check_complete(bench, await bench.ended(acquisition_id), SHORT_S)


@fault_case(
    Group.STOPPED,
    fault="`heimdall up` is told to stop: the coordinator first, then all the others",
    sees="SUCCEEDED if the window ends within the drain timeout",
    stored="everything",
)
async def test_all_four_told_to_stop_in_the_order_of_up(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS) as bench:
        acquisition_id, _ = await capturing(bench, SHORT_S)
        await bench.mesh.stop()
        assert [await bench.mesh.ended(name) for name in SERVICE_NAMES] == [0] * 4
        for name in SERVICE_NAMES:
            assert "drained=true" in bench.log(name), name
        await bench.start(*SERVICE_NAMES)
        await check_complete(bench, await bench.ended(acquisition_id), SHORT_S)


@fault_case(
    Group.STOPPED,
    fault="all four are told to stop at once, the window ends within their drain timeout, and they are started again",
    sees="PARTIALLY_SUCCEEDED with the reason COORDINATOR_RESTARTED, because storage ends before the coordinator has "
    "stored the end; each outcome has MEASUREMENT_MISSING",
    stored="every recording, complete and without a gap; no summary",
)
async def test_all_four_told_to_stop_at_once(tmp_path: Path) -> None:
    drain = {"HEIMDALL_MESH_DRAIN_TIMEOUT_S": "8"}
    async with fault_bench(tmp_path, STATIONS, variables=drain) as bench:
        acquisition_id, before = await capturing(bench, SHORT_S)
        statuses = await asyncio.gather(*(bench.terminate(name) for name in SERVICE_NAMES))
        assert set(statuses) == {0}
        assert waited_for(before)
        await bench.start(*SERVICE_NAMES)
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        assert reason_name(final.error.reason) == "COORDINATOR_RESTARTED"
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["MEASUREMENT_MISSING"], describe(final)
            assert outcome.recording.complete
            assert recording.sample_count == SHORT_S * SAMPLE_RATE_HZ
            assert recording.gaps == []


@fault_case(
    Group.STOPPED,
    fault="the coordinator is told to stop, and the window outlasts its drain timeout",
    sees="CANCELLED with the reason DRAINING; its receivers are free",
    stored="everything up to then, as readable recordings marked incomplete",
)
async def test_coordinator_told_to_stop_can_not_wait(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS, variables=SHORT_DRAIN) as bench:
        acquisition_id, _ = await capturing(bench, LONG_S)
        stations = bench.simulator.stations
        counts = {name: len(stations[name].sent) for name in NAMES}
        assert await bench.terminate("coordinator") == 0
        await until(lambda: not any(one.clients for one in stations.values()), timeout_s=1.0)
        await bench.start("coordinator")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("CANCELLED", ["CANCELLED"] * len(NAMES)), describe(final)
        assert reason_name(final.error.reason) == "DRAINING"
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["DRAINING"], describe(final)
            assert outcome.recording.state == Recording.STATE_STORED
            assert not outcome.recording.complete
            assert recording.sample_count == outcome.received_sample_count
            assert recording.gaps == []
            # The 2 s of its drain timeout were recorded too, up to the last frames.
            sent = sum(not frame.dropped for frame in stations[outcome.receiver_id].sent[counts[outcome.receiver_id] :])
            assert sent > 2 * 23
            assert recording.sample_count > BEFORE + (sent - 6) * 512


@fault_case(
    Group.STOPPED,
    fault="the fetcher is told to stop, the window outlasts its drain timeout, and it is started again",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one SERVICE_RESTART gap",
    stored="everything that a receiver sent while the fetcher was connected; the summary of all good samples",
)
async def test_fetcher_told_to_stop_can_not_wait(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS, variables=SHORT_DRAIN) as bench:
        acquisition_id, before = await capturing(bench, LONGEST_S)
        assert await bench.terminate("fetcher") == 0
        assert not waited_for(before)
        await until(lambda: not any(one.clients for one in bench.simulator.stations.values()), timeout_s=1.0)
        await bench.start("fetcher")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        assert bench.log("coordinator").count("the fetcher is stopping") == len(NAMES)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert outcome.HasField("measurement")
            assert recording.reasons == ["SERVICE_RESTART"]
            assert recording.end_index == pytest.approx(LONGEST_S * SAMPLE_RATE_HZ, abs=1)
            assert recording.sample_count == outcome.stored_sample_count
            assert recording.missed_count <= UNDER_WAY


@fault_case(
    Group.STOPPED,
    fault="DSP is told to stop, and the window outlasts its drain timeout",
    sees="PARTIALLY_SUCCEEDED; each outcome has the problem MEASUREMENT_MISSING, which names DRAINING",
    stored="every recording, complete and without a gap; no summary",
)
async def test_dsp_told_to_stop_can_not_wait(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS, variables=SHORT_DRAIN) as bench:
        acquisition_id, before = await capturing(bench, LONG_S)
        assert await bench.terminate("dsp") == 0
        assert not waited_for(before)
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * len(NAMES)), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["MEASUREMENT_MISSING"]
            assert outcome.problems[0].metadata["cause"] == "DRAINING"
            assert not outcome.HasField("measurement")
            assert outcome.recording.complete
            assert recording.sample_count == LONG_S * SAMPLE_RATE_HZ
            assert recording.gaps == []


@fault_case(
    Group.STOPPED,
    fault="storage is told to stop, the window outlasts its drain timeout, and it is started again",
    sees="SUCCEEDED: storage makes durable what it accepted, and the coordinator goes on where it got to",
    stored="everything, nothing twice",
)
async def test_storage_told_to_stop_can_not_wait(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, STATIONS, variables=SHORT_DRAIN) as bench:
        acquisition_id, before = await capturing(bench, LONG_S)
        assert await bench.terminate("storage") == 0
        assert not waited_for(before)
        assert bench.log("coordinator").count("reason=DRAINING") >= len(NAMES)
        await bench.start("storage")
        await check_complete(bench, await bench.ended(acquisition_id), LONG_S)
        assert not list((bench.folder / "data" / "spool").iterdir())
