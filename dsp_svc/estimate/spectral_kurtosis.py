"""The spectral kurtosis: which bins do not behave like steady noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.psd import Welch

MIN_SPECTRA = 24
"""Fewer spectra scatter by more than a third of the value, and have no limits by Pearson's law."""
_ANGLES = 1 << 14


@dataclass(frozen=True)
class PowerSums:
    """Sums of the powers of separate spectra in each bin; those of separate runs add up to those of both."""

    welch: Welch
    """How the spectra were made."""
    spectrum_count: int
    """The number of spectra M that do not overlap."""
    first: npt.NDArray[np.float64]
    """S1, the sum of |X|², shape (segment_length,), float64, FFT bin order."""
    second: npt.NDArray[np.float64]
    """S2, the sum of |X|⁴, shape (segment_length,), float64, FFT bin order."""

    @classmethod
    def none(cls, welch: Welch) -> PowerSums:
        """Make the empty sums."""
        return cls(welch, 0, np.zeros(welch.segment_length), np.zeros(welch.segment_length))

    def __add__(self, other: PowerSums) -> PowerSums:
        return PowerSums(
            self.welch,
            self.spectrum_count + other.spectrum_count,
            self.first + other.first,
            self.second + other.second,
        )


@dataclass(frozen=True)
class SpectralKurtosis:
    """The spectral kurtosis of every bin."""

    values: npt.NDArray[np.float64]
    """SK, shape (segment_length,), float64, ascending frequency; NaN in a bin without power."""
    spectrum_count: int
    """The number of spectra M that it rests on."""

    @property
    def sigma(self) -> float:
        """The scatter of steady noise about its mean of 1, sqrt(4 M² / ((M - 1) (M + 2) (M + 3)))."""
        count = self.spectrum_count
        return math.sqrt(4.0 * count**2 / ((count - 1.0) * (count + 2.0) * (count + 3.0)))

    def limits(self, false_alarm: float) -> tuple[float, float]:
        """Give the values between which steady noise lies, in one bin.

        The estimator's law is approximated by the one of Pearson's type IV with its first four moments. Noise passes
        the upper limit as often as asked for within a tenth, down to 0.001; below the lower one it is
        within a third at 0.01, and within a factor of 2.5 at 0.001.

        Args:
            false_alarm: The probability that noise is outside, half of it on each side; 1e-4..1.

        Returns:
            The lower and the upper limit.

        References:
            G. Nita, D. Gary, "Statistics of the spectral kurtosis estimator", PASP 122, 2010.
        """
        count = float(self.spectrum_count)
        common = (count + 2.0) * (count + 3.0) / (count - 1.0)
        beta_1 = 4.0 * common * (5.0 * count - 7.0) ** 2 / ((count + 4.0) * (count + 5.0)) ** 2
        beta_2 = 3.0 * common * (((count + 98.0) * count - 185.0) * count + 78.0)
        beta_2 /= (count + 4.0) * (count + 5.0) * (count + 6.0) * (count + 7.0)
        # With x = place + width tan(angle) the density over the angle is smooth and bounded.
        r = 6.0 * (beta_2 - beta_1 - 1.0) / (2.0 * beta_2 - 3.0 * beta_1 - 6.0)
        root = math.sqrt(16.0 * (r - 1.0) - beta_1 * (r - 2.0) ** 2)
        tilt = -r * (r - 2.0) * math.sqrt(beta_1) / root
        width = self.sigma * root / 4.0
        place = 1.0 - (r - 2.0) * self.sigma * math.sqrt(beta_1) / 4.0
        angles = (np.arange(_ANGLES) + 0.5) * (np.pi / _ANGLES) - np.pi / 2.0
        log_density = r * np.log(np.cos(angles)) - tilt * angles
        below = np.cumsum(np.exp(log_density - log_density.max()))
        sought = np.array([false_alarm / 2.0, 1.0 - false_alarm / 2.0]) * below[-1]
        low, high = place + width * np.tan(np.interp(sought, below, angles + 0.5 * np.pi / _ANGLES))
        return float(low), float(high)


def power_sums(first_row: int, lines: npt.NDArray[np.complex64], welch: Welch) -> PowerSums:
    """Sum the powers of the spectra of a batch that do not overlap each other.

    Args:
        first_row: The number of the batch's first spectrum within its run, from 0.
        lines: The transforms X of consecutive segments, shape (rows, segment_length), complex64.
        welch: How they were made.

    Returns:
        The sums over every row of the run that starts where the one taken before has ended, or later.
    """
    step = -(-welch.segment_length // welch.hop)
    taken = lines[-first_row % step :: step]
    power = taken.real.astype(np.float64) ** 2 + taken.imag.astype(np.float64) ** 2
    return PowerSums(welch, len(taken), power.sum(axis=0), (power**2).sum(axis=0))


def spectral_kurtosis(sums: PowerSums) -> SpectralKurtosis | None:
    """Estimate the spectral kurtosis of every bin.

    SK = (M + 1) / (M - 1) (M S2 / S1² - 1), with S1 and S2 the sums of |X|² and |X|⁴ over M separate spectra.

    Args:
        sums: The sums over the spectra.

    Returns:
        The estimator with mean 1 for steady noise whatever its level, near 0 for a steady carrier, above 1 for
        what is there only part of the time. None with fewer than 24 spectra. The tapers of neighbouring bins
        overlap, so their values are correlated.

    References:
        G. Nita, D. Gary, "The generalized spectral kurtosis estimator", MNRAS Letters 406, 2010.

    Examples:
        >>> steady = PowerSums(Welch(16), 100, np.full(16, 100.0), np.full(16, 100.0))
        >>> float(spectral_kurtosis(steady).values[0])
        0.0
    """
    count = sums.spectrum_count
    if count < MIN_SPECTRA:
        return None
    first = np.fft.fftshift(sums.first)
    ratio = np.full(len(first), np.nan)
    np.divide(count * np.fft.fftshift(sums.second), first**2, out=ratio, where=first > 0.0)
    return SpectralKurtosis((count + 1.0) / (count - 1.0) * (ratio - 1.0), count)
