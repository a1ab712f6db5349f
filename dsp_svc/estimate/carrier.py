"""The frequency of a carrier that stays coherent over a whole recording, gaps included."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from dsp_svc.estimate.result import Quantity, Reason
from heimdall.samples import Samples

AVERAGE_S = 0.1
"""The longest stretch that is averaged before the coherent sum."""
MIN_AVERAGES = 8
"""Fewer averages do not show whether the carrier was coherent."""
MAX_AVERAGES = 1024
"""Averages kept of one recording, 64 s of windows of 1 s; then they become longer, not more."""
MIN_N_SNR_DB = 14.0
"""Below this integrated SNR of the coherent sum the carrier is not believed."""
_MIN_AVERAGES_A_RUN = 16
_CELLS_AN_AVERAGE = 4
_PADDING = 2
_SEARCHED_SHARE = 0.4  # of the averages' rate on both sides: beyond it an average has lost too much
_MAX_STEPS = 20
_METHOD = "line-coherent"


@dataclass(frozen=True)
class Averages:
    """Sums of derotated samples over short stretches."""

    sums: npt.NDArray[np.complex128]
    """The sum of x[n] exp(-j 2 pi f0 n) over each stretch, shape (stretch count,), complex128."""
    centres: npt.NDArray[np.float64]
    """The mean sample index n of each stretch, growing, shape (stretch count,), float64."""
    counts: npt.NDArray[np.int64]
    """The samples in each stretch, shape (stretch count,), int64."""


class Carrier:
    """One line over a whole recording, in memory that does not grow with it."""

    def __init__(self, cycles_per_sample: float) -> None:
        """Starts with nothing.

        Args:
            cycles_per_sample: The coarse frequency of the line.
        """
        self._cycles = cycles_per_sample
        self._count = 0
        # One table from first to last: arrays that grow by a little every second would leave holes everywhere.
        self._sums = np.zeros(MAX_AVERAGES, dtype=np.complex128)
        self._centres = np.zeros(MAX_AVERAGES, dtype=np.float64)
        self._counts = np.zeros(MAX_AVERAGES, dtype=np.int64)

    def add(self, samples: Samples, first_index: int, sample_rate_hz: float) -> None:
        """Adds an unbroken run of samples; arguments as of `derotated_averages`."""
        averages = derotated_averages(samples, first_index, self._cycles, sample_rate_hz)
        if self._count + len(averages.sums) > MAX_AVERAGES:
            averages, self._cycles = thin(join([self._kept(), averages]), self._cycles, MAX_AVERAGES // 2)
            self._count = 0
        new = slice(self._count, self._count + len(averages.sums))
        self._sums[new], self._centres[new], self._counts[new] = averages.sums, averages.centres, averages.counts
        self._count = new.stop

    def offset_hz(self, sample_rate_hz: float) -> Quantity:
        """Estimates the frequency from all that was added; arguments and result as of `carrier_offset_hz`."""
        return carrier_offset_hz(self._kept(), self._cycles, sample_rate_hz)

    def _kept(self) -> Averages:
        return Averages(self._sums[: self._count], self._centres[: self._count], self._counts[: self._count])


def derotated_averages(samples: Samples, first_index: int, cycles_per_sample: float, sample_rate_hz: float) -> Averages:
    """Sum short stretches of one unbroken run with a coarse carrier frequency taken out.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), n > 0, complex64.
        first_index: The index of the first sample in the recording.
        cycles_per_sample: The coarse frequency f0, the same for every run of a recording until `thin` betters it.
        sample_rate_hz: The sample rate in Hz, which sets the stretches: at most 0.1 s, at least 16 a run.

    Returns:
        The sums of equal stretches (the last may be shorter) with their places and sizes.

    Examples:
        >>> run = np.exp(2j * np.pi * 0.25 * np.arange(64)).astype(np.complex64)
        >>> averages = derotated_averages(run, 0, 0.25, 1000.0)
        >>> np.round(averages.sums.real, 3)[:2].tolist(), averages.centres[:2].tolist()
        ([4.0, 4.0], [1.5, 5.5])
    """
    count = len(samples)
    stretches = min(max(_MIN_AVERAGES_A_RUN, math.ceil(count / (AVERAGE_S * sample_rate_hz))), count)
    size = -(-count // stretches)
    rows = -(-count // size)
    table = np.zeros(rows * size, dtype=np.complex64)
    table[:count] = samples
    starts = np.arange(rows, dtype=np.int64) * size
    counts = np.minimum(size, count - starts)
    inner = np.exp(-2j * np.pi * cycles_per_sample * np.arange(size)).astype(np.complex64)
    outer = np.exp(-2j * np.pi * ((cycles_per_sample * (first_index + starts)) % 1.0))
    # Not a matrix product: a BLAS library would wake its threads for this little work.
    sums = np.einsum("ij,j->i", table.reshape(rows, size), inner) * outer
    return Averages(sums, first_index + starts + (counts - 1) / 2, counts)


def join(runs: list[Averages]) -> Averages:
    """Put the averages of many runs behind each other.

    Args:
        runs: Averages with the same coarse frequency, at least one.

    Returns:
        All of them in one.
    """
    return Averages(
        np.concatenate([run.sums for run in runs]),
        np.concatenate([run.centres for run in runs]),
        np.concatenate([run.counts for run in runs]),
    )


def thin(averages: Averages, cycles_per_sample: float, most: int) -> tuple[Averages, float]:
    """Add up neighbouring averages so that a long recording is left with few.

    The residual frequency v of all averages together is taken out first, a_k exp(-j 2 pi v n_k), so that a carrier
    loses nothing when its averages become longer. Then those whose centres lie in one cell of the recording's index
    become one. All cells are equally long: the longest average, or 2, 4, 8, ... times that.

    Args:
        averages: What `derotated_averages` gave for every run, or this function for the earlier ones; 2 or more.
        cycles_per_sample: The coarse frequency f0 that was taken out of them.
        most: The averages that may be left.

    Returns:
        The averages, and the frequency f0 + v that is now taken out of them and is to be taken out of further runs.
    """
    centres, counts = averages.centres, averages.counts
    times, longest = centres - centres[0], float(np.max(counts))
    residual = _climb(averages.sums, times, _coarse_peak(averages.sums, times, longest))
    turned = averages.sums * np.exp(-2j * np.pi * ((residual * centres) % 1.0))
    cell = longest
    while len(starts := _firsts(np.floor(centres / cell))) > most:
        cell *= 2.0
    joined = np.add.reduceat(counts, starts)
    middles = np.add.reduceat(counts * centres, starts) / joined
    frequency = (cycles_per_sample + residual + 0.5) % 1.0 - 0.5
    return Averages(np.add.reduceat(turned, starts), middles, joined), frequency


def carrier_offset_hz(averages: Averages, cycles_per_sample: float, sample_rate_hz: float) -> Quantity:
    """Estimate the carrier's frequency from the phase of all averages together.

    The residual frequency v maximises |sum a_k exp(-j 2 pi v n_k)|² over the averages a_k at their true
    centres n_k, so that a gap costs no phase: a coarse grid by FFT, then Newton steps. The offset is
    (f0 + v) fs. Sigma is the bound of a tone in white noise at these places (Rife and Boorstyn 1974),
    var v = sigma² / (2 A² (2 pi)² sum m_k (n_k - mean n)²), m_k samples an average, with sigma² from the
    scatter of the averages about the tone, modulation included.

    Args:
        averages: What `derotated_averages` gave for every run.
        cycles_per_sample: The coarse frequency f0 that was taken out.
        sample_rate_hz: The true sample rate fs in Hz; its own uncertainty is not part of sigma.

    Returns:
        The offset from the tuned centre in Hz. Absent with fewer than 8 averages, and when their coherent sum
        does not stand 14 dB (integrated SNR) above their scatter: then the carrier was not coherent.

    References:
        D. Rife, R. Boorstyn, "Single-tone parameter estimation from discrete-time observations", IEEE Trans.
        Information Theory 20, 1974.

    Examples:
        >>> tone = np.exp(2j * np.pi * 0.100002 * np.arange(30_000)).astype(np.complex64)
        >>> kept = [derotated_averages(tone[at : at + 5_000], at, 0.1, 1000.0) for at in (0, 5_000, 25_000)]
        >>> round(carrier_offset_hz(join(kept), 0.1, 1000.0).value, 4)
        100.002
    """
    found = len(averages.sums)
    if found < MIN_AVERAGES:
        return Quantity.absent(Reason.TOO_FEW_SAMPLES, _METHOD)
    sums, counts = averages.sums, averages.counts
    total = float(np.sum(counts))
    times = averages.centres - float(np.sum(counts * averages.centres)) / total
    residual = _climb(sums, times, _coarse_peak(sums, times, float(np.max(counts))))
    turned = sums * np.exp(-2j * np.pi * residual * times)
    amplitude = complex(np.sum(turned)) / total
    scatter = float(np.sum(np.abs(turned - amplitude * counts) ** 2)) / total * found / (found - 2)
    if abs(amplitude) ** 2 * total < 10.0 ** (MIN_N_SNR_DB / 10.0) * scatter or amplitude == 0.0:
        return Quantity.absent(Reason.NOT_COHERENT, _METHOD)
    spread = float(np.sum(counts * times**2))
    sigma = math.sqrt(scatter / (2.0 * abs(amplitude) ** 2 * spread)) / (2.0 * math.pi)
    offset = (cycles_per_sample + residual + 0.5) % 1.0 - 0.5
    return Quantity.valid(offset * sample_rate_hz, sigma * sample_rate_hz, _METHOD)


def _firsts(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Find where each run of equal numbers begins."""
    return np.flatnonzero(np.concatenate(([True], cells[1:] != cells[:-1])))


def _coarse_peak(sums: npt.NDArray[np.complex128], times: npt.NDArray[np.float64], longest: float) -> float:
    """Search v on a grid, with each average moved to the nearest of cells a quarter of an average apart."""
    cell = longest / _CELLS_AN_AVERAGE
    places = np.rint((times - times[0]) / cell).astype(np.int64)
    # A power of two, since the library keeps what it needs for the latest lengths, and here each would be another.
    length = 1 << (_PADDING * (int(places[-1]) + 1) - 1).bit_length()
    cells = np.zeros(length, dtype=np.complex128)
    np.add.at(cells, places, sums)
    frequencies = scipy.fft.fftfreq(length, cell)
    power = np.abs(scipy.fft.fft(cells)) ** 2
    power[np.abs(frequencies) > _SEARCHED_SHARE / longest] = 0.0
    return float(frequencies[int(np.argmax(power))])


def _climb(sums: npt.NDArray[np.complex128], times: npt.NDArray[np.float64], start: float) -> float:
    """Climb to the top of |sum|² by Newton steps, which stay within the lobe of the coarse peak."""
    frequency, angles = start, -2j * np.pi * times
    half_lobe = 0.5 / float(times[-1] - times[0])
    for _ in range(_MAX_STEPS):
        turned = sums * np.exp(angles * frequency)
        value = np.sum(turned)
        first, second = np.sum(angles * turned), np.sum(angles**2 * turned)
        slope = 2.0 * (np.conj(value) * first).real
        curvature = 2.0 * (abs(first) ** 2 + (np.conj(value) * second).real)
        if curvature >= 0.0:
            break
        step = float(-slope / curvature)
        frequency += min(max(step, -half_lobe / 4.0), half_lobe / 4.0)
        if abs(step) < 1e-9 * half_lobe:
            break
    return frequency
