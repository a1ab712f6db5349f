"""The SQLite file in which a fetcher keeps what stations asked of it: opened, checked, read and written here."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import aiosqlite
from google.protobuf.message import DecodeError

from heimdall.common.v1.error_pb2 import ErrorDetail
from heimdall.errors import HeimdallError, from_detail
from heimdall.runtime.settings import SettingsError

APPLICATION_ID: Final = 0x484D4446
"""SQLite's own mark for whose file it is: HMDF."""
SCHEMA_VERSION: Final = 1
_BUSY_TIMEOUT_S: Final = 1.0
"""How long the start waits for the lock of a fetcher that is just going."""


@dataclass(frozen=True, slots=True)
class Memento:
    """What is known of one station, on the host clock: it outlives the process."""

    url: str
    rest_end_unix_ns: int
    """When it may be connected again; in the past if it may."""
    rest_length_ns: int
    """How long its rest is in all."""
    rest_count: int
    """Rests without a success since the first."""
    error: HeimdallError | None
    """Why the last connect failed; None if it did not."""
    connect_unix_ns: tuple[int, ...]
    """When it was connected within the last hour, the oldest first."""


async def open_state_file(path: Path) -> aiosqlite.Connection:
    """Opens the file and holds it alone, making it if it is missing; every commit is durable.

    Args:
        path: The file; its folder is made too.

    Raises:
        SettingsError: If it can not be used; names it and what to do.
    """
    try:
        await asyncio.to_thread(partial(path.parent.mkdir, parents=True, exist_ok=True))
        connection = await aiosqlite.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(
            _text(path, f"can not be opened: {error}", "name a file that this user may write")
        ) from error
    try:
        await _prepare(connection, path)
    except sqlite3.Error as error:
        await connection.close()
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            what, instead = "is in use by another fetcher", "stop that one or name another file"
        elif isinstance(error, sqlite3.OperationalError):
            what, instead = f"can not be used: {error}", "name a file that this user may write"
        else:
            what, instead = f"is damaged or no SQLite file: {error}", _REMEDY
        raise SettingsError(_text(path, what, instead)) from error
    except BaseException:
        await connection.close()
        raise
    return connection


async def read_stations(connection: aiosqlite.Connection, path: Path) -> dict[str, Memento]:
    """Returns what is known of every station, by its URL.

    Args:
        connection: The open file.
        path: Its name, for errors.

    Raises:
        SettingsError: If it holds what no fetcher writes.
    """
    try:
        rows = await connection.execute_fetchall(_statement("select_stations"))
        return {row[0]: _from_row(row) for row in rows}
    except (sqlite3.Error, DecodeError, ValueError, TypeError) as error:
        raise SettingsError(_text(path, f"is damaged: {error}", _REMEDY)) from error


async def put_stations(connection: aiosqlite.Connection, mementos: Iterable[Memento]) -> None:
    """Makes or replaces what is known of some stations, in one durable transaction.

    Raises:
        sqlite3.Error: If that fails; nothing is changed then.
    """
    if connection.in_transaction:
        await connection.execute("ROLLBACK")
    await connection.execute("BEGIN IMMEDIATE")
    await connection.executemany(_statement("put_station"), [_to_row(memento) for memento in mementos])
    await connection.execute("COMMIT")


async def _prepare(connection: aiosqlite.Connection, path: Path) -> None:
    # Before the first access: then the lock is held for good, and no second fetcher forgets what this one was told.
    await connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    application_id = await _number(connection, "PRAGMA application_id")
    version = await _number(connection, "PRAGMA user_version")
    is_new = await _number(connection, "SELECT count(*) FROM sqlite_schema") == 0
    if application_id != APPLICATION_ID and not (is_new and application_id == version == 0):
        raise SettingsError(_text(path, "belongs to another program", "name another file"))
    if version > SCHEMA_VERSION:
        what = f"has schema {version}, this version of heimdall knows up to {SCHEMA_VERSION}"
        raise SettingsError(_text(path, what, "run a later one, or name another file"))
    problems = [row[0] for row in await connection.execute_fetchall("PRAGMA quick_check(1)")]
    if problems != ["ok"]:
        raise SettingsError(_text(path, f"is damaged: {problems[0]}", _REMEDY))
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    await connection.execute("BEGIN IMMEDIATE")
    if version < SCHEMA_VERSION:
        await connection.execute(_statement("0001_initial"))
    # Also of a file that has them already: what can not be written is refused now and not at the first refusal.
    await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    await connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    await connection.execute("COMMIT")


_REMEDY: Final = (
    "move it away and start again. What stations asked of this fetcher is then forgotten: leave those alone that "
    "refused it within the last day"
)


def _text(path: Path, what: str, instead: str) -> str:
    return f"fetcher.state_file: {path} {what}; {instead}"


async def _number(connection: aiosqlite.Connection, query: str) -> int:
    (row,) = await connection.execute_fetchall(query)
    return int(row[0])


def _statement(name: str) -> str:
    return resources.files("fetcher_svc").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def _to_row(memento: Memento) -> dict[str, object]:
    return {
        "url": memento.url,
        "rest_end_unix_ns": memento.rest_end_unix_ns,
        "rest_length_ns": memento.rest_length_ns,
        "rest_count": memento.rest_count,
        "error": None if memento.error is None else memento.error.to_detail().SerializeToString(),
        "connects": json.dumps(memento.connect_unix_ns),
    }


def _from_row(row: sqlite3.Row) -> Memento:
    url, rest_end_unix_ns, rest_length_ns, rest_count, error, connects = row
    return Memento(
        url=url,
        rest_end_unix_ns=rest_end_unix_ns,
        rest_length_ns=rest_length_ns,
        rest_count=rest_count,
        error=None if error is None else from_detail(ErrorDetail.FromString(error)),
        connect_unix_ns=tuple(int(unix_ns) for unix_ns in json.loads(connects)),
    )
