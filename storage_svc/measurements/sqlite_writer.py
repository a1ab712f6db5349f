"""The one writer of a SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiosqlite
import structlog

from heimdall.errors import HeimdallError
from storage_svc.measurements.sql import Row
from storage_svc.measurements.sqlite_failures import SqliteFailures
from storage_svc.measurements.writer import GroupWriter

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class SqliteConnection:
    """A connection to a file."""

    def __init__(self, raw: aiosqlite.Connection) -> None:
        """Takes over a connection."""
        self.raw = raw

    async def fetch(self, query: str, values: Row) -> Sequence[Row]:
        """Returns the rows of a query; lists are bound as JSON."""
        bound = {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}
        return [dict(row) for row in await self.raw.execute_fetchall(query, bound)]

    async def execute(self, query: str, values: Row) -> None:
        """Executes a statement."""
        await self.raw.execute(query, values)

    async def execute_many(self, query: str, rows: Sequence[Row]) -> int:
        """Executes a statement for every row and returns how many rows it changed."""
        return (await self.raw.executemany(query, rows)).rowcount

    async def close(self) -> None:
        """Closes the connection."""
        await self.raw.close()


class SqliteWriter(GroupWriter[SqliteConnection]):
    """Writes to a file and closes it in the end."""

    def __init__(self, connection: aiosqlite.Connection, failures: SqliteFailures) -> None:
        """Takes over the connection and starts the writer.

        Args:
            connection: The connection.
            failures: Says what a failure means, and whether the file may be used.
        """
        super().__init__(self._transaction)
        self._connection = SqliteConnection(connection)
        self._failures = failures

    async def change(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Runs a piece of writing and returns its result once it is durable.

        Args:
            work: Executes statements on the connection given to it. It raises HeimdallError to refuse, before it has
                changed anything; other pieces may share its transaction.

        Raises:
            HeimdallError: What the work raised, or what a failure of the file means.
        """
        return await self.run(_do_all, work)

    async def close(self) -> None:
        """Writes what is waiting and closes the connection."""
        await super().close()
        await self._connection.close()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[SqliteConnection]:
        self._failures.refuse_if_damaged()
        try:
            await self._connection.raw.execute("BEGIN IMMEDIATE")
            yield self._connection
            await self._connection.raw.execute("COMMIT")
        except sqlite3.Error as error:
            await self._roll_back()
            raise self._failures.meaning(error, "write") from error
        except BaseException:
            await self._roll_back()
            raise

    async def _roll_back(self) -> None:
        if self._connection.raw.in_transaction:
            try:
                await self._connection.raw.execute("ROLLBACK")
            except sqlite3.Error as error:
                # SQLite has rolled back itself; the failure that led here is what the callers get.
                _log.warning("rollback_failed", error=str(error))


async def _do_all(
    connection: SqliteConnection, works: Sequence[Callable[[aiosqlite.Connection], Awaitable[Any]]]
) -> Sequence[Any]:
    results = []
    for work in works:
        try:
            results.append(await work(connection.raw))
        except HeimdallError as refusal:
            results.append(refusal)
    return results
