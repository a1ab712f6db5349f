"""The one writer of the SQLite file: what came in while a commit ran shares the next one."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiosqlite
import structlog

from heimdall.errors import HeimdallError
from storage_svc.measurements.sqlite_failures import SqliteFailures, unavailable

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_MAX_WAITING = 256
"""Most writes that wait for a commit; more wait outside the queue."""


@dataclass(frozen=True)
class _Write:
    work: Callable[[aiosqlite.Connection], Awaitable[Any]]
    outcome: asyncio.Future[Any]


class SqliteWriter:
    """Runs pieces of writing inside transactions, several in one where they come together."""

    def __init__(self, connection: aiosqlite.Connection, failures: SqliteFailures) -> None:
        """Takes over the connection and starts the writer.

        Args:
            connection: The connection.
            failures: Says what a failure means, and whether the file may be used.
        """
        self._connection = connection
        self._failures = failures
        self._waiting: asyncio.Queue[_Write | None] = asyncio.Queue(_MAX_WAITING)
        self._writes: list[_Write] = []
        # It outlives the call during which the service is set up.
        self._task = asyncio.create_task(self._write_all(), context=contextvars.Context())

    async def run(self, work: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Runs a piece of writing and returns its result once it is durable.

        Args:
            work: Executes statements on the connection given to it. It raises HeimdallError to refuse, before it has
                changed anything; other pieces may share its transaction.

        Raises:
            HeimdallError: What the work raised, or BACKEND_UNAVAILABLE if the database failed.
        """
        self._failures.refuse_if_damaged()
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._task.done():
            await self._waiting.put(_Write(work, outcome))
        if self._task.done():
            raise unavailable("it is closed", "write")
        return await outcome

    async def watch(self) -> None:
        """Returns when the writer was closed.

        Raises:
            Exception: What it crashed with: nothing is written any more.
        """
        await asyncio.wait({self._task})
        self._task.result()

    async def close(self) -> None:
        """Commits what is waiting and closes the connection."""
        if not self._task.done():
            await self._waiting.put(None)
        await asyncio.wait({self._task})
        await self._connection.close()

    async def _write_all(self) -> None:
        try:
            closing = False
            while not closing:
                batch = [await self._waiting.get()]
                while not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                self._writes = [write for write in batch if write is not None]
                closing = len(self._writes) < len(batch)
                if not await self._commit(self._writes) and len(self._writes) > 1:
                    # One of them may be at fault: each gets its own transaction.
                    for write in self._writes:
                        await self._commit([write])
        finally:
            # Nobody waits for a writer that is gone, whether it was closed or crashed.
            while not self._waiting.empty():
                if (late := self._waiting.get_nowait()) is not None:
                    self._writes.append(late)
            for write in self._writes:
                if not write.outcome.done():
                    write.outcome.set_exception(unavailable("it is closed", "write"))

    async def _commit(self, writes: list[_Write]) -> bool:
        """Runs some writes in one transaction; a failure is told to a single one, or else reported as False."""
        results: list[tuple[_Write, Any]] = []
        try:
            await self._connection.execute("BEGIN IMMEDIATE")
            for write in writes:
                if write.outcome.done():
                    continue
                try:
                    results.append((write, await write.work(self._connection)))
                except HeimdallError as refusal:
                    write.outcome.set_exception(refusal)
            await self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # the outermost boundary of the writer: whoever asked raises it
            await self._roll_back()
            if len(writes) > 1:
                return False
            meaning = self._failures.meaning(error, "write") if isinstance(error, sqlite3.Error) else error
            for write in writes:
                if not write.outcome.done():
                    write.outcome.set_exception(meaning)
            return True
        for write, result in results:
            if not write.outcome.done():
                write.outcome.set_result(result)
        return True

    async def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                await self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                # SQLite has rolled back itself; the failure that led here is what the callers get.
                _log.warning("rollback_failed", error=str(error))
