"""The power centroid of one emission, with the noise subtracted."""

from __future__ import annotations

import math

import numpy as np

from dsp_svc.estimate.noise import NoiseFloor
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.estimate.snr import Band

_MIN_SIGMAS = 4.0  # of the emission's power: below, its centroid is that of the noise
_METHOD = "centroid"


def centroid_hz(spectrum: Spectrum, noise: NoiseFloor, band: Band) -> Quantity:
    """Estimate where the middle of an emission's power lies.

    c = sum f (S - N0) / sum (S - N0) over the bins of the band. To first order its variance is
    (1/P²) [sum (f - c)² S² r / K + (sum (f - c))² var N0], P = sum (S - N0), where a bin scatters as Gamma(K)/K with
    K = K_eff and r neighbouring bins carry the information of one.

    Args:
        spectrum: The spectrum, linear.
        noise: The noise floor N0 of the same spectrum.
        band: The emission's band, relative to the tuned centre. Both edges must hold the emission alike: what a
            band cuts off on one side only moves the centroid.

    Returns:
        The centroid relative to the tuned centre in Hz, with the sigma of a Gaussian signal: a steady tone scatters
        less. Absent without a noise floor, and when the emission is not 4 sigma above the noise of its band.

    References:
        Bevington and Robinson 2003, chapter 3 (propagation of errors); Welch 1967 (K_eff).

    Examples:
        >>> import numpy as np
        >>> from dsp_svc.estimate.noise import noise_floor, passband_bins
        >>> from dsp_svc.estimate.psd import Spectrum, Welch
        >>> density = np.ones(512)
        >>> density[300:321] = 101.0
        >>> spectrum = Spectrum(Welch(512), density, 512.0, 50.0)
        >>> floor = noise_floor(spectrum, passband_bins(spectrum, -256.0, 256.0))
        >>> round(centroid_hz(spectrum, floor, Band(43.5, 64.5)).value, 6)
        54.0
    """
    if noise.density is None or noise.estimate.validity is not Validity.VALID:
        return Quantity.absent(Reason.NO_NOISE_FLOOR, _METHOD)
    inside = (spectrum.frequencies_hz >= band.low_hz) & (spectrum.frequencies_hz <= band.high_hz)
    frequencies_hz, density = spectrum.frequencies_hz[inside], spectrum.density[inside]
    power = float(np.sum(density - noise.density))
    correlated = spectrum.welch.bins_per_independent_bin / spectrum.effective_count
    floor_sigma = noise.density * noise.relative_sigma
    scatter = math.hypot(noise.density * math.sqrt(correlated * len(density)), floor_sigma * len(density))
    if len(density) == 0 or power <= _MIN_SIGMAS * scatter:
        return Quantity.absent(Reason.NO_SIGNAL, _METHOD)
    centroid = float(np.sum(frequencies_hz * (density - noise.density))) / power
    away = frequencies_hz - centroid
    of_bins = math.sqrt(float(np.sum((away * density) ** 2)) * correlated)
    of_floor = abs(float(np.sum(away))) * floor_sigma
    return Quantity.valid(centroid, math.hypot(of_bins, of_floor) / power, _METHOD)
