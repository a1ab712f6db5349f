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

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

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

    def __init__(self, connection: aiosqlite.Connection) -> None:
        """Takes over the connection and starts the writer."""
        self._connection = connection
        self._waiting: asyncio.Queue[_Write | None] = asyncio.Queue(_MAX_WAITING)
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
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._task.done():
            raise unavailable("it is closed", "write")
        await self._waiting.put(_Write(work, outcome))
        return await outcome

    async def close(self) -> None:
        """Commits what is waiting and closes the connection."""
        await self._waiting.put(None)
        await self._task
        await self._connection.close()

    async def _write_all(self) -> None:
        closing = False
        while not closing:
            batch = [await self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            writes = [write for write in batch if write is not None]
            closing = len(writes) < len(batch)
            if not await self._commit(writes) and len(writes) > 1:
                # One of them may be at fault: each gets its own transaction.
                for write in writes:
                    await self._commit([write])

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
            for write in writes:
                if not write.outcome.done():
                    is_database = isinstance(error, sqlite3.Error)
                    write.outcome.set_exception(unavailable(error, "write") if is_database else error)
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


def unavailable(cause: object, what: str) -> HeimdallError:
    """Returns what a database that failed, or is closed, means to the caller."""
    return HeimdallError(
        ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
        f"the database could not {what}: {cause}",
        metadata={"backend": "measurements"},
    )
