"""The command `heimdall receivers`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click
import grpc

from heimdall.cli import text
from heimdall.cli.output import print_json, print_table
from heimdall.cli.session import config_option, json_option, read_settings, run_async, run_with_client
from heimdall.cli.status import ExitStatus
from heimdall.client import HeimdallClient
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.coordinator.v1.coordinator_pb2 import ListReceiversResponse
from heimdall.errors import from_rpc_error
from heimdall.fetcher.v1 import fetcher_pb2, fetcher_pb2_grpc
from heimdall.runtime.channel import open_channel

if TYPE_CHECKING:
    from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceAsyncStub

_HEADINGS = ("receiver", "name", "driver", "range", "slots", "state", "latitude", "longitude", "altitude m")
_PROBE_HEADINGS = ("receiver", "reachable", "in service", "channels", "satellites", "GNSS stamps", "ms", "software")


@click.command()
@click.option("--probe", is_flag=True, help="Ask each receiver how it is; takes none of its channels.")
@config_option
@json_option
def receivers(probe: bool, config: Path | None, as_json: bool) -> ExitStatus:
    """Lists the receivers of the network. With --probe, exit status 3 if some do not answer and 1 if none does."""
    if not probe:
        return _list(config, as_json=as_json)
    answers = run_async(_probe_all(read_settings(config).mesh.fetcher_targets))
    if as_json:
        for answer in answers:
            print_json(answer)
    else:
        print_table(_PROBE_HEADINGS, (_probe_row(answer) for answer in answers), right=("channels", "satellites", "ms"))
        for answer in answers:
            if not answer.reachable:
                click.echo(f"{answer.receiver.receiver_id}: {text.problem(answer.receiver.last_error)}")
    reachable = sum(answer.reachable for answer in answers)
    if reachable == len(answers):
        return ExitStatus.COMPLETE
    return ExitStatus.PARTIAL if reachable else ExitStatus.FAILED


def _list(config: Path | None, *, as_json: bool) -> ExitStatus:
    async def work(client: HeimdallClient) -> ListReceiversResponse:
        return await client.list_receivers()

    answer = run_with_client(config, work)
    if as_json:
        for receiver in answer.receivers:
            print_json(receiver)
    else:
        print_table(
            _HEADINGS, (_row(receiver) for receiver in answer.receivers), right=("latitude", "longitude", "altitude m")
        )
    for target in answer.unreachable_fetchers:
        click.echo(f"warning: the fetcher at {target} does not answer; its receivers are not shown", err=True)
    return ExitStatus.PARTIAL if answer.unreachable_fetchers else ExitStatus.COMPLETE


async def _probe_all(targets: tuple[str, ...]) -> list[fetcher_pb2.ProbeReceiverResponse]:
    """Returns the answer of every receiver of every fetcher, asked all at once."""
    groups = await asyncio.gather(*(_probe_fetcher(target) for target in targets))
    return [answer for group in groups for answer in group]


async def _probe_fetcher(target: str) -> list[fetcher_pb2.ProbeReceiverResponse]:
    async with open_channel("fetcher", target) as channel:
        stub: FetcherServiceAsyncStub = fetcher_pb2_grpc.FetcherServiceStub(channel)
        try:
            listed = await stub.ListReceivers(fetcher_pb2.ListReceiversRequest())
            return await asyncio.gather(*(_probe(stub, receiver) for receiver in listed.receivers))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"fetcher at {target}") from error


async def _probe(stub: FetcherServiceAsyncStub, receiver: Receiver) -> fetcher_pb2.ProbeReceiverResponse:
    return await stub.ProbeReceiver(fetcher_pb2.ProbeReceiverRequest(receiver_id=receiver.receiver_id))


def _row(receiver: Receiver) -> tuple[str, ...]:
    return (
        receiver.receiver_id,
        receiver.display_name,
        receiver.driver,
        f"{text.frequency(receiver.min_frequency_hz)} to {text.frequency(receiver.max_frequency_hz)}",
        f"{receiver.used_slot_count}/{receiver.slot_count}",
        text.enum_label(receiver, "state"),
        f"{receiver.position.latitude_deg:.4f}",
        f"{receiver.position.longitude_deg:.4f}",
        f"{receiver.position.altitude_m:.0f}",
    )


def _probe_row(answer: fetcher_pb2.ProbeReceiverResponse) -> tuple[str, ...]:
    channels = text.ABSENT
    if answer.HasField("used_channel_count") and answer.HasField("channel_count"):
        channels = f"{answer.used_channel_count}/{answer.channel_count}"
    return (
        answer.receiver.receiver_id,
        "yes" if answer.reachable else "no",
        ("yes" if answer.in_service else "no") if answer.reachable else text.ABSENT,
        channels,
        f"{answer.gnss_satellite_count}" if answer.HasField("gnss_satellite_count") else text.ABSENT,
        ("yes" if answer.gnss_stamps_enabled else "no") if answer.HasField("gnss_stamps_enabled") else text.ABSENT,
        f"{answer.round_trip.ToMilliseconds()}" if answer.HasField("round_trip") else text.ABSENT,
        answer.server_version or text.ABSENT,
    )
