"""One WebSocket connection of a station: its tasks, its bounded queue, its pace, its end."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import ClientConnectionResetError, WSMsgType, web

from simulator.dialogue import IQ_MODES, Dialogue, End, parse_path
from simulator.frame import encode_msg
from simulator.streamer import Streamer

if TYPE_CHECKING:
    from simulator.station import Station

_QUEUE_LENGTH = 256
_CLOSING_GRACE_S = 5.0
_MAX_COMMAND_BYTES = 16 * 1024

_log = structlog.get_logger(__name__)


class Connection:
    """Serves one client from its upgrade to its end."""

    def __init__(
        self, station: Station, socket_response: web.WebSocketResponse, request: web.Request, number: int
    ) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client left before its upgrade was answered")
        self.number = number
        self.opened_s = time.monotonic()
        self._station = station
        self._socket = socket_response
        self._transport = request.transport
        self._client_ip = request.remote or "0.0.0.0"
        self._path = request.path
        self._dialogue: Dialogue | None = None
        self._stream_key: tuple[str, str, str] | None = None
        # Bounded: frames above 64 are lost after numbering, and commands wait while answers do not fit.
        self._queue: asyncio.Queue[tuple[bytes | str, bool] | End] = asyncio.Queue(_QUEUE_LENGTH)
        self._queued_frame_count = 0
        self._stalled_until_s = 0.0
        self._bytes_per_s: float | None = None
        self._ending = asyncio.Event()
        self._progress = asyncio.Event()
        self._ready = asyncio.Event()
        self._started_s = self._authenticated_s = self._keepalive_s = 0.0

    async def run(self) -> None:
        """Returns when the connection is over and all its tasks have ended."""
        tasks = [asyncio.create_task(work()) for work in (self._read, self._send, self._stream, self._watch)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            self._station.release(self._stream_key)
        for result in results:
            # A client that has gone is the ordinary end of a connection.
            if isinstance(result, BaseException) and not isinstance(
                result, (asyncio.CancelledError, ConnectionError, ClientConnectionResetError)
            ):
                raise result

    def abort(self) -> None:
        """Ends the connection with a TCP reset, whatever is still unsent."""
        raw_socket = self._transport.get_extra_info("socket")
        if raw_socket is not None and not self._transport.is_closing():
            # Without lingering the kernel sends RST instead of an orderly FIN.
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def say(self, text: str) -> None:
        """Queues a MSG."""
        await self._queue.put((encode_msg(text), False))

    async def say_raw(self, message: bytes | str) -> None:
        """Queues any message; text goes out as a text frame."""
        await self._queue.put((message, False))

    async def end(self, how: End) -> None:
        """Ends the connection after what is queued; a reset happens at once."""
        self._ending.set()
        self._progress.set()
        self._station.release(self._stream_key)
        self._stream_key = None
        if how is End.ABORT:
            self.abort()
        else:
            await self._queue.put(how)

    def offer_frame(self, frame: bytes) -> bool:
        """Queues a frame, unless the queue is full; says whether it was taken."""
        if self._queue.full():
            return False
        self._queue.put_nowait((frame, True))
        self._queued_frame_count += 1
        return True

    @property
    def is_ending(self) -> bool:
        """Whether the station has ended the connection and only waits for the client to go."""
        return self._ending.is_set()

    @property
    def queued_frame_count(self) -> int:
        """Frames that wait to be sent."""
        return self._queued_frame_count

    def stall(self, duration_s: float | None) -> None:
        """Sends nothing for a while, or never again."""
        self._stalled_until_s = float("inf") if duration_s is None else time.monotonic() + duration_s

    def limit_speed(self, bytes_per_s: float) -> None:
        """Sends no faster than this from now on."""
        self._bytes_per_s = bytes_per_s

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                command = message.data
            elif message.type is WSMsgType.BINARY:
                command = message.data.decode("utf-8", "replace")
            else:
                return
            if self._ending.is_set():
                continue
            command = command.rstrip("\0\r\n")
            self._station.note_command(self.number, command)
            for answer in self._open() + self._receive(command):
                if isinstance(answer, End):
                    await self.end(answer)
                    break
                await self.say(answer)

    def _open(self) -> list[str | End]:
        """On the first message only: parses the path and takes a channel."""
        if self._dialogue is not None:
            return []
        path = parse_path(self._path)
        if path is None:
            return [End.ABORT]
        key = (path.time_stamp, path.stream, self._client_ip)
        channel = self._station.allocate(key)
        if channel is None:
            return [End.ABORT]
        if channel < 0:
            return [f"too_busy={self._station.spec.rx_chans}", End.TCP_CLOSE]
        self._stream_key = key
        self._dialogue = Dialogue(
            self._station.spec,
            self._station.script,
            self.number,
            channel,
            self._client_ip,
            self._station.announced_rate_hz(self.number),
            path.wideband,
        )
        self._started_s = self._authenticated_s = self._keepalive_s = time.monotonic()
        self._progress.set()
        return self._dialogue.greet()

    def _receive(self, command: str) -> list[str | End]:
        dialogue = self._dialogue
        if dialogue is None:
            return []
        was_authenticated, keepalives = dialogue.authenticated, dialogue.keepalive_count
        answers = dialogue.receive(command)
        if dialogue.authenticated != was_authenticated:
            self._authenticated_s = time.monotonic()
        if dialogue.keepalive_count != keepalives:
            self._keepalive_s = time.monotonic()
        self._progress.set()
        if dialogue.ready and self._stream_key is not None and self._stream_key[1] == "SND":
            self._ready.set()
        return answers

    async def _stream(self) -> None:
        await self._ready.wait()
        dialogue = self._dialogue
        if dialogue is None or dialogue.mode not in IQ_MODES:
            # Only the IQ modes are simulated; in another one a client is served, but hears nothing.
            await self._ending.wait()
        else:
            await Streamer(self._station, self, dialogue).run()
        await self._abort_late()

    async def _send(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._station.spec.limits.ping_idle_s):
                    item = await self._queue.get()
            except TimeoutError:
                if self._stalled_until_s <= time.monotonic():
                    await self._socket.ping()
                continue
            await self._wait_out_stall()
            if isinstance(item, End):
                if item is End.CLOSE_FRAME:
                    await self._socket.send_frame(b"", WSMsgType.CLOSE)
                # Only our direction ends: closing the socket with commands unread would reset the connection,
                # and a reset can take the last MSG away from the client.
                self._transport.write_eof()
                await self._abort_late()
                return
            message, is_frame = item
            if isinstance(message, str):
                await self._socket.send_str(message)
            else:
                await self._socket.send_bytes(message)
            if self._bytes_per_s is not None:
                await asyncio.sleep(len(message) / self._bytes_per_s)
            self._queued_frame_count -= is_frame

    async def _wait_out_stall(self) -> None:
        await asyncio.sleep(max(self._stalled_until_s - time.monotonic(), 0.0))

    async def _watch(self) -> None:
        """Ends the connection of a client that keeps one of the server's time limits waiting."""
        while not self._ending.is_set():
            self._progress.clear()
            try:
                async with asyncio.timeout(self._limit_left_s()):
                    await self._progress.wait()
            except TimeoutError:
                dialogue = self._dialogue
                reason = "no_auth" if dialogue is None or not dialogue.authenticated else "no_setup_or_keepalive"
                _log.info("simulated_station_kicks", station=self._station.spec.id, reason=reason)
                await self._kick(["password_timeout"] if reason == "no_auth" else [])
        await self._abort_late()

    async def _kick(self, texts: list[str]) -> None:
        try:
            async with asyncio.timeout(_CLOSING_GRACE_S):
                for text in texts:
                    await self.say(text)
                await self.end(End.CLOSE_FRAME)
        except TimeoutError:
            # The queue is full and nobody reads: there is no polite way left.
            await self.end(End.ABORT)

    async def _abort_late(self) -> None:
        """Leaves time for what is queued to go out and for the client to go, then resets the connection."""
        await asyncio.sleep(_CLOSING_GRACE_S)
        self.abort()

    def _limit_left_s(self) -> float | None:
        dialogue, limits = self._dialogue, self._station.spec.limits
        if dialogue is None:
            return None
        if not dialogue.authenticated:
            limit_s = self._started_s + limits.auth_s
        else:
            limit_s = self._keepalive_s + limits.keepalive_s
            if not dialogue.ready:
                limit_s = min(limit_s, self._authenticated_s + limits.setup_s)
        return max(limit_s - time.monotonic(), 0.0)
