"""Keeps what stations asked of us across a restart: written before it matters, and no stream waits long for it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import aiosqlite
import structlog

from fetcher_svc.state_file import Memento, open_state_file, put_stations, read_stations
from heimdall.clock import Clock

_log = structlog.get_logger(__name__)

WRITE_LIMIT_S: Final = 2.0
"""Longest wait for the disk; then streams go on and the file counts as not writable."""
RETRY_S: Final = 2.0
"""How often a file that can not be written is tried again, and the host clock is looked at."""
_CLOCK_STEP_NS: Final = 1_000_000_000
"""Change of the host clock against the monotonic one that is a step."""


class Source(Protocol):
    """Something whose state is kept."""

    @property
    def url(self) -> str:
        """Its key."""
        ...

    def memento(self) -> Memento:
        """Returns its state now, by the host clock."""
        ...


class StationMemory:
    """The one writer of the state file. What comes together shares a commit.

    While the file can not be written nothing waits for it: the fetcher works from what it has in memory and writes all
    of it as soon as it can.
    """

    def __init__(
        self,
        connection: aiosqlite.Connection,
        mementos: dict[str, Memento],
        clock: Clock,
        tell_writable: Callable[[bool], Awaitable[None]],
    ) -> None:
        """Takes over an open file; open_memory makes one.

        Args:
            connection: The file.
            mementos: What it holds.
            clock: Host clock, which tells the time of what is kept.
            tell_writable: Told whether the file can be written whenever that changes.
        """
        self._connection = connection
        self._mementos = mementos
        self._clock = clock
        self._tell_writable = tell_writable
        self._writable = True
        self._sources: dict[str, Source] = {}
        self._dirty: dict[str, Source] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._work: asyncio.Task[str | None] | None = None
        self._clock_offset_ns = self._read_offset_ns()

    def adopt(self, source: Source) -> Memento | None:
        """Keeps a station from now on; returns what an earlier process knew of it."""
        self._sources[source.url] = source
        return self._mementos.pop(source.url, None)

    def keep_soon(self, source: Source) -> None:
        """Keeps the state of a station, without waiting for it."""
        self._dirty[source.url] = source
        self._wake.set()

    async def keep(self, source: Source) -> None:
        """Keeps the state of a station; returns once it is durable, or can not be made durable now."""
        self.keep_soon(source)
        if not self._writable:
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        # The writer notices a slow disk too and says so; this holds whatever it does.
        await asyncio.wait({written}, timeout=WRITE_LIMIT_S)

    async def close(self) -> None:
        """Writes the state of every station and closes the file, after write_steadily has ended; takes 6 s at most."""
        if self._work is not None:
            await asyncio.wait({self._work}, timeout=WRITE_LIMIT_S)
        if not self._is_stuck:
            self._dirty = dict(self._sources)
            await self._write()
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                await self._connection.close()
        except TimeoutError:
            _log.error("state_file_not_closed", waited_s=WRITE_LIMIT_S)

    @property
    def _is_stuck(self) -> bool:
        return self._work is not None and not self._work.done()

    async def write_steadily(self) -> None:
        """Writes what changes, for ever: nothing is durable unless this runs."""
        while True:
            await _wait(self._wake, RETRY_S)
            self._wake.clear()
            self._follow_clock()
            if self._is_stuck or (self._dirty and not await self._write()):
                await asyncio.sleep(RETRY_S)

    async def _write(self) -> bool:
        """Writes what changed in one transaction; returns whether it could."""
        batch, self._dirty = self._dirty, {}
        waiting, self._waiting = self._waiting, []
        mementos = [source.memento() for source in batch.values()]
        # A task of its own: what the disk holds up is neither given up half-way nor begun twice.
        self._work = asyncio.create_task(_put(self._connection, mementos))
        done, _ = await asyncio.wait({self._work}, timeout=WRITE_LIMIT_S)
        cause = self._work.result() if done else f"no answer within {WRITE_LIMIT_S:g} s"
        if cause is not None:
            self._dirty = {**batch, **self._dirty}
        await self._set_writable(cause)
        for written in [*waiting, *([] if self._writable else self._waiting)]:
            if not written.done():
                written.set_result(None)
        return cause is None

    async def _set_writable(self, cause: str | None) -> None:
        if self._writable is (cause is None):
            return
        self._writable = cause is None
        if cause is None:
            _log.info("state_file_writable")
        else:
            _log.error("state_file_not_writable", cause=cause)
        await self._tell_writable(self._writable)

    def _follow_clock(self) -> None:
        """Keeps all anew when the host clock was stepped: what is kept are times of that clock."""
        offset_ns = self._read_offset_ns()
        step_ns, self._clock_offset_ns = offset_ns - self._clock_offset_ns, offset_ns
        if abs(step_ns) > _CLOCK_STEP_NS:
            _log.warning("host_clock_stepped", step_s=round(step_ns / 1e9, 3))
            self._dirty = dict(self._sources)

    def _read_offset_ns(self) -> int:
        return self._clock.unix_ns() - time.monotonic_ns()


@asynccontextmanager
async def open_memory(
    path: Path, clock: Clock, tell_writable: Callable[[bool], Awaitable[None]]
) -> AsyncIterator[StationMemory]:
    """Opens the state file, and closes it on the way out; in between write_steadily has to run.

    Args:
        path: The file; made if it is missing.
        clock: Host clock.
        tell_writable: Told whether the file can be written, now and whenever that changes.

    Raises:
        SettingsError: If the file can not be used; names it and what to do.
    """
    connection = await open_state_file(path)
    try:
        mementos = await read_stations(connection, path)
    except BaseException:
        await connection.close()
        raise
    memory = StationMemory(connection, mementos, clock, tell_writable)
    try:
        await tell_writable(True)
        yield memory
    finally:
        await memory.close()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


async def _put(connection: aiosqlite.Connection, mementos: list[Memento]) -> str | None:
    """Writes; returns why it could not, None if it could."""
    try:
        await put_stations(connection, mementos)
    except sqlite3.Error as error:
        return str(error)
    return None
