"""Samples that a receiver could not represent: clipped to the extreme code, or wrapped past it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.result import Quantity, Reason
from heimdall.samples import SampleCoding, SampleFormat

WRAP_STEP = 1.2
"""A component that changes by more than this, in full scales, from one sample to the next has wrapped."""
_BATCH_CODES = 1 << 15
# Some receivers clip symmetrically, others use the one negative code more.
_EXTREME_CODES = {SampleFormat.CI16_LE: (-32767, 32767), SampleFormat.CU8: (0, 255)}
_CLIPPED_METHOD = "extreme-code"
_WRAPPED_METHOD = "step-1.2"


@dataclass(frozen=True)
class Clipping:
    """Counts of overloaded samples; those of separate runs add up to those of both."""

    sample_count: int
    """The samples looked at."""
    clipped_count: int
    """Those of them with I or Q at an extreme code."""
    step_count: int
    """The pairs of neighbouring samples looked at."""
    wrapped_count: int
    """Those of them between which I or Q jumps by more than 1.2 full scales."""

    @classmethod
    def none(cls) -> Clipping:
        """Make the counts of no samples."""
        return cls(0, 0, 0, 0)

    def __add__(self, other: Clipping) -> Clipping:
        return Clipping(
            self.sample_count + other.sample_count,
            self.clipped_count + other.clipped_count,
            self.step_count + other.step_count,
            self.wrapped_count + other.wrapped_count,
        )


def clipping(data: bytes | bytearray | memoryview, coding: SampleCoding) -> Clipping:
    """Count the overloaded samples of one unbroken run.

    Args:
        data: Whole I,Q pairs in the coding's format, without a loss between them.
        coding: The format, and the full scale that steps are measured in.

    Returns:
        The counts; zeros for floats, which have no extreme code.

    Raises:
        ValueError: The length is no whole number of pairs.

    Examples:
        >>> coding = SampleCoding(SampleFormat.CU8, 127.5, 127.5)
        >>> clipping(bytes([255, 128, 100, 128, 200, 0]), coding)
        Clipping(sample_count=3, clipped_count=2, step_count=2, wrapped_count=1)
    """
    if len(data) % coding.sample_size_bytes:
        raise ValueError(
            f"{len(data)} bytes are no whole number of {coding.sample_size_bytes}-byte "
            f"{coding.sample_format.name} samples"
        )
    extremes = _EXTREME_CODES.get(coding.sample_format)
    if extremes is None or not len(data):
        return Clipping.none()
    codes = np.frombuffer(data, dtype=coding.sample_format.value)
    lowest, highest = int(codes.min()), int(codes.max())
    clipped = wrapped = 0
    # Most runs are far from any overload, and their range proves it.
    if lowest <= extremes[0] or highest >= extremes[1]:
        clipped = _clipped_count(codes, *extremes)
    step = WRAP_STEP * coding.full_scale
    if highest - lowest > step:
        wrapped = _wrapped_count(codes, step)
    count = len(codes) // 2
    return Clipping(count, clipped, count - 1, wrapped)


def clipped_ratio(counts: Clipping, coding: SampleCoding) -> Quantity:
    """Estimate the share of the samples with I or Q at an extreme code.

    The extreme codes are those of the format: 0 and 255, or 32767 and -32767 or less.

    Args:
        counts: The counts over the samples.
        coding: The coding that they were counted in.

    Returns:
        The share, 0..1, exact for these samples, so sigma is not given. More than 1e-4 is an overload. A
        converter with fewer bits than the format clips at another code and does not show here. Absent for floats
        (`NO_EXTREME_CODE`) and without samples.

    Examples:
        >>> clipped_ratio(Clipping(1000, 5, 999, 0), SampleCoding(SampleFormat.CU8, 127.5, 127.5)).value
        0.005
    """
    return _ratio(counts.clipped_count, counts.sample_count, coding, _CLIPPED_METHOD)


def wrapped_ratio(counts: Clipping, coding: SampleCoding) -> Quantity:
    """Estimate the share of the steps from one sample to the next that must have wrapped.

    A receiver that casts to integers without saturation changes the sign of what is too large: I or Q jumps by
    nearly two full scales. A step above 1.2 full scales counts.

    Args:
        counts: The counts over the samples.
        coding: The coding that they were counted in.

    Returns:
        The share, 0..1, exact for these samples, so sigma is not given. It proves wrapping where the signal
        is narrow against the sample rate fs: a tone at f that does not wrap steps by up to 2 sin(pi f / fs) full
        scales, above 1.2 beyond 0.2 fs. Absent for floats (`NO_EXTREME_CODE`) and without two neighbours.

    Examples:
        >>> wrapped_ratio(Clipping(1001, 0, 1000, 10), SampleCoding(SampleFormat.CI16_LE, 32768.0, 0.0)).value
        0.01
    """
    return _ratio(counts.wrapped_count, counts.step_count, coding, _WRAPPED_METHOD)


def _ratio(count: int, total: int, coding: SampleCoding, method: str) -> Quantity:
    if coding.sample_format not in _EXTREME_CODES:
        return Quantity.absent(Reason.NO_EXTREME_CODE, method)
    if total == 0:
        return Quantity.absent(Reason.NO_SAMPLES, method)
    return Quantity.valid(count / total, None, method)


def _clipped_count(codes: npt.NDArray[np.integer[Any]], lowest: int, highest: int) -> int:
    count = 0
    for start in range(0, len(codes), _BATCH_CODES):
        part = codes[start : start + _BATCH_CODES]
        either = (part <= lowest) | (part >= highest)
        count += int(np.count_nonzero(either[::2] | either[1::2]))
    return count


def _wrapped_count(codes: npt.NDArray[np.integer[Any]], step: float) -> int:
    count = 0
    for start in range(0, len(codes) - 2, _BATCH_CODES):
        part = codes[start : start + _BATCH_CODES + 2]
        either = np.abs(np.subtract(part[2:], part[:-2], dtype=np.int32)) > step
        count += int(np.count_nonzero(either[::2] | either[1::2]))
    return count
