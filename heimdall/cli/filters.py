"""The options that select recordings and measurements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, Final, TypeVar

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.cli.quantities import DURATION, FREQUENCY, TIME
from heimdall.client import record_filter
from heimdall.storage.v1.storage_pb2 import RecordFilter

ItemT = TypeVar("ItemT")

_HOUR_NS: Final = 3600 * 1_000_000_000


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, and hands them to the command as one RecordFilter called record_filter."""
    return click.option("--acquisition", default="", metavar="ID", help="Only this acquisition.")(
        aggregate_filter_options(command)
    )


def aggregate_filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds those options that select aggregates too, which are of no one acquisition."""

    @click.option("--receiver", "receivers", multiple=True, metavar="ID", help="Only this receiver; repeatable.")
    @click.option("--last", type=DURATION, help="Only what began in this time before now, such as 24h or 7d.")
    @click.option("--since", type=TIME, help="Only what begins at or after this time, RFC 3339 or -1h from now.")
    @click.option("--until", type=TIME, help="Only what begins before this time.")
    @click.option("--frequency", type=FREQUENCY, help="Only this centre frequency, within --tolerance.")
    @click.option("--tolerance", type=FREQUENCY, help="How far a centre frequency may be from it, such as 5kHz.")
    @click.option("--min-frequency", type=FREQUENCY, help="Only centre frequencies at or above this.")
    @click.option("--max-frequency", type=FREQUENCY, help="Only centre frequencies at or below this.")
    @wraps(command)
    def with_filter(
        *,
        receivers: tuple[str, ...],
        last: Duration | None,
        since: Timestamp | None,
        until: Timestamp | None,
        frequency: float | None,
        tolerance: float | None,
        min_frequency: float | None,
        max_frequency: float | None,
        acquisition: str = "",
        **others: Any,
    ) -> Any:
        if last is not None and since is not None:
            raise click.UsageError("--last and --since exclude each other")
        if (frequency is None) != (tolerance is None):
            raise click.UsageError("--frequency and --tolerance belong together, such as 145.5MHz and 5kHz")
        if frequency is not None and (min_frequency is not None or max_frequency is not None):
            raise click.UsageError("--frequency excludes --min-frequency and --max-frequency")
        try:
            selected = record_filter(
                frequency_hz=frequency,
                tolerance_hz=tolerance,
                last=None if last is None else last.ToTimedelta(),
                receiver_ids=receivers,
                acquisition_id=acquisition,
            )
        except (ValueError, OverflowError) as error:
            raise click.UsageError(f"--last: {error}") from error
        # Exact to the ns, which a datetime is not.
        selected.MergeFrom(
            RecordFilter(
                start_time=since, end_time=until, min_frequency_hz=min_frequency, max_frequency_hz=max_frequency
            )
        )
        return command(record_filter=selected, **others)

    return with_filter


def in_whole_buckets(selected: RecordFilter, bucket: Duration) -> RecordFilter:
    """Returns a filter whose times are widened until they cut no bucket.

    Args:
        selected: The filter.
        bucket: Length of a bucket; what is no whole hour of it is left out.
    """
    hours = max(1, bucket.ToNanoseconds() // _HOUR_NS)
    widened = RecordFilter()
    widened.CopyFrom(selected)
    if selected.HasField("start_time"):
        widened.start_time.FromNanoseconds(_floor(selected.start_time.ToNanoseconds(), hours * _HOUR_NS))
    if selected.HasField("end_time"):
        widened.end_time.FromNanoseconds(-_floor(-selected.end_time.ToNanoseconds(), hours * _HOUR_NS))
    return widened


def _floor(value: int, step: int) -> int:
    return value // step * step


def limit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --limit."""
    return click.option(
        "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many, the newest."
    )(command)


async def first_of(listed: AsyncGenerator[ItemT, None], limit: int) -> list[ItemT]:
    """Returns the first items of a list that comes page by page, and fetches no more of it.

    Args:
        listed: The list.
        limit: Most items to return, 1 or more.
    """
    found: list[ItemT] = []
    async with aclosing(listed):
        async for item in listed:
            found.append(item)
            if len(found) == limit:
                break
    return found
