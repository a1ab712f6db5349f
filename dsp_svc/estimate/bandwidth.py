"""How wide an emission is: the band that holds 99 % of its power, and the band above a level below its peak."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.noise import NoiseFloor
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.estimate.snr import Band, strongest_band

X_DB = 26.0
"""The level below the peak that ITU-R SM.443 takes for the width of most emissions."""
MIN_SNR_DB = -5.0
"""Below this ratio inside its band the edges of an emission are not known."""
_OUTSIDE = 0.005  # of the power, on each side
_MIN_GUARD_BINS = 3
_GUARD_SHARE = 0.1  # of the band on each side, for what slopes down into the noise
_END_SIGMAS = 0.85  # over the noise of a bin: fainter bins beyond an edge are not the emission's
_MIN_NOISE_BANDWIDTHS = 3.0  # a carrier looks up to 2.8 of the taper's noise bandwidths wide
_SIGMAS_OVER_NOISE = 3.0
_DB = 10.0 / math.log(10.0)
_POWER_METHOD = "power-99"


@dataclass(frozen=True)
class EmissionBandwidth:
    """The width of an emission and where its edges are."""

    width_hz: Quantity
    """The width in Hz."""
    low_hz: float | None
    """The lower edge relative to the tuned centre in Hz; None when the width is absent."""
    high_hz: float | None
    """The upper edge relative to the tuned centre in Hz; None when the width is absent."""

    @property
    def midpoint_hz(self) -> float | None:
        """The middle between the edges relative to the tuned centre in Hz; its sigma is half of the width's."""
        return None if self.low_hz is None or self.high_hz is None else (self.low_hz + self.high_hz) / 2.0


@dataclass(frozen=True)
class _Region:
    """The bins of an emission and its guard."""

    first: int
    excess: npt.NDArray[np.float64]
    """The density less that of the noise."""
    variance: npt.NDArray[np.float64]
    """The variance of each bin's density, times the number of bins that scatter together."""


def occupied_bandwidth(spectrum: Spectrum, noise: NoiseFloor, band: Band | None = None) -> EmissionBandwidth:
    """Estimate the occupied bandwidth: what is outside on either side holds 0.5 % of the emission's power.

    The power S - N0 is cumulated over the emission's bins; outside it counts as zero. The emission ends where the sum
    of S - N0 - 0.85 sigma of a noise bin is largest, at most 10 % of the band or 3 bins beyond it and not in another
    emission. The edges are where the cumulated power passes 0.005 and 0.995 of its end, interpolated linearly,
    followed outwards from the middle of the power.

    Args:
        spectrum: The spectrum, linear.
        noise: The noise floor of the same spectrum.
        band: The emission; the strongest one if it is not given.

    Returns:
        The width in Hz with its edges. Sigma follows from the scatter of the cumulated power at each edge,
        sum S² r / K_eff for r bins that scatter together, and of the noise floor, over the emission's density
        there; below about 5 dB the scatter is up to twice that, since it is not sure where the emission ends. A steep
        emission is found within a bin from 0 dB in 1 s, one that slopes into the noise from 0 dB in 6 s. An upper
        limit when it is less than three noise bandwidths of the taper: any carrier is about that wide. Absent
        without an emission or a noise floor, and below -5 dB of signal-to-noise ratio in the band. An emission cut
        off by the passband has its width up to there.

    References:
        ITU-R Recommendations SM.328 (definition) and SM.443 (measurement, beta % method).

    Examples:
        >>> import numpy as np
        >>> from dsp_svc.estimate.noise import noise_floor
        >>> from dsp_svc.estimate.psd import Welch
        >>> density = np.where(np.abs(np.arange(512) - 256) <= 50, 2.0, 1.0)
        >>> spectrum = Spectrum(Welch(512), density, 512.0, 1e6)
        >>> found = occupied_bandwidth(spectrum, noise_floor(spectrum, np.ones(512, dtype=np.bool_)))
        >>> round(found.width_hz.value, 1), round(found.low_hz, 1), round(found.high_hz, 1)  # 0.99 of 101 bins
        (100.0, -50.0, 50.0)
    """
    region = _region(spectrum, noise, band, _POWER_METHOD)
    if isinstance(region, EmissionBandwidth):
        return region
    cumulated = np.concatenate(([0.0], np.cumsum(region.excess)))
    total = float(cumulated[-1])
    middle = int(np.searchsorted(np.maximum.accumulate(cumulated), total / 2.0))
    low = int(np.flatnonzero(cumulated[:middle] <= _OUTSIDE * total)[-1])
    high = middle + int(np.flatnonzero(cumulated[middle:] >= (1.0 - _OUTSIDE) * total)[0])
    low_place = low + (_OUTSIDE * total - cumulated[low]) / region.excess[low]
    high_place = high - (cumulated[high] - (1.0 - _OUTSIDE) * total) / region.excess[high - 1]
    floor_sigma = noise.relative_sigma * (noise.density or 0.0)
    sigma_bins = math.hypot(
        _edge_sigma(region, low, floor_sigma),
        _edge_sigma(_Region(0, region.excess[::-1], region.variance[::-1]), len(region.excess) - high, floor_sigma),
    )
    return _bandwidth(spectrum, region, float(low_place), float(high_place), sigma_bins, _POWER_METHOD)


def x_db_bandwidth(
    spectrum: Spectrum, noise: NoiseFloor, band: Band | None = None, x_db: float = X_DB
) -> EmissionBandwidth:
    """Estimate the x dB bandwidth: beyond it the density is x dB or more below its largest value.

    Args:
        spectrum: The spectrum, linear.
        noise: The noise floor of the same spectrum.
        band: The emission; the strongest one if it is not given.
        x_db: The level x below the peak in dB, above 0.

    Returns:
        The width in Hz between the outermost crossings, interpolated linearly in dB between bins, the noise
        subtracted. Sigma is the scatter of the levels at the peak and at the edges over the slope there. An
        upper limit when it is less than three noise bandwidths of the taper, as for a carrier. Absent without an
        emission or a noise floor, and when the level sought is not above the scatter of the noise (3 sigma): 26 dB
        takes an emission of about 24 dB over the noise after 40 averages.

    References:
        ITU-R Recommendation SM.443, "Bandwidth measurement at monitoring stations", x dB method.

    Examples:
        >>> import numpy as np
        >>> from dsp_svc.estimate.noise import noise_floor
        >>> from dsp_svc.estimate.psd import Welch
        >>> away = np.abs(np.arange(512) - 256)
        >>> density = 1e-6 + 10.0 ** (-0.2 * np.maximum(away - 20.0, 0.0))  # 2 dB a bin beyond 20 bins
        >>> spectrum = Spectrum(Welch(512), density, 512.0, 1e6)
        >>> found = x_db_bandwidth(spectrum, noise_floor(spectrum, np.ones(512, dtype=np.bool_)))
        >>> round(found.width_hz.value, 2)
        66.0
    """
    method = f"x-db-{x_db:g}"
    region = _region(spectrum, noise, band, method)
    if isinstance(region, EmissionBandwidth):
        return region
    peak = float(region.excess.max())
    sought = peak / 10.0 ** (x_db / 10.0)
    scatter = math.sqrt(spectrum.welch.bins_per_independent_bin / spectrum.effective_count)
    if sought < _SIGMAS_OVER_NOISE * scatter * (noise.density or 0.0):
        return _absent(Reason.SNR_TOO_LOW, method)
    above = np.flatnonzero(region.excess >= sought)
    low_place, low_slope = _crossing(region.excess, int(above[0]), -1, sought)
    high_place, high_slope = _crossing(region.excess, int(above[-1]), 1, sought)
    # The peak's scatter moves both edges outwards, each edge's own moves that one.
    level_db = _DB * scatter
    noisy_db = level_db * (1.0 + (noise.density or 0.0) / sought)
    moved = level_db * (1.0 / low_slope + 1.0 / high_slope)
    sigma_bins = math.hypot(moved, noisy_db / low_slope, noisy_db / high_slope)
    return _bandwidth(spectrum, region, low_place + 0.5, high_place + 0.5, sigma_bins, method)


def _region(spectrum: Spectrum, noise: NoiseFloor, band: Band | None, method: str) -> _Region | EmissionBandwidth:
    """Cut out an emission with its guard, or say why there is none that can be measured."""
    if noise.density is None or noise.estimate.validity is not Validity.VALID:
        return _absent(Reason.NO_NOISE_FLOOR, method)
    if band is None:
        band = strongest_band(spectrum, noise)
    if band is None:
        return _absent(Reason.NO_SIGNAL, method)
    frequencies_hz = spectrum.frequencies_hz
    inside = np.flatnonzero((frequencies_hz > band.low_hz) & (frequencies_hz < band.high_hz))
    if not inside.size:
        return _absent(Reason.NO_SIGNAL, method)
    first, after = int(inside[0]), int(inside[-1]) + 1
    power = float(np.sum(spectrum.density[first:after] - noise.density))
    if power <= 10.0 ** (MIN_SNR_DB / 10.0) * noise.density * (after - first):
        return _absent(Reason.SNR_TOO_LOW, method)
    guard = max(_MIN_GUARD_BINS, math.ceil(_GUARD_SHARE * (after - first)))
    free = noise.passband & ~noise.occupied
    lowest = first - _free_bins(free[max(first - guard, 0) : first][::-1])
    highest = after + _free_bins(free[after : after + guard])
    together = spectrum.welch.bins_per_independent_bin / spectrum.effective_count
    above = spectrum.density - noise.density * (1.0 + _END_SIGMAS * math.sqrt(together))
    inner_first, inner_after = min(first + guard, (first + after) // 2), max(after - guard, (first + after) // 2)
    first = inner_first - _power_end(above[lowest:inner_first][::-1])
    after = inner_after + _power_end(above[inner_after:highest])
    density = spectrum.density[first:after]
    return _Region(first, density - noise.density, density**2 * together)


def _power_end(above: npt.NDArray[np.float64]) -> int:
    """Count the bins, from the first on, whose sum is the largest."""
    sums = np.cumsum(above)
    best = int(np.argmax(sums)) if sums.size else 0
    return best + 1 if sums.size and sums[best] > 0.0 else 0


def _free_bins(free: npt.NDArray[np.bool_]) -> int:
    taken = np.flatnonzero(~free)
    return int(taken[0]) if taken.size else len(free)


def _edge_sigma(region: _Region, edge: int, floor_sigma: float) -> float:
    """Give the scatter of a lower edge in bins, from that of the power cumulated up to it.

    Args:
        region: The bins, from the side of the edge on.
        edge: The bin that the edge is in.
        floor_sigma: The scatter of the noise density.
    """
    weights = np.where(np.arange(len(region.excess)) <= edge, 1.0 - _OUTSIDE, -_OUTSIDE)
    of_bins = float(np.sum(weights**2 * region.variance))
    of_floor = floor_sigma * abs(float(np.sum(weights)))
    slope = float(np.mean(region.excess[max(edge - 1, 0) : edge + 2]))
    return math.sqrt(of_bins + of_floor**2) / slope if slope > 0.0 else float(len(region.excess))


def _crossing(excess: npt.NDArray[np.float64], last: int, step: int, sought: float) -> tuple[float, float]:
    """Interpolate where the density falls through a level beyond a bin, and give the slope in dB a bin."""
    beyond = last + step
    outside = float(excess[beyond]) if 0 <= beyond < len(excess) else 0.0
    inside_db = 10.0 * math.log10(float(excess[last]))
    # What is below a thousandth of the level sought is noise that happened to cancel.
    slope_db = inside_db - 10.0 * math.log10(max(outside, 1e-3 * sought))
    return last + step * (inside_db - 10.0 * math.log10(sought)) / slope_db, slope_db


def _bandwidth(
    spectrum: Spectrum, region: _Region, low_place: float, high_place: float, sigma_bins: float, method: str
) -> EmissionBandwidth:
    """Convert places in bins from the region's lower edge into Hz."""
    bin_hz = spectrum.bin_width_hz
    origin_hz = float(spectrum.frequencies_hz[region.first]) - bin_hz / 2.0
    low_hz, high_hz = origin_hz + low_place * bin_hz, origin_hz + high_place * bin_hz
    if high_place - low_place < _MIN_NOISE_BANDWIDTHS * spectrum.welch.enbw_bins:
        width = Quantity.upper_limit(high_hz - low_hz, Reason.RESOLUTION, method)
    else:
        width = Quantity.valid(high_hz - low_hz, sigma_bins * bin_hz, method)
    return EmissionBandwidth(width, low_hz, high_hz)


def _absent(reason: Reason, method: str) -> EmissionBandwidth:
    return EmissionBandwidth(Quantity.absent(reason, method), None, None)
