"""The command line of every service process."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from collections.abc import Callable
from pathlib import Path

import click

from heimdall.runtime.background import ServiceFailedError
from heimdall.runtime.heap import use_one_heap
from heimdall.runtime.logs import configure_logs
from heimdall.runtime.server import ServiceDefinition, run_until_signal
from heimdall.runtime.settings import Settings, SettingsError, load_settings


def main(name: str, define: Callable[[Settings], ServiceDefinition]) -> None:
    """Runs one service as a process.

    It ends with status 0 after SIGTERM, with 2 and one line of text if it can not start, and with 1 and one line if a
    part of it crashed, so that whoever watches it starts it again.

    Args:
        name: Short name of the service, such as fetcher.
        define: Builds the definition from the settings; may raise SettingsError.
    """

    @click.command(name=name, help=f"Runs the {name} service until SIGTERM.")
    @click.option("--config", type=click.Path(path_type=Path), help="The heimdall.toml to read.")
    def command(config: Path | None) -> None:
        # A disk that gives up under a mapped file ends the process with SIGBUS: then it says at least where.
        faulthandler.enable()
        try:
            settings = load_settings(config)
            configure_logs(settings.log, name)
            use_one_heap()
            asyncio.run(run_until_signal(define(settings), settings))
        except (SettingsError, OSError) as error:
            click.echo(f"{name}: {error}", err=True)
            sys.exit(2)
        except ServiceFailedError as error:
            click.echo(f"{name}: {error}", err=True)
            sys.exit(1)

    command()
