"""A KiwiSDR's sound frames, one by one and as whole runs up to the events that storage would have to take."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from fetcher_svc import messages
from fetcher_svc.cutter import Block, Cutter, Described, Gap, Resume, Segment, Window
from fetcher_svc.feed import Feed, UpstreamState
from fetcher_svc.gnss import StampQuality, StampRule
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers import kiwisdr_wire as wire
from fetcher_svc.receivers.base import Facts, Frame, SampleFormat
from fetcher_svc.run_tracker import Loss
from fetcher_svc.session import Ending, EndReason, Progress
from fetcher_svc.solution import solve
from fetcher_svc.timeline import Placed, TimeBase, Timeline
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.spool.progress import Progress as StoredProgress
from tests.fuzz.target import Target

_HEADER: Final = struct.Struct("<3sBI")
_NS: Final = 1_000_000_000
_WEEK_NS: Final = 604_800 * _NS
_START_NS: Final = 1_700_000_000 * _NS
_RATE_HZ: Final = 1000.0
"""The slowest that a station can announce, so that frames of little data are 42 ms long as real ones are."""
_FRAME_COUNT: Final = 42
_MAX_FRAMES: Final = 40
_RING_BYTES: Final = 4096

_CONFIG: Final = ReceiverConfig(
    receiver_id="rx-1",
    name="Receiver 1",
    driver="kiwisdr",
    url="http://127.0.0.1:8073",
    latitude_deg=45,
    longitude_deg=7,
    altitude_m=250,
    min_frequency_hz=0,
    max_frequency_hz=30e6,
)
_FACTS: Final = Facts(
    center_frequency_hz=7.1e6,
    sample_rate_hz=_RATE_HZ,
    sample_format=SampleFormat.CI16_LE,
    full_scale=32768.0,
    zero_offset=0.0,
    automatic_gain=False,
    gain_db=50.0,
    passband_low_hz=-500.0,
    passband_high_hz=500.0,
    attenuation_db=None,
    server_version="KiwiSDR_v1.711",
    frame_sample_count=_FRAME_COUNT,
)


def _frame_bytes(
    flags: int, sequence: int, level: int, age_s: int, second: int, nanosecond: int, sample_count: int
) -> bytes:
    head = _HEADER.pack(b"SND", flags, sequence) + struct.pack(">H", level)
    return head + struct.pack("<BBII", age_s, 0, second, nanosecond) + bytes(4 * sample_count)


def fuzz_kiwi_frame(data: bytes) -> None:
    """One frame: refused as WireError, or as long as it says, and the same again in the other byte order."""
    try:
        frame = wire.parse_frame(data)
    except wire.WireError as error:
        assert str(error)
        return
    assert frame.sample_count * 4 == len(frame.samples) == len(data) - wire.HEADER_BYTE_COUNT
    assert frame.sample_count >= 1
    assert 0 <= frame.gps_second < 604_800
    assert 0 <= frame.gps_nanosecond < _NS
    assert 0 <= frame.age_s <= 255
    assert math.isfinite(frame.level_dbm)
    other = bytearray(data)
    other[3] ^= wire.FLAG_LITTLE_ENDIAN
    swapped = wire.parse_frame(bytes(other)).samples
    assert swapped[0::2] == frame.samples[1::2]
    assert swapped[1::2] == frame.samples[0::2]


class _Program:
    """Reads an input as instructions; behind its end everything is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def over(self) -> bool:
        return self._place >= len(self._data)

    def number(self, byte_count: int, *, signed: bool = False) -> int:
        part = self._data[self._place : self._place + byte_count]
        self._place += byte_count
        return int.from_bytes(part, "little", signed=signed)


@dataclass
class _Station:
    """A sample clock, a GNSS clock and a network that the instructions may upset."""

    sample: int = 0
    sequence: int = 0
    age_s: int = 1
    clock_error_ns: int = 0
    delay_ns: int = 60_000_000
    stamped: bool = True
    frame_sample_count: int = _FRAME_COUNT
    last_arrival_ns: int = field(default=_START_NS)

    def frame(self, stamp_error_ns: int = 0) -> tuple[bytes, int]:
        """Returns the next frame and when it comes by the host clock."""
        self.sequence = (self.sequence + 1) % (1 << 32)
        stamp_ns = self._time_ns() + self.clock_error_ns + stamp_error_ns
        second, nanosecond = divmod((stamp_ns - 315_964_800 * _NS + 18 * _NS) % _WEEK_NS, _NS)
        if not self.stamped:
            second = nanosecond = 0
        self.sample += self.frame_sample_count
        data = _frame_bytes(0x08, self.sequence, 670, self.age_s, second, nanosecond, self.frame_sample_count)
        return data, self.arrival_ns()

    def arrival_ns(self) -> int:
        # TCP delivers in order: however late one frame is, the next comes after it.
        self.last_arrival_ns = max(self.last_arrival_ns, self._time_ns() + self.delay_ns)
        return self.last_arrival_ns

    def _time_ns(self) -> int:
        return _START_NS + round(self.sample * _NS / _RATE_HZ)


class _Run:
    """Takes frames the way of the driver, the upstream and a session, and holds what comes out to its rules."""

    def __init__(self, window: Window, resume: Resume | None) -> None:
        self._timeline = Timeline()
        self._feed = Feed(_RING_BYTES)
        self._feed.timeline = self._timeline
        self._window = window
        self._resume = resume
        self._cutter: Cutter | None = None
        self._stored = StoredProgress(next_index=0 if resume is None else resume.sample_index)
        self._axis_end = 0
        self._waiting: list[Frame] = []
        self._described: Described | None = None
        self._broken = False

    def connect(self, facts: Facts, cause: HeimdallError | None) -> None:
        self._timeline.begin_run(facts, 0.05, cause)

    def take(self, data: bytes, arrival_ns: int) -> None:
        """Takes one message of the station."""
        if self._broken:
            return
        try:
            raw = wire.parse_frame(data)
        except wire.WireError as error:
            cause = HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR, str(error))
            self._timeline.note_lost_frame(cause)
            return
        stamp_ns, quality = StampRule().judge(raw.gps_second, raw.gps_nanosecond, raw.age_s, arrival_ns)
        if raw.sequence <= 2:
            stamp_ns, quality = None, StampQuality.LEADING
        frame = Frame(
            samples=raw.samples,
            sample_count=raw.sample_count,
            sequence=raw.sequence,
            stamp_ns=stamp_ns,
            stamp_age_s=raw.age_s,
            stamp_quality=quality,
            arrival_unix_ns=arrival_ns,
            overload=raw.overload,
            level_dbm=raw.level_dbm,
        )
        self._waiting.append(frame)
        try:
            pieces = self._timeline.push(frame)
        except HeimdallError as error:
            # The counter can not be: the upstream ends the connection.
            assert error.reason == ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR
            self._waiting.pop()
            self._broken = True
            return
        self._publish(pieces)

    def disconnect(self) -> None:
        """Ends the connection; every frame that came has its place now."""
        self._broken = False
        self._publish(self._timeline.end_run())
        assert not self._waiting, f"{len(self._waiting)} frames have no place"

    def finish(self) -> None:
        """Ends the stream."""
        self.disconnect()
        self._deliver()
        if self._cutter is None:
            return
        self._store(self._cutter.finish(self._feed.last, None))
        first = 0 if self._resume is None else self._resume.sample_index
        assert self._cutter.received_count + self._cutter.lost_count == self._stored.next_index - first
        self._solve(ended=True)

    def _publish(self, pieces: list[Placed | Loss]) -> None:
        for piece in pieces:
            assert piece.position == self._axis_end, f"{piece} does not start at {self._axis_end}"
            if isinstance(piece, Loss):
                assert piece.count >= 1
                self._axis_end += piece.count
            else:
                assert piece.frame is self._waiting.pop(0), "a frame came out of order"
                assert math.isfinite(piece.rate_hz)
                assert piece.rate_hz > 0
                self._axis_end = piece.end
        base = self._timeline.base
        if pieces and base is not None and self._described != Described(_FACTS, base):
            self._described = Described(_FACTS, base)
            self._feed.put(self._described)
        for piece in pieces:
            self._feed.put(piece)
        if self._feed.first is not None:
            self._deliver()

    def _deliver(self) -> None:
        if self._feed.first is None or self._feed.described is None:
            return
        if self._cutter is None:
            exact_times = self._feed.described.base is TimeBase.GNSS
            self._cutter = Cutter(self._window, 4, self._resume, exact_times=exact_times)
            self._store([Segment(self._stored.next_index, self._feed.described)])
        while (piece := self._feed.take()) is not None:
            self._store(self._cutter.push(piece))

    def _store(self, events: list[Block | Gap | Segment]) -> None:
        """Storage refuses nothing of it: neither holes nor overlaps, lengths, times or counts that can not be."""
        for event in events:
            if isinstance(event, Block):
                assert event.sample_count * 4 == len(event.samples)
            message = messages.event_message(event, _CONFIG).event
            self._stored.check(message, len(message.block.samples), _CONFIG.receiver_id)
            self._stored.apply(message)

    def _solve(self, *, ended: bool) -> None:
        cutter = self._cutter
        solution = solve(self._feed, None if cutter is None else cutter.origin)
        progress = Progress(UpstreamState.STREAMING, solution, -60.0, [])
        self._stored.check(messages.event_message(progress, _CONFIG).event, 0, _CONFIG.receiver_id)
        if ended and cutter is not None:
            ending = Ending(
                cutter.next_index, EndReason.STOPPED, None, solution, cutter.received_count, cutter.lost_count, 1
            )
            assert messages.event_message(ending, _CONFIG).event.end.end_sample_index == self._stored.next_index
        if solution is not None:
            assert math.isfinite(solution.time_sigma_ns)
            assert solution.time_sigma_ns >= 0


def fuzz_kiwi_run(data: bytes) -> None:
    """Frames of arbitrary headers at arbitrary times: every one is placed, and what is told of them can be stored."""
    program = _Program(data)
    start, length = program.number(1), program.number(1)
    start_ns = _START_NS + start * 50_000_000 if start else None
    end_ns = None if not length else (start_ns or _START_NS) + length * 50_000_000
    resume = Resume(8 * start, _START_NS) if length % 16 == 15 else None
    run, station = _Run(Window(start_ns, end_ns), resume), _Station()
    facts = replace(_FACTS, frame_sample_count=_FRAME_COUNT if start % 4 else None)
    run.connect(facts, None)
    left = _MAX_FRAMES
    while left > 0 and not program.over:
        for message, arrival_ns in _instruct(program, station, run, facts):
            run.take(message, arrival_ns)
            left -= 1
    run.finish()


def _instruct(program: _Program, station: _Station, run: _Run, facts: Facts) -> Iterator[tuple[bytes, int]]:
    """Carries out one instruction; yields the frames that come of it."""
    kind = program.number(1) % 16
    match kind:
        case 0 | 1 | 2:
            for _ in range(1 + program.number(1) % 20):
                yield station.frame()
        case 3:
            count = 1 + program.number(1)
            station.sequence += count
            station.sample += count * station.frame_sample_count
        case 4:
            station.sample += program.number(2)
        case 5:
            yield station.frame(program.number(4, signed=True))
        case 6:
            station.stamped = not station.stamped
        case 7:
            station.age_s = program.number(1)
        case 8:
            level, flags = program.number(1), program.number(1)
            sequence, second, nanosecond = program.number(4), program.number(4), program.number(4)
            message = _frame_bytes(flags, sequence, level, program.number(1), second, nanosecond, program.number(1))
            yield message, station.arrival_ns()
        case 9:
            run.disconnect()
            station.sample += program.number(2)
            station.sequence = 0
            rate_hz = facts.sample_rate_hz * (1 + program.number(1, signed=True) * 1e-6)
            cause = HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_CLOSED, "the station closed the connection")
            run.connect(replace(facts, sample_rate_hz=rate_hz), cause)
        case 10:
            station.last_arrival_ns += program.number(4) * 1000
        case 11:
            station.clock_error_ns += program.number(1, signed=True) * _NS // 4
        case 12:
            station.frame_sample_count = 1 + program.number(1)
        case 13:
            station.clock_error_ns += program.number(4, signed=True) * 100
        case 14:
            station.clock_error_ns += program.number(1, signed=True) * 500_000
        case _:
            yield b"SND" + bytes((program.number(1),)) * program.number(1), station.arrival_ns()


def _frame_seeds() -> list[bytes]:
    return [
        _frame_bytes(0x08, 3, 670, 1, 300_000, 166_127_360, 512),
        _frame_bytes(0x8A, 4, 0, 255, 604_799, 999_999_999, 4),
        _frame_bytes(0x0D, 1, 1304, 0, 0, 0, 1),
    ]


def _run_seeds() -> list[bytes]:
    steady = bytes((0, 20))
    return [
        bytes((0, 0)) + steady * 3,
        bytes((1, 40)) + steady + bytes((3, 4)) + steady + bytes((4, 84, 1)) + steady * 2,
        bytes((2, 60)) + steady + bytes((9, 0, 4, 7)) + steady + bytes((9, 1, 0, 249)) + steady,
        bytes((0, 30)) + bytes((6,)) + steady + bytes((6,)) + steady + bytes((5, 0, 0, 16, 0)) + steady,
        bytes((5, 90))
        + steady
        + bytes((11, 20))
        + steady
        + bytes((10, 0, 64, 3, 0))
        + steady
        + bytes((13, 0, 0, 1, 0)),
        bytes((3, 10))
        + bytes((7, 255))
        + steady
        + bytes((7, 0))
        + steady
        + bytes((14, 3))
        + steady
        + bytes((15, 8, 9)),
        bytes((0, 0)) + steady + bytes((8, 9, 8, 30, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 7, 1, 42)) + steady,
    ]


TARGETS: Final = (
    Target("kiwi-frame", fuzz_kiwi_frame, _frame_seeds, max_bytes=2200),
    Target("kiwi-run", fuzz_kiwi_run, _run_seeds, max_bytes=128),
)
