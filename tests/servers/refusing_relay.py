"""Stands before an object store, and answers SlowDown instead of it while it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

_ANSWER = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class RefusingRelay:
    """Passes requests on, byte for byte, each over a connection of its own."""

    def __init__(self, port: int) -> None:
        """Takes the port of the store, on 127.0.0.1."""
        self.endpoint = ""
        self.refuses: Callable[[str], bool] = lambda _: False
        """Says of the first line of a request, such as "PUT /bucket/key HTTP/1.1", whether it gets 503."""
        self.refused_count = 0
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection: one request."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            lengths = [int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")]
            body = await reader.readexactly(sum(lengths))
            if self.refuses(lines[0]):
                self.refused_count += 1
                writer.write(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(_ANSWER), _ANSWER)
                )
            else:
                await self._pass_on(head, body, writer)
            await writer.drain()
        writer.close()

    async def _pass_on(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        upstream, store = await asyncio.open_connection("127.0.0.1", self._port)
        first, _, rest = head.partition(b"\r\n")
        # What is not signed may be added.
        store.write(first + b"\r\nConnection: close\r\n" + rest + body)
        while content := await upstream.read(1 << 16):
            writer.write(content)
            await writer.drain()
        store.close()


@asynccontextmanager
async def refusing_relay(endpoint: str) -> AsyncIterator[RefusingRelay]:
    """Runs a relay on a free port.

    Args:
        endpoint: The store, such as http://127.0.0.1:9000.
    """
    relay = RefusingRelay(int(endpoint.rpartition(":")[2]))
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, limit=1 << 20)
    relay.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield relay
