"""The command `heimdall measurements`."""

from __future__ import annotations

from pathlib import Path

import click

from heimdall.cli import text
from heimdall.cli.filters import filter_options, limit_option
from heimdall.cli.outcome_table import missing_estimates
from heimdall.cli.output import print_json, print_table
from heimdall.cli.session import config_option, json_option, run_with_client
from heimdall.client import HeimdallClient
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.storage.v1.storage_pb2 import RecordFilter

_HEADINGS = (
    "time",
    "acquisition",
    "receiver",
    "centre",
    "rate Hz",
    "samples",
    "lost",
    "SNR dB",
    "in Hz",
    "offset Hz",
    "level dBFS",
    "noise dBFS/Hz",
    "clock",
)
_SHOWN_ESTIMATES = ("snr_db", "frequency_offset_hz", "power_dbfs", "noise_dbfs_per_hz")


@click.command()
@filter_options
@click.option("--windows", is_flag=True, help="Show measurement windows, not the summary of each recording.")
@limit_option
@click.option("--verbose", is_flag=True, help="Say why numbers are absent.")
@config_option
@json_option
def measurements(
    record_filter: RecordFilter, windows: bool, limit: int, verbose: bool, config: Path | None, as_json: bool
) -> None:
    """Shows measurements, newest first. 0 dBFS is a complex tone of magnitude 1; a dash is a number that is absent."""
    scope = MeasurementScope.MEASUREMENT_SCOPE_WINDOW if windows else MeasurementScope.MEASUREMENT_SCOPE_SUMMARY

    async def work(client: HeimdallClient) -> list[Measurement]:
        return [found async for found in client.query_measurements(record_filter, scope=scope, max_count=limit)]

    found = run_with_client(config, work)
    if as_json:
        for measurement in found:
            print_json(measurement)
        return
    print_table(_HEADINGS, (_row(measurement) for measurement in found), right=_HEADINGS[4:-1])
    if verbose:
        for measurement in found:
            for name, reason in missing_estimates(measurement, _SHOWN_ESTIMATES):
                click.echo(f"{text.utc(measurement.first_sample_unix_ns)} {measurement.receiver_id}: {name}: {reason}")


def _row(measurement: Measurement) -> tuple[str, ...]:
    bandwidth = measurement.snr_bandwidth_hz
    return (
        text.utc(measurement.first_sample_unix_ns),
        measurement.acquisition_id,
        measurement.receiver_id,
        text.frequency(measurement.center_frequency_hz),
        f"{measurement.sample_rate_hz:.4f}",
        f"{measurement.sample_count}",
        f"{measurement.lost_sample_count}",
        text.estimate(measurement.snr_db, digits=1),
        f"{bandwidth.value:.0f}" if bandwidth.HasField("value") else text.ABSENT,
        text.estimate(measurement.frequency_offset_hz, digits=3, signed=True),
        text.estimate(measurement.power_dbfs, digits=1),
        text.estimate(measurement.noise_dbfs_per_hz, digits=1),
        text.enum_label(measurement, "time_source"),
    )
