"""The bytes that a KiwiSDR sends: SND frames in IQ mode and MSG texts."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

FLAG_PASSBAND_CHANGED: Final = 0x01
FLAG_ADC_OVERFLOW: Final = 0x02
FLAG_TUNING_CHANGED: Final = 0x04
FLAG_STEREO: Final = 0x08
FLAG_RESTARTED: Final = 0x20
FLAG_LITTLE_ENDIAN: Final = 0x80

S_METER_MIN_DBM: Final = -127.0
S_METER_MAX_DBM: Final = 3.4

# The sequence is little-endian and the S-meter big-endian, as on the wire of the real server.
_HEAD = struct.Struct("<3sBI")
_S_METER = struct.Struct(">H")
_GNSS = struct.Struct("<BBII")


@dataclass(frozen=True, slots=True)
class Stamp:
    """The GNSS time stamp of a frame's first sample."""

    age_s: int = 0
    """Seconds since the last GNSS solution, 255 for none since boot."""
    gps_second: int = 0
    """GPS second of the week, 0 to 604799."""
    gps_nanosecond: int = 0
    """Nanosecond in that second."""


NO_STAMP: Final = Stamp()
"""What frame 1 of every connection carries, and every frame of a station with stamps switched off."""


def s_meter_raw(level_dbm: float) -> int:
    """The S-meter field: (dBm + 127) * 10, truncated, clamped to -127..+3.4 dBm."""
    return int((min(max(level_dbm, S_METER_MIN_DBM), S_METER_MAX_DBM) + 127.0) * 10)


def encode_snd(flags: int, sequence: int, s_meter: int, stamp: Stamp, payload: bytes) -> bytes:
    """One SND frame with its 20-byte header.

    Args:
        flags: the flag byte.
        sequence: number of the frame in its connection, from 1.
        s_meter: the raw S-meter value.
        stamp: time stamp of the first sample.
        payload: interleaved I, Q as int16 in the byte order that the flags say.
    """
    return b"".join(
        (
            _HEAD.pack(b"SND", flags, sequence & 0xFFFFFFFF),
            _S_METER.pack(s_meter),
            _GNSS.pack(stamp.age_s, 0, stamp.gps_second, stamp.gps_nanosecond),
            payload,
        )
    )


def encode_msg(text: str) -> bytes:
    """One MSG message: the tag, a space, and key=value pairs."""
    return b"MSG " + text.encode("ascii")
