"""One simulated KiwiSDR: its port, its HTTP pages, its channels, its script of faults."""

from __future__ import annotations

import socket
import time
from collections import deque

import structlog
from aiohttp import web

from simulator.clock import SimulationClock
from simulator.connection import Connection
from simulator.faults import CONNECT_KINDS, HTTP_KINDS, Fault, FaultScript
from simulator.gnss import NS_PER_S, GnssClock
from simulator.receiver_path import AntennaSignal
from simulator.records import ReceivedCommand, SentFrame
from simulator.replay import Replay
from simulator.scenario import Scenario, StationSpec
from simulator.source import FileSource, FrameSource, RadioSource
from simulator.status_page import status_text

SERVER_HEADER = "KiwiSDR_1.711/Mongoose_5.6"
_SEND_BUFFER_BYTES = 64 * 1024
_COMMANDS_KEPT = 10_000

_log = structlog.get_logger(__name__)


class Station:
    """A running station; made by `Simulator`."""

    def __init__(
        self,
        spec: StationSpec,
        scenario: Scenario,
        signal: AntennaSignal,
        clock: SimulationClock,
        replay: Replay,
        *,
        record_sent: bool,
    ) -> None:
        self.spec = spec
        self.clock = clock
        self.script = FaultScript(list(spec.fault))
        self.sent: list[SentFrame] = []
        """Every numbered frame, if the simulator was told to record."""
        self.commands: deque[ReceivedCommand] = deque(maxlen=_COMMANDS_KEPT)
        """The latest 10,000 commands of all connections."""
        self.connection_times: list[float] = []
        """`time.monotonic()` of every attempted upgrade, so connection n is entry n - 1."""
        self.host = ""
        self.port = 0
        self._signal = signal
        self._gnss = GnssClock(spec, clock.start_unix_ns, scenario.seed)
        self._replay = replay
        self._record_sent = record_sent
        self._channels: dict[tuple[str, str, str], int] = {}
        self._connections: dict[int, Connection] = {}
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._reserved: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where clients find the station, such as http://127.0.0.1:8073."""
        return f"http://{self.host}:{self.port}"

    @property
    def clients(self) -> int:
        """Number of open WebSocket connections that the station itself has not ended."""
        return sum(not connection.is_ending for connection in self._connections.values())

    async def start(self, host: str, *, any_port: bool) -> None:
        """Opens the port.

        Raises:
            OSError: the port cannot be opened; the text names station and port.
        """
        wanted = 0 if any_port else self.spec.port
        self._reserved = _bind(host, wanted, self.spec.id)
        self.host, self.port = host, self._reserved.getsockname()[1]
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        if not any(fault.kind == "port_closed" for fault in self.script.faults):
            await self._listen()

    async def stop(self) -> None:
        """Ends every connection and closes the port."""
        for connection in list(self._connections.values()):
            connection.abort()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._reserved is not None:
            self._reserved.close()

    async def inject(self, fault: Fault) -> None:
        """Adds a fault to the script at run time.

        A stream fault without a trigger and without a count hits every connection that is open now, before
        its next frame; everything else behaves as if it had been in the scenario.

        Raises:
            ValueError: the fault does not fit this station.
        """
        self.spec.check_fault(fault)
        now = fault.kind not in CONNECT_KINDS and fault.after_frame is None and fault.after_s is None
        only_now = now and fault.connection is None and fault.count is None
        self.script.add(fault, frozenset(self._connections) if only_now else None)
        if fault.kind == "port_closed" and self._site is not None:
            await self._site.stop()
            self._site = None

    async def clear_faults(self) -> None:
        """Forgets the script, and opens the port again if a fault had closed it."""
        self.script.clear()
        if self._site is None:
            await self._listen()

    def open_source(self) -> FrameSource:
        """Where a new connection's frames come from."""
        now_unix_ns = self.clock.now_unix_ns()
        if self.spec.replay is not None:
            return FileSource(self.spec.id, self._replay, now_unix_ns)
        return RadioSource(self.spec, self._signal, self._gnss, self.clock.start_unix_ns, now_unix_ns)

    def announced_rate_hz(self, connection: int) -> float:
        """The sample rate that this connection is told, in Hz."""
        fault = self.script.take_at_connect(frozenset({"wrong_rate"}), connection)
        if fault is not None and fault.sample_rate_hz is not None:
            return fault.sample_rate_hz
        if self.spec.announced_sample_rate_hz is not None:
            return self.spec.announced_sample_rate_hz
        if self.spec.replay is not None:
            return self._replay.recording(self.spec.id).sample_rate_hz
        return self.spec.sample_rate_hz

    def wrap_week_in(self, duration_s: float) -> None:
        """Puts the station's clock off so that its GPS week ends within a second after that time from now."""
        self._gnss.wrap_week_at(self.clock.now_unix_ns() + round(duration_s * NS_PER_S))

    def allocate(self, stream_key: tuple[str, str, str]) -> int | None:
        """Takes a receiver channel.

        Args:
            stream_key: time stamp, stream type and client address of the connection.

        Returns:
            The channel; -1 if all are taken; None if this very stream exists already.
        """
        if stream_key in self._channels:
            return None
        if stream_key[1] != "SND":
            # Waterfall and extension connections belong to a sound connection and use no channel of their own.
            self._channels[stream_key] = -1
            return 0
        taken = set(self._channels.values())
        free = [channel for channel in range(self.spec.rx_chans) if channel not in taken]
        if not free:
            return -1
        self._channels[stream_key] = free[0]
        if self.spec.replay is not None:
            self._replay.start(self.clock.now_unix_ns())
        return free[0]

    def release(self, stream_key: tuple[str, str, str] | None) -> None:
        """Gives a connection's channel back."""
        if stream_key is not None:
            self._channels.pop(stream_key, None)

    def note_command(self, connection: int, text: str) -> None:
        """Remembers a command."""
        self.commands.append(ReceivedCommand(connection, time.monotonic(), text))

    def note_frame(self, frame: SentFrame) -> None:
        """Remembers a frame, if the simulator records."""
        if self._record_sent:
            self.sent.append(frame)

    async def _listen(self) -> None:
        if self._runner is None:
            raise RuntimeError(f"station {self.spec.id} is not running")
        listener = self._reserved or _bind(self.host, self.port, self.spec.id)
        self._reserved = None
        self._site = web.SockSite(self._runner, listener)
        await self._site.start()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            fault = self.script.peek_at_connect(HTTP_KINDS, len(self.connection_times) + 1)
            return self._page(request.path) if fault is None else _refuse(fault, request)
        self.connection_times.append(time.monotonic())
        number = len(self.connection_times)
        fault = self.script.take_at_connect(HTTP_KINDS, number)
        return await self._serve(request, number) if fault is None else _refuse(fault, request)

    async def _serve(self, request: web.Request, number: int) -> web.StreamResponse:
        response = web.WebSocketResponse(compress=False, max_msg_size=16 * 1024, timeout=1.0)
        await response.prepare(request)
        connection = Connection(self, response, request, number)
        self._connections[number] = connection
        _log.info("simulated_client_connected", station=self.spec.id, connection=number, path=request.path)
        try:
            await connection.run()
        finally:
            del self._connections[number]
            _log.info("simulated_client_left", station=self.spec.id, connection=number)
        return response

    def _page(self, path: str) -> web.Response:
        headers = {"Server": SERVER_HEADER}
        if path == "/status":
            users = sum(channel >= 0 for channel in self._channels.values())
            offline = any(fault.kind == "down" and not fault.is_late for fault in self.script.faults)
            uptime_s = self.spec.uptime_s + (self.clock.now_unix_ns() - self.clock.start_unix_ns) / NS_PER_S
            text = status_text(self.spec, users, uptime_s, self.clock.now_unix_ns(), offline=offline)
            return web.Response(text=text, headers=headers)
        if path == "/VER":
            return web.json_response({"maj": 1, "min": 711, "ts": 0, "sp": 0}, headers=headers)
        if path == "/replay":
            shifts = {"shift_s": self._replay.shift_s, "unix_shift_s": self._replay.unix_shift_s}
            return web.json_response(shifts, headers=headers)
        if path == "/":
            return web.Response(text="A simulated KiwiSDR.\n", headers=headers)
        return web.Response(status=404, text="not found\n", headers=headers)


def _refuse(fault: Fault, request: web.Request) -> web.Response:
    if fault.kind == "http_404":
        return web.Response(status=404, text="not found\n")
    if fault.kind == "redirect_http":
        return web.Response(status=307, headers={"Location": f"{fault.url}".rstrip("/") + request.path_qs})
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def _bind(host: str, port: int, station_id: str) -> socket.socket:
    """A bound socket that does not listen yet, so that connecting to it is refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it; a big buffer would hide a client that does not read for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listener.setblocking(False)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"station {station_id}: cannot open {host}:{port}: {error.strerror}") from error
    return listener
