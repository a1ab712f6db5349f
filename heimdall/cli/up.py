"""The command `heimdall up`."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from heimdall.cli.session import CommandError, config_option, read_settings, run_async
from heimdall.local import SERVICE_NAMES, LocalMesh, ProcessStartError, ports_from, reserved_ports
from heimdall.runtime.logs import configure_logs
from heimdall.runtime.settings import Settings


@click.command()
@config_option
@click.option(
    "--port-base",
    type=click.IntRange(1, 65536 - len(SERVICE_NAMES)),
    help="Port of the coordinator; fetcher, dsp and storage take the next three. Default: those of the settings.",
)
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where everything is kept. Default: settings."
)
def up(config: Path | None, port_base: int | None, data_dir: Path | None) -> None:
    """Runs the four services as four processes with the embedded stores, until SIGINT or SIGTERM."""
    settings = read_settings(config)
    configure_logs(settings.log, "up")
    environment = {} if data_dir is None else _kept_in(data_dir.resolve())
    with reserved_ports(settings.mesh.host) as spare:
        ports = _settings_ports(settings, spare) if port_base is None else ports_from(port_base)
        run_async(_run(LocalMesh(settings, ports, config=config, environment=environment), settings))


async def _run(mesh: LocalMesh, settings: Settings) -> None:
    with _cancel_on_signal():
        async with mesh:
            try:
                await mesh.start()
                for name, target in mesh.targets.items():
                    click.echo(f"{name} is SERVING at {target}")
                if elsewhere := _targets_unlike_settings(mesh.targets, settings):
                    click.echo(f"other commands look elsewhere; tell them: export {elsewhere}", err=True)
                await mesh.keep_running()
            except ProcessStartError as error:
                raise CommandError(str(error)) from error
            except asyncio.CancelledError:
                click.echo("stopping; running acquisitions are finished first, or cancelled in time", err=True)


@contextmanager
def _cancel_on_signal() -> Iterator[None]:
    """Cancels the current task on the first SIGINT or SIGTERM, and only then, so that its clean-up is not cut short."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    pending = {signal.SIGINT, signal.SIGTERM}

    def interrupt() -> None:
        if pending and task is not None:
            pending.clear()
            task.cancel()

    numbers = tuple(pending)
    for number in numbers:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _kept_in(folder: Path) -> dict[str, str]:
    """Returns the variables by which the services keep everything in a folder."""
    return {
        "HEIMDALL_STORAGE_DATA_DIR": str(folder),
        "HEIMDALL_FETCHER_STATE_FILE": str(folder / "fetcher.sqlite3"),
    }


def _targets_unlike_settings(targets: Mapping[str, str], settings: Settings) -> str:
    """Returns the variables that lead other commands to these targets; nothing if the settings do already."""
    section = settings.mesh
    if section.fetcher_targets == (targets["fetcher"],) and all(
        getattr(section, f"{name}_target") == targets[name] for name in ("coordinator", "dsp", "storage")
    ):
        return ""
    fetcher = f"HEIMDALL_MESH_FETCHER_TARGETS='{json.dumps([targets['fetcher']])}'"
    others = (f"HEIMDALL_MESH_{name.upper()}_TARGET={target}" for name, target in targets.items() if name != "fetcher")
    return " ".join([*others, fetcher])


def _settings_ports(settings: Settings, spare: Mapping[str, int]) -> dict[str, int]:
    """Returns the ports of the settings; a spare one where they say 0."""
    chosen = {
        "coordinator": settings.coordinator.port,
        "fetcher": settings.fetcher.port,
        "dsp": settings.dsp.port,
        "storage": settings.storage.port,
    }
    return {name: port or spare[name] for name, port in chosen.items()}
