"""The noise floor under whatever signals a spectrum holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason

QUANTILE = 0.25
"""The order statistic across the bins that sets the floor; it bears signals in more than half of them."""
MIN_NOISE_BINS = 16
"""Fewer bins than this, free of signals, make no noise floor."""
_FALSE_ALARM = 1e-6  # per bin: a spectrum of noise alone shows an emission once in a thousand or less
_MEMBER_FALSE_ALARM = 1e-2  # per bin: a fainter bin is part of an emission that it touches
_MEMBER_BINS = 5  # the width of the Hann taper's main lobe, and of the holes that an emission may have
_SPREAD_BINS = 15  # neighbours that are looked at together for emissions too weak for any one bin
_WIDE_SHARE = 4  # of the passband is looked at together where nothing narrower stands out
_GROWTH_SHARE = 0.75  # of an emission's excess over the noise is expected of the bins that continue it
_GROWTH_SIGMAS = 5.0  # a stronger emission is continued by bins that stand out as much
_GROWTH_LOSS = 9.0  # log likelihood lost in a row that ends an emission
_GROWTH_REACH = (4, 64)  # widths of the emission, and bins, to look ahead at a time
_MIN_GROWTH_LEVEL = 1.02
_PASSBAND_EDGE_BINS = 2
_MAX_ITERATIONS = 20
_SLIDING_SHARE = 16
_SLIDING_MIN_BINS = 32
_END_WINDOWS = 2  # a window and the next one that does not overlap it give the slope towards an edge
_QUANTISATION_MARGIN_DB = 3.0
_METHOD = f"quantile-{QUANTILE:g}"


@dataclass(frozen=True)
class NoiseFloor:
    """A noise floor, and the bins that are free of signals."""

    density: float | None
    """The noise power per Hz relative to full scale, linear; None when the estimate is absent."""
    relative_sigma: float
    """The 1-sigma uncertainty of the density over the density; 0 when the estimate is absent."""
    passband: npt.NDArray[np.bool_]
    """The bins that the receiver's filter lets through, shape (bin count,)."""
    occupied: npt.NDArray[np.bool_]
    """The passband bins that hold signals or their leakage, shape (bin count,)."""
    estimate: Quantity
    """The same floor in dBFS/Hz."""


@dataclass(frozen=True)
class SlidingNoiseFloor:
    """A noise floor that changes over the passband."""

    density: npt.NDArray[np.float64] | None
    """The noise power per Hz of each bin relative to full scale, linear, shape (bin count,), 0 outside the passband;
    None when it is absent."""
    relative_sigma: float
    """The 1-sigma uncertainty of a bin's density over the density; 0 when it is absent."""
    occupied: npt.NDArray[np.bool_]
    """The passband bins that hold signals or their leakage, shape (bin count,)."""
    reason: Reason | None
    """Why the floor is absent; None if it is not."""


def passband_bins(spectrum: Spectrum, low_hz: float, high_hz: float) -> npt.NDArray[np.bool_]:
    """Select the bins inside a receiver's passband, two bins from its edges.

    Args:
        spectrum: The spectrum whose bins are meant.
        low_hz: The lower cut relative to the tuned centre in Hz.
        high_hz: The upper cut relative to the tuned centre in Hz.

    Returns:
        A mask over the bins, shape (bin count,). A passband as wide as the sample rate selects them all:
        then no filter shapes the edges.

    Examples:
        >>> from dsp_svc.estimate.psd import Welch
        >>> spectrum = Spectrum(Welch(64), np.ones(64), 64.0, 1.0)
        >>> spectrum.frequencies_hz[passband_bins(spectrum, -5.0, 4.0)].tolist()
        [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]
    """
    if high_hz - low_hz >= spectrum.sample_rate_hz:
        return np.ones(spectrum.welch.segment_length, dtype=np.bool_)
    edge_hz = _PASSBAND_EDGE_BINS * spectrum.bin_width_hz
    frequencies_hz = spectrum.frequencies_hz
    return (frequencies_hz >= low_hz + edge_hz) & (frequencies_hz <= high_hz - edge_hz)


def noise_floor(spectrum: Spectrum, passband: npt.NDArray[np.bool_], quantisation_power: float = 0.0) -> NoiseFloor:
    """Estimate the density of the noise from the quieter bins of the passband.

    A bin of white noise scatters as Gamma(K)/K with K = K_eff, so N0 = quantile_q(S) K / P^-1(K, q), with
    P^-1 the inverse of the regularised lower incomplete gamma function.
    Emissions are runs of bins whose mean over 5 bins is above the level that noise passes once in 100, and that
    somewhere pass a level, for one bin or the mean of 15, that noise passes once in a million (the like quantiles
    of the Gamma law); where there is none, the mean of a quarter of the passband. Such a run is continued as far as
    its bins are more likely to hold an emission than noise. They are left out and the quantile is taken again until
    nothing changes.
    Sigma is that of an order statistic of n independent bins, sqrt(q (1 - q) / n) / (x f(x)), x = P^-1(K, q),
    f the density of Gamma(K).

    Args:
        spectrum: The spectrum, linear, of at least one periodogram.
        passband: The bins to use, shape (bin count,), from `passband_bins`.
        quantisation_power: The power of the samples' rounding relative to full scale, spread evenly over the
            sample rate; 0 when they were not rounded.

    Returns:
        The floor in dBFS/Hz. An upper limit when it is within 3 dB of the rounding noise: there the
        receiver's noise was not recorded. Absent when fewer than 16 signal-free bins are left, or they hold no
        power.

    References:
        H. David, H. Nagaraja, "Order Statistics", 2003; ITU-R Recommendation SM.1753 (noise from the quieter bins).

    Examples:
        >>> from dsp_svc.estimate.psd import Welch
        >>> rng = np.random.default_rng(1)
        >>> density = 1e-9 * rng.gamma(50.0, 1 / 50.0, 512)
        >>> density[100:200] *= 1000.0
        >>> spectrum = Spectrum(Welch(512), density, 12_000.0, 50.0)
        >>> floor = noise_floor(spectrum, passband_bins(spectrum, -6_000.0, 6_000.0))
        >>> round(floor.estimate.value), bool(floor.occupied[150])
        (-90, True)
    """
    nothing = np.zeros_like(passband)
    if np.count_nonzero(passband) < MIN_NOISE_BINS:
        return NoiseFloor(None, 0.0, passband, nothing, Quantity.absent(Reason.PASSBAND_TOO_NARROW, _METHOD))
    shape = spectrum.effective_count
    levels = _Levels.of(spectrum, passband)
    occupied = nothing
    density = 0.0
    for _ in range(_MAX_ITERATIONS):
        quiet = spectrum.density[passband & ~occupied]
        if quiet.size < MIN_NOISE_BINS:
            return NoiseFloor(None, 0.0, passband, occupied, Quantity.absent(Reason.PASSBAND_OCCUPIED, _METHOD))
        density = _quantile(quiet) / _expected(shape, quiet.size)
        found = levels.emissions(density)
        if np.array_equal(found, occupied):
            break
        occupied = found
    if density == 0.0:
        return NoiseFloor(None, 0.0, passband, occupied, Quantity.absent(Reason.ALL_ZERO, _METHOD))
    independent = np.count_nonzero(passband & ~occupied) / spectrum.welch.bins_per_independent_bin
    relative_sigma = _quantile_scatter(shape, independent)
    value = 10.0 * math.log10(density)
    rounding = quantisation_power / spectrum.sample_rate_hz
    if rounding > 0.0 and value < 10.0 * math.log10(rounding) + _QUANTISATION_MARGIN_DB:
        estimate = Quantity.upper_limit(value, Reason.QUANTISATION_NOISE, _METHOD)
    else:
        estimate = Quantity.valid(value, 10.0 / math.log(10.0) * relative_sigma, _METHOD)
    return NoiseFloor(density, relative_sigma, passband, occupied, estimate)


def sliding_noise_floor(spectrum: Spectrum, passband: npt.NDArray[np.bool_]) -> SlidingNoiseFloor:
    """Estimate a noise density that changes over the passband.

    The quantile of `noise_floor` is taken in windows of a sixteenth of the passband (32 bins or more) that overlap by
    half, the slope from window to window taken out of each, and interpolated in decibels between their middles.
    Emissions, single bins that noise of this floor passes once in a million and the fainter ones that they touch, are
    left out, until nothing changes.

    Args:
        spectrum: The spectrum, linear, of at least one periodogram.
        passband: The bins to use, shape (bin count,), from `passband_bins`.

    Returns:
        The floor of every bin. Sigma is that of one window. Up to 3 dB of slope over a window are followed; an emission
        that fills more than half of a window looks like noise, so use `noise_floor` for wide ones over white noise.
        Absent for the same reasons as there.

    References:
        ITU-R Recommendation SM.1753, "Methods for measurements of radio noise", for the choice of quiet parts.

    Examples:
        >>> import numpy as np
        >>> from dsp_svc.estimate.psd import Welch
        >>> slope_db = np.linspace(-70.0, -60.0, 512)
        >>> spectrum = Spectrum(Welch(512), 10 ** (slope_db / 10), 512.0, 1e6)
        >>> floor = sliding_noise_floor(spectrum, np.ones(512, dtype=np.bool_))
        >>> bool(np.all(np.abs(10 * np.log10(floor.density) - slope_db) < 0.1))
        True
    """
    places = np.flatnonzero(passband)
    occupied = np.zeros_like(passband)
    if len(places) < MIN_NOISE_BINS:
        return SlidingNoiseFloor(None, 0.0, occupied, Reason.PASSBAND_TOO_NARROW)
    shape = spectrum.effective_count
    width = min(max(len(places) // _SLIDING_SHARE, _SLIDING_MIN_BINS), len(places))
    starts = np.unique(np.append(np.arange(0, len(places) - width + 1, width // 2), len(places) - width))
    slopes = np.zeros(len(starts))  # nepers of power a bin
    floor = np.zeros(len(places))
    for step in range(_MAX_ITERATIONS):
        values = np.full(len(starts), np.nan)
        for window, start in enumerate(starts):
            bins = places[start : start + width]
            level = spectrum.density[bins] * np.exp(-slopes[window] * (np.arange(width) - (width - 1) / 2.0))
            quiet = level[~occupied[bins]]
            if quiet.size >= MIN_NOISE_BINS:
                values[window] = _quantile(quiet) / _expected(shape, quiet.size)
        known = ~np.isnan(values)
        if not known.any():
            return SlidingNoiseFloor(None, 0.0, occupied, Reason.PASSBAND_OCCUPIED)
        if not np.all(values[known] > 0.0):
            return SlidingNoiseFloor(None, 0.0, occupied, Reason.ALL_ZERO)
        middles, logs = starts[known] + (width - 1) / 2.0, np.log(values[known])
        floor = np.exp(_interpolated(middles, logs, len(places)))
        if len(logs) > 1:
            slopes = np.interp(starts, starts[known], np.gradient(logs, middles))
        if step == 0:
            continue  # a slope that is not known yet would pass for an emission
        flat = np.zeros(len(passband))
        flat[places] = spectrum.density[places] / floor
        flattened = dataclasses.replace(spectrum, density=flat)
        # The floor of a window is not sure enough to judge many bins together.
        faint = _critical_density(flattened, passband, _MEMBER_BINS, _MEMBER_FALSE_ALARM)
        found = _occupied(faint, _critical_density(flattened, passband, 1, _FALSE_ALARM), 1.0) & passband
        if np.array_equal(found, occupied):
            break
        occupied = found
    density = np.zeros(len(passband))
    density[places] = floor
    independent = width / spectrum.welch.bins_per_independent_bin
    return SlidingNoiseFloor(density, _quantile_scatter(shape, independent), occupied, None)


def _interpolated(
    middles: npt.NDArray[np.float64], values: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.float64]:
    """Interpolate between windows, and carry the slope of the outermost ones on to the edges."""
    if len(middles) > _END_WINDOWS:
        ends = [(0, 0.0, _END_WINDOWS), (-1, count - 1.0, -1 - _END_WINDOWS)]
        slopes = [(values[near] - values[far]) / (middles[near] - middles[far]) for near, _, far in ends]
        low, high = (
            values[near] + slope * (edge - middles[near]) for (near, edge, _), slope in zip(ends, slopes, strict=True)
        )
        middles = np.concatenate(([0.0], middles, [count - 1.0]))
        values = np.concatenate(([low], values, [high]))
    return np.asarray(np.interp(np.arange(count), middles, values), dtype=np.float64)


@dataclass(frozen=True)
class _Levels:
    """The noise densities below which the bins of a spectrum belong to emissions."""

    density: npt.NDArray[np.float64]
    """The density of the passband's bins, and 0 outside, shape (bin count,)."""
    passband: npt.NDArray[np.bool_]
    """The passband, shape (bin count,)."""
    shape: float
    """The shape of the Gamma law of a bin, less what it shares with its neighbours."""
    faint: npt.NDArray[np.float64]
    """Below it a bin is in an emission if it touches one, shape (bin count,)."""
    sure: npt.NDArray[np.float64]
    """Below it a bin, or a few together, can not be noise, shape (bin count,)."""
    wide: npt.NDArray[np.float64]
    """Below it a quarter of the passband about the bin can not be noise, shape (bin count,)."""

    @classmethod
    def of(cls, spectrum: Spectrum, passband: npt.NDArray[np.bool_]) -> _Levels:
        """Work out the levels of a spectrum."""
        wide_bins = int(np.count_nonzero(passband)) // _WIDE_SHARE | 1
        return cls(
            np.where(passband, spectrum.density, 0.0),
            passband,
            spectrum.effective_count / spectrum.welch.bins_per_independent_bin,
            _critical_density(spectrum, passband, _MEMBER_BINS, _MEMBER_FALSE_ALARM),
            np.maximum(
                _critical_density(spectrum, passband, 1, _FALSE_ALARM),
                _critical_density(spectrum, passband, _SPREAD_BINS, _FALSE_ALARM),
            ),
            _critical_density(spectrum, passband, wide_bins, _FALSE_ALARM),
        )

    def emissions(self, density: float) -> npt.NDArray[np.bool_]:
        """Select the bins of emissions over noise of the given density."""
        found = _occupied(self.faint, self.sure, density) & self.passband
        if not found.any():
            found = _occupied(self.faint, self.wide, density) & self.passband
        if density > 0.0 and found.any():
            found = _continued(found, self.density / density, self.shape) & self.passband
        return found


def _occupied(faint: npt.NDArray[np.float64], sure: npt.NDArray[np.float64], density: float) -> npt.NDArray[np.bool_]:
    """Select the bins of emissions: faint runs that hold a bin, or a stretch, which can not be noise.

    Args:
        faint: The noise density below which a bin is in an emission if it touches one, shape (bin count,).
        sure: The noise density below which a bin can not be noise, shape (bin count,).
        density: The noise density.
    """
    certain = sure > density
    occupied = np.zeros_like(certain)
    if not certain.any():
        return occupied
    runs = _runs(~_widen(~_widen(faint > density, _MEMBER_BINS // 2), _MEMBER_BINS // 2))
    for first, after in runs:
        occupied[first:after] = certain[first:after].any()
    return occupied


def _continued(occupied: npt.NDArray[np.bool_], ratio: npt.NDArray[np.float64], shape: float) -> npt.NDArray[np.bool_]:
    """Continue each emission on both sides until what follows is noise.

    A weak wide emission passes its levels in places only, and between them it looks like noise bin by bin, but not
    over many bins.

    Args:
        occupied: The bins of emissions, shape (bin count,).
        ratio: The density over that of the noise, shape (bin count,).
        shape: The shape of the Gamma law of a bin, less what it shares with its neighbours.
    """
    continued = occupied.copy()
    end = 0
    for first, after in _runs(occupied):
        if after <= end:
            continue  # the emission before it reached over it
        while True:
            excess = _GROWTH_SHARE * (float(np.mean(ratio[first:after])) - 1.0)
            level = 1.0 + min(excess, _GROWTH_SIGMAS / math.sqrt(shape))
            if level < _MIN_GROWTH_LEVEL:
                break
            ahead = max(_GROWTH_REACH[0] * (after - first), _GROWTH_REACH[1])
            below = _reach(ratio[max(first - ahead, 0) : first][::-1], level, shape)
            above = _reach(ratio[after : after + ahead], level, shape)
            first, after = first - below, after + above
            if below == 0 and above == 0:
                break
        continued[first:after] = True
        end = after
    return continued


def _reach(ratio: npt.NDArray[np.float64], level: float, shape: float) -> int:
    """Count the bins, from the first on, that are likelier to hold the level than the noise's level of 1.

    The logarithm of the likelihood ratio of Gamma(K) scaled by the level against that of noise,
    K (ratio (1 - 1/level) - ln level), is summed bin by bin; the bins end at its maximum, which is searched until the
    sum has lost 9 from it (Page 1954).
    """
    if not len(ratio):
        return 0
    gain = np.cumsum(shape * (ratio * (1.0 - 1.0 / level) - math.log(level)))
    lost = np.flatnonzero(np.maximum.accumulate(np.maximum(gain, 0.0)) - gain > _GROWTH_LOSS)
    searched = gain[: lost[0]] if lost.size else gain
    if not len(searched):
        return 0
    best = int(np.argmax(searched))
    return best + 1 if searched[best] > 0.0 else 0


def _runs(mask: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Give the first index of each run of the mask, and the index after it."""
    padded = np.zeros(len(mask) + 2, dtype=np.bool_)
    padded[1:-1] = mask
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return ((int(first), int(after)) for first, after in zip(edges[::2], edges[1::2], strict=True))


def _critical_density(
    spectrum: Spectrum, passband: npt.NDArray[np.bool_], bins: int, false_alarm: float
) -> npt.NDArray[np.float64]:
    """Give the noise density at which a bin's mean over some neighbours has the given probability.

    Bins outside the passband get 0, which no noise is below.
    """
    shape = spectrum.effective_count
    if bins == 1:
        return np.where(passband, spectrum.density, 0.0) * (shape / scipy.special.gammainccinv(shape, false_alarm))
    shape *= bins / spectrum.welch.bins_per_independent_bin
    total = _neighbours(np.where(passband, spectrum.density, 0.0), bins)
    count = np.maximum(_neighbours(passband.astype(np.float64), bins), 1.0)
    mean = np.where(passband, total / count, 0.0)
    return np.asarray(mean * (shape / scipy.special.gammainccinv(shape, false_alarm)), dtype=np.float64)


def _neighbours(values: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """Sum each value with its neighbours, an odd number of bins that is cut off at both ends."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    half = bins // 2
    return np.asarray(
        sums[np.minimum(places + half + 1, len(values))] - sums[np.maximum(places - half, 0)], dtype=np.float64
    )


def _quantile(values: npt.NDArray[np.float64]) -> float:
    """Interpolate the order statistic; the general routine takes ten times as long on a few hundred bins."""
    ordered = np.sort(values)
    place = QUANTILE * (len(ordered) - 1)
    below = int(place)
    return float(ordered[below] + (place - below) * (ordered[below + 1] - ordered[below]))


def _expected(shape: float, count: int) -> float:
    """Give the quantile of white noise of density 1 that so many bins have: the k-th of n is at k / (n + 1)."""
    place = (QUANTILE * (count - 1) + 1.0) / (count + 1)
    return float(scipy.special.gammaincinv(shape, place)) / shape


def _quantile_scatter(shape: float, independent: float) -> float:
    x = float(scipy.special.gammaincinv(shape, QUANTILE))
    log_pdf = (shape - 1.0) * math.log(x) - x - math.lgamma(shape)
    return math.sqrt(QUANTILE * (1.0 - QUANTILE) / independent) / (x * math.exp(log_pdf))


def _widen(mask: npt.NDArray[np.bool_], bins: int) -> npt.NDArray[np.bool_]:
    widened = mask.copy()
    for shift in range(1, bins + 1):
        widened[shift:] |= mask[:-shift]
        widened[:-shift] |= mask[shift:]
    return widened
