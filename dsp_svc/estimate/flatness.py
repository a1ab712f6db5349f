"""How evenly a spectrum fills the passband."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.special

from dsp_svc.estimate.noise import MIN_NOISE_BINS
from dsp_svc.estimate.psd import Spectrum, Welch
from dsp_svc.estimate.result import Quantity, Reason

_METHOD = "geometric-over-arithmetic"


def flatness(spectrum: Spectrum, passband: npt.NDArray[np.bool_]) -> Quantity:
    """Estimate the spectral flatness (Wiener entropy) of the passband, so scaled that white noise gives 1.

    F = exp(mean ln S) / mean S / (exp(psi(K)) / K), with K = K_eff: a bin of white noise scatters as
    Gamma(K)/K, whose logarithm has the mean psi(K) - ln K.

    Args:
        spectrum: The spectrum, linear, of at least one periodogram.
        passband: The bins to use, shape (bin count,), from `passband_bins`.

    Returns:
        The flatness, a pure number: 1 for white noise within sigma, less where signals or a filter shape the
        spectrum. Sigma is that of white noise: sqrt((psi'(K) - 1/K) r / n) for n bins, where r counts the bins
        that scatter together. Absent when the passband holds fewer than 16 bins or one of them holds no power.

    References:
        J. Gray, J. Markel, "A spectral-flatness measure for studying the autocorrelation method of linear
        prediction of speech analysis", IEEE Trans. ASSP 22, 1974.

    Examples:
        >>> import numpy as np
        >>> from dsp_svc.estimate.psd import Welch
        >>> tilted = Spectrum(Welch(512), np.geomspace(1.0, 100.0, 512), 512.0, 1e6)
        >>> round(flatness(tilted, np.ones(512, dtype=np.bool_)).value, 2)  # 10 / (99 / ln 100)
        0.46
    """
    density = spectrum.density[passband]
    if density.size < MIN_NOISE_BINS:
        return Quantity.absent(Reason.PASSBAND_TOO_NARROW, _METHOD)
    if not np.all(density > 0.0):
        return Quantity.absent(Reason.ALL_ZERO, _METHOD)
    shape = spectrum.effective_count
    of_white = math.exp(float(scipy.special.digamma(shape))) / shape
    value = math.exp(float(np.mean(np.log(density)))) / float(np.mean(density)) / of_white
    variance = (float(scipy.special.polygamma(1, shape)) - 1.0 / shape) / density.size
    return Quantity.valid(value, value * math.sqrt(variance * _bins_that_scatter_together(spectrum.welch)), _METHOD)


def _bins_that_scatter_together(welch: Welch) -> float:
    """Sum the squares of the correlations rho_m of bins m apart.

    ln S - S of a bin has no part that is linear in its deviation, so it correlates as the square.
    """
    lines = np.abs(np.fft.fft(welch.weights**2)) ** 2
    return float(np.sum((lines / lines[0]) ** 2))
