"""The driver for KiwiSDR receivers: sets a station up whatever the order of its messages, and watches its stream."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import structlog

from fetcher_svc.gnss import StampQuality, StampRule
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers import kiwisdr_wire as wire
from fetcher_svc.receivers.base import Facts, Frame, Notice, Permit, Probe, Tuning
from fetcher_svc.receivers.checks import check_tuning
from fetcher_svc.receivers.http import MAX_REDIRECT_COUNT, RedirectError, cause_of
from fetcher_svc.receivers.kiwisdr_calibration import attenuated
from fetcher_svc.receivers.kiwisdr_refusals import find_refusal
from fetcher_svc.receivers.kiwisdr_setup import Setup
from fetcher_svc.receivers.kiwisdr_status import read_status
from heimdall.clock import Clock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)

SETUP_LIMIT_S: Final = 10.0
KEEPALIVE_INTERVAL_S: Final = 5.0
STALL_NOTICE_S: Final = 2.0
STALL_LIMIT_S: Final = 3.0
STOOD_STILL_S: Final = 0.5
"""Lateness of a timer that tells that this process stood still, as when it was stopped or its machine slept."""
CLOSE_LIMIT_S: Final = 0.5
MAX_GAIN_DB: Final = 120
MAX_MALFORMED_COUNT: Final = 20
"""Malformed messages in a row after which a connection is given up."""
_MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
_LEADING_FRAME_COUNT: Final = 2
"""Frames at the start of a connection whose stamps are zero or somebody else's."""
_CLOSED: Final = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)


class KiwiReceiver:
    """One KiwiSDR."""

    def __init__(
        self,
        config: ReceiverConfig,
        password: str,
        *,
        session: aiohttp.ClientSession,
        stamp_rule: StampRule,
        user_name: str,
    ) -> None:
        """Names the station and how to speak with it; connects to nothing.

        Args:
            config: Its entry in receivers.toml.
            password: Its password, empty for none.
            session: HTTP session of the service.
            stamp_rule: When a stamp is trusted.
            user_name: Who connects, as the station's owner sees it.
        """
        self._config = config
        self._password = password
        self._session = session
        self._stamp_rule = stamp_rule
        self._user_name = user_name

    def check(self, tuning: Tuning) -> Tuning:
        """Returns the tuning with the station's default gain filled in; refuses what it can not do."""
        return check_tuning(self._config, tuning, max_gain_db=MAX_GAIN_DB, whole_gain=True)

    async def connect(self, tuning: Tuning, permit: Permit, clock: Clock) -> KiwiConnection:
        """Connects, logs in and tunes within 10 s, following at most three redirects, by HTTP or by message."""
        target, visited = self._config.url, [self._config.url]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETUP_LIMIT_S
        while True:
            setup = Setup(self._config, tuning)
            await permit()
            try:
                return await self._set_up(target, setup, deadline, clock)
            except RedirectError as redirect:
                target = redirect.url.rstrip("/")
                if target in visited or len(visited) > MAX_REDIRECT_COUNT:
                    raise HeimdallError(
                        ErrorReason.ERROR_REASON_UPSTREAM_REDIRECT_LOOP,
                        f"the station redirects in a loop or more than {MAX_REDIRECT_COUNT} times: "
                        f"{' -> '.join([*visited, target])}",
                        metadata={"visited": " ".join([*visited, target])},
                    ) from None
                visited.append(target)
            except TimeoutError:
                raise HeimdallError(
                    ErrorReason.ERROR_REASON_UPSTREAM_SETUP_TIMEOUT,
                    f"the station did not complete the set-up within {SETUP_LIMIT_S:g} s; "
                    f"missing: {setup.missing_text}",
                    metadata={"limit_s": SETUP_LIMIT_S, "missing": setup.missing_text},
                ) from None

    async def probe(self) -> Probe:
        """Reads the page /status, which takes no channel."""
        return await read_status(self._session, self._config.url)

    async def _set_up(self, target: str, setup: Setup, deadline: float, clock: Clock) -> KiwiConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout_at(deadline):
            started = loop.time()
            socket = await self._open(target)
            round_trip_s = loop.time() - started
            try:
                await socket.send_str(wire.auth_command(self._password))
                while not setup.complete:
                    setup.take(_binary(await socket.receive(), socket))
                facts = setup.facts()
                for command in setup.commands(self._user_name):
                    await socket.send_str(command)
            except BaseException as error:
                # Also when cancelled: an open socket would keep one of the station's channels.
                await socket.close()
                if isinstance(error, ConnectionError):
                    raise _lost(str(error)) from error
                if isinstance(error, wire.WireError):
                    raise HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, str(error)) from error
                raise
        return KiwiConnection(socket, facts, setup.frequency_offset_hz, round_trip_s, deadline, clock, self._stamp_rule)

    async def _open(self, target: str) -> aiohttp.ClientWebSocketResponse:
        # What a proxy redirects to is used as it is: its path says which station is meant.
        url = target if urlsplit(target).path else f"{target}/{secrets.randbits(32)}/SND"
        try:
            return await self._session.ws_connect(
                url, max_msg_size=_MAX_MESSAGE_BYTES, timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_LIMIT_S)
            )
        except aiohttp.WSServerHandshakeError as error:
            raise _handshake_error(target, error) from error
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            # A UnicodeError is a host name that can not be looked up; a redirect may hold one.
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_UNREACHABLE,
                f"{target} can not be reached: {cause_of(error)}",
                metadata={"url": target, "error": cause_of(error)},
            ) from error


class KiwiConnection:
    """A set-up sound connection."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        facts: Facts,
        frequency_offset_hz: float,
        round_trip_s: float,
        first_frame_deadline: float,
        clock: Clock,
        stamp_rule: StampRule,
    ) -> None:
        """Takes over a socket that is set up, and keeps it alive until close.

        Args:
            socket: The WebSocket.
            facts: What the station does.
            frequency_offset_hz: The offset that the station announced.
            round_trip_s: Time of the connect.
            first_frame_deadline: Loop time at which the first frame must have come.
            clock: Dates the arrival of frames.
            stamp_rule: When a stamp is trusted.
        """
        self._socket = socket
        self._facts = facts
        self._frequency_offset_hz = frequency_offset_hz
        self._round_trip_s = round_trip_s
        self._clock = clock
        self._stamp_rule = stamp_rule
        self._loop = asyncio.get_running_loop()
        self._frame_count = 0
        self._malformed_count = 0
        self._first_frame_deadline = first_frame_deadline
        self._last_frame_at = self._loop.time()
        self._notice: Notice | None = None
        self._failure: HeimdallError | None = None
        self._watch_task = asyncio.create_task(self._watch())

    @property
    def facts(self) -> Facts:
        """What the station does now."""
        return self._facts

    @property
    def round_trip_s(self) -> float:
        """How long the connect took, in s."""
        return self._round_trip_s

    async def read(self) -> Frame | Facts | Notice:
        """Returns the next frame, changed facts or a notice; a stream that falls silent for 3 s has stalled."""
        while True:
            if self._notice is not None:
                notice, self._notice = self._notice, None
                return notice
            message = await self._socket.receive()
            item: Frame | Facts | Notice | None
            if message.type is aiohttp.WSMsgType.BINARY and message.data[:3] == b"SND":
                item = self._frame(message.data)
            elif self._failure is not None and message.type in _CLOSED:
                if self._notice is None:
                    raise self._failure
                item = None
            else:
                item = self._other(message)
            if item is not None:
                return item

    async def close(self) -> None:
        """Ends the watch and the socket."""
        self._watch_task.cancel()
        await asyncio.gather(self._watch_task, return_exceptions=True)
        await self._socket.close()

    def _frame(self, data: bytes) -> Frame | Notice:
        now_ns = self._clock.unix_ns()
        try:
            raw = wire.parse_frame(data)
        except wire.WireError as error:
            return replace(self._malformed(error), frame_lost=True)
        self._malformed_count = 0
        self._frame_count += 1
        self._last_frame_at = self._loop.time()
        stamp_ns, quality = self._stamp_rule.judge(raw.gps_second, raw.gps_nanosecond, raw.age_s, now_ns)
        if raw.sequence <= _LEADING_FRAME_COUNT:
            stamp_ns, quality = None, StampQuality.LEADING
        return Frame(
            samples=raw.samples,
            sample_count=raw.sample_count,
            sequence=raw.sequence,
            stamp_ns=stamp_ns,
            stamp_age_s=raw.age_s,
            stamp_quality=quality,
            arrival_unix_ns=now_ns,
            overload=raw.overload,
            # The first frame's level is a leftover of the channel's last user.
            level_dbm=raw.level_dbm if self._frame_count > 1 else None,
        )

    def _other(self, message: aiohttp.WSMessage) -> Facts | Notice | None:
        try:
            data = _binary(message, self._socket)
            if data[:3] != b"MSG":
                if data[:3] in (b"W/F", b"EXT", b"DAT"):
                    return None
                raise wire.WireError(f"a message starts with {data[:3]!r}; MSG or SND was expected")
            pairs = wire.parse_message(data)
            refusal = find_refusal(pairs, streaming=self._frame_count > 0)
            if refusal is not None:
                raise refusal
            return self._changed(pairs)
        except wire.WireError as error:
            return self._malformed(error)

    def _changed(self, pairs: dict[str, str | None]) -> Facts | None:
        offset_khz = wire.parse_number(pairs, "freq_offset")
        if offset_khz is not None and abs(offset_khz * 1e3 - self._frequency_offset_hz) > 0.5:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_FORMAT_CHANGED,
                f"the station changed its frequency offset to {offset_khz:g} kHz in mid-stream",
                metadata={"freq_offset_khz": offset_khz},
            )
        attenuation_db = wire.parse_number(pairs, "rf_attn")
        if attenuation_db is None or attenuation_db == self._facts.attenuation_db:
            return None
        calibration = self._facts.calibration
        if calibration is not None:
            calibration = attenuated(calibration, attenuation_db - (self._facts.attenuation_db or 0.0))
        self._facts = replace(self._facts, attenuation_db=attenuation_db, calibration=calibration)
        return self._facts

    def _malformed(self, error: wire.WireError) -> Notice:
        self._malformed_count += 1
        failure = HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, str(error), metadata={"count": self._malformed_count}
        )
        if self._malformed_count > MAX_MALFORMED_COUNT:
            raise failure from error
        return Notice(failure)

    async def _watch(self) -> None:
        """Sends the keepalives, and ends a connection that fell silent; costs nothing a frame."""
        keepalive_at, noticed_at = self._loop.time() + KEEPALIVE_INTERVAL_S, 0.0
        while self._failure is None:
            last_at = self._last_frame_at
            notice_at, give_up_at = last_at + STALL_NOTICE_S, last_at + STALL_LIMIT_S
            if self._frame_count == 0:
                notice_at = give_up_at = self._first_frame_deadline
            elif noticed_at == last_at:
                notice_at = give_up_at
            # Never longer than a notice takes: the first frame may come meanwhile and bring the deadline forward.
            now = self._loop.time()
            wake_at = now + min(max(0.0, min(keepalive_at, notice_at) - now), STALL_NOTICE_S)
            await asyncio.sleep(wake_at - now)
            now = self._loop.time()
            if now > wake_at + STOOD_STILL_S:
                # What came meanwhile lies unread in the socket, so the silence counts from now on.
                self._last_frame_at = now
            if now >= keepalive_at:
                keepalive_at = now + KEEPALIVE_INTERVAL_S
                await self._send_keepalive()
            if self._last_frame_at != last_at or now < notice_at:
                continue
            if now >= give_up_at:
                self._failure = self._silence_error(STALL_LIMIT_S)
            else:
                noticed_at = last_at
                self._notice = Notice(self._silence_error(STALL_NOTICE_S))
        # The reader waits in the socket; closing that wakes it.
        await self._socket.close()

    def _silence_error(self, silent_s: float) -> HeimdallError:
        if self._frame_count == 0:
            return HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_SETUP_TIMEOUT,
                f"the station took all settings and sent no samples within {SETUP_LIMIT_S:g} s",
                metadata={"limit_s": SETUP_LIMIT_S, "missing": "SND"},
            )
        return HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_STALLED,
            f"no samples came for {silent_s:g} s",
            metadata={"stalled_s": silent_s},
        )

    async def _send_keepalive(self) -> None:
        try:
            await self._socket.send_str(wire.KEEPALIVE)
        except ConnectionError as error:
            # The reader of this socket sees the same loss and acts on it.
            _log.debug("keepalive_failed", error=str(error))


def _binary(message: aiohttp.WSMessage, socket: aiohttp.ClientWebSocketResponse) -> bytes:
    """Returns the bytes of a binary message.

    Raises:
        HeimdallError: If the message is the end of the connection.
        WireError: If it is text; a KiwiSDR sends binary messages only.
    """
    if message.type is aiohttp.WSMsgType.BINARY:
        return bytes(message.data)
    if message.type in _CLOSED:
        # A close frame may come without a code, so its own kind of message tells it from a mere end of the TCP stream.
        framed = message.type is aiohttp.WSMsgType.CLOSE
        if not framed and socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
            raise _lost("the TCP connection ended without a close frame")
        raise HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_CLOSED,
            "the station closed the connection and gave no cause",
            metadata={"close_code": socket.close_code},
        )
    if message.type is aiohttp.WSMsgType.ERROR:
        if isinstance(message.data, aiohttp.WebSocketError):
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"the station broke the WebSocket protocol: {message.data}",
                metadata={"error": message.data},
            )
        raise _lost(str(message.data))
    raise wire.WireError(f"a {message.type.name} message came; a KiwiSDR sends binary messages only")


def _lost(cause: str) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_UPSTREAM_CONNECTION_LOST,
        f"the connection to the station broke: {cause}",
        metadata={"error": cause},
    )


def _handshake_error(target: str, error: aiohttp.WSServerHandshakeError) -> HeimdallError:
    reason, text = {
        404: (ErrorReason.ERROR_REASON_UPSTREAM_NOT_FOUND, "its proxy knows no such station, or it is offline"),
        403: (ErrorReason.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT, "this address is blacklisted there"),
    }.get(error.status, (ErrorReason.ERROR_REASON_UPSTREAM_UNREACHABLE, "no WebSocket there"))
    host = urlsplit(target).netloc
    return HeimdallError(
        reason,
        f"{host} answered the connect with HTTP {error.status}: {text}",
        metadata={"url": target, "http_status": error.status},
    )
