"""A fault of the coordinator's own code in the middle of an acquisition."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator_svc import acquisition
from heimdall.client import acquisition_spec
from heimdall.common.v1.error_pb2 import ErrorReason
from tests.integration.mesh import last, running_mesh, state_names, station


async def test_an_acquisition_that_crashes_becomes_terminal_and_frees_its_receivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(acquisition, "choose_window", broken)
    async with running_mesh(tmp_path, [station("rx-1")]) as mesh, mesh.client() as client, asyncio.timeout(20):
        final = await last(client.acquire(acquisition_spec(7.1e6, 5.0, ["rx-1"])))
        assert state_names(final) == ("FAILED", ["FAILED"])
        assert final.outcomes[0].problems[0].reason == ErrorReason.ERROR_REASON_INTERNAL
        assert "ZeroDivisionError" not in final.outcomes[0].problems[0].message
        assert (await client.get_acquisition(final.acquisition_id)).state == final.state
        while mesh.simulator.stations["rx-1"].clients:  # noqa: ASYNC110 (the simulator has no event for it)
            await asyncio.sleep(0.02)
