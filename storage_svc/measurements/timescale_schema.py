"""Brings a PostgreSQL database to the newest schema, and its jobs in line with the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import asyncpg
import structlog

from heimdall.runtime.settings import TimescaleSettings
from storage_svc.measurements.sql import Row
from storage_svc.measurements.timescale_connection import TimescaleConnection
from storage_svc.measurements.writer import DatabaseAwayError
from storage_svc.sql_files import Migration, load_migrations, load_queries

_log = structlog.get_logger(__name__)

_HYPERTABLES: Final = ("measurements", "measurement_windows")
_AGGREGATE: Final = "measurements_hourly"
_AGGREGATE_END: Final = timedelta(hours=1)
"""Age from which hours are materialised."""
_MISSING: Final = "chunks, compression, retention, the materialised hourly aggregate"


async def migrate(connection: asyncpg.Connection[Any], settings: TimescaleSettings) -> list[str]:
    """Applies the migrations that the database lacks, each in one transaction, one service at a time.

    What needs TimescaleDB is applied if that is there, or as soon as it is.

    Args:
        connection: A connection of its own without time limits.
        settings: The intervals of chunks, compression, retention and aggregate.

    Returns:
        Names of the applied migrations, such as 0001_initial; empty if there was nothing to do.

    Raises:
        DatabaseAwayError: If the database was made by a later version.
        asyncpg.PostgresError: If it can not be migrated.
    """
    queries = load_queries("postgres")
    async with _lock(connection, queries):
        plain, more = load_migrations("postgres"), load_migrations("timescale")
        applied = await _applied(TimescaleConnection(connection), queries)
        newest = max(migration.number for migration in plain + more)
        if applied and max(applied) > newest:
            raise DatabaseAwayError(
                f"the database has schema {max(applied)}, this version of heimdall knows up to {newest}; "
                "run a later one"
            )
        trouble = await _extension_trouble(connection, queries)
        wanted = sorted(plain if trouble else plain + more, key=lambda migration: migration.number)
        pending = [migration for migration in wanted if migration.number not in applied]
        for migration in pending:
            await _apply(connection, migration, queries["note_migration"])
        if trouble:
            _log.warning("timescaledb_missing", missing=_MISSING, reason=trouble)
        else:
            await _set_intervals(connection, settings)
    return [f"{migration.number:04d}_{migration.name}" for migration in pending]


@asynccontextmanager
async def _lock(connection: asyncpg.Connection[Any], queries: Mapping[str, str]) -> AsyncIterator[None]:
    await connection.execute(queries["lock_migrations"])
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute(queries["unlock_migrations"])


async def _applied(connection: TimescaleConnection, queries: Mapping[str, str]) -> set[int]:
    (found,) = await connection.fetch(queries["find_migrations"], {})
    rows = await connection.fetch(queries["applied_migrations"], {}) if found["is_there"] else []
    return {row["number"] for row in rows}


async def _extension_trouble(connection: asyncpg.Connection[Any], queries: Mapping[str, str]) -> str:
    """Returns why TimescaleDB can not be used, after making the extension if that can be done; else nothing."""
    (facts,) = await connection.fetch(queries["extension_facts"])
    if not facts["is_made"]:
        if not facts["is_available"]:
            return "the server does not have the extension timescaledb"
        if not facts["is_loaded"]:
            return "timescaledb is not in the server's shared_preload_libraries"
        try:
            await connection.execute(queries["make_extension"])
        except asyncpg.InsufficientPrivilegeError as error:
            return f"the user may not make the extension timescaledb: {error}"
        (facts,) = await connection.fetch(queries["extension_facts"])
    if facts["licence"] != "timescale":
        return f"timescaledb has them only under the licence timescale, the server runs it under {facts['licence']}"
    return ""


async def _apply(connection: asyncpg.Connection[Any], migration: Migration, note: str) -> None:
    async with connection.transaction():
        await connection.execute(migration.script)
        facts = {"number": migration.number, "name": migration.name}
        await TimescaleConnection(connection).execute(note, facts)
    _log.info("migration_applied", number=migration.number, name=migration.name)


async def _set_intervals(connection: asyncpg.Connection[Any], settings: TimescaleSettings) -> None:
    """Changes the intervals that differ from the settings."""
    chunk = timedelta(days=settings.chunk_days)
    compress_after = timedelta(days=settings.compress_after_days)
    drop_after = timedelta(days=settings.retention_days)
    # Hours whose rows are deleted keep what they were summarised to: the refresh does not reach that far back.
    refresh = {
        "start_offset": max(drop_after - timedelta(hours=1), 4 * _AGGREGATE_END) if drop_after else None,
        "end_offset": _AGGREGATE_END,
        "schedule_interval": timedelta(seconds=settings.aggregate_interval_s),
    }
    async with connection.transaction():
        jobs = _Jobs(TimescaleConnection(connection))
        for table in _HYPERTABLES:
            await jobs.set_chunk_interval(table, chunk)
            await jobs.set_policy(table, "compression", "compress_after", compress_after)
            await jobs.set_policy(table, "retention", "drop_after", drop_after)
        await jobs.set_refresh(refresh)


class _Jobs:
    """What TimescaleDB does by itself, changed only where it is not as wanted."""

    def __init__(self, connection: TimescaleConnection) -> None:
        self._connection = connection
        self._queries = load_queries("timescale")

    async def set_chunk_interval(self, table: str, length: timedelta) -> None:
        """Sets the length of chunks that are made from now on."""
        (row,) = await self._connection.fetch(self._queries["chunk_interval"], {"table": table})
        if row["time_interval"] != length:
            await self._execute("set_chunk_interval", {"table": table, "length": length})

    async def set_policy(self, table: str, policy: str, key: str, age: timedelta) -> None:
        """Makes, changes or removes what is done to chunks of an age; 0 is for never."""
        job = await self._find(table, f"policy_{policy}")
        if (None if job is None else job[key]) == (age or None):
            return
        if job is not None:
            await self._execute(f"remove_policy_{policy}", {"table": table})
        if age:
            await self._execute(f"add_policy_{policy}", {"table": table, "age": age})

    async def set_refresh(self, wanted: Mapping[str, timedelta | None]) -> None:
        """Makes or changes the refresh of the hourly aggregate."""
        job = await self._find(_AGGREGATE, "policy_refresh_continuous_aggregate")
        if job is None or any(job[name] != value for name, value in wanted.items()):
            if job is not None:
                await self._execute("remove_refresh", {})
            await self._execute("add_refresh", wanted)

    async def _find(self, table: str, procedure: str) -> Row | None:
        jobs = await self._connection.fetch(self._queries["policies"], {"table": table})
        return next((job for job in jobs if job["proc_name"] == procedure), None)

    async def _execute(self, name: str, values: Row) -> None:
        await self._connection.execute(self._queries[name], values)
        _log.info("interval_set", statement=name, **{key: str(value) for key, value in values.items()})
