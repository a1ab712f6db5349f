"""Opens the SQLite file and brings it to the newest schema."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiosqlite
import structlog

from heimdall.timing import utc_text
from storage_svc.measurements.sqlite_failures import ADVICE, primary_code
from storage_svc.sql_files import Migration, load_migrations

_log = structlog.get_logger(__name__)

_BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for a lock that somebody else holds, such as a backup."""
_CACHE_KIB = 512
"""Pages that a connection keeps: enough for the ends of the tables and indices, where rows are added. SQLite's own
2 MiB fill within minutes, and what is read besides is in the memory of the system."""

_CHECK_BYTES: Final = 1024**3
"""Size up to which the whole file is looked at for damage at start, which takes seconds. In a larger one the windows,
which are nearly all of it, are left out; damage in them shows when they are used."""

_LARGE_TABLE: Final = "measurement_windows"
_READ_BYTES: Final = 1024**2


class DatabaseUnusableError(OSError):
    """The file is no database that this version can use; the text says why."""


async def connect(path: Path) -> aiosqlite.Connection:
    """Opens the file, making it if it is missing; every commit is durable.

    Raises:
        DatabaseUnusableError: If it can not be opened or is no database.
    """
    try:
        connection = await aiosqlite.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("PRAGMA synchronous = FULL")
            await connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            # SQLite can be built without its own functions of mathematics.
            await connection.create_function("ratio", 1, _ratio, deterministic=True)
            await connection.create_function("decibels", 1, _decibels, deterministic=True)
        except BaseException:
            await connection.close()
            raise
    except sqlite3.Error as error:
        if primary_code(error) == sqlite3.SQLITE_CORRUPT:
            raise DatabaseUnusableError(f"{path}: is damaged: {error}; {ADVICE}") from error
        raise DatabaseUnusableError(f"{path}: can not be used as the database: {error}") from error
    return connection


def _ratio(decibels: float | None) -> float | None:
    """Returns the ratio of two powers, given in dB."""
    return None if decibels is None else 10.0 ** (decibels / 10.0)


def _decibels(ratio: float | None) -> float | None:
    """Returns a ratio of two powers in dB."""
    return None if ratio is None else 10.0 * math.log10(ratio)


async def migrate(path: Path, dialect: str = "sqlite") -> list[str]:
    """Looks for damage, then applies the migrations that the database lacks, each in one transaction.

    Args:
        path: The file; made if it is missing.
        dialect: Folder of the migrations.

    Returns:
        Names of the applied migrations, such as 0001_initial; empty if there was nothing to do.

    Raises:
        DatabaseUnusableError: If the file is no database, is damaged, or was made by a later version.
    """
    await _check(path)
    migrations = load_migrations(dialect)
    connection = await connect(path)
    try:
        # user_version is SQLite's own place for the number of the schema; it is part of the transaction.
        row = await (await connection.execute("PRAGMA user_version")).fetchone()
        version = 0 if row is None else int(row[0])
        if version > len(migrations):
            raise DatabaseUnusableError(
                f"{path}: has schema {version}, this version of heimdall knows up to {len(migrations)}; run a later one"
            )
        for migration in migrations[version:]:
            await _apply(connection, migration)
    except sqlite3.Error as error:
        raise DatabaseUnusableError(f"{path}: could not be migrated: {error}") from error
    finally:
        await connection.close()
    return [f"{migration.number:04d}_{migration.name}" for migration in migrations[version:]]


async def _check(path: Path) -> None:
    """Refuses a file whose pages do not fit together.

    Raises:
        DatabaseUnusableError: If it is no database or is damaged.
    """
    started_s = time.monotonic()
    connection = await connect(path)
    try:
        size_bytes = await asyncio.to_thread(_read_through, path)
        is_large = size_bytes > _CHECK_BYTES
        rows = await connection.execute_fetchall("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in rows:
            if is_large and table == _LARGE_TABLE:
                continue
            found = [str(row[0]) for row in await connection.execute_fetchall(f'PRAGMA quick_check("{table}")')]
            if found != ["ok"]:
                raise DatabaseUnusableError(f"{path}: is damaged: {' '.join(found[0].split())}; {ADVICE}")
    except sqlite3.Error as error:
        raise DatabaseUnusableError(f"{path}: is damaged: {error}; {ADVICE}") from error
    finally:
        await connection.close()
    _log.info(
        "database_checked",
        path=str(path),
        size_bytes=size_bytes,
        left_out=_LARGE_TABLE if is_large else "",
        took_s=round(time.monotonic() - started_s, 3),
    )


def _read_through(path: Path) -> int:
    """Returns the size of a file in bytes.

    One that will be looked at as a whole is read from beginning to end: the check then finds it in memory, instead of
    page by page, in no order, on disk, which takes ten times as long.
    """
    size_bytes = path.stat().st_size
    if size_bytes <= _CHECK_BYTES:
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                continue
    return size_bytes


async def _apply(connection: aiosqlite.Connection, migration: Migration) -> None:
    started = time.time_ns()
    await connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(migration.script):
            await connection.execute(statement)
        await connection.execute(f"PRAGMA user_version = {migration.number}")
    except BaseException:
        await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
    _log.info("migration_applied", number=migration.number, name=migration.name, started=utc_text(started))


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
