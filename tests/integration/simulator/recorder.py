"""A WebSocket client on a bare socket that says and needs exactly what kiwirecorder.py does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class UpgradeRefusedError(Exception):
    """The answer to the upgrade was no 101."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers


async def until(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    """Returns as soon as the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  nothing signals what other tasks of the station do
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Snd:
    """One SND frame, decoded as kiwirecorder decodes it: big-endian, whatever the flags say."""

    raw: bytes
    arrival_s: float

    @property
    def flags(self) -> int:
        return self.raw[3]

    @property
    def sequence(self) -> int:
        return int(struct.unpack_from("<I", self.raw, 4)[0])

    @property
    def s_meter_dbm(self) -> float:
        return float(struct.unpack_from(">H", self.raw, 8)[0] / 10 - 127)

    @property
    def stamp(self) -> tuple[int, int, int]:
        age, _, second, nanosecond = struct.unpack_from("<BBII", self.raw, 10)
        return age, second, nanosecond

    @property
    def stamp_ns(self) -> int:
        return self.stamp[1] * 1_000_000_000 + self.stamp[2]

    @property
    def samples(self) -> NDArray[np.complex128]:
        values = np.frombuffer(self.raw, dtype=">i2", offset=20).astype(np.float64)
        return values.view(np.complex128)


@dataclass
class Recorder:
    """One connection; `frames` and `messages` grow while `run` reads."""

    port: int
    path: str = "/1700000000/SND"
    frequency_khz: float = 10_000.0
    agc: bool = False
    man_gain: int = 50
    password: str = ""
    cut_hz: int = 5000
    answers: bool = True
    """Whether it sets the station up when it hears of sample_rate and audio_rate."""
    frames: list[Snd] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    binary: list[bytes] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    pings: int = 0
    ended: str = ""
    """`close frame`, `eof` or `reset`, with the close frame's payload after a colon."""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        key = base64.b64encode(os.urandom(16))
        self._writer.write(
            f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            self._writer.transport.abort()
            raise
        status = int(head[0].split()[1])
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        if status != 101:
            self._writer.close()
            raise UpgradeRefusedError(status, headers)
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        assert headers["upgrade"].lower() == "websocket"
        assert headers["connection"].lower() == "upgrade"
        assert headers["sec-websocket-accept"] == accept
        assert "sec-websocket-extensions" not in headers
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def say(self, command: str) -> None:
        payload, mask = command.encode(), os.urandom(4)
        length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        self._writer.write(b"\x81" + length + mask + masked)
        await self._writer.drain()

    async def auth(self) -> None:
        await self.say(f"SET auth t=kiwi p={self.password}")

    async def run(self, frame_count: int = 10**9, seconds: float = 10.0, set_up: bool = True) -> Self:
        """Reads until so many frames came, or the connection ended, or the time is over (an error)."""
        if set_up:
            await self.auth()
        last_keepalive_s = 0.0
        async with asyncio.timeout(seconds):
            while len(self.frames) < frame_count and not self.ended:
                opcode, payload = await self._receive()
                if opcode == PING:
                    self.pings += 1
                elif opcode == CLOSE:
                    self.ended = f"close frame:{payload.hex()}"
                elif opcode == TEXT:
                    self.text.append(payload.decode())
                elif payload[:3] == b"MSG":
                    await self._answer(payload[4:].decode("ascii", "replace"))
                elif payload[:3] == b"SND" and len(payload) == 2068:
                    self.frames.append(Snd(payload, time.monotonic()))
                    if time.monotonic() - last_keepalive_s > 1:
                        last_keepalive_s = time.monotonic()
                        await self.say("SET keepalive")
                elif payload:
                    self.binary.append(payload)
        return self

    async def tune(self) -> None:
        """What it sends on sample_rate."""
        cuts = f"low_cut={-self.cut_hz} high_cut={self.cut_hz}"
        for command in (
            "SET squelch=0 max=0",
            "SET genattn=0",
            "SET gen=0 mix=-1",
            "SET ident_user=kiwirecorder.py",
            f"SET mod=iq {cuts} freq={self.frequency_khz:.3f}",
            f"SET agc={int(self.agc)} hang=0 thresh=-100 slope=6 decay=1000 manGain={self.man_gain}",
            "SET keepalive",
        ):
            await self.say(command)

    def value(self, key: str) -> str | None:
        """The value of a MSG key, if it was sent."""
        for message in self.messages:
            for word in message.split():
                name, _, value = word.partition("=")
                if name == key:
                    return value
        return None

    async def _answer(self, message: str) -> None:
        self.messages.append(message)
        if not self.answers:
            return
        if message.startswith("sample_rate="):
            await self.tune()
        if "audio_rate=" in message:
            await self.say("SET AR OK in=12000 out=44100")

    async def _receive(self) -> tuple[int, bytes]:
        try:
            head = await self._reader.readexactly(2)
            assert not head[1] & 0x80, "a server never masks"
            length = head[1]
            if length == 126:
                (length,) = struct.unpack(">H", await self._reader.readexactly(2))
            payload = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError:
            self.ended = "eof"
            return 0, b""
        except ConnectionResetError:
            self.ended = "reset"
            return 0, b""
        assert head[0] & 0xF0 == 0x80, "one message, one frame, no extensions"
        return head[0] & 0x0F, payload
