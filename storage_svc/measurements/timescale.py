"""Rows in TimescaleDB, or in PostgreSQL without it: a pool of connections, one writer, COPY."""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.runtime.settings import TimescaleSettings
from storage_svc.measurements import timescale_schema
from storage_svc.measurements.base import WriteCounts
from storage_svc.measurements.rows import MEASUREMENT_COLUMNS, measurement_row
from storage_svc.measurements.sql import Row, SqlMeasurements
from storage_svc.measurements.timescale_connection import TimescaleConnection
from storage_svc.measurements.timescale_failures import DatabaseAddress
from storage_svc.measurements.writer import GroupWriter, unavailable
from storage_svc.sql_files import load_queries

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MIGRATION_TIMEOUT_S: Final = 600.0
"""Longest time that a statement of a migration may take, or wait for another service that migrates."""
_MS_PER_S: Final = 1000
_TIMES: Final = {"start_time": "start_unix_ns", "end_time": "end_unix_ns", "after_time": "after_0"}
"""Values that narrow the column time, beside those in ns that decide."""

_INSERT_TRIES: Final = 3
"""Attempts at inserting rows that another service inserts too."""
_INSERT_COLUMNS: Final = (*MEASUREMENT_COLUMNS, "object_key", "state")

_Key: TypeAlias = tuple[Any, ...]
"""Acquisition, receiver and, of a window, its first index."""
_Rows: TypeAlias = dict[_Key, tuple[Any, ...]]
"""Rows by their key; the first of a key stays."""


class TimescaleMeasurements(SqlMeasurements[TimescaleConnection]):
    """The served database. It may be away when this is made; it is migrated when it is first reached."""

    CONDITIONS = {  # noqa: RUF012 (never changed)
        "start_unix_ns": "time >= :start_time AND {time} >= :start_unix_ns",
        "end_unix_ns": "time <= :end_time AND {time} < :end_unix_ns",
        "min_frequency_hz": "frequency_hz >= :min_frequency_hz",
        "max_frequency_hz": "frequency_hz <= :max_frequency_hz",
        "receiver_ids": "receiver_id = ANY(CAST(:receiver_ids AS text[]))",
        "task_id": "task_id = :task_id",
        "states": "state = ANY(CAST(:states AS text[]))",
    }

    def __init__(self, settings: TimescaleSettings) -> None:
        """Connects nowhere yet.

        Raises:
            SettingsError: If the address of the database is none, or its password can not be read.
        """
        self._settings = settings
        self._address = DatabaseAddress(settings)
        writer = GroupWriter(
            self._transaction, max_wait_s=settings.batch_interval_s, max_row_count=settings.batch_row_count
        )
        super().__init__(load_queries("postgres"), writer)
        self._pool: Pool | None = None
        self._opening: asyncio.Task[Pool] | None = None

    async def write_measurements(self, measurements: Sequence[Measurement]) -> WriteCounts:
        """Stores measurements; returns how many were new."""
        rows = await asyncio.to_thread(_rows, measurements)
        return WriteCounts(await self._writer.run(self._insert, rows, len(measurements)))

    @staticmethod
    def time(unix_ns: int) -> datetime:
        """Returns a time in ns since 1970, cut to microseconds."""
        return _EPOCH + timedelta(microseconds=unix_ns // 1000)

    async def close(self) -> None:
        """Finishes what is being written and disconnects."""
        await self._writer.close()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._pool is not None:
            try:
                async with asyncio.timeout(self._settings.statement_timeout_s):
                    await self._pool.close()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._pool.terminate()

    async def _insert(self, connection: TimescaleConnection, groups: Sequence[dict[str, _Rows]]) -> Sequence[int]:
        counts = [0] * len(groups)
        for table in ("measurements", "measurement_windows"):
            owners: dict[_Key, int] = {}
            rows: _Rows = {}
            for place, group in enumerate(groups):
                for key, row in group[table].items():
                    if key not in rows:
                        rows[key], owners[key] = row, place
            if rows:
                for key in await self._insert_new(connection, table, rows):
                    counts[owners[key]] += 1
        return counts

    async def _insert_new(self, connection: TimescaleConnection, table: str, rows: _Rows) -> Iterable[_Key]:
        """Inserts the rows of keys that are not there yet, and returns these keys."""
        for tries_left in reversed(range(_INSERT_TRIES)):
            new = await self._complete(connection, table, rows)
            try:
                async with connection.transaction():
                    await self._insert_rows(connection, table, list(new.values()))
            except asyncpg.UniqueViolationError:
                # Another service was faster with one of them: now it can be seen.
                if not tries_left:
                    raise
            else:
                break
        return new

    async def _complete(self, connection: TimescaleConnection, table: str, rows: _Rows) -> _Rows:
        """Returns the rows of keys that are not there yet, with what is known of their recordings."""
        indices: dict[tuple[str, str], list[int]] = defaultdict(list)
        for task_id, receiver_id, *index in rows:
            indices[task_id, receiver_id] += index or [0]
        times = [row[0] for row in rows.values()]
        values: dict[str, Any] = {
            "task_ids": [task_id for task_id, _ in indices],
            "receiver_ids": [receiver_id for _, receiver_id in indices],
            "first_indices": list(map(min, indices.values())),
            "last_indices": list(map(max, indices.values())),
            "first_time": min(times),
            "last_time": max(times),
        }
        known = {tuple(row.values()) for row in await connection.fetch(self._queries[f"known_{table}"], values)}
        recordings = {
            (row["task_id"], row["receiver_id"]): (row["object_key"], row["state"])
            for row in await connection.fetch(self._queries["recordings_of"], values)
        }
        return {key: (*row, *recordings.get(key[:2], (None, None))) for key, row in rows.items() if key not in known}

    async def _insert_rows(self, connection: TimescaleConnection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if self._settings.use_copy:
            await connection.copy(table, _INSERT_COLUMNS, rows)
        elif rows:
            values = dict(zip(_INSERT_COLUMNS, zip(*rows, strict=True), strict=True))
            await connection.execute(self._queries["insert_rows"].replace("{table}", table), values)

    async def _ping(self, connection: TimescaleConnection, pings: Sequence[None]) -> Sequence[None]:
        await connection.execute(self._queries["ping"], {})
        return pings

    async def _fetch(self, query: str, values: Row) -> Sequence[Row]:
        times = {name: self.time(values[of]) for name, of in _TIMES.items() if of in values}
        with self._address.failures("read"):
            async with self._connection() as connection:
                return await connection.fetch(query, {**values, **times})

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[TimescaleConnection]:
        with self._address.failures("write"):
            async with self._connection() as connection, connection.transaction():
                yield connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[TimescaleConnection]:
        """Lends a connection; the pool replaces one that broke, or does not end what it was doing in time."""
        pool = await self._ready()
        async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.statement_timeout_s):
            connection = await pool.acquire()
        try:
            yield TimescaleConnection(connection)
        finally:
            await pool.release(connection, timeout=self._settings.connect_timeout_s)

    async def _ready(self) -> Pool:
        """Returns the pool, once the database is migrated; all who wait share one attempt."""
        if self._pool is None:
            if self._writer.is_closed:
                raise unavailable("it is closed", "be used")
            if self._opening is None:
                self._opening = asyncio.create_task(self._open(), context=contextvars.Context())
            async with asyncio.timeout(self._settings.connect_timeout_s + self._settings.statement_timeout_s):
                return await asyncio.shield(self._opening)
        return self._pool

    async def _open(self) -> Pool:
        try:
            await migrate(self._settings)
            self._pool = await asyncpg.create_pool(
                **_connect_options(self._settings, self._address),
                min_size=0,
                max_size=self._settings.max_connection_count,
                command_timeout=self._settings.statement_timeout_s,
                server_settings=_server_settings(self._settings.statement_timeout_s),
            )
            return self._pool
        finally:
            self._opening = None


async def migrate(settings: TimescaleSettings) -> list[str]:
    """Applies the migrations that the database lacks, and brings its intervals in line with the settings.

    Returns:
        Names of the applied migrations in order; empty if there was nothing to do.

    Raises:
        SettingsError: If the address of the database is none, or its password can not be read.
        HeimdallError: BACKEND_UNAVAILABLE if the database can not be reached or migrated.
    """
    address = DatabaseAddress(settings)
    with address.failures("be migrated"):
        connection = await asyncpg.connect(
            **_connect_options(settings, address),
            command_timeout=_MIGRATION_TIMEOUT_S,
            server_settings=_server_settings(_MIGRATION_TIMEOUT_S),
        )
        try:
            return await timescale_schema.migrate(connection, settings)
        finally:
            await connection.close(timeout=settings.connect_timeout_s)


def _connect_options(settings: TimescaleSettings, address: DatabaseAddress) -> dict[str, Any]:
    return {"dsn": address.dsn, "password": address.password, "timeout": settings.connect_timeout_s}


def _server_settings(statement_timeout_s: float) -> dict[str, str]:
    return {
        "application_name": "heimdall-storage",
        "statement_timeout": str(round(statement_timeout_s * _MS_PER_S)),
        "timezone": "UTC",
        # A plan for all values, made while a table or chunk was nearly empty, would read all of it ever after.
        "plan_cache_mode": "force_custom_plan",
    }


_SUMMARY: Final = MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
_row_values = itemgetter(*MEASUREMENT_COLUMNS)


def _rows(measurements: Sequence[Measurement]) -> dict[str, _Rows]:
    """Returns the rows of measurements by the table that they belong to."""
    rows: dict[str, _Rows] = {"measurements": {}, "measurement_windows": {}}
    for measurement in measurements:
        row = _row_values(measurement_row(measurement, TimescaleMeasurements.time))
        key = (measurement.acquisition_id, measurement.receiver_id)
        if measurement.scope == _SUMMARY:
            rows["measurements"].setdefault(key, row)
        else:
            rows["measurement_windows"].setdefault((*key, measurement.first_sample_index), row)
    return rows
