"""Rows in TimescaleDB, or in PostgreSQL without it: a pool of connections, one writer, COPY."""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, KeysView, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
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
_ROWS_AT_ONCE: Final = 250
"""Rows that are made from their messages while the database takes in those before."""

_Row: TypeAlias = tuple[Any, ...]
_Key: TypeAlias = tuple[str, str, int]
"""Acquisition, receiver, and the first index of a window; 0 for a summary."""
_Keyed: TypeAlias = dict[_Key, Measurement]
"""Measurements by the key of their row; the first of a key stays."""
_Told: TypeAlias = Mapping[tuple[str, str], tuple[str | None, str | None]]
"""What is known of recordings: object key and state by acquisition and receiver."""


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
        keyed = await asyncio.to_thread(_by_table, measurements)
        return WriteCounts(await self._writer.run(self._insert, keyed, len(measurements)))

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

    async def _insert(self, connection: TimescaleConnection, groups: Sequence[dict[str, _Keyed]]) -> Sequence[int]:
        counts = [0] * len(groups)
        for table in ("measurements", "measurement_windows"):
            wanted: _Keyed = {}
            shares: list[_Keyed] = []
            for group in groups:
                shares.append({key: row for key, row in group[table].items() if key not in wanted})
                wanted |= shares[-1]
            if wanted:
                inserted = await self._insert_new(connection, table, wanted)
                for place, share in enumerate(shares):
                    counts[place] += len(share.keys() & inserted)
        return counts

    async def _insert_new(self, connection: TimescaleConnection, table: str, wanted: _Keyed) -> KeysView[_Key]:
        """Inserts measurements whose keys are not there yet, and returns these keys."""
        for tries_left in reversed(range(_INSERT_TRIES)):
            new, told = await self._look_up(connection, table, wanted)
            try:
                async with connection.transaction(), aclosing(_made_ahead(list(new.values()), told)) as parts:
                    async for rows in parts:
                        await self._insert_rows(connection, table, rows)
            except asyncpg.UniqueViolationError:
                # Another service was faster with one of them: now it can be seen.
                if not tries_left:
                    raise
            else:
                break
        return new.keys()

    async def _look_up(self, connection: TimescaleConnection, table: str, wanted: _Keyed) -> tuple[_Keyed, _Told]:
        """Returns the measurements whose keys are not there yet, and what is known of their recordings."""
        indices: dict[tuple[str, str], list[int]] = defaultdict(list)
        for task_id, receiver_id, index in wanted:
            indices[task_id, receiver_id].append(index)
        times_unix_ns = [measurement.first_sample_unix_ns for measurement in wanted.values()]
        values: dict[str, Any] = {
            "task_ids": [task_id for task_id, _ in indices],
            "receiver_ids": [receiver_id for _, receiver_id in indices],
            "first_indices": list(map(min, indices.values())),
            "last_indices": list(map(max, indices.values())),
            "first_time": self.time(min(times_unix_ns)),
            "last_time": self.time(max(times_unix_ns)),
        }
        known = {tuple(row.values()) for row in await connection.fetch(self._queries[f"known_{table}"], values)}
        told = {
            (row["task_id"], row["receiver_id"]): (row["object_key"], row["state"])
            for row in await connection.fetch(self._queries["recordings_of"], values)
        }
        return {key: measurement for key, measurement in wanted.items() if key not in known}, told

    async def _insert_rows(self, connection: TimescaleConnection, table: str, rows: Iterable[_Row]) -> None:
        if self._settings.use_copy:
            await connection.copy(table, _INSERT_COLUMNS, rows)
        else:
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


def _by_table(measurements: Sequence[Measurement]) -> dict[str, _Keyed]:
    """Returns measurements by the table that they belong to, and their key there."""
    keyed: dict[str, _Keyed] = {"measurements": {}, "measurement_windows": {}}
    for measurement in measurements:
        is_summary = measurement.scope == _SUMMARY
        index = 0 if is_summary else measurement.first_sample_index
        key = (measurement.acquisition_id, measurement.receiver_id, index)
        keyed["measurements" if is_summary else "measurement_windows"].setdefault(key, measurement)
    return keyed


async def _made_ahead(measurements: Sequence[Measurement], told: _Told) -> AsyncGenerator[Iterable[_Row], None]:
    """Yields the rows of measurements part by part; the next part is made once the one before was read to its end.

    Then the database is busy with that one. Sooner, a thread that makes rows would hold up the one that sends them.
    """
    parts = [measurements[first : first + _ROWS_AT_ONCE] for first in range(0, len(measurements), _ROWS_AT_ONCE)]
    making: list[asyncio.Task[list[_Row]]] = []

    def make_next() -> None:
        if parts:
            making.append(asyncio.create_task(asyncio.to_thread(_rows, parts.pop(0), told)))

    def at_the_end() -> Iterator[_Row]:
        make_next()
        yield from ()

    make_next()
    try:
        while making:
            rows = await making[0]
            making.clear()
            yield chain(rows, at_the_end())
    finally:
        await asyncio.gather(*making, return_exceptions=True)


def _rows(measurements: Sequence[Measurement], told: _Told) -> list[_Row]:
    """Returns the rows of measurements, with what is known of their recordings."""
    rows = []
    for measurement in measurements:
        row = measurement_row(measurement, TimescaleMeasurements.time)
        told_of = told.get((measurement.acquisition_id, measurement.receiver_id), (None, None))
        rows.append((*row.values(), *told_of))
    return rows
