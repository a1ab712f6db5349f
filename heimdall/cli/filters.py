"""The options that select recordings and measurements."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.cli.quantities import FREQUENCY, TIME
from heimdall.storage.v1.storage_pb2 import RecordFilter


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, and hands them to the command as one RecordFilter called record_filter."""

    @click.option("--acquisition", default="", metavar="ID", help="Only this acquisition.")
    @click.option("--receiver", "receivers", multiple=True, metavar="ID", help="Only this receiver; repeatable.")
    @click.option("--since", type=TIME, help="Only what begins at or after this time, RFC 3339 or -1h from now.")
    @click.option("--until", type=TIME, help="Only what begins before this time.")
    @click.option("--min-frequency", type=FREQUENCY, help="Only centre frequencies at or above this.")
    @click.option("--max-frequency", type=FREQUENCY, help="Only centre frequencies at or below this.")
    @wraps(command)
    def with_filter(
        *,
        acquisition: str,
        receivers: tuple[str, ...],
        since: Timestamp | None,
        until: Timestamp | None,
        min_frequency: float | None,
        max_frequency: float | None,
        **others: Any,
    ) -> Any:
        record_filter = RecordFilter(
            acquisition_id=acquisition,
            receiver_ids=receivers,
            start_time=since,
            end_time=until,
            min_frequency_hz=min_frequency,
            max_frequency_hz=max_frequency,
        )
        return command(record_filter=record_filter, **others)

    return with_filter


def limit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --limit."""
    return click.option(
        "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most this many, the newest."
    )(command)
