"""Numbers as people read them: rounded to what they are worth, and a dash where there is none."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Final

from google.protobuf.message import Message

from heimdall.common.v1.error_pb2 import ErrorDetail
from heimdall.common.v1.iq_pb2 import TimeDegradation, TimeSolution, TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate
from heimdall.errors import reason_name

ABSENT: Final = "-"
"""Stands in a table where there is no number."""

_NS_PER_S: Final = 1_000_000_000
_SI: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def frequency(frequency_hz: float) -> str:
    """Returns a frequency in the largest unit that leaves a number of 1 or more, exact to the mHz.

    Args:
        frequency_hz: The frequency in Hz.
    """
    factor, prefix = next(((f, p) for f, p in _SI if abs(frequency_hz) >= f), (1.0, ""))
    digits = 3 + round(math.log10(factor))
    number = f"{frequency_hz / factor:.{digits}f}".rstrip("0").rstrip(".")
    return f"{number} {prefix}Hz"


def estimate(number: Estimate, *, digits: int, signed: bool = False) -> str:
    """Returns a measured number with its sigma, a limit with <=, or a dash.

    Args:
        number: The estimate.
        digits: Decimals where sigma is unknown; with a sigma they follow from its first two digits.
        signed: Whether a plus sign is shown.
    """
    if not number.HasField("value"):
        return ABSENT
    sign = "+" if signed else ""
    if number.validity == Estimate.VALIDITY_UPPER_LIMIT:
        return f"<= {number.value:{sign}.{digits}f}"
    if not number.HasField("sigma"):
        return f"{number.value:{sign}.{digits}f}"
    digits = sigma_digits(number.sigma, digits)
    return f"{number.value:{sign}.{digits}f} ± {number.sigma:.{digits}f}"


def sigma_digits(sigma: float, otherwise: int) -> int:
    """Returns the number of decimals that show two digits of a sigma, 0 to 9.

    Args:
        sigma: 1-sigma uncertainty.
        otherwise: The answer for a sigma of 0 or one that is not finite.
    """
    if not 0 < sigma < math.inf:
        return otherwise
    return min(9, max(0, 1 - math.floor(math.log10(sigma))))


def time_quality(solution: TimeSolution) -> str:
    """Returns whose clock gave the times and how far to trust it, such as GNSS ± 34 ns.

    Args:
        solution: A time solution.
    """
    source = {
        TimeSource.TIME_SOURCE_GNSS: "GNSS",
        TimeSource.TIME_SOURCE_HOST_ARRIVAL: "host arrival",
    }.get(solution.source)
    if source is None:
        return ABSENT
    text = f"{source} ± {span(solution.time_sigma_ns)}" if solution.HasField("time_sigma_ns") else source
    if solution.degradation != TimeDegradation.TIME_DEGRADATION_UNSPECIFIED:
        text = f"{text} ({enum_label(solution, 'degradation')})"
    return text


def span(length_ns: float) -> str:
    """Returns a length of time with three significant digits in ns, us, ms or s.

    Args:
        length_ns: The length in ns, 0 or more.
    """
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if length_ns >= factor:
            return f"{length_ns / factor:.3g} {unit}"
    return f"{length_ns:.3g} ns"


def seconds(length_ns: int) -> str:
    """Returns a length of time in s, all of its digits.

    Args:
        length_ns: The length in ns.
    """
    whole, rest_ns = divmod(length_ns, _NS_PER_S)
    return f"{whole}.{rest_ns:09d}".rstrip("0").rstrip(".") + " s"


def utc(unix_ns: int) -> str:
    """Returns an instant as ISO 8601 in UTC with ms, or a dash for 0.

    Args:
        unix_ns: ns since 1970; 0 means that there is none.
    """
    if unix_ns == 0:
        return ABSENT
    seconds, rest_ns = divmod(unix_ns, _NS_PER_S)
    whole = datetime.fromtimestamp(seconds, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1_000_000:03d}Z"


def problem(detail: ErrorDetail) -> str:
    """Returns a failure as REASON: message.

    Args:
        detail: The failure.
    """
    return f"{reason_name(detail.reason)}: {detail.message}"


def enum_label(message: Message, field: str) -> str:
    """Returns the value of an enum field without the prefix of its type; a number this version does not know as is.

    Args:
        message: Message that holds the field.
        field: Name of the field.
    """
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    number = int(getattr(message, field))
    if enum is None or number not in enum.values_by_number:
        return str(number)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
    return enum.values_by_number[number].name.removeprefix(f"{prefix}_")
