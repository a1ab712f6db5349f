"""Frequencies, durations and times as people write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_HERTZ: Final = {"": Decimal(1), "Hz": Decimal(1), "kHz": Decimal(10**3), "MHz": Decimal(10**6), "GHz": Decimal(10**9)}
_NANOSECONDS: Final = {
    "": Decimal(10**9),
    "ms": Decimal(10**6),
    "s": Decimal(10**9),
    "m": Decimal(60 * 10**9),
    "min": Decimal(60 * 10**9),
    "h": Decimal(3600 * 10**9),
    "d": Decimal(86400 * 10**9),
}
_NUMBER_AND_UNIT: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?([A-Za-z]*)", re.ASCII)


def parse_frequency_hz(text: str) -> float:
    """Reads a frequency.

    Args:
        text: A decimal number, then Hz, kHz, MHz, GHz or nothing for Hz, such as 145.5MHz.

    Returns:
        The frequency in Hz, scaled in decimal arithmetic and rounded once, to the nearest double.

    Raises:
        ValueError: If the text is not a frequency.
    """
    scaled = _scale(text, _HERTZ)
    if scaled is None:
        raise ValueError(f"{text!r} is not a frequency; write it like 145.5MHz, 7100kHz, 1.2GHz or 77500")
    if scaled == 0:
        raise ValueError(f"{text!r} is not a frequency; it must be above 0")
    return float(scaled)


def parse_duration_ns(text: str) -> int:
    """Reads a duration.

    Args:
        text: A decimal number, then ms, s, m or min, h, d (24 h) or nothing for s, such as 250ms.

    Returns:
        The duration in ns, exact.

    Raises:
        ValueError: If the text is not a duration above 0 in whole ns.
    """
    scaled = _scale(text, _NANOSECONDS)
    if scaled is None:
        raise ValueError(f"{text!r} is not a duration; write it like 5, 5s, 250ms, 2m, 1h or 7d")
    if scaled == 0 or scaled != scaled.to_integral_value():
        raise ValueError(f"{text!r} is not a duration; it must be above 0 and in whole nanoseconds")
    return int(scaled)


def parse_time(text: str, now: Timestamp) -> Timestamp:
    """Reads an instant.

    Args:
        text: RFC 3339 with its zone, such as 2026-01-31T12:00:00Z, or +10s or -1h from now.
        now: The present, for the second form.

    Returns:
        The instant, exact to the ns.

    Raises:
        ValueError: If the text is neither.
    """
    instant = Timestamp()
    if text[:1] in ("+", "-"):
        try:
            distance_ns = parse_duration_ns(text[1:])
        except ValueError as error:
            raise ValueError(f"{text!r} is not a time; write the distance from now like +10s or -1h") from error
        instant.FromNanoseconds(now.ToNanoseconds() + (distance_ns if text[0] == "+" else -distance_ns))
        return instant
    try:
        instant.FromJsonString(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a time; write it like 2026-01-31T12:00:00Z, or +10s or -1h from now"
        ) from error
    return instant


def _scale(text: str, units: dict[str, Decimal]) -> Decimal | None:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or match[2] not in units or len(text) > 40:
        return None
    return Decimal(match[1]) * units[match[2]]


class FrequencyType(click.ParamType[float]):
    """An option or argument that is a frequency; its value is a float in Hz."""

    name = "frequency"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the text, or ends with a usage error."""
        if not isinstance(value, str):
            return value
        try:
            return parse_frequency_hz(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DurationType(click.ParamType[Duration]):
    """An option that is a duration; its value is a protobuf Duration."""

    name = "duration"

    def convert(self, value: str | Duration, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        """Reads the text, or ends with a usage error."""
        if not isinstance(value, str):
            return value
        duration = Duration()
        try:
            duration.FromNanoseconds(parse_duration_ns(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return duration


class TimeType(click.ParamType[Timestamp]):
    """An option that is an instant; its value is a protobuf Timestamp."""

    name = "time"

    def convert(self, value: str | Timestamp, param: click.Parameter | None, ctx: click.Context | None) -> Timestamp:
        """Reads the text, or ends with a usage error."""
        if not isinstance(value, str):
            return value
        now = Timestamp()
        now.GetCurrentTime()
        try:
            return parse_time(value, now)
        except ValueError as error:
            self.fail(str(error), param, ctx)


FREQUENCY: Final = FrequencyType()
DURATION: Final = DurationType()
TIME: Final = TimeType()
