"""The amplitude probability distribution of a stretch of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heimdall.samples import Samples

LOWEST_DBFS = -120.0
"""The lowest level whose probability is known."""
HIGHEST_DBFS = 10.0
"""The highest level whose probability is known."""
STEP_DB = 0.5
"""The distance of one level from the next."""
_STEPS = round((HIGHEST_DBFS - LOWEST_DBFS) / STEP_DB)
_BATCH_SAMPLES = 1 << 14


@dataclass(frozen=True)
class AmplitudeHistogram:
    """How many samples lie between the levels; histograms of separate runs add up to that of both."""

    counts: npt.NDArray[np.int64]
    """Samples below the lowest level, in each step of 0.5 dB, and from the highest on, shape (262,), int64."""

    @classmethod
    def none(cls) -> AmplitudeHistogram:
        """Make the histogram of no samples."""
        return cls(np.zeros(_STEPS + 2, dtype=np.int64))

    def __add__(self, other: AmplitudeHistogram) -> AmplitudeHistogram:
        return AmplitudeHistogram(self.counts + other.counts)


@dataclass(frozen=True)
class AmplitudeDistribution:
    """How often the amplitude exceeds a level."""

    levels_dbfs: npt.NDArray[np.float64]
    """The levels 20 log10 a in dBFS, ascending, shape (261,), float64."""
    probabilities: npt.NDArray[np.float64]
    """The share of the samples with an amplitude above the level, falling, shape (261,), float64."""
    sigmas: npt.NDArray[np.float64]
    """Their 1-sigma uncertainty for independent samples, sqrt(p (1 - p) / n), shape (261,), float64."""
    sample_count: int
    """The number of samples n that it rests on."""


def amplitude_histogram(samples: Samples) -> AmplitudeHistogram:
    """Count the samples by their amplitude.

    Args:
        samples: Complex amplitudes, shape (n,), complex64, full scale 1.

    Returns:
        The counts in steps of 0.5 dB from -120 to +10 dBFS, and below and above. The level is rounded to single
        precision, so a sample within 1e-5 dB of the edge of a step may count on either side of it.
    """
    counts = np.zeros(_STEPS + 2, dtype=np.int64)
    below = 10.0 ** ((LOWEST_DBFS - STEP_DB) / 10.0)  # in the middle of what lies below the lowest level
    for start in range(0, len(samples), _BATCH_SAMPLES):
        components = samples[start : start + _BATCH_SAMPLES].view(np.float32)
        squares = components * components
        level = np.maximum(squares[::2] + squares[1::2], np.float32(below))
        np.log10(level, out=level)
        level *= np.float32(10.0 / STEP_DB)
        level += np.float32(1.0 - LOWEST_DBFS / STEP_DB)
        places = np.clip(level, 0.0, _STEPS + 1.0).astype(np.intp)
        counts += np.bincount(places, minlength=_STEPS + 2)
    return AmplitudeHistogram(counts)


def amplitude_distribution(histogram: AmplitudeHistogram) -> AmplitudeDistribution | None:
    """Turn counts into the amplitude probability distribution P(|x| > a).

    Circular Gaussian noise of power P follows the Rayleigh law P(|x| > a) = exp(-a²/P), a straight line on a
    Rayleigh chart; impulsive noise lies above it at high levels.

    Args:
        histogram: The counts.

    Returns:
        The distribution at the levels -120, -119.5, ..., +10 dBFS, or None without samples. Probabilities below
        about 10 / n rest on fewer than ten samples.

    References:
        ITU-R Recommendation SM.1753, "Methods for measurements of radio noise".

    Examples:
        >>> import numpy as np
        >>> half = amplitude_histogram(np.array([0.1, 0.1, 0.5, 0.5], dtype=np.complex64))
        >>> distribution = amplitude_distribution(half)
        >>> float(distribution.probabilities[distribution.levels_dbfs == -10.0][0])
        0.5
    """
    total = int(histogram.counts.sum())
    if total == 0:
        return None
    above = np.cumsum(histogram.counts[::-1])[::-1][1:]
    probabilities = np.asarray(above / total, dtype=np.float64)
    sigmas = np.asarray(np.sqrt(probabilities * (1.0 - probabilities) / total), dtype=np.float64)
    levels = np.asarray(LOWEST_DBFS + STEP_DB * np.arange(_STEPS + 1), dtype=np.float64)
    return AmplitudeDistribution(levels, probabilities, sigmas, total)
