"""The signal-to-noise ratio of one emission, in a stated bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dsp_svc.estimate.noise import NoiseFloor
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason, Validity

LIMIT_DB = -12.0
"""Below this in-band SNR only an upper limit is given: bias and scatter grow past a decibel."""
_GUARD_BINS = 2.5
_METHOD = "band-power"
_DB = 10.0 / math.log(10.0)


@dataclass(frozen=True)
class Band:
    """A stretch of spectrum relative to the tuned centre."""

    low_hz: float
    """The lower edge in Hz."""
    high_hz: float
    """The upper edge in Hz."""

    @property
    def bandwidth_hz(self) -> float:
        """The width in Hz."""
        return self.high_hz - self.low_hz


@dataclass(frozen=True)
class SignalToNoise:
    """One emission against the noise."""

    snr_db: Quantity
    """The ratio of signal power to noise power inside the bandwidth, in dB."""
    bandwidth_hz: Quantity
    """The bandwidth of that ratio, guard included, in Hz."""
    carrier_to_noise_density_db_hz: Quantity
    """C/N0: signal power over noise density, free of a bandwidth, in dB-Hz."""


def strongest_band(spectrum: Spectrum, noise: NoiseFloor) -> Band | None:
    """Find the contiguous run of occupied bins around the strongest one.

    Args:
        spectrum: The spectrum that the noise floor was taken from.
        noise: The floor and its occupied bins.

    Returns:
        The band from bin edge to bin edge, without guard, or None when no bin stands out.
    """
    if not noise.occupied.any():
        return None
    peak = int(np.argmax(np.where(noise.occupied, spectrum.density, 0.0)))
    quiet = np.flatnonzero(~noise.occupied)
    below, above = quiet[quiet < peak], quiet[quiet > peak]
    first = int(below[-1]) + 1 if below.size else 0
    last = int(above[0]) - 1 if above.size else spectrum.welch.segment_length - 1
    half_bin_hz = spectrum.bin_width_hz / 2.0
    frequencies_hz = spectrum.frequencies_hz
    return Band(float(frequencies_hz[first]) - half_bin_hz, float(frequencies_hz[last]) + half_bin_hz)


def signal_to_noise(
    spectrum: Spectrum, noise: NoiseFloor, duration_s: float, band: Band | None = None
) -> SignalToNoise:
    """Estimate SNR = (P - N0 B) / (N0 B) in a band, and C/N0 = (P - N0 B) / N0.

    P is the integral of the density over the band widened by 2.5 bins on both sides, B the width of the bins
    that were integrated. Sigma is that of a Gaussian signal observed for T: P scatters by 1/sqrt(B T) of
    itself, N0 by its own sigma; a steady tone scatters less.

    Args:
        spectrum: The spectrum, linear.
        noise: The noise floor of the same spectrum.
        duration_s: The observed time T in seconds.
        band: The emission's band relative to the tuned centre; None takes the strongest emission.

    Returns:
        The ratio in dB with its bandwidth in Hz. Upper limits (two sigma) where the ratio is below -12 dB.
        Absent without a noise floor, without an emission, and where the band is not inside the passband.
    """
    if noise.density is None or noise.estimate.validity is not Validity.VALID:
        return _absent(Reason.NO_NOISE_FLOOR)
    if band is None:
        band = strongest_band(spectrum, noise)
        if band is None:
            return _absent(Reason.NO_SIGNAL)
    guard_hz = _GUARD_BINS * spectrum.bin_width_hz
    frequencies_hz = spectrum.frequencies_hz
    inside = (frequencies_hz >= band.low_hz - guard_hz) & (frequencies_hz <= band.high_hz + guard_hz)
    if not inside.any() or not noise.passband[inside].any():
        return _absent(Reason.OUTSIDE_PASSBAND)
    bandwidth_hz = float(np.count_nonzero(inside)) * spectrum.bin_width_hz
    power = float(np.sum(spectrum.density[inside])) * spectrum.bin_width_hz
    noise_power = noise.density * bandwidth_hz
    ratio = power / noise_power - 1.0
    sigma = (power / noise_power) * math.hypot(1.0 / math.sqrt(bandwidth_hz * duration_s), noise.relative_sigma)
    bandwidth = Quantity.valid(bandwidth_hz, None, "integrated-bins")
    bandwidth_db_hz = 10.0 * math.log10(bandwidth_hz)
    if ratio < 10.0 ** (LIMIT_DB / 10.0):
        limit_db = 10.0 * math.log10(max(ratio, 0.0) + 2.0 * sigma)
        return SignalToNoise(
            Quantity.upper_limit(limit_db, Reason.BELOW_SNR_LIMIT, _METHOD),
            bandwidth,
            Quantity.upper_limit(limit_db + bandwidth_db_hz, Reason.BELOW_SNR_LIMIT, _METHOD),
        )
    snr_db, sigma_db = 10.0 * math.log10(ratio), _DB * sigma / ratio
    return SignalToNoise(
        Quantity.valid(snr_db, sigma_db, _METHOD),
        bandwidth,
        Quantity.valid(snr_db + bandwidth_db_hz, sigma_db, _METHOD),
    )


def _absent(reason: Reason) -> SignalToNoise:
    nothing = Quantity.absent(reason, _METHOD)
    return SignalToNoise(nothing, nothing, nothing)
