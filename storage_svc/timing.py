"""Sample indices and UTC nanoseconds, related by a time solution."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from fractions import Fraction

from heimdall.common.v1.iq_pb2 import Block, Segment, TimeSolution

NS_PER_S = 1_000_000_000


def unix_ns_at(solution: TimeSolution, sample_index: int) -> int:
    """Returns the UTC of a sample in ns since 1970: reference + (index - reference index) / rate.

    Args:
        solution: The time solution; its rate is above 0.
        sample_index: The sample, counted from the start of the window.
    """
    distance = sample_index - solution.reference_sample_index
    return solution.reference_unix_ns + round(distance * NS_PER_S / solution.sample_rate_hz)


def first_index_at(solution: TimeSolution, unix_ns: int) -> int:
    """Returns the first sample whose time is not before a UTC in ns since 1970."""
    distance = (unix_ns - solution.reference_unix_ns) * Fraction(solution.sample_rate_hz) / NS_PER_S
    index = solution.reference_sample_index + math.floor(distance)
    # The time of a sample is rounded to ns, so the estimate may be one off to either side.
    while unix_ns_at(solution, index) < unix_ns:
        index += 1
    while unix_ns_at(solution, index - 1) >= unix_ns:
        index -= 1
    return index


def announced_solution(segment: Segment, block: Block) -> TimeSolution:
    """Returns the best relation there is before a time solution came: one block's time and the announced rate."""
    return TimeSolution(
        source=segment.time_source,
        reference_sample_index=block.first_sample_index,
        reference_unix_ns=block.first_sample_unix_ns,
        sample_rate_hz=segment.sample_rate_hz,
    )


def utc_text(unix_ns: int) -> str:
    """Returns a time in ns since 1970 as ISO 8601 text in UTC with nanoseconds, which sorts as text."""
    seconds, ns = divmod(unix_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
