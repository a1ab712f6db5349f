"""Opens the SQLite file and brings it to the newest schema."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import aiosqlite
import structlog

from storage_svc.sql_files import Migration, load_migrations
from storage_svc.timing import utc_text

_log = structlog.get_logger(__name__)

_BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for a lock that somebody else holds, such as a backup."""


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
        except BaseException:
            await connection.close()
            raise
    except sqlite3.Error as error:
        raise DatabaseUnusableError(f"{path}: can not be used as the database: {error}") from error
    return connection


async def migrate(path: Path) -> list[str]:
    """Applies the migrations that the database lacks, each in one transaction.

    Args:
        path: The file; made if it is missing.

    Returns:
        Names of the applied migrations, such as 0001_initial; empty if there was nothing to do.

    Raises:
        DatabaseUnusableError: If the file is no database, is damaged, or was made by a later version.
    """
    migrations = load_migrations("sqlite")
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
