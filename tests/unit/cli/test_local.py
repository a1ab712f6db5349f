from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tomllib
from pathlib import Path

import grpc
import pytest

from heimdall.local import LocalMesh, ProcessStartError, TiedProcess, ports_from, reserved_ports, run_together
from heimdall.local.receivers_file import with_urls
from heimdall.runtime.options import SERVER_OPTIONS
from heimdall.runtime.settings import Settings

_TIMEOUT_S = 20.0


def _module(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), os.getcwd())))
    return name


_OBEDIENT = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[1])))
print("ready", flush=True)
signal.pause()
"""

_STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


async def test_a_module_gets_its_arguments_and_ends_on_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module(tmp_path, "obedient", _OBEDIENT, monkeypatch)
    process = await TiedProcess.start("child", module, ["7"], read_output=True)
    assert await process.read_line(_TIMEOUT_S) == "ready\n"
    assert await process.stop(_TIMEOUT_S) == 7


async def test_a_module_that_does_not_obey_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await TiedProcess.start("child", _module(tmp_path, "stubborn", _STUBBORN, monkeypatch), read_output=True)
    await process.read_line(_TIMEOUT_S)
    assert await process.stop(0.1) == -signal.SIGKILL


_PARENT = """
import asyncio, sys
from heimdall.local import TiedProcess

async def main():
    child = await TiedProcess.start("child", "obedient", ["0"], read_output=True)
    await child.read_line(20)
    print(child.pid, flush=True)
    await child.wait()

asyncio.run(main())
"""


async def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _module(tmp_path, "obedient", _OBEDIENT, monkeypatch)
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", _PARENT, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(_TIMEOUT_S):
        child_pid = int(await parent.stdout.readline())
        child = os.pidfd_open(child_pid)
        parent.kill()
        await parent.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(child, ended.set)
        try:
            await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(child)
            os.close(child)


async def test_the_last_words_of_a_module_that_dies_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module(tmp_path, "doomed", "import sys\nsys.exit('the disk is full')", monkeypatch)
    process = await TiedProcess.start("child", module, log_file=tmp_path / "child.log", read_output=True)
    with pytest.raises(ProcessStartError, match=r"child ended with status 1.*\n.*the disk is full"):
        await process.read_line(_TIMEOUT_S)


async def test_the_first_failure_of_several_steps_is_raised_and_ends_the_others() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def failing() -> None:
        raise ProcessStartError("no")

    with pytest.raises(ProcessStartError, match="no"):
        await run_together(endless(), failing())
    assert ended.is_set()


async def test_a_taken_port_is_refused_before_anything_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, reserved_ports("127.0.0.1") as free:
        ports = free | {"dsp": taken.getsockname()[1]}
        async with LocalMesh(Settings(), ports) as mesh:
            with pytest.raises(
                ProcessStartError, match=rf"dsp can not listen on 127.0.0.1:{ports['dsp']} .*--port-base"
            ):
                await mesh.start("dsp")
            assert mesh.pids == {}


def test_the_processes_are_told_where_each_other_is() -> None:
    mesh = LocalMesh(Settings(), ports_from(6000), environment={"HEIMDALL_STORAGE_DATA_DIR": "/data"})
    assert mesh.environment() == {
        "HEIMDALL_COORDINATOR_PORT": "6000",
        "HEIMDALL_FETCHER_PORT": "6001",
        "HEIMDALL_DSP_PORT": "6002",
        "HEIMDALL_STORAGE_PORT": "6003",
        "HEIMDALL_MESH_COORDINATOR_TARGET": "127.0.0.1:6000",
        "HEIMDALL_MESH_FETCHER_TARGETS": '["127.0.0.1:6001"]',
        "HEIMDALL_MESH_DSP_TARGET": "127.0.0.1:6002",
        "HEIMDALL_MESH_STORAGE_TARGET": "127.0.0.1:6003",
        "HEIMDALL_MESH_DRAIN_NOTICE_S": "0",
    }


def test_reserved_ports_are_four_different_ones_that_no_outgoing_connection_is_given() -> None:
    with reserved_ports("127.0.0.1") as ports:
        assert len(set(ports.values())) == 4
        assert max(ports.values()) < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_a_port_that_somebody_listens_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("heimdall.local.mesh._OUTGOING_FREE_PORTS", range(port, port + 1))
        with pytest.raises(OSError, match="no free port"), reserved_ports("127.0.0.1"):
            pass


async def test_a_reserved_port_is_kept_for_its_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heimdall.local.mesh._OUTGOING_FREE_PORTS", range(29_000, 29_100))
    with reserved_ports("127.0.0.1", map(str, range(50))) as ports:
        with reserved_ports("127.0.0.1", map(str, range(20))) as others:
            assert not set(ports.values()) & set(others.values())
        for _ in range(2):
            server = grpc.aio.server(options=SERVER_OPTIONS)
            assert server.add_insecure_port(f"127.0.0.1:{ports['0']}") == ports["0"]
            await server.start()
            await server.stop(0)


def test_receivers_move_to_new_addresses_and_keep_everything_else(repo_root: Path) -> None:
    document = (repo_root / "config" / "receivers.toml").read_text()
    moved = tomllib.loads(with_urls(document, {"genova": "http://127.0.0.1:9", "torino": "http://127.0.0.1:8"}))
    before = {entry["receiver_id"]: entry for entry in tomllib.loads(document)["receiver"]}
    assert moved["receiver"] == [
        {**before["genova"], "url": "http://127.0.0.1:9"},
        {**before["torino"], "url": "http://127.0.0.1:8"},
    ]
    with pytest.raises(ValueError, match=r"no receiver is called roma; there are .*genova"):
        with_urls(document, {"roma": "http://127.0.0.1:9"})
