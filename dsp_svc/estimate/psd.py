"""Two-sided power spectral density by Welch's method, in sums that can be carried on over many runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.fft

from dsp_svc.estimate.samples import Samples

MIN_SEGMENT_LENGTH = 16
MAX_SEGMENT_LENGTH = 16_384
# Segments are transformed in batches of this many samples, so that the work stays in the processor's cache
# and a long run costs no more memory than a short one.
_BATCH_SAMPLES = 1 << 18


@dataclass(frozen=True)
class Welch:
    """The settings of the method: a periodic Hann taper on segments that overlap by half."""

    segment_length: int
    """Samples in a segment, which is also the number of frequency bins; even."""

    def __post_init__(self) -> None:
        length = self.segment_length
        if not MIN_SEGMENT_LENGTH <= length <= MAX_SEGMENT_LENGTH or length % 2:
            raise ValueError(
                f"segment_length must be even and in {MIN_SEGMENT_LENGTH}..{MAX_SEGMENT_LENGTH}, got {length}"
            )

    @property
    def hop(self) -> int:
        """Samples from one segment's start to the next one's."""
        return self.segment_length // 2

    @cached_property
    def taper(self) -> npt.NDArray[np.float64]:
        """The Hann window w[n] = sin²(pi n / N), shape (segment_length,), float64."""
        phase = np.arange(self.segment_length, dtype=np.float64) / self.segment_length
        return np.asarray(np.sin(np.pi * phase) ** 2, dtype=np.float64)

    @cached_property
    def enbw_bins(self) -> float:
        """The equivalent noise bandwidth in bins, N sum(w²) / sum(w)²: 1.5 for Hann."""
        return float(self.segment_length * self.taper_energy / np.sum(self.taper) ** 2)

    @cached_property
    def taper_energy(self) -> float:
        """The sum of w²."""
        return float(np.sum(self.taper**2))

    @cached_property
    def _overlap_correlation(self) -> float:
        taper, hop = self.taper, self.hop
        return (float(np.sum(taper[:-hop] * taper[hop:])) / self.taper_energy) ** 2

    @cached_property
    def bins_per_independent_bin(self) -> float:
        """How many neighbouring bins carry the information of one.

        White noise correlates bins m apart by rho_m = |sum w² exp(-j 2 pi m n / N)|² / sum(w²)²; the mean of
        many bins has the variance of a single one times sum(rho_m) over the bin count.
        """
        lines = np.abs(np.fft.fft(self.taper**2)) ** 2
        return float(np.sum(lines) / lines[0])

    def segment_count(self, sample_count: int) -> int:
        """Count the whole segments in a run of samples."""
        if sample_count < self.segment_length:
            return 0
        return 1 + (sample_count - self.segment_length) // self.hop

    def effective_segment_count(self, segment_count: int) -> float:
        """Convert a count of overlapping segments of one run into independent averages.

        K_eff = K / (1 + 2 (1 - 1/K) rho), rho = (sum w[n] w[n + hop] / sum w²)² (Welch 1967); segments
        further apart than one hop do not overlap.
        """
        if segment_count == 0:
            return 0.0
        return segment_count / (1.0 + 2.0 * (1.0 - 1.0 / segment_count) * self._overlap_correlation)


def default_segment_length(sample_rate_hz: float) -> int:
    """Choose the power of two that gives bins nearest to 25 Hz, within 256..16384 samples."""
    return int(min(max(2 ** round(math.log2(sample_rate_hz / 25.0)), 256), MAX_SEGMENT_LENGTH))


@dataclass(frozen=True)
class Periodograms:
    """A sum of periodograms; sums of separate runs add up to the sum of both."""

    welch: Welch
    """How each of them was made."""
    total: npt.NDArray[np.float64]
    """The sum of |FFT(w x)|² over the segments, shape (segment_length,), float64, FFT bin order."""
    segment_count: int
    """The number of segments K in the sum."""
    effective_count: float
    """The number of independent averages K_eff that they are worth."""

    @classmethod
    def none(cls, welch: Welch) -> Periodograms:
        """Make the empty sum."""
        return cls(welch, np.zeros(welch.segment_length), 0, 0.0)

    def __add__(self, other: Periodograms) -> Periodograms:
        return Periodograms(
            self.welch,
            self.total + other.total,
            self.segment_count + other.segment_count,
            self.effective_count + other.effective_count,
        )

    def spectrum(self, sample_rate_hz: float) -> Spectrum:
        """Average into a power spectral density.

        S[k] = total[k] / (K fs sum(w²)) (Welch 1967).

        Args:
            sample_rate_hz: The true sample rate fs in Hz.

        Returns:
            The two-sided density with ascending frequencies.

        Raises:
            ValueError: There is no segment in the sum.
        """
        if self.segment_count == 0:
            raise ValueError("there is no segment to average")
        scale = 1.0 / (self.segment_count * sample_rate_hz * self.welch.taper_energy)
        return Spectrum(self.welch, np.fft.fftshift(self.total) * scale, sample_rate_hz, self.effective_count)


@dataclass(frozen=True)
class Spectrum:
    """A two-sided power spectral density."""

    welch: Welch
    """How it was made."""
    density: npt.NDArray[np.float64]
    """Power per Hz relative to full scale, shape (segment_length,), float64, ascending frequency."""
    sample_rate_hz: float
    """The sample rate in Hz."""
    effective_count: float
    """Independent averages K_eff: a bin of white noise scatters as Gamma(K_eff) / K_eff."""

    @property
    def bin_width_hz(self) -> float:
        """The spacing of the bins in Hz."""
        return self.sample_rate_hz / self.welch.segment_length

    @property
    def frequencies_hz(self) -> npt.NDArray[np.float64]:
        """The bins' frequencies relative to the tuned centre in Hz, ascending, shape (segment_length,)."""
        length = self.welch.segment_length
        return np.arange(-(length // 2), length // 2, dtype=np.float64) * self.bin_width_hz

    def density_dbfs_per_hz(self) -> npt.NDArray[np.float32]:
        """Express the density in dBFS/Hz, shape (segment_length,), float32; a bin without power is -inf."""
        with np.errstate(divide="ignore"):
            return (10.0 * np.log10(self.density)).astype(np.float32)


def periodograms(samples: Samples, welch: Welch) -> Periodograms:
    """Sum the periodograms of the overlapping segments of one unbroken run, without detrending.

    A mean that was removed would take the carrier of a well-tuned signal with it.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64, full scale 1.
        welch: The segment length and taper.

    Returns:
        The sum; empty when the run is shorter than a segment.
    """
    segment_count = welch.segment_count(len(samples))
    if segment_count == 0:
        return Periodograms.none(welch)
    segments = np.lib.stride_tricks.sliding_window_view(samples, welch.segment_length)[:: welch.hop]
    taper = welch.taper.astype(np.float32)
    total = np.zeros(welch.segment_length)
    batch = max(1, _BATCH_SAMPLES // welch.segment_length)
    for start in range(0, segment_count, batch):
        lines = scipy.fft.fft(segments[start : start + batch] * taper, axis=-1, overwrite_x=True)
        total += (lines.real**2 + lines.imag**2).sum(axis=0, dtype=np.float64)
    return Periodograms(welch, total, segment_count, welch.effective_segment_count(segment_count))
