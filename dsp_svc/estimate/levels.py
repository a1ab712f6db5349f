"""The levels of a stretch of samples: mean power, crest factor and DC offset."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dsp_svc.estimate.result import Quantity, Reason
from heimdall.samples import Samples

_BATCH_SAMPLES = 1 << 14  # every array of a batch stays in the processor's cache
MIN_DC_SAMPLES = 256
"""Fewer samples do not show their own scatter well enough to tell a mean from it."""
_FALSE_ALARM = 1e-3  # noise alone shows a DC offset this rarely
_POWER_METHOD = "mean-power"
_CREST_METHOD = "peak-over-mean"
_DC_METHOD = "mean-amplitude"


@dataclass(frozen=True)
class Moments:
    """Sums over samples from which their levels follow; sums of separate runs add up to those of both."""

    sample_count: int
    """The number of samples n."""
    energy: float
    """The sum of |x|², relative to full scale."""
    fourth_moment: float
    """The sum of |x|⁴."""
    peak_power: float
    """The largest |x|²; 0 without samples."""
    total: complex
    """The sum of x."""

    @classmethod
    def none(cls) -> Moments:
        """Make the empty sums."""
        return cls(0, 0.0, 0.0, 0.0, 0j)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.sample_count + other.sample_count,
            self.energy + other.energy,
            self.fourth_moment + other.fourth_moment,
            max(self.peak_power, other.peak_power),
            self.total + other.total,
        )


def moments(samples: Samples) -> Moments:
    """Sum the powers of the samples in one pass.

    |x|² is taken in single precision, which rounds each by 1e-7 of itself, and summed in double precision.
    The amplitudes are summed pairwise in single precision over 16,384 samples at a time.

    Args:
        samples: Complex amplitudes, shape (n,), complex64, full scale 1.

    Returns:
        The sums; those of no samples are `Moments.none()`.

    Examples:
        >>> import numpy as np
        >>> moments(np.array([3 + 4j, 1j], dtype=np.complex64))
        Moments(sample_count=2, energy=26.0, fourth_moment=626.0, peak_power=25.0, total=(3+5j))
    """
    size = min(_BATCH_SAMPLES, len(samples))
    squares = np.empty(2 * size, dtype=np.float32)
    powers = np.empty(size, dtype=np.float32)
    wide = np.empty(size, dtype=np.float64)
    energy = fourth_moment = peak_power = 0.0
    total = 0j
    for start in range(0, len(samples), _BATCH_SAMPLES):
        batch = samples[start : start + _BATCH_SAMPLES]
        count = len(batch)
        components = batch.view(np.float32)
        square, power, exact = squares[: 2 * count], powers[:count], wide[:count]
        np.multiply(components, components, out=square)
        np.add(square[::2], square[1::2], out=power)
        exact[:] = power
        energy += float(exact.sum())
        np.multiply(exact, exact, out=exact)
        fourth_moment += float(exact.sum())
        peak_power = max(peak_power, float(power.max()))
        total += complex(batch.sum())
    return Moments(len(samples), energy, fourth_moment, peak_power, total)


def power_dbfs(sums: Moments) -> Quantity:
    """Express a mean power in dBFS.

    P = 10 log10(sum |x|² / n); a complex tone of magnitude 1 has 0 dBFS.

    Args:
        sums: The sums over the samples.

    Returns:
        The power in dBFS. It is the exact level of these samples, so sigma is not given. Absent without
        samples, and when every sample is zero: a receiver that sends zeros has no level.

    Examples:
        >>> import numpy as np
        >>> round(power_dbfs(moments(np.full(100, 0.1, dtype=np.complex64))).value, 3)
        -20.0
    """
    reason = _nothing(sums)
    if reason is not None:
        return Quantity.absent(reason, _POWER_METHOD)
    return Quantity.valid(10.0 * math.log10(sums.energy / sums.sample_count), None, _POWER_METHOD)


def crest_factor_db(sums: Moments) -> Quantity:
    """Express how far the largest sample stands above the mean power.

    C = 10 log10(max |x|² / mean |x|²). A constant envelope has 0 dB, n samples of circular Gaussian noise about
    10 log10(ln n + 0.577): 9.99 dB for n = 12,000.

    Args:
        sums: The sums over the samples.

    Returns:
        The crest factor in dB. It is exact for these samples, so sigma is not given; the largest of more
        samples is larger, so compare stretches of equal length. Absent without samples, and when every sample is
        zero.

    References:
        H. David, H. Nagaraja, "Order Statistics", 2003, for the largest of n exponential variables.

    Examples:
        >>> import numpy as np
        >>> round(crest_factor_db(moments(np.array([1, 1, 1, 5], dtype=np.complex64))).value, 3)
        5.528
    """
    reason = _nothing(sums)
    if reason is not None:
        return Quantity.absent(reason, _CREST_METHOD)
    return Quantity.valid(10.0 * math.log10(sums.peak_power * sums.sample_count / sums.energy), None, _CREST_METHOD)


def dc_offset_dbfs(sums: Moments) -> Quantity:
    """Express the mean of the samples in dBFS.

    D = 20 log10 |m|, m = sum x / n. The mean of n independent samples of variance s² = mean |x|² - |m|² scatters:
    |m|² of noise alone is above (s²/n) ln(1/p) with probability p, here 0.001.

    Args:
        sums: The sums over the samples.

    Returns:
        The offset in dBFS with sigma (20 / ln 10) s / (|m| sqrt(2 n)). An upper limit of
        20 log10(|m| + s sqrt(ln(1/p) / n)) when the mean is no larger than what noise makes of it. A carrier
        at exactly 0 Hz counts as an offset. The samples are taken for independent: where a filter leaves a
        fraction b of the sample rate, the mean scatters 1/b times as much in power, and noise may pass for an
        offset. Absent with fewer than 256 samples, and when every sample is zero.

    References:
        S. Kay, "Fundamentals of Statistical Signal Processing: Detection Theory", 1998, for the law of |m|².

    Examples:
        >>> import numpy as np
        >>> x = np.array([0.11, 0.09] * 500, dtype=np.complex64)
        >>> round(dc_offset_dbfs(moments(x)).value, 2)
        -20.0
    """
    reason = _nothing(sums)
    if reason is not None:
        return Quantity.absent(reason, _DC_METHOD)
    if sums.sample_count < MIN_DC_SAMPLES:
        return Quantity.absent(Reason.TOO_FEW_SAMPLES, _DC_METHOD)
    mean = abs(sums.total) / sums.sample_count
    scatter = math.sqrt(max(sums.energy / sums.sample_count - mean**2, 0.0) / sums.sample_count)
    of_noise = scatter * math.sqrt(math.log(1.0 / _FALSE_ALARM))
    if mean <= of_noise:
        return Quantity.upper_limit(20.0 * math.log10(mean + of_noise), Reason.NO_SIGNAL, _DC_METHOD)
    sigma_db = 20.0 / math.log(10.0) * scatter / (math.sqrt(2.0) * mean)
    return Quantity.valid(20.0 * math.log10(mean), sigma_db, _DC_METHOD)


def _nothing(sums: Moments) -> Reason | None:
    if sums.sample_count == 0:
        return Reason.NO_SAMPLES
    return Reason.ALL_ZERO if sums.energy == 0.0 else None
