"""The command `heimdall`: finds the subcommand, and turns every failure into one line and an exit status."""

from __future__ import annotations

import sys
import time
from importlib import import_module, metadata
from typing import Final

import click

from heimdall.cli.status import ExitStatus

_COMMANDS: Final = {
    "acquire": "heimdall.cli.acquire:acquire",
    "acquisitions": "heimdall.cli.acquisitions:acquisitions",
    "dead-letters": "heimdall.cli.processes:dead_letters",
    "demo": "heimdall.cli.demo:demo",
    "health": "heimdall.cli.health:health",
    "measurements": "heimdall.cli.measurements:measurements",
    "migrate": "heimdall.cli.processes:migrate",
    "receivers": "heimdall.cli.receivers:receivers",
    "recordings": "heimdall.cli.recordings:recordings",
    "serve": "heimdall.cli.processes:serve",
    "simulate": "heimdall.cli.processes:simulate",
    "up": "heimdall.cli.up:up",
}


class _LazyGroup(click.Group):
    """A group that imports a command only when it is asked for, so that each starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), attribute)
        return command if isinstance(command, click.Command) else None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(metadata.version("heimdall-radio"), prog_name="heimdall")
def heimdall() -> None:
    """Records radio signals from many remote receivers at once.

    Exit status: 0 complete, 1 failed, 2 wrong usage or configuration, 3 partial.
    """


def main() -> None:
    """Runs the command line; every failure becomes one line on standard error."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command. The object of its click context is time.monotonic() at the start, for those that tell how long.

    Args:
        arguments: The command line without the name of the program.

    Returns:
        The exit status.
    """
    started = time.monotonic()
    try:
        status = heimdall.main(arguments, prog_name="heimdall", standalone_mode=False, obj=started)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitStatus.USAGE
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}{_usage_hint(error)}", err=True)
        return error.exit_code
    except click.Abort:
        click.echo("error: interrupted", err=True)
        return ExitStatus.FAILED
    return status if isinstance(status, int) else ExitStatus.COMPLETE


def _usage_hint(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f" (see {context.command_path} --help)" if context is not None else ""
