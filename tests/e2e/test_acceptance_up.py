"""A mesh on other ports than those of its settings: what other commands have to be told."""

from __future__ import annotations

import shlex
from dataclasses import replace

from heimdall.local import reserved_ports
from tests.e2e.live_mesh import COMMAND_TIMEOUT_S, LiveMesh, read_until_serving


def test_up_on_other_ports_tells_how_commands_find_it(mesh_folder: LiveMesh) -> None:
    with (
        reserved_ports("127.0.0.1", ["base"]) as ports,
        mesh_folder.start("up", "--port-base", str(ports["base"])) as process,
    ):
        try:
            read_until_serving(process)
            assert process.stderr is not None
            while "; tell them: export " not in (line := process.stderr.readline()):
                assert line
            told = dict(word.split("=", 1) for word in shlex.split(line) if word.startswith("HEIMDALL_"))
            assert mesh_folder.run("health").returncode == 1
            found = replace(mesh_folder, environment=mesh_folder.environment | told).run("health")
            process.terminate()
            process.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            process.kill()
    assert found.returncode == 0, found.stdout
    assert found.stdout.count("SERVING") == 4


def test_up_on_the_ports_of_its_settings_says_nothing_of_it(mesh_folder: LiveMesh) -> None:
    with mesh_folder.start("up") as process:
        try:
            read_until_serving(process)
            process.terminate()
            _, log = process.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            process.kill()
    assert "export" not in log


def test_a_command_without_a_mesh_says_how_to_start_one(mesh_folder: LiveMesh) -> None:
    ran = mesh_folder.run("acquire", "7100kHz", "--duration", "1s")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: SERVICE_UNAVAILABLE: coordinator: ")
    assert "heimdall up" in line
