"""From UTC nanoseconds back to sample indices, and what relates the two before there is a time solution."""

from __future__ import annotations

import math
from fractions import Fraction

from heimdall.common.v1.iq_pb2 import Block, Segment, TimeSolution
from heimdall.timing import NS_PER_S, unix_ns_at


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
