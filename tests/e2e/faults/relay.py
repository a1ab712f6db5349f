"""A TCP relay on 127.0.0.1 that does to connections what a network can do to them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

_CHUNK_BYTES: Final = 16 * 1024
_QUEUE_LENGTH: Final = 64
_CONNECT_LIMIT_S: Final = 5.0
_BACKLOG: Final = 256


@dataclass(frozen=True)
class Conduct:
    """How one direction of a connection passes bytes on."""

    delay_s: float = 0.0
    """How much later each byte arrives; as many bytes a second pass as without."""
    bytes_per_s: float | None = None
    """Most bytes a second; None for no limit."""
    frozen: bool = False
    """Whether nothing is read or written any more, while the sockets stay open."""


SOUND: Final = Conduct()
FROZEN: Final = Conduct(frozen=True)


class Relay:
    """Passes connections on to a port, soundly until it is told otherwise. Used as an async context manager.

    The direction from the one who connects to the port is `up`, the other one is `down`.
    """

    def __init__(self) -> None:
        self.connection_count = 0
        """Connections that were accepted so far."""
        self.is_doubling = False
        """Whether each new connection has a twin: another one to the port, with a copy of every byte that goes up."""
        self._up = self._down = SOUND
        self._refuses = False
        self._target_port = 0
        self._connections = set[_Connection]()
        self._tasks = set[asyncio.Task[None]]()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._port = int(self._listener.getsockname()[1])
        self._accepting: asyncio.Task[None] | None = None

    @property
    def target(self) -> str:
        """Its address as a gRPC target."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """Its address as the URL of a receiver."""
        return f"http://{self.target}"

    @property
    def open_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def forward_to(self, address: str) -> None:
        """Names the port to pass connections on to; before that none must come.

        Args:
            address: A gRPC target or a URL that ends with the port.
        """
        self._target_port = int(address.rpartition(":")[2])

    def conduct(
        self, *, up: Conduct = SOUND, down: Conduct = SOUND, existing: bool = True, coming: bool = True
    ) -> None:
        """Changes how bytes are passed on from now on, those that are held here included.

        Args:
            up: The direction to the port.
            down: The direction from the port.
            existing: Whether it changes for the connections that are open now.
            coming: Whether it changes for those that come.
        """
        if coming:
            self._up, self._down = up, down
        if existing:
            for connection in self._connections:
                connection.conduct(up, down)

    def freeze(self, *, existing: bool = True, coming: bool = False) -> None:
        """Leaves connections half-open: nothing passes in either direction, and no end is told."""
        self.conduct(up=FROZEN, down=FROZEN, existing=existing, coming=coming)

    def reset(self) -> int:
        """Resets every open connection at both of its ends; returns how many there were."""
        connections = list(self._connections)
        for connection in connections:
            connection.reset()
        return len(connections)

    def orphan(self) -> int:
        """Resets every open connection at the caller's end only, and returns how many there were.

        The port hears nothing of it: what it is owed is still delivered to it, and what it sends is taken and dropped.
        """
        for connection in self._connections:
            connection.orphan()
        return len(self._connections)

    def refuse(self, refuses: bool = True) -> None:
        """Says whether connections that come are reset at once."""
        self._refuses = refuses

    async def __aenter__(self) -> Self:
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._accepting, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            caller, _ = await loop.sock_accept(self._listener)
            caller.setblocking(False)
            self.connection_count += 1
            if self._refuses:
                _reset(caller)
                continue
            task = asyncio.create_task(self._serve(caller))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, caller: socket.socket) -> None:
        ends = [caller]
        connection: _Connection | None = None
        try:
            for _ in range(2 if self.is_doubling else 1):
                ends.append(await _connect(self._target_port))
            connection = _Connection(caller, ends[1], ends[2:])
            connection.conduct(self._up, self._down)
            self._connections.add(connection)
            await connection.run()
        except OSError:
            # Whatever ended it at one end ends it at the others.
            for end in ends:
                _reset(end)
        finally:
            if connection is not None:
                self._connections.discard(connection)
            for end in ends:
                end.close()


class _Connection:
    """One connection: a lane each way, and a copy of the one up for a twin."""

    def __init__(self, caller: socket.socket, port: socket.socket, twins: list[socket.socket]) -> None:
        self._caller = caller
        self._port = port
        self._twins = twins
        self._up = _Lane(caller, port, twins)
        self._down = _Lane(port, caller)
        self._broken = asyncio.Event()
        self._orphaned = asyncio.Event()

    def conduct(self, up: Conduct, down: Conduct) -> None:
        self._up.conduct(up)
        self._down.conduct(down)

    def reset(self) -> None:
        self._broken.set()

    def orphan(self) -> None:
        self._orphaned.set()

    async def run(self) -> None:
        """Serves until both sides have ended.

        Raises:
            OSError: If it was reset, here or by one of its sides.
        """
        broken = asyncio.create_task(self._broken.wait())
        orphaned = asyncio.create_task(self._orphaned.wait())
        caller_side = [asyncio.create_task(work()) for work in (self._up.read, self._down.write)]
        port_side = [asyncio.create_task(work()) for work in (self._up.write, self._down.read)]
        port_side += [asyncio.create_task(_swallow(twin)) for twin in self._twins]
        tasks = [broken, orphaned, *caller_side, *port_side]
        try:
            while not all(task.done() for task in (*caller_side, *port_side[:2])):
                waiting = [task for task in tasks if not task.done()]
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if broken in done:
                    raise ConnectionResetError("the relay was told to reset the connection")
                if orphaned in done:
                    await _end(*caller_side)
                    _reset(self._caller)
                    self._down.pour_away()
                    continue
                for task in done:
                    task.result()
        finally:
            await _end(*tasks)


class _Lane:
    """One direction: reads into a short queue, writes from it as its conduct says."""

    def __init__(self, source: socket.socket, sink: socket.socket, copies: Iterable[socket.socket] = ()) -> None:
        self._source = source
        self._sink = sink
        self._copies = list(copies)
        self._queue = asyncio.Queue[tuple[float, bytes]](_QUEUE_LENGTH)
        self._conduct = SOUND
        self._moving = asyncio.Event()
        self._moving.set()
        self._pours_away = False

    def conduct(self, conduct: Conduct) -> None:
        self._conduct = conduct
        if conduct.frozen:
            self._moving.clear()
        else:
            self._moving.set()

    def pour_away(self) -> None:
        """Drops what is read from now on: nobody is left to write it to."""
        self._pours_away = True
        while not self._queue.empty():
            self._queue.get_nowait()

    async def read(self) -> None:
        """Reads until the source ends."""
        loop = asyncio.get_running_loop()
        chunk = b"-"
        while chunk:
            await self._moving.wait()
            chunk = await loop.sock_recv(self._source, _CHUNK_BYTES)
            if not self._pours_away:
                await self._queue.put((loop.time(), chunk))

    async def write(self) -> None:
        """Writes what is read; the end is passed on too."""
        loop = asyncio.get_running_loop()
        chunk = b"-"
        while chunk:
            read_at, chunk = await self._queue.get()
            rest = chunk
            while rest:
                await self._moving.wait()
                conduct = self._conduct
                if (wait_s := read_at + conduct.delay_s - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                    continue
                part, rest = (rest, b"") if conduct.bytes_per_s is None else (rest[:1], rest[1:])
                await self._pass_on(part)
                if conduct.bytes_per_s is not None:
                    await asyncio.sleep(1 / conduct.bytes_per_s)
        await self._moving.wait()
        self._sink.shutdown(socket.SHUT_WR)

    async def _pass_on(self, part: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sink, part)
        for copy in list(self._copies):
            try:
                await loop.sock_sendall(copy, part)
            except OSError:
                # The port ended the twin, as it may.
                self._copies.remove(copy)


async def _connect(port: int) -> socket.socket:
    end = socket.socket()
    end.setblocking(False)
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            await asyncio.get_running_loop().sock_connect(end, ("127.0.0.1", port))
    except BaseException:
        end.close()
        raise
    return end


async def _swallow(twin: socket.socket) -> None:
    """Reads what a twin is answered, which nobody asked for."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while await loop.sock_recv(twin, _CHUNK_BYTES):
            continue


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reset(end: socket.socket) -> None:
    """Closes a socket; without lingering the kernel sends RST instead of an orderly FIN."""
    if end.fileno() >= 0:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
