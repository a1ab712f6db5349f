"""The commands `heimdall measurements list|export|aggregate`; without one of them, list."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path

import click
from google.protobuf.duration_pb2 import Duration

from heimdall.cli import text
from heimdall.cli.filters import aggregate_filter_options, filter_options, first_of, in_whole_buckets, limit_option
from heimdall.cli.outcome_table import missing_estimates
from heimdall.cli.output import print_json, print_table
from heimdall.cli.quantities import DURATION
from heimdall.cli.session import CommandError, config_option, json_option, run_with_client
from heimdall.client import HeimdallClient
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.export import MissingPackageError, TableFormat, export_measurements, print_measurements
from heimdall.storage.v1.storage_pb2 import AggregatedQuantity, MeasurementAggregate, RecordFilter

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
_AGGREGATE_HEADINGS = (
    "bucket",
    "receiver",
    "centre",
    "measurements",
    "samples",
    "lost",
    "SNR dB",
    "offset Hz",
    "level dBFS",
    "noise dBFS/Hz",
)
_EXPORT_BATCH = 1000
_SHOWN_ESTIMATES = ("snr_db", "frequency_offset_hz", "power_dbfs", "noise_dbfs_per_hz")


class _ListByDefault(click.Group):
    """A group that lists if no command is named, so that options may follow its own name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = bool(args) and (not args[0].startswith("-") or args[0] in self.get_help_option_names(ctx))
        return super().parse_args(ctx, args if named else ["list", *args])


_windows_option = click.option(
    "--windows", is_flag=True, help="Measurement windows, not the summary of each recording."
)


@click.group(cls=_ListByDefault)
def measurements() -> None:
    """Shows measurements, exports and summarises them. Without a command: list."""


@measurements.command("list")
@filter_options
@_windows_option
@limit_option
@click.option("--verbose", is_flag=True, help="Say why numbers are absent.")
@config_option
@json_option
def list_command(
    record_filter: RecordFilter, windows: bool, limit: int, verbose: bool, config: Path | None, as_json: bool
) -> None:
    """Shows measurements, newest first. 0 dBFS is a complex tone of magnitude 1; a dash is a number that is absent.

    The word list may be left out.
    """

    async def work(client: HeimdallClient) -> list[Measurement]:
        found = client.query_measurements(record_filter, scope=_scope(windows), max_count=limit)
        return [measurement async for measurement in found]

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


@measurements.command("export")
@filter_options
@_windows_option
@click.option(
    "--format",
    "table_format",
    type=click.Choice([known.value for known in TableFormat]),
    default=TableFormat.CSV.value,
    show_default=True,
    help="Layout of the file; parquet and arrow need pyarrow: pip install 'heimdall-radio[export]'.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File to write; it appears when it is complete. Default: standard output, for csv.",
)
@config_option
def export_command(
    record_filter: RecordFilter, windows: bool, table_format: str, output: Path | None, config: Path | None
) -> None:
    """Writes all measurements that match as a table, newest first; docs/reading.md has the columns."""
    wanted = TableFormat(table_format)
    if output is None and wanted is not TableFormat.CSV:
        raise click.UsageError(f"--format {wanted.value} needs --output")

    async def work(client: HeimdallClient) -> int:
        found = client.query_measurements(record_filter, scope=_scope(windows), batch_size=_EXPORT_BATCH)
        async with aclosing(found):
            if output is not None:
                return await export_measurements(found, output, wanted)
            return await print_measurements(found, sys.stdout.buffer)

    try:
        count = run_with_client(config, work)
    except MissingPackageError as error:
        raise CommandError(str(error)) from error
    click.echo(f"{count} rows", err=True)


@measurements.command("aggregate")
@aggregate_filter_options
@click.option(
    "--bucket",
    type=DURATION,
    default="1h",
    show_default=True,
    help="Length of a bucket in whole hours, such as 6h or 1d, counted from 1970.",
)
@limit_option
@config_option
@json_option
def aggregate_command(
    record_filter: RecordFilter, bucket: Duration, limit: int, config: Path | None, as_json: bool
) -> None:
    """Summarises measurements by time, receiver and centre frequency, newest first.

    Shown are the mean, then the least and the greatest value; of an offset the standard deviation too. Only valid
    values count, not limits. Times are widened to whole buckets.
    """
    widened = in_whole_buckets(record_filter, bucket)
    if widened != record_filter:
        since, until = (
            text.utc(getattr(widened, name).ToNanoseconds()) if widened.HasField(name) else "open"
            for name in ("start_time", "end_time")
        )
        click.echo(f"times widened to whole buckets: since {since}, until {until}", err=True)

    async def work(client: HeimdallClient) -> list[MeasurementAggregate]:
        listed = client.aggregate_measurements(widened, bucket=bucket.ToTimedelta(), page_size=min(limit, 1000))
        return await first_of(listed, limit)

    found = run_with_client(config, work)
    if as_json:
        for aggregate in found:
            print_json(aggregate)
    else:
        print_table(_AGGREGATE_HEADINGS, map(_aggregate_row, found), right=_AGGREGATE_HEADINGS[2:])


def _aggregate_row(aggregate: MeasurementAggregate) -> tuple[str, ...]:
    return (
        text.utc(aggregate.bucket_start_time.ToNanoseconds()),
        aggregate.receiver_id,
        text.frequency(aggregate.center_frequency_hz),
        f"{aggregate.measurement_count}",
        f"{aggregate.sample_count}",
        f"{aggregate.lost_sample_count}",
        _spread(aggregate.snr_db, digits=1),
        _spread(aggregate.frequency_offset_hz, digits=3),
        _spread(aggregate.power_dbfs, digits=1),
        _spread(aggregate.noise_dbfs_per_hz, digits=1),
    )


def _spread(quantity: AggregatedQuantity, *, digits: int) -> str:
    """Returns mean, standard deviation if there is one, and range."""
    if not quantity.HasField("mean"):
        return text.ABSENT
    deviation = f" ± {quantity.standard_deviation:.{digits}f}" if quantity.HasField("standard_deviation") else ""
    return f"{quantity.mean:.{digits}f}{deviation} ({quantity.min:.{digits}f}..{quantity.max:.{digits}f})"


def _scope(windows: bool) -> MeasurementScope.ValueType:
    return MeasurementScope.MEASUREMENT_SCOPE_WINDOW if windows else MeasurementScope.MEASUREMENT_SCOPE_SUMMARY


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
