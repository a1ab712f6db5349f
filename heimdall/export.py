"""Measurements as a table in a file: CSV, Parquet or Arrow. Columns are called as in the database."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, TypeAlias, cast

from heimdall.common.v1.iq_pb2 import TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement
from heimdall.estimates import ESTIMATES, estimate_details, validity_label
from heimdall.timing import utc_text
from heimdall.whole_file import whole_file

ROWS_AT_ONCE: Final = 10_000
"""Most rows in memory; a row group of Parquet, a record batch of Arrow."""

_Row: TypeAlias = tuple[object, ...]


class TableFormat(Enum):
    """How a table is laid out in its file."""

    CSV = "csv"
    """Text with a line of headings; RFC 4180 with line feeds, UTF-8. What is absent is empty."""
    PARQUET = "parquet"
    """Apache Parquet, compressed with zstd."""
    ARROW = "arrow"
    """The Arrow IPC file format, also called Feather 2."""


class MissingPackageError(Exception):
    """A format needs a package that is not installed."""


class Kind(Enum):
    """What a column holds."""

    TIME = "time"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    name: str
    """Its heading, with the unit."""
    kind: Kind
    """What it holds; a TIME is ns since 1970."""
    of: Callable[[Measurement], object]
    """Returns its value; None if that is absent."""
    nullable: bool = False
    """Whether a value may be absent."""


def _value(name: str) -> Callable[[Measurement], object]:
    def value(measurement: Measurement) -> object:
        estimate: Estimate = getattr(measurement, name)
        return estimate.value if estimate.HasField("value") else None

    return value


def _validity(name: str) -> Callable[[Measurement], object]:
    def validity(measurement: Measurement) -> object:
        measured = measurement.HasField(name)  # type: ignore[arg-type]  # a name from the descriptor
        return validity_label(getattr(measurement, name)) if measured else None

    return validity


def _duration_s(measurement: Measurement) -> object:
    return measurement.sample_count / measurement.sample_rate_hz if measurement.sample_rate_hz > 0 else None


def _offset_sigma_hz(measurement: Measurement) -> object:
    offset = measurement.frequency_offset_hz
    return offset.sigma if offset.HasField("sigma") else None


def _time_source(measurement: Measurement) -> object:
    if measurement.time_source not in TimeSource.values():
        return str(measurement.time_source)
    return TimeSource.Name(measurement.time_source).removeprefix("TIME_SOURCE_")


def _estimate_columns() -> list[Column]:
    columns = list[Column]()
    for name in ESTIMATES:
        columns.append(Column(name, Kind.NUMBER, _value(name), nullable=True))
        if name == "frequency_offset_hz":
            columns.append(Column("frequency_offset_sigma_hz", Kind.NUMBER, _offset_sigma_hz, nullable=True))
        columns.append(Column(f"{name}_validity", Kind.TEXT, _validity(name), nullable=True))
    return columns


COLUMNS: Final = (
    Column("time", Kind.TIME, lambda measurement: measurement.first_sample_unix_ns),
    Column("task_id", Kind.TEXT, lambda measurement: measurement.acquisition_id),
    Column("receiver_id", Kind.TEXT, lambda measurement: measurement.receiver_id),
    Column("first_sample_index", Kind.INTEGER, lambda measurement: measurement.first_sample_index),
    Column("first_sample_unix_ns", Kind.INTEGER, lambda measurement: measurement.first_sample_unix_ns),
    Column("frequency_hz", Kind.NUMBER, lambda measurement: measurement.center_frequency_hz),
    Column("sample_rate_hz", Kind.NUMBER, lambda measurement: measurement.sample_rate_hz),
    Column("sample_count", Kind.INTEGER, lambda measurement: measurement.sample_count),
    Column("lost_sample_count", Kind.INTEGER, lambda measurement: measurement.lost_sample_count),
    Column("duration_s", Kind.NUMBER, _duration_s, nullable=True),
    *_estimate_columns(),
    Column("estimate_details", Kind.TEXT, estimate_details),
    Column("time_source", Kind.TEXT, _time_source),
)
"""Every column, in order."""


class _Table(Protocol):
    """A table that is being written."""

    def write(self, rows: Sequence[_Row]) -> None:
        """Writes rows."""

    def close(self) -> None:
        """Writes what has to follow the rows; the file stays open."""


class _CsvTable:
    """Writes rows as CSV, times as ISO 8601 in UTC with nanoseconds."""

    def __init__(self, file: BinaryIO) -> None:
        """Writes the headings."""
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(column.name for column in COLUMNS)

    def write(self, rows: Sequence[_Row]) -> None:
        """Writes rows."""
        for row in rows:
            self._writer.writerow(
                utc_text(cast(int, value)) if column.kind is Kind.TIME else value
                for column, value in zip(COLUMNS, row, strict=True)
            )

    def close(self) -> None:
        """Lets go of the file."""
        self._text.detach()


class _ArrowTable:
    """Writes rows as Parquet or Arrow."""

    def __init__(self, file: BinaryIO, table_format: TableFormat) -> None:
        """Writes the beginning.

        Raises:
            MissingPackageError: If pyarrow is not installed.
        """
        pyarrow = self._pyarrow = _pyarrow_for(table_format)
        types = {
            Kind.TIME: pyarrow.timestamp("ns", tz="UTC"),
            Kind.INTEGER: pyarrow.int64(),
            Kind.NUMBER: pyarrow.float64(),
            Kind.TEXT: pyarrow.string(),
        }
        self._schema = pyarrow.schema(
            [pyarrow.field(column.name, types[column.kind], nullable=column.nullable) for column in COLUMNS]
        )
        self._writer: Any
        if table_format is TableFormat.PARQUET:
            from pyarrow import parquet

            self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
        else:
            self._writer = pyarrow.ipc.new_file(file, self._schema)

    def write(self, rows: Sequence[_Row]) -> None:
        """Writes rows as one batch."""
        if not rows:
            return
        columns = [
            self._pyarrow.array(values, type=field.type)
            for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_batch(self._pyarrow.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        """Writes the footer."""
        self._writer.close()


def _pyarrow_for(table_format: TableFormat) -> Any:
    """Returns the package that writes Parquet and Arrow.

    Raises:
        MissingPackageError: If it is not installed; says what to install.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingPackageError(
            f"{table_format.value} needs pyarrow, which is not installed; install it with "
            "pip install 'heimdall-radio[export]', or export csv"
        ) from error
    return pyarrow


async def export_measurements(
    measurements: AsyncIterable[Measurement], path: Path, table_format: TableFormat = TableFormat.CSV
) -> int:
    """Writes measurements into a file as they come, at most ROWS_AT_ONCE of them in memory.

    Args:
        measurements: What to write, such as HeimdallClient.query_measurements.
        path: The file; it appears when all is written, and replaces one of that name.
        table_format: How the file is laid out.

    Returns:
        The number of rows.

    Raises:
        MissingPackageError: If pyarrow is needed and not installed.
        OSError: If the file can not be written.
        HeimdallError: What reading the measurements raises.
    """
    async with whole_file(path) as writer:
        table = await writer.run(partial(_open_table, writer.file, table_format))
        return await _fill(table, measurements, writer.run)


async def print_measurements(measurements: AsyncIterable[Measurement], stream: BinaryIO) -> int:
    """Writes measurements as CSV to a stream as they come; otherwise as export_measurements.

    Args:
        measurements: What to write.
        stream: Where to write, such as sys.stdout.buffer; it stays open.

    Returns:
        The number of rows.
    """
    return await _fill(_CsvTable(stream), measurements, asyncio.to_thread)


async def _fill(
    table: _Table, measurements: AsyncIterable[Measurement], run: Callable[[Callable[[], None]], Awaitable[None]]
) -> int:
    """Writes the rows of measurements and the end of the table, and returns the number of rows."""
    count = 0
    rows = list[_Row]()
    try:
        async for measurement in measurements:
            rows.append(tuple(column.of(measurement) for column in COLUMNS))
            if len(rows) == ROWS_AT_ONCE:
                await run(partial(table.write, rows))
                count, rows = count + len(rows), []
        await run(partial(table.write, rows))
    finally:
        await run(table.close)
    return count + len(rows)


def _open_table(file: BinaryIO, table_format: TableFormat) -> _Table:
    return _CsvTable(file) if table_format is TableFormat.CSV else _ArrowTable(file, table_format)
