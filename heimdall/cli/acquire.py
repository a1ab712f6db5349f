"""The command `heimdall acquire`."""

from __future__ import annotations

from pathlib import Path

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.cli import text
from heimdall.cli.outcome_table import print_acquisition
from heimdall.cli.output import print_json
from heimdall.cli.quantities import DURATION, FREQUENCY, TIME
from heimdall.cli.session import CommandError, WrongUsageError, config_option, json_option, run_with_client
from heimdall.cli.status import ExitStatus
from heimdall.cli.watch import ProgressLines, acquire_to_end, exit_status
from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec
from heimdall.common.v1.receiver_pb2 import GainMode
from heimdall.metrics import METRIC_NAMES, metric_named


@click.command()
@click.argument("frequency", type=FREQUENCY)
@click.option("--duration", type=DURATION, required=True, help="Length of the window, such as 5s, 250ms or 2m.")
@click.option(
    "--receiver", "receivers", multiple=True, help="Receiver to record from; repeatable. Default: all in range."
)
@click.option("--start-time", type=TIME, help="Start of the window, RFC 3339 or +10s from now. Default: soon.")
@click.option("--gain", type=float, help="Fixed gain in dB on the receivers' own scale. Default: theirs.")
@click.option("--agc", is_flag=True, help="Let the receivers control their gain; levels then mean nothing.")
@click.option("--max-wait", type=DURATION, help="How long to wait for the receivers to stream. Default: 5s.")
@click.option("--min-receivers", type=click.IntRange(min=1), help="Receivers that must deliver. Default: 1.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    type=click.Choice(METRIC_NAMES),
    help="What to measure; repeatable. Default: everything that is one number.",
)
@click.option("--request-id", default="", help="Your own id of this request; makes a repeat harmless.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Kept with the acquisition; repeatable.")
@config_option
@json_option
def acquire(
    frequency: float,
    duration: Duration,
    receivers: tuple[str, ...],
    start_time: Timestamp | None,
    gain: float | None,
    agc: bool,
    max_wait: Duration | None,
    min_receivers: int | None,
    metrics: tuple[str, ...],
    request_id: str,
    labels: tuple[str, ...],
    config: Path | None,
    as_json: bool,
) -> ExitStatus:
    """Records FREQUENCY, such as 145.5MHz, 7100kHz or 77500, from many receivers at once.

    Ctrl-C cancels the acquisition and keeps what was received. Exit status: 0 complete, 1 failed, 2 wrong usage,
    3 partial.
    """
    if agc and gain is not None:
        raise click.UsageError("--agc and --gain exclude each other; keep one")
    spec = AcquisitionSpec(
        duration=duration,
        receiver_ids=receivers,
        start_time=start_time,
        max_wait=max_wait,
        min_receivers=min_receivers or 0,
        labels=dict(_split_label(label) for label in labels),
    )
    spec.tuning.center_frequency_hz = frequency
    spec.tuning.gain_mode = GainMode.GAIN_MODE_AUTOMATIC if agc else GainMode.GAIN_MODE_MANUAL
    if gain is not None:
        spec.tuning.gain_db = gain
    spec.measurement.metrics.extend(metric_named(name) for name in metrics)

    async def work(client: HeimdallClient) -> Acquisition:
        if not spec.receiver_ids:
            spec.receiver_ids.extend(await _receivers_in_range(client, frequency))
        with ProgressLines() as progress:
            return await acquire_to_end(client, spec, request_id, progress)

    acquisition = run_with_client(config, work)
    if as_json:
        print_json(acquisition)
    else:
        print_acquisition(acquisition)
    return exit_status(acquisition)


async def _receivers_in_range(client: HeimdallClient, frequency_hz: float) -> list[str]:
    answer = await client.list_receivers()
    for target in answer.unreachable_fetchers:
        click.echo(f"warning: the fetcher at {target} does not answer; its receivers are left out", err=True)
    in_range = [r.receiver_id for r in answer.receivers if r.min_frequency_hz <= frequency_hz <= r.max_frequency_hz]
    if not in_range:
        ranges = sorted({(r.min_frequency_hz, r.max_frequency_hz) for r in answer.receivers})
        known = "; ".join(f"{text.frequency(low)} to {text.frequency(high)}" for low, high in ranges) or "none"
        kind = WrongUsageError if answer.receivers else CommandError
        raise kind(
            f"no receiver can be tuned to {text.frequency(frequency_hz)}; ranges of the {len(answer.receivers)} "
            f"receivers: {known}"
        )
    return in_range


def _split_label(label: str) -> tuple[str, str]:
    key, separator, value = label.partition("=")
    if not separator or not key:
        raise click.BadParameter(f"{label!r} is not a label; write KEY=VALUE", param_hint="--label")
    return key, value
