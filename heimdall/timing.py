"""Sample indices and UTC nanoseconds, related by a time solution."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from heimdall.common.v1.iq_pb2 import TimeSolution

NS_PER_S: Final = 1_000_000_000


def unix_ns_at(solution: TimeSolution, sample_index: int) -> int:
    """Returns the UTC of a sample in ns since 1970: reference + (index - reference index) / rate.

    Args:
        solution: The time solution; its rate is above 0.
        sample_index: The sample, counted from the start of the window.
    """
    distance = sample_index - solution.reference_sample_index
    return solution.reference_unix_ns + round(distance * NS_PER_S / solution.sample_rate_hz)


def utc_text(unix_ns: int) -> str:
    """Returns a time in ns since 1970 as ISO 8601 text in UTC with nanoseconds, which sorts as text."""
    seconds, ns = divmod(unix_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
