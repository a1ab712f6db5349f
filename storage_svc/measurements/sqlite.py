"""Rows in one SQLite file: write-ahead log, one writer that commits what came in together, durable commits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog
from google.protobuf.message import DecodeError

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.storage.v1.storage_pb2 import MeasurementAggregate
from storage_svc.ids import RecordingKey
from storage_svc.measurements.base import Cursor, RowFilter, WriteCounts, revision_conflict
from storage_svc.measurements.rows import (
    acquisition_row,
    acquisition_state_name,
    aggregate_from_row,
    measurement_from_row,
    measurement_row,
    recording_row,
)
from storage_svc.measurements.sqlite_failures import SqliteFailures, unavailable
from storage_svc.measurements.sqlite_schema import connect, migrate
from storage_svc.measurements.sqlite_writer import SqliteWriter
from storage_svc.sql_files import load_queries

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_NEWEST_UNIX_NS = (1 << 63) - 1
_CONDITIONS = {
    "start_unix_ns": "{time} >= :start_unix_ns",
    "end_unix_ns": "{time} < :end_unix_ns",
    "min_frequency_hz": "frequency_hz >= :min_frequency_hz",
    "max_frequency_hz": "frequency_hz <= :max_frequency_hz",
    "receiver_ids": "receiver_id IN (SELECT value FROM json_each(:receiver_ids))",
    "task_id": "task_id = :task_id",
    "states": "state IN (SELECT value FROM json_each(:states))",
}
"""What each part of a filter says in SQL; values are always bound."""


class SqliteMeasurements:
    """The embedded database."""

    def __init__(self, reader: aiosqlite.Connection, writer: SqliteWriter, failures: SqliteFailures) -> None:
        """Takes two connections to a database of the newest schema; `open` makes them."""
        self._reader = reader
        self._writer = writer
        self._failures = failures
        self._queries = load_queries("sqlite")

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
        return cls(reader, writer, failures)

    async def watch(self) -> None:
        """Returns when the database was closed.

        Raises:
            Exception: What its writer crashed with: nothing is written any more.
        """
        await self._writer.watch()

    async def write_measurements(self, measurements: Sequence[Measurement]) -> WriteCounts:
        """Stores measurements; returns how many were new."""
        rows: dict[str, list[dict[str, object]]] = {"insert_summary": [], "insert_window": []}
        for measurement in measurements:
            is_summary = measurement.scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
            rows["insert_summary" if is_summary else "insert_window"].append(measurement_row(measurement))

        async def insert(connection: aiosqlite.Connection) -> int:
            inserted = 0
            for name, batch in rows.items():
                if batch:
                    inserted += (await connection.executemany(self._queries[name], batch)).rowcount
            return inserted

        return WriteCounts(await self._writer.run(insert))

    async def query_measurements(
        self, scope: MeasurementScope.ValueType, selected: RowFilter, after: Cursor | None, limit: int
    ) -> list[Measurement]:
        """Returns measurements, newest first."""
        is_summary = scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
        name = "select_summary" if is_summary else "select_window"
        after = after or (_NEWEST_UNIX_NS, "", "", 0)
        rows = await self._select(name, "first_sample_unix_ns", _filter_values(selected), after, limit)
        return _decode(rows, lambda row: measurement_from_row(dict(row), scope))

    async def put_recording(self, recording: Recording) -> None:
        """Makes or replaces the row of a recording, and tells its measurements."""
        row = recording_row(recording)
        mark = {name: row[name] for name in ("task_id", "receiver_id", "object_key", "state")}

        async def put(connection: aiosqlite.Connection) -> None:
            await connection.execute(self._queries["put_recording"], row)
            if recording.state != Recording.State.STATE_WRITING:
                await connection.execute(self._queries["mark_summary"], mark)
                await connection.execute(self._queries["mark_window"], mark)

        await self._writer.run(put)

    async def get_recording(self, key: RecordingKey) -> Recording | None:
        """Returns a recording; None if there is none."""
        rows = await self._fetch(self._queries["get_recording"], key._asdict())
        return next(iter(_decode(rows, lambda row: Recording.FromString(row["message"]))), None)

    async def list_recordings(self, selected: RowFilter, after: Cursor | None, limit: int) -> list[Recording]:
        """Returns recordings, newest window first."""
        after = after or (_NEWEST_UNIX_NS, "", "")
        rows = await self._select("select_recording", "window_start_unix_ns", _filter_values(selected), after, limit)
        return _decode(rows, lambda row: Recording.FromString(row["message"]))

    async def aggregate_measurements(
        self, selected: RowFilter, bucket_hours: int, after: Cursor | None, limit: int
    ) -> list[MeasurementAggregate]:
        """Summarises measurement summaries by bucket, receiver and centre frequency, newest bucket first."""
        values = _filter_values(selected) | {"bucket_hours": bucket_hours}
        after = after or (_NEWEST_UNIX_NS, "", 0.0)
        rows = await self._select("aggregate_summary", "first_sample_unix_ns", values, after, limit)
        return _decode(rows, lambda row: aggregate_from_row(dict(row)))

    async def put_acquisition(self, acquisition: Acquisition, expected_revision: int) -> bool:
        """Makes or replaces an acquisition that is still at the expected revision; never waits."""
        row = acquisition_row(acquisition)

        async def put(connection: aiosqlite.Connection) -> None:
            stored = await _fetch_all(connection, self._queries["get_acquisition"], {"task_id": row["task_id"]})
            if stored and stored[0]["message"] == row["message"]:
                return
            (revision,) = _decode(stored, lambda row: Acquisition.FromString(row["message"]).revision) or (0,)
            if revision != expected_revision:
                raise revision_conflict(acquisition.acquisition_id, revision, expected_revision)
            await connection.execute(self._queries["put_acquisition"], row)

        await self._writer.run(put)
        return False

    async def get_acquisition(self, acquisition_id: str) -> Acquisition | None:
        """Returns an acquisition; None if there is none."""
        rows = await self._fetch(self._queries["get_acquisition"], {"task_id": acquisition_id})
        return next(iter(_decode(rows, lambda row: Acquisition.FromString(row["message"]))), None)

    async def list_acquisitions(
        self, states: Sequence[Acquisition.State.ValueType], after: Cursor | None, limit: int
    ) -> list[Acquisition]:
        """Returns acquisitions in any of these states, newest first."""
        values: dict[str, object] = {}
        if states:
            values["states"] = json.dumps([acquisition_state_name(state) for state in states])
        after = after or (_NEWEST_UNIX_NS, "")
        rows = await self._select("select_acquisition", "create_unix_ns", values, after, limit)
        return _decode(rows, lambda row: Acquisition.FromString(row["message"]))

    async def ping(self) -> None:
        """Writes, durably: a transaction that changes nothing would succeed on a full disk."""

        async def write(connection: aiosqlite.Connection) -> None:
            # The number of the schema stays what it is, also if somebody migrates; its page is written all the same.
            (row,) = await _fetch_all(connection, "PRAGMA user_version", {})
            await connection.execute(f"PRAGMA user_version = {int(row[0])}")

        await self._writer.run(write)

    async def close(self) -> None:
        """Finishes what is being written and closes the file."""
        await self._writer.close()
        await self._reader.close()

    async def _select(
        self, name: str, time_column: str, values: dict[str, object], after: Cursor, limit: int
    ) -> list[sqlite3.Row]:
        conditions = "".join(
            f"\n    AND {_CONDITIONS[key].format(time=time_column)}" for key in values if key in _CONDITIONS
        )
        cursor = {f"after_{place}": value for place, value in enumerate(after)}
        query = self._queries[name].replace("{conditions}", conditions)
        return await self._fetch(query, {**values, **cursor, "limit": limit})

    async def _fetch(self, query: str, values: dict[str, Any]) -> list[sqlite3.Row]:
        self._failures.refuse_if_damaged()
        try:
            return await _fetch_all(self._reader, query, values)
        except sqlite3.Error as error:
            raise self._failures.meaning(error, "read") from error


def _filter_values(selected: RowFilter) -> dict[str, object]:
    """Returns the parts of a filter that are set, as values to bind."""
    values: dict[str, object] = {
        name: getattr(selected, name)
        for name in ("start_unix_ns", "end_unix_ns", "min_frequency_hz", "max_frequency_hz", "task_id")
        if getattr(selected, name) is not None
    }
    if selected.receiver_ids:
        values["receiver_ids"] = json.dumps(selected.receiver_ids)
    return values


async def _fetch_all(connection: aiosqlite.Connection, query: str, values: dict[str, Any]) -> list[sqlite3.Row]:
    return list(await connection.execute_fetchall(query, values))


def _decode(rows: Iterable[sqlite3.Row], decode: Callable[[sqlite3.Row], T]) -> list[T]:
    """Returns what rows say.

    Raises:
        HeimdallError: BACKEND_UNAVAILABLE if one of them does not say anything that makes sense.
    """
    try:
        return [decode(row) for row in rows]
    except (DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.exception("row_damaged")
        raise unavailable(f"one of the rows is damaged: {error}", "read") from error
