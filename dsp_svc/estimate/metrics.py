"""What can be asked for by name."""

from __future__ import annotations

import enum
from typing import Final


class Metric(enum.Enum):
    """A group of numbers that is measured together or not at all."""

    POWER = enum.auto()
    """Mean power, in dBFS and in dBm."""
    NOISE = enum.auto()
    """Noise density."""
    SNR = enum.auto()
    """Signal-to-noise ratio, its bandwidth, and C/N0."""
    FREQUENCY_OFFSET = enum.auto()
    """Frequency of the strongest line, or of the emission."""
    FREQUENCY_DRIFT = enum.auto()
    """Slope and scatter of the line's frequency over the stream."""
    OCCUPIED_BANDWIDTH = enum.auto()
    """Bandwidth by power and by level."""
    KURTOSIS = enum.auto()
    """Fourth moment of the amplitude."""
    CREST_FACTOR = enum.auto()
    """Highest power over the mean."""
    SPECTRAL_FLATNESS = enum.auto()
    """Geometric over arithmetic mean of the spectrum."""
    CLIPPING = enum.auto()
    """Samples at the ends of their format, and steps that look like an overflow."""
    DC_OFFSET = enum.auto()
    """Mean amplitude."""
    IMAGE_RATIO = enum.auto()
    """Mirror image of the emission."""
    SPECTRAL_KURTOSIS = enum.auto()
    """Fourth moment in every bin."""
    NOISE_PROFILE = enum.auto()
    """Noise density that follows the frequency."""
    SPECTRUM_STATISTICS = enum.auto()
    """Distribution over time in every bin."""
    AMPLITUDE_DISTRIBUTION = enum.auto()
    """Distribution of the amplitude."""


PRODUCTS: Final = frozenset(
    {
        Metric.SPECTRAL_KURTOSIS,
        Metric.NOISE_PROFILE,
        Metric.SPECTRUM_STATISTICS,
        Metric.AMPLITUDE_DISTRIBUTION,
    }
)
"""What is no single number, and measured only when it is asked for."""
DEFAULT_METRICS: Final = frozenset(Metric) - PRODUCTS
"""What a row of measurements holds."""
