"""The command `heimdall demo`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
from google.protobuf.duration_pb2 import Duration

from heimdall.cli.outcome_table import print_acquisition
from heimdall.cli.output import print_json, short_path
from heimdall.cli.quantities import DURATION
from heimdall.cli.session import CommandError, WrongUsageError, json_option, read_settings, run_async
from heimdall.cli.shipped import shipped_file
from heimdall.cli.status import ExitStatus
from heimdall.cli.watch import ProgressLines, acquire_to_end, exit_status
from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec
from heimdall.local import SERVICE_NAMES, LocalMesh, ProcessStartError, TiedProcess, reserved_ports, run_together
from heimdall.local.receivers_file import receiver_ids, with_urls

_FREQUENCY_HZ = 145.5e6
_LOG_FOLDER = "logs"
_RECEIVERS_FILE = "receivers.toml"
_STATE_FILE = "fetcher.sqlite3"
_READY_TIMEOUT_S = 20.0
_SIMULATOR_HOST = "127.0.0.1"


@click.command()
@click.option("--duration", type=DURATION, default="5s", show_default=True, help="Length of the window.")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Empty or new folder to keep everything in. Default: heimdall-data/demo-TIME.",
)
@json_option
@click.pass_obj
def demo(started: float, duration: Duration, data_dir: Path | None, as_json: bool) -> ExitStatus:
    """Runs the whole mesh and seven simulated receivers, acquires 145.5 MHz once, and stops everything again.

    What was recorded stays in the folder. Exit status: 0 complete, 1 failed, 3 partial.
    """
    folder = _fresh_folder(data_dir)
    acquisition = run_async(_run(folder, duration))
    if as_json:
        print_json(acquisition)
    else:
        print_acquisition(acquisition)
        click.echo(f"kept in {short_path(str(folder))}; wall time {time.monotonic() - started:.2f} s")
    return exit_status(acquisition)


def _fresh_folder(data_dir: Path | None) -> Path:
    name = f"demo-{datetime.now(UTC):%Y%m%dT%H%M%S}Z"
    folder = (Path("heimdall-data") / name if data_dir is None else data_dir).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise WrongUsageError(f"{folder} holds something already; name a new or empty folder")
        (folder / _LOG_FOLDER).mkdir()
    except OSError as error:
        raise WrongUsageError(f"{folder} can not be used: {error.strerror}; name a new or empty folder") from error
    return folder


async def _run(folder: Path, duration: Duration) -> Acquisition:
    settings = read_settings(None)
    environment = {
        "HEIMDALL_STORAGE_DATA_DIR": str(folder),
        "HEIMDALL_FETCHER_RECEIVERS_FILE": str(folder / _RECEIVERS_FILE),
        "HEIMDALL_FETCHER_STATE_FILE": str(folder / _STATE_FILE),
    }
    receivers = shipped_file("receivers.toml").read_text(encoding="utf-8")
    # Ports are chosen here, so that the fetcher need not wait for the simulator to tell its own.
    with reserved_ports(_SIMULATOR_HOST, receiver_ids(receivers)) as ports, reserved_ports(settings.mesh.host) as own:
        urls = {name: f"http://{_SIMULATOR_HOST}:{port}" for name, port in ports.items()}
        (folder / _RECEIVERS_FILE).write_text(with_urls(receivers, urls), encoding="utf-8")
        async with LocalMesh(settings, own, environment=environment, log_dir=folder / _LOG_FOLDER) as mesh:
            try:
                await run_together(_start_simulator(mesh, folder, ports), mesh.start(*SERVICE_NAMES))
            except ProcessStartError as error:
                raise CommandError(str(error)) from error
            return await _acquire(mesh, list(ports), duration)


async def _acquire(mesh: LocalMesh, receivers: list[str], duration: Duration) -> Acquisition:
    spec = AcquisitionSpec(duration=duration, receiver_ids=receivers)
    spec.tuning.center_frequency_hz = _FREQUENCY_HZ
    async with HeimdallClient(mesh.targets["coordinator"], mesh.targets["storage"]) as client:
        with ProgressLines() as progress:
            return await acquire_to_end(client, spec, "", progress)


async def _start_simulator(mesh: LocalMesh, folder: Path, ports: Mapping[str, int]) -> None:
    arguments = [str(shipped_file("demo.toml")), "--host", _SIMULATOR_HOST]
    for name, port in ports.items():
        arguments += ["--port", f"{name}={port}"]
    log_file = folder / _LOG_FOLDER / "simulator.log"
    simulator = await TiedProcess.start("simulator", "simulator", arguments, log_file=log_file, read_output=True)
    mesh.adopt(simulator)
    await simulator.read_line(_READY_TIMEOUT_S)
