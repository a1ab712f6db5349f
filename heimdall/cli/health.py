"""The command `heimdall health`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import click
from google.protobuf.struct_pb2 import Struct

from heimdall.cli.output import print_json, print_table
from heimdall.cli.session import config_option, json_option, read_settings, run_async
from heimdall.cli.status import ExitStatus
from heimdall.client import check_health
from heimdall.errors import HeimdallError
from heimdall.local import SERVICE_NAMES, full_name
from heimdall.runtime.settings import MeshSettings

_SERVING = "SERVING"
_UNKNOWN = "UNKNOWN"
_BACKENDS = ("objects", "measurements", "spool")
"""What the storage service keeps things in; each has a health of its own."""


@dataclass(frozen=True)
class _Health:
    service: str
    target: str
    status: str
    detail: str
    backends: dict[str, str]
    """Status by name; empty but for storage."""


@click.command()
@click.option(
    "--service",
    "services",
    type=click.Choice(SERVICE_NAMES),
    metavar="SERVICE",
    multiple=True,
    help="Only coordinator, fetcher, dsp or storage; repeatable.",
)
@config_option
@json_option
def health(services: tuple[str, ...], config: Path | None, as_json: bool) -> ExitStatus:
    """Asks every service whether it can do its work; exit status 1 if one can not.

    Also names what storage lacks: while its database or object store is away it goes on all the same.
    """
    results = run_async(_check_all(read_settings(config).mesh, services or SERVICE_NAMES))
    if as_json:
        for result in results:
            print_json(_to_message(result))
    else:
        print_table(("service", "target", "status"), ((r.service, r.target, r.status) for r in results))
        for result in results:
            if result.detail:
                click.echo(f"{result.service}: {result.detail}")
    return ExitStatus.COMPLETE if all(r.status == _SERVING for r in results) else ExitStatus.FAILED


async def _check_all(mesh: MeshSettings, services: tuple[str, ...]) -> list[_Health]:
    targets = {
        "coordinator": (mesh.coordinator_target,),
        "fetcher": mesh.fetcher_targets,
        "dsp": (mesh.dsp_target,),
        "storage": (mesh.storage_target,),
    }
    return await asyncio.gather(*(_check(name, target) for name in services for target in targets[name]))


async def _check(service: str, target: str) -> _Health:
    try:
        status = await check_health(target, full_name(service))
    except HeimdallError as error:
        return _Health(service, target, _UNKNOWN, f"{error.reason_name}: {error.message}", {})
    names = _BACKENDS if service == "storage" else ()
    answers = await asyncio.gather(*(_check_backend(target, f"{full_name(service)}/{name}") for name in names))
    backends = dict(zip(names, answers, strict=True))
    away = [f"{name} is {answer}" for name, answer in backends.items() if answer != _SERVING]
    return _Health(service, target, status, f"{', '.join(away)}; its log says why" if away else "", backends)


async def _check_backend(target: str, name: str) -> str:
    try:
        return await check_health(target, name)
    except HeimdallError:
        # It was not looked at yet, or nobody answers any more.
        return _UNKNOWN


def _to_message(result: _Health) -> Struct:
    message = Struct()
    message.update({"service": full_name(result.service), "target": result.target, "status": result.status})
    if result.backends:
        message.update({"backends": result.backends})
    return message
