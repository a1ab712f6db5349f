"""Two-sided power spectral density by Welch's method, in sums that can be carried on over many runs."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.fft

from heimdall.samples import Samples

MIN_SEGMENT_LENGTH = 16
MAX_SEGMENT_LENGTH = 16_384
# Segments are transformed in batches of this many samples, so that the work stays in the processor's cache
# and a long run costs no more memory than a short one.
_BATCH_SAMPLES = 1 << 17
_BATCH_ROWS = 512  # the powers of a batch are summed in single precision, which bears no more
_SMALLEST_BUFFER = 16


class Taper(enum.Enum):
    """The window that a segment is multiplied by, all of them periodic sums of cosines."""

    BOXCAR = "boxcar"
    """None: the narrowest line with the highest side lobes, -13 dB."""
    HANN = "hann"
    """Side lobes that fall off fastest; for most work."""
    HAMMING = "hamming"
    """A narrower line than Hann's with side lobes at -43 dB."""
    BLACKMAN_HARRIS = "blackmanharris"
    """Side lobes below -92 dB (4 terms): weak lines beside strong ones."""
    FLAT_TOP = "flattop"
    """A line that reads its level wherever it lies between two bins."""


# The terms a_k of w[n] = sum (-1)^k a_k cos(2 pi k n / N): Harris (1978), and D'Antona and Ferrero (2006) for the last.
_TERMS: Final[Mapping[Taper, tuple[float, ...]]] = MappingProxyType(
    {
        Taper.BOXCAR: (1.0,),
        Taper.HANN: (0.5, 0.5),
        Taper.HAMMING: (0.54, 0.46),
        Taper.BLACKMAN_HARRIS: (0.35875, 0.48829, 0.14128, 0.01168),
        Taper.FLAT_TOP: (0.21557895, 0.41663158, 0.277263158, 0.083578947, 0.006947368),
    }
)


@dataclass(frozen=True)
class Welch:
    """The settings of the method: a taper on segments that overlap."""

    segment_length: int
    """Samples in a segment, which is also the number of frequency bins; even."""
    taper: Taper = Taper.HANN
    """The window that every segment is multiplied by."""
    overlap: float = 0.5
    """The fraction of a segment that the next one shares; 0 or more and below 1."""

    def __post_init__(self) -> None:
        length = self.segment_length
        if not MIN_SEGMENT_LENGTH <= length <= MAX_SEGMENT_LENGTH or length % 2:
            raise ValueError(
                f"segment_length must be even and in {MIN_SEGMENT_LENGTH}..{MAX_SEGMENT_LENGTH}, got {length}"
            )
        if not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"overlap must be 0 or more and below 1, got {self.overlap}")

    @property
    def hop(self) -> int:
        """Samples from one segment's start to the next one's: the part without overlap in whole samples, 1 or more."""
        return max(1, round(self.segment_length * (1.0 - self.overlap)))

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        """The taper w[n] = sum (-1)^k a_k cos(2 pi k n / N), shape (segment_length,), float64."""
        phase = 2.0 * np.pi * np.arange(self.segment_length, dtype=np.float64) / self.segment_length
        weights = np.zeros(self.segment_length)
        for order, term in enumerate(_TERMS[self.taper]):
            weights += (-1.0) ** order * term * np.cos(order * phase)
        return weights

    @cached_property
    def component_weights(self) -> npt.NDArray[np.float32]:
        """The taper for I and Q in turn, shape (2 segment_length,), float32."""
        return np.repeat(self.weights.astype(np.float32), 2)

    @cached_property
    def enbw_bins(self) -> float:
        """The equivalent noise bandwidth in bins, N sum(w²) / sum(w)²: 1.5 for Hann."""
        return float(self.segment_length * self.taper_energy / np.sum(self.weights) ** 2)

    @cached_property
    def scalloping_loss_db(self) -> float:
        """How much lower a tone halfway between two bins reads than one on a bin, in dB: 1.42 for Hann.

        L = 20 log10(sum(w) / |sum w exp(-j pi n / N)|) (Harris 1978).
        """
        half_bin = np.exp(-1j * np.pi * np.arange(self.segment_length) / self.segment_length)
        return 20.0 * math.log10(float(np.sum(self.weights)) / abs(complex(np.sum(self.weights * half_bin))))

    @cached_property
    def taper_energy(self) -> float:
        """The sum of w²."""
        return float(np.sum(self.weights**2))

    @cached_property
    def _overlap_correlations(self) -> npt.NDArray[np.float64]:
        """The correlation rho_j of two periodograms j hops apart for j = 1, 2, ... while their segments overlap."""
        length = self.segment_length
        lags = np.fft.irfft(np.abs(np.fft.rfft(self.weights, 2 * length)) ** 2)[self.hop : length : self.hop]
        return np.asarray((lags / self.taper_energy) ** 2, dtype=np.float64)

    @cached_property
    def bins_per_independent_bin(self) -> float:
        """How many neighbouring bins carry the information of one.

        White noise correlates bins m apart by rho_m = |sum w² exp(-j 2 pi m n / N)|² / sum(w²)²; the mean of
        many bins has the variance of a single one times sum(rho_m) over the bin count.
        """
        lines = np.abs(np.fft.fft(self.weights**2)) ** 2
        return float(np.sum(lines) / lines[0])

    def segment_count(self, sample_count: int) -> int:
        """Count the whole segments in a run of samples."""
        if sample_count < self.segment_length:
            return 0
        return 1 + (sample_count - self.segment_length) // self.hop

    def effective_segment_count(self, segment_count: int) -> float:
        """Convert a count of overlapping segments of one run into independent averages.

        K_eff = K / (1 + 2 sum_j (1 - j/K) rho_j), rho_j = (sum w[n] w[n + j hop] / sum w²)² (Welch 1967), over all
        j < K whose segments still overlap.
        """
        if segment_count == 0:
            return 0.0
        correlations = self._overlap_correlations[: segment_count - 1]
        pairs = 1.0 - np.arange(1, len(correlations) + 1) / segment_count
        return segment_count / (1.0 + 2.0 * float(np.sum(pairs * correlations)))


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


def segment_lines(samples: Samples, welch: Welch) -> Iterator[tuple[int, npt.NDArray[np.complex64]]]:
    """Transform the overlapping segments of one unbroken run, a batch at a time.

    X_m[k] = sum_n w[n] x[m hop + n] exp(-j 2 pi k n / N), without detrending: a mean that was removed would take the
    carrier of a well-tuned signal with it.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64, full scale 1.
        welch: The segment length, taper and overlap.

    Yields:
        The number m of a batch's first segment in the run, and the lines of the batch, shape (rows, segment_length),
        complex64, FFT bin order. The next batch overwrites them. None when the run is shorter than a segment.

    References:
        P. Welch, "The use of fast Fourier transform for the estimation of power spectra", IEEE Trans. Audio and
        Electroacoustics 15, 1967; F. Harris, "On the use of windows for harmonic analysis with the discrete Fourier
        transform", Proc. IEEE 66, 1978.

    Examples:
        >>> import numpy as np
        >>> tone = np.exp(2j * np.pi * 3 * np.arange(64) / 16).astype(np.complex64)
        >>> [(first, lines.shape, int(abs(lines[0]).argmax())) for first, lines in segment_lines(tone, Welch(16))]
        [(0, (7, 16), 3)]
    """
    segment_count = welch.segment_count(len(samples))
    if segment_count == 0:
        return
    # I and Q are multiplied as real numbers: a complex product would take twice the work.
    components = np.ascontiguousarray(samples).view(np.float32)
    length = 2 * welch.segment_length
    size = components.itemsize
    segments: npt.NDArray[np.float32] = np.ndarray(
        (segment_count, length), np.float32, buffer=components, strides=(2 * welch.hop * size, size)
    )
    batch = min(max(1, _BATCH_SAMPLES // welch.segment_length), _BATCH_ROWS, segment_count)
    work = np.empty((batch, length), dtype=np.float32)
    for start in range(0, segment_count, batch):
        tapered = work[: min(batch, segment_count - start)]
        _multiply(segments[start : start + batch], welch.component_weights, tapered)
        lines = scipy.fft.fft(tapered.view(np.complex64), axis=-1, overwrite_x=True)
        yield start, np.asarray(lines, dtype=np.complex64)


def line_powers(lines: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
    """Sum the powers |X_m[k]|² of a batch in each bin.

    Args:
        lines: The transforms, shape (rows, segment_length), complex64, as `segment_lines` gives them.

    Returns:
        The sum over the rows, shape (segment_length,), float64; a batch is summed in single precision.
    """
    components = lines.view(np.float32)
    pairs = np.einsum("ij,ij->j", components, components).astype(np.float64)
    return np.asarray(pairs[::2] + pairs[1::2], dtype=np.float64)


def periodograms(samples: Samples, welch: Welch) -> Periodograms:
    """Sum the periodograms |X_m[k]|² of the segments of one unbroken run.

    Tapering, transforms and the sum over a batch are in single precision, and batches are summed in double
    precision. Beside a tone 60 dB above the power of the noise that keeps every bin within 2e-4 of what double
    precision gives for 1,024-point segments, and within 4e-3 (0.02 dB) for 16,384-point ones.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64, full scale 1.
        welch: The segment length, taper and overlap.

    Returns:
        The sum; empty when the run is shorter than a segment.

    References:
        P. Welch, "The use of fast Fourier transform for the estimation of power spectra", IEEE Trans. Audio and
        Electroacoustics 15, 1967; F. Harris, "On the use of windows for harmonic analysis with the discrete Fourier
        transform", Proc. IEEE 66, 1978.

    Examples:
        >>> import numpy as np
        >>> made = periodograms(np.ones(64, dtype=np.complex64), Welch(16))
        >>> made.segment_count, float(made.total[0])
        (7, 448.0)
    """
    total = np.zeros(welch.segment_length)
    for _, lines in segment_lines(samples, welch):
        total += line_powers(lines)
    segment_count = welch.segment_count(len(samples))
    return Periodograms(welch, total, segment_count, welch.effective_segment_count(segment_count))


def _multiply(rows: npt.NDArray[np.float32], row: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Multiply each of many rows by the same one.

    numpy first copies rows of less than a quarter of its buffer into that buffer, which takes as long as the product;
    so it gets none to speak of. Its size belongs to the calling thread.
    """
    usual = np.setbufsize(_SMALLEST_BUFFER)
    try:
        np.multiply(rows, row, out=out)
    finally:
        np.setbufsize(usual)
