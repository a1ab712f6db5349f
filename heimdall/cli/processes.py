"""Commands that become another program: one service, the simulator, the migrations."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from heimdall.cli.session import config_option
from heimdall.local import SERVICE_NAMES


@click.command()
@click.argument("service", metavar="SERVICE", type=click.Choice(SERVICE_NAMES))
@config_option
def serve(service: str, config: Path | None) -> None:
    """Runs one SERVICE (coordinator, fetcher, dsp or storage) until SIGTERM."""
    _become(f"{service}_svc", *_config_arguments(config))


@click.command()
@click.argument("scenario", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--any-port", is_flag=True, help="Take free ports, not those of the scenario.")
def simulate(scenario: Path, host: str, any_port: bool) -> None:
    """Runs the simulated receivers of SCENARIO, a TOML file, until SIGTERM.

    Prints one line of JSON with the stations' ports once they listen.
    """
    _become("simulator", str(scenario), "--host", host, *(["--any-port"] if any_port else []))


@click.command()
@config_option
def migrate(config: Path | None) -> None:
    """Brings the tables of the storage service to the newest schema."""
    _become("storage_svc.migrate", *_config_arguments(config))


def _config_arguments(config: Path | None) -> list[str]:
    return [] if config is None else ["--config", str(config)]


def _become(module: str, *arguments: str) -> None:
    """Replaces this process, so that signals and the exit status are the module's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
