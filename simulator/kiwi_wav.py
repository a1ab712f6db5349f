"""Reads the WAV files that KiwiSDR clients write: IQ with one GNSS stamp for every 512 samples."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.scenario import SAMPLES_PER_FRAME

_RIFF_HEADER = struct.Struct("<4sI4s")
_CHUNK_HEADER = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_STAMP = np.dtype([("age_s", "u1"), ("zero", "u1"), ("gps_second", "<u4"), ("gps_nanosecond", "<u4")])
_FRAME = np.dtype(
    [
        ("kiwi", "S4"),
        ("kiwi_size", "<u4"),
        ("stamp", _STAMP),
        ("data", "S4"),
        ("data_size", "<u4"),
        ("samples", "<i2", (2 * SAMPLES_PER_FRAME,)),
    ]
)


class KiwiWavError(ValueError):
    """The file is no Kiwi WAV that can be replayed."""


@dataclass(frozen=True)
class KiwiWav:
    """The content of one file; all arrays have one row a frame of 512 samples."""

    path: Path
    header_rate_hz: int
    """Rate of the WAV header, rounded to whole Hz by the client that wrote it."""
    age_s: NDArray[np.uint8]
    gps_second: NDArray[np.uint32]
    gps_nanosecond: NDArray[np.uint32]
    samples: NDArray[np.int16]
    """Interleaved I, Q; shape (frames, 1024)."""

    @property
    def frame_count(self) -> int:
        """Number of frames in the file."""
        return len(self.samples)


def read_kiwi_wav(path: Path) -> KiwiWav:
    """Reads a Kiwi WAV; blocks for the file read.

    Raises:
        KiwiWavError: the file is missing or its layout is another one; the text says where.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KiwiWavError(f"cannot read {path}: {error.strerror or error}") from error
    return parse_kiwi_wav(content, path)


def parse_kiwi_wav(content: bytes, path: Path) -> KiwiWav:
    """Decodes a Kiwi WAV.

    Args:
        content: a 12-byte RIFF header, a 16-byte `fmt ` chunk (PCM, two channels, 16 bit), then for every 512
            samples a `kiwi` chunk of 10 bytes and a `data` chunk of 2048 bytes.
        path: where it comes from.

    Raises:
        KiwiWavError: the layout is another one; the text says where.
    """
    header_size = _RIFF_HEADER.size + _CHUNK_HEADER.size + _FORMAT.size
    if len(content) < header_size:
        raise KiwiWavError(f"{path}: {len(content)} bytes, a Kiwi WAV has at least {header_size}")
    riff, _, wave = _RIFF_HEADER.unpack_from(content)
    if (riff, wave) != (b"RIFF", b"WAVE"):
        raise KiwiWavError(f"{path}: starts with {riff!r} and {wave!r}, not RIFF and WAVE")
    chunk, size = _CHUNK_HEADER.unpack_from(content, _RIFF_HEADER.size)
    if (chunk, size) != (b"fmt ", _FORMAT.size):
        raise KiwiWavError(f"{path}: first chunk is {chunk!r} of {size} bytes, not b'fmt ' of {_FORMAT.size}")
    tag, channels, rate_hz, _, _, bits = _FORMAT.unpack_from(content, _RIFF_HEADER.size + _CHUNK_HEADER.size)
    if (tag, channels, bits) != (1, 2, 16):
        raise KiwiWavError(f"{path}: format {tag}, {channels} channels, {bits} bit; must be PCM (1), 2, 16")
    if not 1000 <= rate_hz <= 100_000:
        raise KiwiWavError(f"{path}: header says {rate_hz} Hz, must be 1000 to 100000")
    return _frames(path, rate_hz, content[header_size:])


def _frames(path: Path, rate_hz: int, body: bytes) -> KiwiWav:
    frame_count, surplus = divmod(len(body), _FRAME.itemsize)
    if surplus or not frame_count:
        raise KiwiWavError(
            f"{path}: {len(body)} bytes of frames are not a whole number, at least one, of {_FRAME.itemsize}"
        )
    frames = np.frombuffer(body, dtype=_FRAME)
    sound = (
        (frames["kiwi"] == b"kiwi")
        & (frames["kiwi_size"] == _STAMP.itemsize)
        & (frames["data"] == b"data")
        & (frames["data_size"] == 4 * SAMPLES_PER_FRAME)
    )
    if not sound.all():
        raise KiwiWavError(
            f"{path}: frame {int(np.argmin(sound))} is not a kiwi chunk of {_STAMP.itemsize} bytes and a data "
            f"chunk of {4 * SAMPLES_PER_FRAME}; was it recorded without GNSS stamps or resampled?"
        )
    stamp = frames["stamp"]
    if (stamp["gps_second"] >= 604_800).any() or (stamp["gps_nanosecond"] >= 1_000_000_000).any():
        raise KiwiWavError(f"{path}: a stamp lies outside the GPS week or the second")
    return KiwiWav(
        path=path,
        header_rate_hz=rate_hz,
        age_s=stamp["age_s"].copy(),
        gps_second=stamp["gps_second"].copy(),
        gps_nanosecond=stamp["gps_nanosecond"].copy(),
        samples=frames["samples"].copy(),
    )
