"""WAV files of KiwiSDR clients, up to the frames that the simulator replays."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Final

from simulator.kiwi_wav import KiwiWavError, parse_kiwi_wav
from simulator.replay import Replay, date_frames
from simulator.scenario import SAMPLES_PER_FRAME
from tests.fuzz.mutation import havoc
from tests.fuzz.target import Target

_PATH: Final = Path("recording.wav")
_NOW_UNIX_NS: Final = 1_795_415_912_300_000_000
_HEADER: Final = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 12_000, 48_000, 4, 16)
_FRAME_BYTES: Final = 18 + 8 + 4 * SAMPLES_PER_FRAME
_STAMP: Final = struct.Struct("<BBII")
_STAMP_OFFSET: Final = 8


def fuzz_kiwi_wav(data: bytes) -> None:
    """A file: KiwiWavError, or frames that all have a time."""
    try:
        wav = parse_kiwi_wav(data, _PATH)
        assert len(data) == len(_HEADER) + wav.frame_count * _FRAME_BYTES
        assert wav.samples.shape == (wav.frame_count, 2 * SAMPLES_PER_FRAME)
        assert len(wav.age_s) == len(wav.gps_second) == len(wav.gps_nanosecond) == wav.frame_count >= 1
        assert int(wav.gps_second.max()) < 604_800
        assert int(wav.gps_nanosecond.max()) < 10**9
        recording = date_frames(wav)
    except KiwiWavError as error:
        assert str(_PATH) in str(error)
        return
    assert len(recording.start_week_ns) == wav.frame_count
    assert abs(recording.sample_rate_hz / wav.header_rate_hz - 1) < 0.011
    replay = Replay({"a": recording})
    replay.start(_NOW_UNIX_NS)
    for frame in range(wav.frame_count):
        stamp = replay.stamp("a", frame)
        assert 0 <= stamp.gps_second < 604_800
        assert replay.start_unix_ns("a", frame) > 0
    # The last frame begins about as much later than the first as the frames between them last.
    length_s = (replay.start_unix_ns("a", wav.frame_count - 1) - replay.start_unix_ns("a", 0)) / 1e9
    assert abs(length_s - (wav.frame_count - 1) * SAMPLES_PER_FRAME / recording.sample_rate_hz) < 121


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes headers and stamps: whole frames that hold, and samples that nobody looks at."""
    if rng.random() < 0.2:
        return havoc(data, rng)
    head, body = bytearray(data[: len(_HEADER)]), data[len(_HEADER) :]
    frames = [bytearray(body[place : place + _FRAME_BYTES]) for place in range(0, len(body), _FRAME_BYTES)]
    for _ in range(rng.randint(1, 4)):
        frame = rng.choice(frames) if frames else bytearray()
        match rng.randrange(5):
            case 0 if len(frame) == _FRAME_BYTES:
                second = rng.choice((0, 1, rng.randrange(604_800), 604_799, 604_800, 1 << 31))
                nanosecond = rng.choice((0, 1, rng.randrange(10**9), 10**9 - 1, 10**9))
                _STAMP.pack_into(frame, _STAMP_OFFSET, rng.randrange(256), 0, second, nanosecond)
            case 1 if len(frame) == _FRAME_BYTES:
                frame[:26] = havoc(bytes(frame[:26]), rng)[:26].ljust(26, b"\0")
            case 2 if len(frames) < 6:
                frames.append(bytearray(frame or _frame(1)))
            case 3 if len(frames) > 1:
                frames.remove(frame)
            case _:
                head[:] = havoc(bytes(head), rng)[: len(_HEADER)].ljust(len(_HEADER), b"\0")
    return bytes(head) + b"".join(frames)


def _frame(stamp_ns: int, age_s: int = 1) -> bytes:
    second, nanosecond = divmod(stamp_ns, 10**9)
    stamp = _STAMP.pack(age_s, 0, second, nanosecond)
    return b"kiwi" + struct.pack("<I", 10) + stamp + b"data\0\x08\0\0" + bytes(4 * SAMPLES_PER_FRAME)


def _seeds() -> list[bytes]:
    step_ns, start_ns = 42_662_804, 370_358_269_435_262
    steady = [_frame(start_ns + number * step_ns) for number in range(5)]
    wrapped = [_frame((604_800 * 10**9 - 2 * step_ns + number * step_ns) % (604_800 * 10**9)) for number in range(4)]
    return [
        _HEADER + b"".join(steady),
        _HEADER + _frame(0, 0) + _frame(start_ns - 11_000 * 10**9) + b"".join(steady[2:]),
        _HEADER + b"".join(wrapped),
        _HEADER + _frame(1),
    ]


TARGETS: Final = (Target("kiwi-wav", fuzz_kiwi_wav, _seeds, max_bytes=16384, mutate=_mutate),)
