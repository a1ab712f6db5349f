"""The signal-to-noise ratio of one emission, in a stated bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.noise import NoiseFloor
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason, Validity

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

    Examples:
        >>> from dsp_svc.estimate.noise import noise_floor
        >>> from dsp_svc.estimate.psd import Welch
        >>> density = np.where(np.abs(np.arange(512) - 256) <= 10, 100.0, 1.0)
        >>> spectrum = Spectrum(Welch(512), density, 512.0, 1000.0)
        >>> strongest_band(spectrum, noise_floor(spectrum, np.ones(512, dtype=np.bool_)))  # 2 bins of skirt
        Band(low_hz=-12.5, high_hz=12.5)
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


def signal_to_noise(spectrum: Spectrum, noise: NoiseFloor, duration_s: float) -> SignalToNoise:
    """Estimate SNR = (P - N0 B) / (N0 B) of the strongest emission, and C/N0 = (P - N0 B) / N0.

    P is the integral of the density over the emission's band widened by 2.5 bins on both sides, B the width of
    the bins that were integrated. Sigma is that of a Gaussian signal observed for T: P scatters by 1/sqrt(B T)
    of itself, N0 by its own sigma; a steady tone scatters less.

    Args:
        spectrum: The spectrum, linear.
        noise: The noise floor of the same spectrum.
        duration_s: The observed time T in seconds.

    Returns:
        The ratio in dB with its bandwidth in Hz. Where no emission stands out, an upper limit (two sigma) for
        the whole passband. Absent without a noise floor.

    References:
        R. Dicke, "The measurement of thermal radiation at microwave frequencies", Rev. Scientific Instruments 17,
        1946, for the scatter 1/sqrt(B T) of a measured power.

    Examples:
        >>> from dsp_svc.estimate.noise import noise_floor
        >>> from dsp_svc.estimate.psd import Welch
        >>> density = np.where(np.abs(np.arange(512) - 256) <= 10, 101.0, 1.0)
        >>> spectrum = Spectrum(Welch(512), density, 512.0, 1e6)
        >>> found = signal_to_noise(spectrum, noise_floor(spectrum, np.ones(512, dtype=np.bool_)), 10.0)
        >>> round(found.carrier_to_noise_density_db_hz.value, 2)  # 100 x 21 Hz
        33.22
    """
    if noise.density is None or noise.estimate.validity is not Validity.VALID:
        nothing = Quantity.absent(Reason.NO_NOISE_FLOOR, _METHOD)
        return SignalToNoise(nothing, nothing, nothing)
    band = strongest_band(spectrum, noise)
    inside = noise.passband if band is None else _guarded(spectrum, band)
    bandwidth_hz = float(np.count_nonzero(inside)) * spectrum.bin_width_hz
    noise_power = noise.density * bandwidth_hz
    power = float(np.sum(spectrum.density[inside])) * spectrum.bin_width_hz
    ratio = power / noise_power - 1.0
    sigma = power / noise_power * math.hypot(1.0 / math.sqrt(bandwidth_hz * duration_s), noise.relative_sigma)
    bandwidth = Quantity.valid(bandwidth_hz, None, "integrated-bins")
    bandwidth_db_hz = 10.0 * math.log10(bandwidth_hz)
    if band is None or ratio <= 0.0:
        limit_db = 10.0 * math.log10(max(ratio, 0.0) + 2.0 * sigma)
        return SignalToNoise(
            Quantity.upper_limit(limit_db, Reason.NO_SIGNAL, _METHOD),
            bandwidth,
            Quantity.upper_limit(limit_db + bandwidth_db_hz, Reason.NO_SIGNAL, _METHOD),
        )
    snr_db, sigma_db = 10.0 * math.log10(ratio), _DB * sigma / ratio
    return SignalToNoise(
        Quantity.valid(snr_db, sigma_db, _METHOD),
        bandwidth,
        Quantity.valid(snr_db + bandwidth_db_hz, sigma_db, _METHOD),
    )


def _guarded(spectrum: Spectrum, band: Band) -> npt.NDArray[np.bool_]:
    guard_hz = _GUARD_BINS * spectrum.bin_width_hz
    frequencies_hz = spectrum.frequencies_hz
    return (frequencies_hz >= band.low_hz - guard_hz) & (frequencies_hz <= band.high_hz + guard_hz)
