"""`python -m simulator` as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.integration.simulator.recorder import Recorder

SCENARIO = """
[[station]]
id = "torino"
port = {port}
latitude_deg = 45.0
longitude_deg = 7.0
altitude_m = 250.0
"""


async def launch(repo_root: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "simulator",
        *arguments,
        cwd=repo_root,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serves_until_the_signal(repo_root: Path, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO.format(port=1), encoding="utf-8")
    process = await launch(repo_root, str(path), "--any-port")
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 15)
        place = json.loads(line)["stations"]["torino"]
        assert place["host"] == "127.0.0.1"
        async with Recorder(place["port"]) as recorder:
            await recorder.run(frame_count=3)
            process.send_signal(number)
            rest, errors = await asyncio.wait_for(process.communicate(), 10)
        assert (process.returncode, rest) == (0, b"")
        assert b"Traceback" not in errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_bad_scenario_is_explained_without_a_traceback(repo_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO.format(port=70000), encoding="utf-8")
    process = await launch(repo_root, str(path))
    output, errors = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, output) == (2, b"")
    assert b"station[torino].port" in errors
    assert b"70000" in errors
    assert b"Traceback" not in errors


async def test_port_in_use_is_explained(repo_root: Path, tmp_path: Path) -> None:
    async def ignore(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        path = tmp_path / "scenario.toml"
        path.write_text(SCENARIO.format(port=port), encoding="utf-8")
        process = await launch(repo_root, str(path))
        output, errors = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, output) == (2, b"")
    assert f"station torino: cannot open 127.0.0.1:{port}".encode() in errors
    assert b"Traceback" not in errors
