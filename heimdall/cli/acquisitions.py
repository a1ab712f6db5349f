"""The commands `heimdall acquisitions list|get|watch|cancel`."""

from __future__ import annotations

from pathlib import Path

import click

from heimdall.cli import text
from heimdall.cli.filters import first_of, limit_option
from heimdall.cli.outcome_table import print_acquisition
from heimdall.cli.output import print_json, print_table
from heimdall.cli.session import config_option, json_option, run_with_client
from heimdall.cli.status import ExitStatus
from heimdall.cli.watch import ProgressLines, exit_status, watch_to_end
from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition

_PREFIX = "STATE_"
_STATES = [name.removeprefix(_PREFIX) for name in Acquisition.State.keys()[1:]]
_HEADINGS = ("accepted", "acquisition", "state", "frequency", "duration", "receivers", "complete")


@click.group()
def acquisitions() -> None:
    """Shows and cancels acquisitions."""


@acquisitions.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(_STATES, case_sensitive=False),
    metavar="STATE",
    multiple=True,
    help="Only this state, such as failed; repeatable.",
)
@limit_option
@config_option
@json_option
def list_command(states: tuple[str, ...], limit: int, config: Path | None, as_json: bool) -> None:
    """Lists acquisitions, newest first."""

    async def work(client: HeimdallClient) -> list[Acquisition]:
        wanted = [Acquisition.State.Value(f"{_PREFIX}{state}") for state in states]
        return await first_of(client.list_acquisitions(wanted, page_size=min(limit, 1000)), limit)

    found = run_with_client(config, work)
    if as_json:
        for acquisition in found:
            print_json(acquisition)
    else:
        print_table(_HEADINGS, (_row(acquisition) for acquisition in found), right=("frequency", "duration"))


@acquisitions.command("get")
@click.argument("acquisition_id")
@config_option
@json_option
def get_command(acquisition_id: str, config: Path | None, as_json: bool) -> None:
    """Shows one acquisition as it is now."""

    async def work(client: HeimdallClient) -> Acquisition:
        return await client.get_acquisition(acquisition_id)

    _show(run_with_client(config, work), as_json=as_json)


@acquisitions.command("watch")
@click.argument("acquisition_id")
@config_option
@json_option
def watch_command(acquisition_id: str, config: Path | None, as_json: bool) -> ExitStatus:
    """Follows one acquisition to its end; with --json prints every snapshot. Exit status as that of acquire."""

    async def work(client: HeimdallClient) -> Acquisition:
        if as_json:
            return await watch_to_end(client, acquisition_id, print_json)
        with ProgressLines() as progress:
            return await watch_to_end(client, acquisition_id, progress)

    acquisition = run_with_client(config, work)
    if not as_json:
        print_acquisition(acquisition)
    return exit_status(acquisition)


@acquisitions.command("cancel")
@click.argument("acquisition_id")
@click.option("--discard", is_flag=True, help="Delete what was received; it is kept otherwise.")
@config_option
@json_option
def cancel_command(acquisition_id: str, discard: bool, config: Path | None, as_json: bool) -> None:
    """Cancels one acquisition; one that has ended stays as it is."""

    async def work(client: HeimdallClient) -> Acquisition:
        return await client.cancel_acquisition(acquisition_id, discard=discard)

    _show(run_with_client(config, work), as_json=as_json)


def _show(acquisition: Acquisition, *, as_json: bool) -> None:
    if as_json:
        print_json(acquisition)
    else:
        print_acquisition(acquisition)


def _row(acquisition: Acquisition) -> tuple[str, ...]:
    complete = sum(outcome.state == outcome.STATE_SUCCEEDED for outcome in acquisition.outcomes)
    return (
        text.utc(acquisition.create_time.ToNanoseconds()),
        acquisition.acquisition_id,
        text.enum_label(acquisition, "state"),
        text.frequency(acquisition.spec.tuning.center_frequency_hz),
        text.seconds(acquisition.spec.duration.ToNanoseconds()),
        f"{len(acquisition.spec.receiver_ids)}",
        f"{complete}",
    )
