"""Commands that become another program: one service, the simulator, the migrations, the dead letters."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from heimdall.cli.session import config_option, json_option
from heimdall.local import SERVICE_NAMES

_DEAD_LETTERS: Final = "storage_svc.dead_letters"


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


@click.group("dead-letters")
def dead_letters() -> None:
    """Shows, retries and drops rows that the database refused.

    They are in the data folder of the storage service, so it has to be on this machine; it may run or not.
    """


@dead_letters.command("list")
@config_option
@json_option
def list_command(config: Path | None, as_json: bool) -> None:
    """Lists dead letters, the oldest first; with --json also the rows themselves."""
    _become(_DEAD_LETTERS, "list", *_config_arguments(config), *(["--json"] if as_json else []))


@dead_letters.command("retry")
@click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@config_option
def retry_command(numbers: tuple[int, ...], every: bool, config: Path | None) -> None:
    """Puts dead letters behind the rows that wait; a storage service that runs feeds them to the database again."""
    _become(_DEAD_LETTERS, "retry", *_choice(numbers, every), *_config_arguments(config))


@dead_letters.command("drop")
@click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@config_option
def drop_command(numbers: tuple[int, ...], every: bool, config: Path | None) -> None:
    """Deletes dead letters, and with them their rows."""
    _become(_DEAD_LETTERS, "drop", *_choice(numbers, every), *_config_arguments(config))


def _choice(numbers: tuple[int, ...], every: bool) -> list[str]:
    if every == bool(numbers):
        raise click.UsageError("name the NUMBERs that heimdall dead-letters list shows, or --all")
    return ["--all"] if every else [str(number) for number in numbers]


def _config_arguments(config: Path | None) -> list[str]:
    return [] if config is None else ["--config", str(config)]


def _become(module: str, *arguments: str) -> None:
    """Replaces this process, so that signals and the exit status are the module's own."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
