"""What every command that talks to the mesh shares: its options, its connection and how its failures end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from heimdall.cli.status import ExitStatus
from heimdall.client import HeimdallClient
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import Settings, SettingsError, load_settings

CommandT = TypeVar("CommandT", bound=Callable[..., object])
ResultT = TypeVar("ResultT")


class CommandError(click.ClickException):
    """A failure that ends a command with one line of text: what was wrong, which value, what would be right."""

    exit_code = int(ExitStatus.FAILED)


class WrongUsageError(CommandError):
    """A failure that is due to the command line, the configuration or the request."""

    exit_code = int(ExitStatus.USAGE)


def config_option(command: CommandT) -> CommandT:
    """Adds --config."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="The heimdall.toml to read. Default: HEIMDALL_CONFIG, else none.",
    )(command)


def json_option(command: CommandT) -> CommandT:
    """Adds --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print protobuf JSON, one object a line.")(command)


def read_settings(config: Path | None) -> Settings:
    """Reads the settings.

    Args:
        config: The heimdall.toml, or None for the default.

    Raises:
        WrongUsageError: If a key or value is wrong.
    """
    try:
        return load_settings(config)
    except SettingsError as error:
        raise WrongUsageError(str(error)) from error


def run_with_client(config: Path | None, work: Callable[[HeimdallClient], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Connects to the mesh that the settings name, and does the work of a command.

    Args:
        config: The heimdall.toml, or None for the default.
        work: What to do.

    Raises:
        CommandError: If the work fails; a WrongUsageError if the mesh calls the request invalid.
    """
    settings = read_settings(config)

    async def connected() -> ResultT:
        async with HeimdallClient(settings.mesh.coordinator_target, settings.mesh.storage_target) as client:
            return await work(client)

    return run_async(connected())


def run_async(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Runs the work of a command in an event loop.

    Raises:
        CommandError: If the work fails; a WrongUsageError if the mesh calls the request invalid.
    """
    try:
        return asyncio.run(work)
    except HeimdallError as error:
        raise to_command_error(error) from error
    except OSError as error:
        raise CommandError(str(error)) from error


def to_command_error(error: HeimdallError) -> CommandError:
    """Returns how a failure of the mesh ends a command: its reason, its text, and every bad field."""
    kind = WrongUsageError if error.code == grpc.StatusCode.INVALID_ARGUMENT else CommandError
    # It names its peer if nobody answered there.
    away = error.reason == ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE and "peer" in error.metadata
    hint = "; is the mesh running (heimdall up), and does --config or HEIMDALL_CONFIG name it?" if away else ""
    return kind(f"{error.reason_name}: {error.message}{hint}")
