"""The bytes of the KiwiSDR protocol: frames, messages, the status page and the commands. Pure functions."""

from __future__ import annotations

import math
import re
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from heimdall.errors import clip

HEADER_BYTE_COUNT: Final = 20
"""Tag, flags, sequence, S-meter and the ten GNSS bytes of an IQ frame."""
FRAME_SAMPLE_COUNT: Final = 512
"""Samples of an IQ frame, except on wideband firmware."""

FLAG_ADC_OVERFLOW: Final = 0x02
FLAG_STEREO: Final = 0x08
FLAG_COMPRESSED: Final = 0x10
FLAG_LITTLE_ENDIAN: Final = 0x80

_HEAD: Final = struct.Struct("<3sBI")
_LEVEL: Final = struct.Struct(">H")
_GNSS: Final = struct.Struct("<BBII")
_POSITION: Final = re.compile(r"\(\s*(-?[0-9.]+)\s*,\s*(-?[0-9.]+)\s*\)")
_WEEK_S: Final = 604_800
_SHOWN_BYTES: Final = 256
"""Most bytes of what a station said that an error repeats."""


class WireError(ValueError):
    """The receiver sent bytes that its protocol does not allow."""


@dataclass(slots=True)
class IqFrame:
    """One sound frame in IQ mode."""

    flags: int
    sequence: int
    level_dbm: float
    """S-meter, -127 to +3.4 dBm, with the owner's calibration."""
    age_s: int
    gps_second: int
    gps_nanosecond: int
    samples: bytes
    """Interleaved int16 I and Q, little-endian, values as sent."""

    @property
    def sample_count(self) -> int:
        """Number of complex samples."""
        return len(self.samples) // 4

    @property
    def overload(self) -> bool:
        """Whether the receiver's converter overflowed."""
        return bool(self.flags & FLAG_ADC_OVERFLOW)


def parse_frame(data: bytes) -> IqFrame:
    """Decodes a sound frame.

    Args:
        data: The whole WebSocket message, from its tag SND on.

    Raises:
        WireError: If it is no IQ frame, is cut short, or its time stamp can not be.
    """
    if len(data) < HEADER_BYTE_COUNT + 4:
        raise WireError(f"a sound frame has {len(data)} bytes; an IQ frame has more than {HEADER_BYTE_COUNT + 3}")
    tag, flags, sequence = _HEAD.unpack_from(data)
    if tag != b"SND":
        raise WireError(f"a sound frame starts with {tag!r}; SND was expected")
    if not flags & FLAG_STEREO or flags & FLAG_COMPRESSED:
        raise WireError(f"a sound frame has flags {flags:#04x}, which is not IQ; 0x08 set and 0x10 clear was expected")
    if (len(data) - HEADER_BYTE_COUNT) % 4:
        raise WireError(f"an IQ frame has {len(data) - HEADER_BYTE_COUNT} bytes of samples, which is no multiple of 4")
    (level,) = _LEVEL.unpack_from(data, 8)
    age_s, _, second, nanosecond = _GNSS.unpack_from(data, 10)
    if second >= _WEEK_S or nanosecond >= 1_000_000_000:
        raise WireError(f"an IQ frame is stamped {second} s {nanosecond} ns, which is outside a week and a second")
    if flags & FLAG_LITTLE_ENDIAN:
        samples = data[HEADER_BYTE_COUNT:]
    else:
        components = array("h", data[HEADER_BYTE_COUNT:])
        components.byteswap()
        samples = components.tobytes()
    return IqFrame(flags, sequence, level / 10 - 127, age_s, second, nanosecond, samples)


def parse_message(data: bytes) -> dict[str, str | None]:
    """Decodes the pairs of a MSG, in order; a key without a value has None. Values stay URL-encoded.

    Args:
        data: The whole WebSocket message, from its tag MSG on.

    Raises:
        WireError: If it is not text.
    """
    try:
        text = data[4:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError("a MSG is not UTF-8 text") from error
    pairs: dict[str, str | None] = {}
    for word in text.split():
        key, separator, value = word.partition("=")
        pairs[key] = value if separator else None
    return pairs


def parse_status(text: str) -> dict[str, str]:
    """Decodes the page /status: one key=value a line, split at the first equals sign; other lines are skipped."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator:
            pairs[key.strip()] = value.strip()
    return pairs


def parse_position(text: str) -> tuple[float, float] | None:
    """Returns latitude and longitude in degrees from "(lat, lon)"; None if it reads otherwise or is nowhere."""
    match = _POSITION.search(text)
    if match is None:
        return None
    try:
        latitude_deg, longitude_deg = float(match[1]), float(match[2])
    except ValueError:
        return None
    return (latitude_deg, longitude_deg) if abs(latitude_deg) <= 90 and abs(longitude_deg) <= 180 else None


def parse_number(pairs: Mapping[str, str | None], key: str) -> float | None:
    """Returns a number of a MSG or status page; None if the key is absent.

    Raises:
        WireError: If the value is no finite number.
    """
    value = pairs.get(key)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError as error:
        raise WireError(f"{shown(f'{key}={value!r}')} is no number") from error
    if not math.isfinite(number):
        raise WireError(f"{shown(f'{key}={value!r}')} is not finite")
    # Python also reads 1_000 and the digits of other scripts; no station writes so.
    if not value.isascii() or "_" in value:
        raise WireError(f"{shown(f'{key}={value!r}')} is no number")
    return number


def decode(value: str | None) -> str:
    """Returns the text of a URL-encoded value, empty for None."""
    return unquote(value or "", errors="replace")


def shown(text: str) -> str:
    """Returns what a station said as an error may repeat it: a station can say megabytes."""
    return clip(text, _SHOWN_BYTES)


def auth_command(password: str) -> str:
    """Returns the login; the password is percent-encoded because values end at white space."""
    return f"SET auth t=kiwi p={quote(password, safe='')}"


def setup_commands(
    *,
    user_name: str,
    audio_rate_hz: int,
    dial_hz: float,
    passband_low_hz: float,
    passband_high_hz: float,
    automatic_gain: bool,
    gain_db: float,
) -> list[str]:
    """Returns what a KiwiSDR wants to hear before it sends samples, the five mandatory settings among it.

    Args:
        user_name: Who connects, as its owner sees it.
        audio_rate_hz: The integer rate that it announced.
        dial_hz: Frequency on its own dial.
        passband_low_hz: Lower filter edge relative to the dial.
        passband_high_hz: Upper filter edge relative to the dial.
        automatic_gain: Whether it controls its gain.
        gain_db: Its manual gain, a whole number.
    """
    return [
        "SET squelch=0 max=0",
        "SET genattn=0",
        "SET gen=0 mix=-1",
        f"SET ident_user={quote(user_name, safe='')}",
        f"SET AR OK in={audio_rate_hz} out=44100",
        f"SET mod=iq low_cut={passband_low_hz:.0f} high_cut={passband_high_hz:.0f} freq={dial_hz / 1e3:.6f}",
        f"SET agc={int(automatic_gain)} hang=0 thresh=-100 slope=6 decay=1000 manGain={gain_db:.0f}",
        KEEPALIVE,
    ]


KEEPALIVE: Final = "SET keepalive"
"""The only command that counts as life."""
