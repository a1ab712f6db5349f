"""What each bin of a spectrum did over time: extremes, means and percentiles over single periodograms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.psd import Welch

PERCENTS = (25.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
"""The percentiles that are given where the number of periodograms supports them."""
MAX_KEPT_VALUES = 1 << 20
"""The bins of all periodograms that are kept for the percentiles."""
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # of the SplitMix64 generator
_SEED = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Rows:
    """Periodograms over time: exact sums, and a random choice of single ones; separate runs add up."""

    welch: Welch
    """How the periodograms were made."""
    row_count: int
    """The number of periodograms."""
    lowest: npt.NDArray[np.float32]
    """The least |X|² of each bin, shape (segment_length,), float32, FFT bin order; inf without a periodogram."""
    highest: npt.NDArray[np.float32]
    """The largest |X|² of each bin, in the same form; 0 without a periodogram."""
    total: npt.NDArray[np.float64]
    """The sum of |X|² of each bin, shape (segment_length,), float64."""
    kept: npt.NDArray[np.float32]
    """|X|² of the periodograms with the least keys, shape (kept rows, segment_length), float32."""
    keys: npt.NDArray[np.uint64]
    """Their keys, ascending, shape (kept rows,)."""

    @classmethod
    def none(cls, welch: Welch) -> Rows:
        """Make the statistics of no periodogram."""
        length = welch.segment_length
        return cls(
            welch,
            0,
            np.full(length, np.inf, dtype=np.float32),
            np.zeros(length, dtype=np.float32),
            np.zeros(length),
            np.zeros((0, length), dtype=np.float32),
            np.zeros(0, dtype=np.uint64),
        )

    def __add__(self, other: Rows) -> Rows:
        keys = np.concatenate([self.keys, other.keys])
        chosen = np.argsort(keys, kind="stable")[: _capacity(self.welch)]
        own = len(self.keys)
        kept = np.empty((len(chosen), self.welch.segment_length), dtype=np.float32)
        from_self = chosen < own
        kept[from_self] = self.kept[chosen[from_self]]
        kept[~from_self] = other.kept[chosen[~from_self] - own]
        return dataclasses.replace(
            self,
            row_count=self.row_count + other.row_count,
            lowest=np.minimum(self.lowest, other.lowest),
            highest=np.maximum(self.highest, other.highest),
            total=self.total + other.total,
            kept=kept,
            keys=keys[chosen],
        )


@dataclass(frozen=True)
class BinStatistics:
    """Statistics over the periodograms, in dBFS/Hz; each array has the shape (segment_length,), ascending frequency."""

    minimum: npt.NDArray[np.float32]
    """The least of all periodograms."""
    maximum: npt.NDArray[np.float32]
    """The largest of all periodograms."""
    mean: npt.NDArray[np.float32]
    """The mean power of all periodograms."""
    median: npt.NDArray[np.float32]
    """The median of those kept."""
    sample: npt.NDArray[np.float32]
    """One periodogram, chosen at random."""
    percentiles: Mapping[float, npt.NDArray[np.float32]]
    """The percentiles of those kept, by percent; one that they do not support is absent."""
    row_count: int
    """The number of periodograms."""
    kept_count: int
    """The number of those that median and percentiles rest on."""


def rows(first_index: int, lines: npt.NDArray[np.complex64], welch: Welch) -> Rows:
    """Take the statistics of a batch of periodograms.

    Which of them are kept follows from a number that is drawn for each by scrambling the bits of its place in the
    stream, so that results repeat, and depend neither on the values nor on how a run was cut into batches.

    Args:
        first_index: The index in the stream of the first sample of the first segment.
        lines: The transforms X of segments, shape (rows, segment_length), complex64, FFT bin order.
        welch: How they were made.

    Returns:
        The statistics of the batch, which hold no more than 2^20 values.
    """
    if len(lines) == 0:
        return Rows.none(welch)
    power = lines.real**2 + lines.imag**2
    keys = _keys(first_index + welch.hop * np.arange(len(power)))
    chosen = np.argsort(keys, kind="stable")[: _capacity(welch)]
    total = power.sum(axis=0, dtype=np.float64)
    return Rows(welch, len(power), power.min(axis=0), power.max(axis=0), total, power[chosen], keys[chosen])


def bin_statistics(statistics: Rows, sample_rate_hz: float) -> BinStatistics | None:
    """Express what each bin did over time, as the M4S detector of NTIA's SCOS sensors and its percentiles do.

    A periodogram has the density |X|² / (fs sum(w²)). All statistics are taken of linear power and turned into
    decibels afterwards. In a bin of steady noise of density N0 the minimum of n periodograms has the mean N0 / n,
    the percentile p is -N0 ln(1 - p / 100), and the median N0 ln 2.

    Args:
        statistics: The periodograms.
        sample_rate_hz: The true sample rate fs in Hz.

    Returns:
        The statistics in dBFS/Hz, -inf where a bin has no power; None without a periodogram. Minimum, maximum and mean
        hold for all periodograms, median and percentiles for at most 2^20 values chosen at random. A percentile
        p is given when at least one of the periodograms kept is expected above it, (1 - p / 100) of their count:
        1000 for 99.9 %. Overlapping segments are not independent, so extremes are those of somewhat fewer.

    References:
        NTIA Technical Report TR-20-551 on the SCOS sensor software, for the detector.

    Examples:
        >>> import numpy as np
        >>> welch = Welch(16)
        >>> lines = np.sqrt(np.arange(1, 102))[:, None].astype(np.complex64) * np.ones(16, dtype=np.complex64)
        >>> found = bin_statistics(rows(0, lines, welch), 1.0 / welch.taper_energy)
        >>> [round(float(10 ** (x[0] / 10)), 3) for x in (found.minimum, found.median, found.percentiles[90.0])]
        [1.0, 51.0, 91.0]
    """
    if statistics.row_count == 0:
        return None
    scale = 1.0 / (sample_rate_hz * statistics.welch.taper_energy)
    kept_count = len(statistics.keys)
    supported = [percent for percent in PERCENTS if kept_count * (100.0 - percent) >= 100.0 - 1e-9]
    quantiles = np.percentile(statistics.kept, [50.0, *supported], axis=0)
    return BinStatistics(
        _decibels(statistics.lowest, scale),
        _decibels(statistics.highest, scale),
        _decibels(statistics.total, scale / statistics.row_count),
        _decibels(quantiles[0], scale),
        _decibels(statistics.kept[0], scale),
        {percent: _decibels(values, scale) for percent, values in zip(supported, quantiles[1:], strict=True)},
        statistics.row_count,
        kept_count,
    )


def _capacity(welch: Welch) -> int:
    return max(1, MAX_KEPT_VALUES // welch.segment_length)


def _keys(places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Draw a uniform number for each place; no two places share one."""
    keys = places.astype(np.uint64) * _SEED
    keys = (keys ^ (keys >> np.uint64(30))) * _MIX_1
    keys = (keys ^ (keys >> np.uint64(27))) * _MIX_2
    return keys ^ (keys >> np.uint64(31))


def _decibels(power: npt.NDArray[np.floating], scale: float) -> npt.NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(np.fft.fftshift(power) * scale), dtype=np.float32)
