"""A coordinator killed in mid-acquisition: nothing acknowledged is lost, and nothing stays unfinished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from heimdall.client import HeimdallClient, acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.iq_pb2 import GapReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import reason_name
from tests.integration.mesh import Mesh, running_mesh, state_names, station
from tests.integration.service_process import service_process

NAMES = ("rx-1", "rx-2")
DURATION_S = 30.0


def variables(mesh: Mesh) -> Mapping[str, str]:
    targets = mesh.settings.mesh
    return {
        "HEIMDALL_MESH_FETCHER_TARGETS": f'["{targets.fetcher_targets[0]}"]',
        "HEIMDALL_MESH_DSP_TARGET": targets.dsp_target,
        "HEIMDALL_MESH_STORAGE_TARGET": targets.storage_target,
    }


async def captured(client: HeimdallClient, acquisition_id: str, sample_count: int) -> Acquisition:
    async with asyncio.timeout(20):
        async for snapshot in client.watch_acquisition(acquisition_id):
            if all(outcome.stored_sample_count >= sample_count for outcome in snapshot.outcomes):
                return snapshot
    raise AssertionError("the acquisition ended first")


async def test_kill_9_leaves_readable_recordings_and_a_terminal_acquisition(tmp_path: Path) -> None:
    stations = [station(name) for name in NAMES]
    async with running_mesh(tmp_path, stations, without=["coordinator"]) as mesh:
        storage = mesh.target("storage")
        spec = acquisition_spec(7.1e6, DURATION_S, NAMES)
        async with service_process("coordinator", tmp_path, variables(mesh)) as first:
            async with HeimdallClient(await first.address(), storage) as client:
                started = await client.start_acquisition(spec, "survives")
                before = await captured(client, started.acquisition_id, 6000)
            first.process.kill()
            killed_s = time.monotonic()
            async with asyncio.timeout(5):
                while any(one.clients for one in mesh.simulator.stations.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert time.monotonic() - killed_s < 1.0
        async with (
            service_process("coordinator", tmp_path, variables(mesh)) as second,
            HeimdallClient(await second.address(), storage) as client,
        ):
            final = await client.start_acquisition(spec, "survives")
            assert final.acquisition_id == started.acquisition_id
            assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2)
            assert reason_name(final.error.reason) == "COORDINATOR_RESTARTED"
            assert final.revision > before.revision or final.revision > started.revision
            for then, outcome in zip(before.outcomes, final.outcomes, strict=True):
                await check_outcome(client, final, then, outcome)


async def check_outcome(
    client: HeimdallClient, final: Acquisition, then: ReceiverOutcome, outcome: ReceiverOutcome
) -> None:
    assert outcome.stored_sample_count >= then.stored_sample_count
    assert outcome.recording.state == Recording.STATE_STORED
    assert not outcome.recording.complete
    assert reason_name(outcome.problems[0].reason) == "COORDINATOR_RESTARTED"
    events = [event async for event in client.read_recording(final.acquisition_id, outcome.receiver_id)]
    held = sum(event.block.sample_count for event in events if event.HasField("block"))
    gaps = [event.gap for event in events if event.HasField("gap")]
    assert held == outcome.stored_sample_count
    assert [gap.reason for gap in gaps] == [GapReason.GAP_REASON_SERVICE_RESTART]
    assert held + gaps[0].lost_sample_count == outcome.expected_sample_count == DURATION_S * 12_000
