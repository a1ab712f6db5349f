"""Rows of measurements in answers that fit into a message, whatever the rows hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from storage_svc.measurements.base import Cursor, MeasurementStore, RowFilter, measurement_cursor

MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Size of a batch of more than one row; the largest row has 1 MiB."""
_FIRST_ROW_COUNT: Final = 8


async def measurement_batches(
    rows: MeasurementStore, scope: MeasurementScope.ValueType, selected: RowFilter, batch_size: int, max_count: int
) -> AsyncIterator[list[Measurement]]:
    """Yields measurements, newest first.

    The database is asked for a few rows at first, and then for as many as have the size of a batch.

    Args:
        rows: The database.
        scope: Summaries or windows.
        selected: What to return.
        batch_size: Most measurements in a batch.
        max_count: Most measurements in all; 0 for all there are.

    Raises:
        HeimdallError: BACKEND_UNAVAILABLE.
    """
    batch, batch_bytes = list[Measurement](), 0
    after: Cursor | None = None
    asked, found = _FIRST_ROW_COUNT, 0
    while not max_count or found < max_count:
        limit = min(asked, max_count - found) if max_count else asked
        page = await rows.query_measurements(scope, selected, after, limit)
        sizes = [measurement.ByteSize() for measurement in page]
        for measurement, size_bytes in zip(page, sizes, strict=True):
            if batch and (len(batch) == batch_size or batch_bytes + size_bytes > MAX_BATCH_BYTES):
                yield batch
                batch, batch_bytes = [], 0
            batch.append(measurement)
            batch_bytes += size_bytes
        if len(page) < limit:
            break
        after, found = measurement_cursor(page[-1]), found + len(page)
        asked = max(1, min(batch_size, MAX_BATCH_BYTES // max(sizes)))
    if batch:
        yield batch
