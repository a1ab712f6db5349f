"""The one writer of a database: what comes in while a transaction runs shares the next one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeAlias, TypeVar

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

A = TypeVar("A")
C = TypeVar("C")
R = TypeVar("R")

_MAX_WAITING = 256
"""Most writes that wait for a transaction; more wait outside the queue."""

Action: TypeAlias = Callable[[C, Sequence[A]], Awaitable[Sequence[R | HeimdallError]]]
"""Writes some things on a connection, in their order, and returns what became of each. A HeimdallError in place of a
result refuses that one: nothing of it was written."""


def unavailable(cause: object, what: str) -> HeimdallError:
    """Returns what a database that failed, or is closed, means to the caller."""
    return HeimdallError(
        ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
        f"the database could not {what}: {cause}",
        metadata={"backend": "measurements"},
    )


class DatabaseAwayError(HeimdallError):
    """The database can not be used at present, whatever is asked of it."""

    def __init__(self, message: str) -> None:
        """Takes what is wrong, and where."""
        super().__init__(ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, message, metadata={"backend": "measurements"})


@dataclass(frozen=True)
class _Write:
    action: Action[Any, Any, Any]
    argument: Any
    row_count: int
    outcome: asyncio.Future[Any]


class GroupWriter(Generic[C]):
    """Writes in transactions, one after another, and several things in one where they come together.

    A write that comes alone is not held up. After a transaction that held several, the writer waits until as many have
    come again, for those who wait for its end write again at once; at most for a time, and up to a number of rows.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractAsyncContextManager[C]],
        *,
        max_wait_s: float = 0.0,
        max_row_count: int = 1000,
    ) -> None:
        """Starts the writer.

        Args:
            transaction: Begins a transaction and gives its connection; commits at the end, or rolls back if that
                raises. It raises DatabaseAwayError if the database is away, and another HeimdallError if what was
                written may be at fault; with anything else of its own the writer crashes.
            max_wait_s: Longest time that writes are collected, in s.
            max_row_count: Number of rows that are not added to.
        """
        self._transaction = transaction
        self._max_wait_s = max_wait_s
        self._max_row_count = max_row_count
        self._waiting: asyncio.Queue[_Write | None] = asyncio.Queue(_MAX_WAITING)
        self._writes: list[_Write] = []
        self._is_closing = False
        # It outlives the call during which the service is set up.
        self._task = asyncio.create_task(self._write_all(), context=contextvars.Context())

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._task.done()

    async def run(self, action: Action[C, A, R], argument: A, row_count: int = 1) -> R:
        """Writes something and returns what the action says of it, once it is durable.

        Args:
            action: Writes it; neighbours with the same action are given to it together.
            argument: What to write.
            row_count: Number of rows that it has.

        Raises:
            HeimdallError: What refused it, or BACKEND_UNAVAILABLE if the database failed.
        """
        outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if not self.is_closed:
            await self._waiting.put(_Write(action, argument, row_count, outcome))
        if self.is_closed:
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
        """Writes what is waiting and ends."""
        if not self._task.done():
            await self._waiting.put(None)
        await asyncio.wait({self._task})

    async def _write_all(self) -> None:
        try:
            while not self._is_closing:
                await self._collect(len(self._writes))
                await self._write(self._writes)
        finally:
            # Nobody waits for a writer that is gone, whether it was closed or crashed.
            while not self._waiting.empty():
                if (late := self._waiting.get_nowait()) is not None:
                    self._writes.append(late)
            for write in self._writes:
                if not write.outcome.done():
                    write.outcome.set_exception(unavailable("it is closed", "write"))

    async def _collect(self, expected: int) -> None:
        """Collects the writes of the next transaction; waits for no more than came together the last time."""
        self._writes = []
        self._add(await self._waiting.get())
        deadline_s = asyncio.get_running_loop().time() + self._max_wait_s
        while not self._is_closing and sum(write.row_count for write in self._writes) < self._max_row_count:
            if not self._waiting.empty():
                self._add(self._waiting.get_nowait())
            elif len(self._writes) >= expected or not self._max_wait_s:
                return
            else:
                try:
                    async with asyncio.timeout_at(deadline_s):
                        self._add(await self._waiting.get())
                except TimeoutError:
                    return

    def _add(self, write: _Write | None) -> None:
        if write is None:
            self._is_closing = True
        else:
            self._writes.append(write)

    async def _write(self, writes: list[_Write]) -> None:
        failure = await self._commit(writes)
        if failure is None:
            return
        if len(writes) == 1 or isinstance(failure, DatabaseAwayError):
            _fail(writes, failure)
            return
        # One of them may be at fault: each gets its own transaction.
        for place, write in enumerate(writes):
            failure = await self._commit([write])
            if isinstance(failure, DatabaseAwayError):
                _fail(writes[place:], failure)
                return
            if failure is not None:
                _fail([write], failure)

    async def _commit(self, writes: list[_Write]) -> Exception | None:
        """Writes some things in one transaction; returns what made it fail."""
        writes = [write for write in writes if not write.outcome.done()]
        results: list[Any] = []
        fault: Exception | None = None
        try:
            async with self._transaction() as connection:
                try:
                    for action, group in groupby(writes, lambda write: write.action):
                        results += await action(connection, [write.argument for write in group])
                except Exception as error:
                    fault = error
                    raise
        except Exception as error:
            if error is not fault and not isinstance(error, HeimdallError):
                raise
            return error
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, HeimdallError):
                _fail([write], result)
            elif not write.outcome.done():
                write.outcome.set_result(result)
        return None


def _fail(writes: Iterable[_Write], failure: Exception) -> None:
    for write in writes:
        if not write.outcome.done():
            write.outcome.set_exception(failure)
