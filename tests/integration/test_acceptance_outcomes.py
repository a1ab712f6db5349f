"""Outcomes that an operator acts on: a slot that is taken, a recording that is cut short."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import StreamState
from heimdall.errors import reason_name
from heimdall.storage.v1.storage_pb2 import RecordFilter
from simulator import Fault
from tests.integration.mesh import last, running_mesh, state_names, station

_WAIT_S = 20.0


@pytest.mark.parametrize("others", [(), ("rx-2",)], ids=["alone", "beside a free one"])
async def test_a_receiver_in_use_at_another_frequency_is_busy(tmp_path: Path, others: tuple[str, ...]) -> None:
    async with running_mesh(tmp_path, [station("rx-1"), station("rx-2")]) as mesh, mesh.client() as client:
        running = await client.start_acquisition(acquisition_spec(7.1e6, 60.0, ["rx-1"]))
        async with asyncio.timeout(_WAIT_S):
            async for snapshot in client.watch_acquisition(running.acquisition_id):
                if snapshot.outcomes[0].stored_sample_count:
                    break
            wanted = acquisition_spec(7.2e6, 0.5, ["rx-1", *others])
            wanted.max_wait.FromMilliseconds(700)
            refused = await last(client.acquire(wanted))
        states = ["FAILED", *["SUCCEEDED" for _ in others]]
        assert state_names(refused) == ("PARTIALLY_SUCCEEDED" if others else "FAILED", states)
        assert [reason_name(problem.reason) for problem in refused.outcomes[0].problems] == ["RECEIVER_BUSY"]
        assert "slots" in refused.outcomes[0].problems[0].message
        # The one that had it is none the worse.
        cancelled = await client.cancel_acquisition(running.acquisition_id)
        assert cancelled.outcomes[0].lost_sample_count == 0


async def test_a_cancelled_recording_is_kept_and_marked_incomplete(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")]) as mesh, mesh.client() as client:
        running = await client.start_acquisition(acquisition_spec(7.1e6, 60.0, ["rx-1"]))
        async with asyncio.timeout(_WAIT_S):
            async for snapshot in client.watch_acquisition(running.acquisition_id):
                if snapshot.outcomes[0].stored_sample_count:
                    break
        await client.cancel_acquisition(running.acquisition_id)
        chosen = RecordFilter(acquisition_id=running.acquisition_id)
        (recording,) = [recording async for recording in client.list_recordings(chosen)]
        assert recording.sample_count > 0
        assert not recording.complete
        assert recording.incomplete_cause.reason == ErrorReason.ERROR_REASON_CANCELLED
        stated = json.loads(await asyncio.to_thread(Path(recording.location).read_text))["global"]
        assert stated["heimdall:complete"] is False
        assert stated["heimdall:incomplete_cause"]["reason"] == "ERROR_REASON_CANCELLED"
        events = [event async for event in client.read_recording(running.acquisition_id, "rx-1")]
        assert sum(event.block.sample_count for event in events) == recording.sample_count


async def test_a_receiver_that_was_away_when_it_was_cancelled_says_so(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")]) as mesh, mesh.client() as client:
        running = await client.start_acquisition(acquisition_spec(7.1e6, 60.0, ["rx-1"]))
        gone = False
        async with asyncio.timeout(_WAIT_S):
            async for snapshot in client.watch_acquisition(running.acquisition_id):
                outcome = snapshot.outcomes[0]
                if outcome.stored_sample_count and not gone:
                    gone = True
                    await mesh.simulator.stations["rx-1"].inject(Fault(kind="port_closed"))
                    await mesh.simulator.stations["rx-1"].inject(Fault(kind="drop"))
                if outcome.stream_state == StreamState.STREAM_STATE_RECONNECTING:
                    break
        cancelled = await client.cancel_acquisition(running.acquisition_id)
        reasons = [reason_name(problem.reason) for problem in cancelled.outcomes[0].problems]
        assert reasons[0] == "CANCELLED"
        assert set(reasons[1:]) & {"UPSTREAM_CONNECTION_LOST", "UPSTREAM_UNREACHABLE"}, reasons
