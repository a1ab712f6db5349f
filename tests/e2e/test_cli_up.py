from __future__ import annotations

import os
import signal

import pytest

from heimdall.local import reserved_ports
from tests.e2e.live_mesh import COMMAND_TIMEOUT_S, LiveMesh, read_until_serving, wait_for

_SERVICES = {"coordinator_svc", "fetcher_svc", "dsp_svc", "storage_svc"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_runs_four_processes_and_ends_them_all_on_a_signal(mesh_folder: LiveMesh, number: signal.Signals) -> None:
    kept = mesh_folder.folder / "kept"
    with (
        reserved_ports("127.0.0.1", ["base"]) as ports,
        mesh_folder.start("up", "--port-base", str(ports["base"]), "--data-dir", str(kept)) as process,
    ):
        try:
            base = ports["base"]
            lines = read_until_serving(process)
            assert [line.split()[-1] for line in lines] == [f"127.0.0.1:{base + number}" for number in range(4)]
            assert set(mesh_folder.process_ids()) >= _SERVICES
            process.send_signal(number)
            _, log = process.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert mesh_folder.process_ids() == {}
    assert (kept / "fetcher.sqlite3").is_file()
    assert log.count("event=service_stopped") == 4
    assert "Traceback" not in log


def test_a_running_acquisition_is_finished_before_up_ends(mesh_folder: LiveMesh) -> None:
    with mesh_folder.start("up") as up:
        try:
            read_until_serving(up)
            with mesh_folder.start("acquire", "7100kHz", "--duration", "3s", "--receiver", "good") as acquire:
                assert acquire.stderr is not None
                while (line := acquire.stderr.readline()).strip() != "good: CAPTURING":
                    assert line
                up.terminate()
                out, _ = acquire.communicate(timeout=COMMAND_TIMEOUT_S)
            _, log = up.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            up.kill()
    assert acquire.returncode == 0, out
    assert up.returncode == 0
    assert log.count("drained=true") == 4


def test_no_service_outlives_an_up_that_is_killed(mesh_folder: LiveMesh) -> None:
    with mesh_folder.start("up") as process:
        read_until_serving(process)
        process.kill()
    assert wait_for(lambda: mesh_folder.process_ids() == {})


def test_a_service_that_dies_is_started_again(mesh_folder: LiveMesh) -> None:
    with mesh_folder.start("up") as process:
        try:
            read_until_serving(process)
            first = mesh_folder.process_ids()["dsp_svc"]
            os.kill(first, signal.SIGKILL)
            assert wait_for(lambda: mesh_folder.process_ids().get("dsp_svc", first) != first)
            assert wait_for(lambda: mesh_folder.run("health", "--service", "dsp").returncode == 0)
            process.terminate()
            _, log = process.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "event=service_died process=dsp status=-9" in log


def test_a_service_that_can_not_start_ends_all_with_its_own_words(mesh_folder: LiveMesh) -> None:
    (mesh_folder.folder / "receivers.toml").write_text('[[receiver]]\nreceiver_id = "Torino"\n')
    ran = mesh_folder.run("up")
    assert ran.returncode == 1
    assert "receiver 'Torino'" in ran.stderr
    assert "error: fetcher ended with status 2" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert mesh_folder.process_ids() == {}


def test_migrate_makes_the_tables_once_and_serve_is_the_service_itself(mesh_folder: LiveMesh) -> None:
    first = mesh_folder.run("migrate")
    assert (first.returncode, first.stdout.splitlines()) == (0, ["0001_initial", "0002_more_numbers", "0003_analysis"])
    again = mesh_folder.run("migrate")
    assert (again.returncode, again.stdout) == (0, "")
    with mesh_folder.start("serve", "storage") as process:
        try:
            assert wait_for(lambda: mesh_folder.run("health", "--service", "storage").returncode == 0)
            assert mesh_folder.process_ids() == {"storage_svc": process.pid}
        finally:
            process.terminate()
            _, log = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 0
    assert "event=service_stopped" in log
