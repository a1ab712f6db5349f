"""Rows in one SQLite file: write-ahead log, one writer that commits what came in together, durable commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.timing import utc_text
from storage_svc.measurements.base import WriteCounts
from storage_svc.measurements.rows import measurement_row
from storage_svc.measurements.sql import Row, SqlMeasurements
from storage_svc.measurements.sqlite_failures import SqliteFailures
from storage_svc.measurements.sqlite_schema import connect, migrate
from storage_svc.measurements.sqlite_writer import SqliteConnection, SqliteWriter
from storage_svc.sql_files import load_queries

_log = structlog.get_logger(__name__)


class SqliteMeasurements(SqlMeasurements[SqliteConnection]):
    """The embedded database."""

    CONDITIONS = {  # noqa: RUF012 (never changed)
        "start_unix_ns": "{time} >= :start_unix_ns",
        "end_unix_ns": "{time} < :end_unix_ns",
        "min_frequency_hz": "frequency_hz >= :min_frequency_hz",
        "max_frequency_hz": "frequency_hz <= :max_frequency_hz",
        "receiver_ids": "receiver_id IN (SELECT value FROM json_each(:receiver_ids))",
        "task_id": "task_id = :task_id",
        "states": "state IN (SELECT value FROM json_each(:states))",
    }

    def __init__(self, reader: SqliteConnection, writer: SqliteWriter, failures: SqliteFailures) -> None:
        """Takes two connections to a database of the newest schema; `open` makes them."""
        super().__init__(load_queries("sqlite"), writer)
        self._reader = reader
        self._failures = failures

    @classmethod
    async def open(cls, path: Path) -> SqliteMeasurements:
        """Opens the database, making or migrating it.

        Args:
            path: The file.

        Raises:
            DatabaseUnusableError: If the file is no database, is damaged, or is of a later version.
        """
        await migrate(path)
        failures = SqliteFailures(path)
        reader = await connect(path)
        try:
            writer = SqliteWriter(await connect(path), failures)
        except BaseException:
            await reader.close()
            raise
        return cls(SqliteConnection(reader), writer, failures)

    async def write_measurements(self, measurements: Sequence[Measurement]) -> WriteCounts:
        """Stores measurements; returns how many were new."""
        rows: dict[str, list[dict[str, object]]] = {"insert_summary": [], "insert_window": []}
        for measurement in measurements:
            is_summary = measurement.scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
            rows["insert_summary" if is_summary else "insert_window"].append(measurement_row(measurement, self.time))
        return WriteCounts(await self._writer.run(self._insert, rows, len(measurements)))

    @staticmethod
    def time(unix_ns: int) -> str:
        """Returns a time in ns since 1970 as text."""
        return utc_text(unix_ns)

    async def close(self) -> None:
        """Finishes what is being written and closes the file."""
        await self._writer.close()
        await self._reader.close()

    async def _insert(
        self, connection: SqliteConnection, groups: Sequence[Mapping[str, Sequence[Row]]]
    ) -> Sequence[int]:
        return [
            sum([await connection.execute_many(self._queries[name], rows) for name, rows in group.items() if rows])
            for group in groups
        ]

    async def _ping(self, connection: SqliteConnection, pings: Sequence[None]) -> Sequence[None]:
        # The number of the schema stays what it is, also if somebody migrates; its page is written all the same.
        (row,) = await connection.fetch("PRAGMA user_version", {})
        await connection.execute(f"PRAGMA user_version = {int(row['user_version'])}", {})
        return pings

    async def _fetch(self, query: str, values: Row) -> Sequence[Row]:
        self._failures.refuse_if_damaged()
        try:
            return await self._reader.fetch(query, values)
        except sqlite3.Error as error:
            raise self._failures.meaning(error, "read") from error
