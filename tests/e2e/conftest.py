"""Fixtures that run the mesh as a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.live_mesh import COMMAND_TIMEOUT_S, LiveMesh, mesh_on_free_ports, read_until_serving

_SCENARIO = """
seed = 7

[[station]]
id = "good"
latitude_deg = 45.0
longitude_deg = 7.6
altitude_m = 300.0
tone = [{ offset_hz = 1000.0, dbm = -60.0 }]

[[station]]
id = "full"
latitude_deg = 45.1
longitude_deg = 7.7
altitude_m = 300.0
fault = [{ kind = "too_busy" }]
"""


@pytest.fixture(scope="module")
def simulated_stations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, object]]]:
    """Two simulated receivers: one good, one whose channels are all taken."""
    scenario = tmp_path_factory.mktemp("scenario") / "scenario.toml"
    scenario.write_text(_SCENARIO)
    process = subprocess.Popen(
        [sys.executable, "-m", "heimdall.cli", "simulate", str(scenario), "--any-port"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["stations"]
        finally:
            process.terminate()
            assert process.wait(COMMAND_TIMEOUT_S) == 0


@pytest.fixture
def mesh_folder(tmp_path: Path, simulated_stations: dict[str, dict[str, object]]) -> Iterator[LiveMesh]:
    """The files of a mesh that is not running."""
    with mesh_on_free_ports(tmp_path, simulated_stations) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def live_mesh(
    tmp_path_factory: pytest.TempPathFactory, simulated_stations: dict[str, dict[str, object]]
) -> Iterator[LiveMesh]:
    """A mesh that `heimdall up` runs for all tests of a module."""
    folder = tmp_path_factory.mktemp("mesh")
    with mesh_on_free_ports(folder, simulated_stations) as mesh, (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "heimdall.cli", "up"],
            env=mesh.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                read_until_serving(process)
                yield mesh
            finally:
                process.terminate()
                status = process.wait(COMMAND_TIMEOUT_S)
    assert status == 0, (folder / "up.log").read_text()
    assert mesh.process_ids() == {}
