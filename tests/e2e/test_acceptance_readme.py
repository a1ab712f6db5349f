"""What the README shows, done as it says, with only the addresses exchanged."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from google.protobuf import json_format

from fetcher_svc.inventory import load_receivers
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.local.receivers_file import with_urls
from heimdall.runtime.settings import load_settings
from tests.conftest import REPO_ROOT
from tests.e2e.live_mesh import COMMAND_TIMEOUT_S, LiveMesh, mesh_on_free_ports, read_until_serving
from tests.integration.built_tools import built_tool

_README = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
# Torino's and Genova's true sample rates in config/demo.toml.
_RATES_HZ = {"torino": 11998.9312, "genova": 11998.9150}


def _code(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)
    return str(found)


def _commands(program: str) -> list[list[str]]:
    """Returns the indented commands that begin with a program, as a shell splits them."""
    joined = _README.replace("\\\n", " ")
    lines = re.findall(rf"^    ({re.escape(program)} .*)$", joined, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def example_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMesh]:
    """The example network and its services, on free ports."""
    folder = tmp_path_factory.mktemp("readme")
    (simulate,) = (words[1:] for words in _commands(".venv/bin/heimdall") if words[1] == "simulate")
    command = [sys.executable, "-m", "heimdall.cli", *simulate, "--any-port"]
    with ExitStack() as stack:
        simulator = stack.enter_context(subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True))
        assert simulator.stdout is not None
        try:
            stations = json.loads(simulator.stdout.readline())["stations"]
            mesh = stack.enter_context(mesh_on_free_ports(folder, stations))
            urls = {name: f"http://{station['host']}:{station['port']}" for name, station in stations.items()}
            shipped = (REPO_ROOT / "config" / "receivers.toml").read_text(encoding="utf-8")
            (folder / "receivers.toml").write_text(with_urls(shipped, urls), encoding="utf-8")
            with (
                (folder / "up.log").open("w") as log,
                subprocess.Popen(
                    [sys.executable, "-m", "heimdall.cli", "up"],
                    env=mesh.environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                ) as up,
            ):
                try:
                    read_until_serving(up)
                    yield mesh
                finally:
                    up.terminate()
                    assert up.wait(COMMAND_TIMEOUT_S) == 0, (folder / "up.log").read_text()
        finally:
            simulator.terminate()
            assert simulator.wait(COMMAND_TIMEOUT_S) == 0


def test_its_commands_and_its_program_work(example_mesh: LiveMesh) -> None:
    targets = load_settings(example_mesh.folder / "heimdall.toml").mesh
    own = {"127.0.0.1:50051": targets.coordinator_target, "127.0.0.1:50054": targets.storage_target}

    (grpcurl,) = _commands("grpcurl")
    called = subprocess.run(
        [built_tool("grpcurl"), *(own.get(word, word) for word in grpcurl[1:])],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert called.returncode == 0, called.stderr
    acquisition_id = json.loads(called.stdout)["acquisition"]["acquisitionId"]

    program = _code("python")
    for address, target in own.items():
        assert address in program
        program = program.replace(address, target)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    *snapshots, final = [line for line in ran.stdout.splitlines() if line.startswith("[")]
    assert snapshots
    for count, rate_hz in zip(json.loads(final), _RATES_HZ.values(), strict=True):
        assert abs(count - 5 * rate_hz) < 1
    blocks = [line.split() for line in ran.stdout.splitlines() if not line.startswith("[")]
    assert sum(int(count) for _, count in blocks) == json.loads(final)[0]

    watched = example_mesh.run("acquisitions", "watch", acquisition_id, "--json")
    started_by_grpcurl = json_format.Parse(watched.stdout.splitlines()[-1], Acquisition())
    assert started_by_grpcurl.state == Acquisition.STATE_SUCCEEDED

    typed = [words[1:] for words in _commands(".venv/bin/heimdall") if words[1] not in ("simulate", "up")]
    assert [words[0] for words in typed] == ["acquire", "recordings", "measurements"]
    for words in typed:
        done = example_mesh.run(*words)
        assert done.returncode == 0, done.stderr
        for name in ("torino", "genova", "milano-baggio"):
            assert name in done.stdout


def test_its_receiver_is_one_that_a_fetcher_accepts(tmp_path: Path) -> None:
    path = tmp_path / "receivers.toml"
    path.write_text(_code("toml"))
    (receiver,) = load_receivers(path)
    assert receiver.receiver_id == "my-kiwi"
    assert "heimdall acquire 7100kHz --duration 10 --receiver my-kiwi" in _README
    assert receiver.min_frequency_hz <= 7.1e6 <= receiver.max_frequency_hz
