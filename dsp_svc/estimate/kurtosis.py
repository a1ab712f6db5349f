"""The kurtosis of a stretch of samples, which tells noise from carriers and from pulses."""

from __future__ import annotations

import math

from dsp_svc.estimate.levels import Moments
from dsp_svc.estimate.result import Quantity, Reason

NOISE_KURTOSIS = 2.0
"""The kurtosis of circular Gaussian noise."""
MIN_SAMPLES = 256
"""Fewer samples of noise read too low by more than a twentieth of sigma, and scatter by more than 0.125."""
_METHOD = "moment-ratio"


def kurtosis(sums: Moments) -> Quantity:
    """Estimate the kurtosis of the complex amplitudes.

    K = mean |x|⁴ / (mean |x|²)²: 2 for circular Gaussian noise, 1 for a constant envelope, more than 2 for pulses
    and impulses.

    Args:
        sums: The sums over the samples n.

    Returns:
        The kurtosis, a pure number, with sigma = 2 / sqrt(n). That is the scatter for independent samples of
        circular noise, so |K - 2| > 4 sigma is no such noise (about one false alarm in 1000); a constant envelope
        scatters less and rare pulses more, and where a filter leaves a fraction b of the sample rate, noise
        scatters like b n samples. Absent with fewer than 256 samples, and when every sample is zero.

    References:
        G. Nita, D. Gary, "The generalized spectral kurtosis estimator", MNRAS Letters 406, 2010, for the variance.

    Examples:
        >>> import numpy as np
        >>> from dsp_svc.estimate.levels import moments
        >>> round(kurtosis(moments(np.exp(0.1j * np.arange(1000)).astype(np.complex64))).value, 4)
        1.0
    """
    if sums.sample_count == 0:
        return Quantity.absent(Reason.NO_SAMPLES, _METHOD)
    if sums.sample_count < MIN_SAMPLES:
        return Quantity.absent(Reason.TOO_FEW_SAMPLES, _METHOD)
    if sums.energy == 0.0:
        return Quantity.absent(Reason.ALL_ZERO, _METHOD)
    value = sums.fourth_moment * sums.sample_count / sums.energy**2
    return Quantity.valid(value, 2.0 / math.sqrt(sums.sample_count), _METHOD)
