from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from heimdall.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["acquire", "145.5mhz", "--duration", "5"], "'145.5mhz' is not a frequency; write it like 145.5MHz"),
        (["acquire", "145.5MHz"], "Missing option '--duration'"),
        (["acquire", "145.5MHz", "--duration", "5w"], "'5w' is not a duration"),
        (["acquire", "145.5MHz", "--duration", "5", "--start-time", "noon"], "'noon' is not a time"),
        (["acquire", "145.5MHz", "--duration", "5", "--label", "x"], "'x' is not a label; write KEY=VALUE"),
        (["acquire", "145.5MHz", "--duration", "5", "--agc", "--gain", "50"], "--agc and --gain exclude each other"),
        (["acquire", "145.5MHz", "--duration", "5", "--min-receivers", "0"], "0 is not in the range x>=1"),
        (["acquisitions", "list", "--state", "done"], "'done' is not one of"),
        (["serve", "radio"], "'radio' is not one of"),
        (["simulate", "missing.toml"], "'missing.toml' does not exist"),
        (["up", "--port-base", "65534"], "65534 is not in the range"),
    ],
)
def test_wrong_usage_is_one_line_with_status_2(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert part in line


@pytest.mark.parametrize(
    "command", [["up"], ["health"], ["receivers"], ["acquisitions", "list"], ["recordings", "list"]]
)
def test_a_wrong_key_of_the_configuration_is_named_with_status_2(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "heimdall.toml"
    config.write_text("[storage]\nport = 99999\nspool = 3\n")
    assert run([*command, "--config", str(config)]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {config}: ")
    assert "storage.port" in text
    assert "99999" in text
    assert "storage.spool: no such key (value 3)" in text
    assert "Traceback" not in text


def test_a_mesh_that_is_away_is_one_line_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Port 1 of the loopback: nobody listens there.
    monkeypatch.setenv("HEIMDALL_MESH_COORDINATOR_TARGET", "127.0.0.1:1")
    assert run(["acquisitions", "get", "a1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: SERVICE_UNAVAILABLE: coordinator: ")
    assert line.endswith("; is the mesh running (heimdall up), and does --config or HEIMDALL_CONFIG name it?")


def test_health_of_a_mesh_that_is_away_names_every_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("COORDINATOR_TARGET", "DSP_TARGET", "STORAGE_TARGET"):
        monkeypatch.setenv(f"HEIMDALL_MESH_{name}", "127.0.0.1:1")
    monkeypatch.setenv("HEIMDALL_MESH_FETCHER_TARGETS", '["127.0.0.1:1"]')
    assert run(["health"]) == 1
    printed = capsys.readouterr().out
    for name in ("coordinator", "fetcher", "dsp", "storage"):
        assert f"{name}: SERVICE_UNAVAILABLE" in printed


async def test_health_names_what_storage_lacks_though_it_can_do_its_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = grpc.aio.server()
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setenv("HEIMDALL_MESH_STORAGE_TARGET", f"127.0.0.1:{port}")
    up, down = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for name, status in (("", up), ("/objects", up), ("/measurements", down)):
        await health.set(f"heimdall.storage.v1.StorageService{name}", status)
    assert await asyncio.to_thread(run, ["health", "--service", "storage"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "storage: measurements is NOT_SERVING, spool is UNKNOWN; its log says why"
    )
    assert await asyncio.to_thread(run, ["health", "--service", "storage", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == "SERVING"
    assert printed["backends"] == {"objects": "SERVING", "measurements": "NOT_SERVING", "spool": "UNKNOWN"}
    await server.stop(0)


def test_the_command_line_needs_no_arrays() -> None:
    code = """
import sys
from heimdall.cli.main import run
assert run(["--help"]) == 0
assert run(["acquire", "--help"]) == 0
print(sorted({"numpy", "scipy", "aiohttp"} & sys.modules.keys()), file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stderr == "[]\n"
