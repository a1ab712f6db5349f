"""A coordinator that is told to stop while an acquisition runs for longer than it may wait."""

from __future__ import annotations

import asyncio
from pathlib import Path

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from tests.integration.mesh import running_mesh, state_names, station


async def test_an_acquisition_that_outlasts_the_drain_ends_before_its_watchers_are_cut_off(tmp_path: Path) -> None:
    mesh_settings = {"drain_timeout_s": 0.5}
    async with (
        running_mesh(tmp_path, [station("rx-1")], mesh=mesh_settings) as mesh,
        mesh.client() as client,
        asyncio.timeout(20),
    ):
        snapshots: list[Acquisition] = []
        capturing = asyncio.Event()

        async def watch() -> None:
            async for snapshot in client.acquire(acquisition_spec(7.1e6, 60.0, ["rx-1"])):
                snapshots.append(snapshot)
                if snapshot.outcomes[0].stored_sample_count:
                    capturing.set()

        watching = asyncio.create_task(watch())
        await capturing.wait()
        await mesh.stop("coordinator")
        await watching
        final = snapshots[-1]
        assert state_names(final) == ("CANCELLED", ["CANCELLED"])
        assert final.error.reason == ErrorReason.ERROR_REASON_DRAINING
        outcome = final.outcomes[0]
        assert outcome.recording.state == Recording.STATE_STORED
        assert outcome.stored_sample_count == outcome.received_sample_count > 0
        assert mesh.simulator.stations["rx-1"].clients == 0
