"""How a line's frequency moves over a stream: its drift, and its scatter from window to window."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dsp_svc.estimate.result import Quantity, Reason

MIN_POINTS = 3
"""Fewer points show no drift: a line passes through any two."""
_DRIFT_METHOD = "weighted-line"
_SCATTER_METHOD = "successive-differences"


@dataclass(frozen=True)
class FrequencyTrack:
    """Sums over frequencies measured one after the other; a later track is added to an earlier one.

    The sums are about the means, which keeps their digits however long the stream is.
    """

    point_count: int
    """The number of frequencies n."""
    weight: float
    """The sum W of the weights w = 1/sigma² in 1/Hz²."""
    mean_time_s: float
    """The weighted mean time in s."""
    mean_frequency_hz: float
    """The weighted mean frequency in Hz."""
    time_spread: float
    """The sum of w (t - mean t)²."""
    product: float
    """The sum of w (t - mean t) (f - mean f)."""
    frequency_spread: float
    """The sum of w (f - mean f)²."""
    first_hz: float
    """The first frequency in Hz."""
    last_hz: float
    """The last frequency in Hz."""
    squared_steps: float
    """The sum of the squared differences of successive frequencies in Hz²; n - 1 of them."""

    @classmethod
    def none(cls) -> FrequencyTrack:
        """Make the empty track."""
        return cls(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    @classmethod
    def point(cls, time_s: float, frequency_hz: float, sigma_hz: float) -> FrequencyTrack:
        """Make the track of one frequency.

        Args:
            time_s: When it was measured in s, from any origin.
            frequency_hz: The frequency in Hz.
            sigma_hz: Its 1-sigma uncertainty in Hz, above 0.

        Raises:
            ValueError: Sigma is not above 0.
        """
        if not sigma_hz > 0.0:
            raise ValueError(f"sigma_hz must be above 0, got {sigma_hz}")
        return cls(1, sigma_hz**-2, time_s, frequency_hz, 0.0, 0.0, 0.0, frequency_hz, frequency_hz, 0.0)

    def __add__(self, later: FrequencyTrack) -> FrequencyTrack:
        if not self.point_count or not later.point_count:
            return self if self.point_count else later
        weight = self.weight + later.weight
        share, both = later.weight / weight, self.weight * later.weight / weight
        after_s = later.mean_time_s - self.mean_time_s
        above_hz = later.mean_frequency_hz - self.mean_frequency_hz
        return FrequencyTrack(
            self.point_count + later.point_count,
            weight,
            self.mean_time_s + share * after_s,
            self.mean_frequency_hz + share * above_hz,
            self.time_spread + later.time_spread + both * after_s**2,
            self.product + later.product + both * after_s * above_hz,
            self.frequency_spread + later.frequency_spread + both * above_hz**2,
            self.first_hz,
            later.last_hz,
            self.squared_steps + later.squared_steps + (later.first_hz - self.last_hz) ** 2,
        )


def drift_hz_per_s(track: FrequencyTrack) -> Quantity:
    """Fit a straight line through the frequencies.

    slope = sum w (t - mean t) (f - mean f) / sum w (t - mean t)², var = max(1, chi²/(n - 2)) / sum w (t - mean t)²:
    points that scatter more than their own sigmas say, as those of a modulated line do, widen it.

    Args:
        track: The sums over the frequencies.

    Returns:
        The drift in Hz/s with sigma. Absent with fewer than 3 points, or when all are of one time. The drift of
        the receiver's own clock is in it.

    References:
        Bevington and Robinson 2003, chapter 6; Chan, Golub and LeVeque 1983 (sums about means that add up).

    Examples:
        >>> track = FrequencyTrack.none()
        >>> for second in range(10):
        ...     track += FrequencyTrack.point(second, 100.0 + 0.25 * second, 0.01)
        >>> round(drift_hz_per_s(track).value, 6)
        0.25
    """
    if track.point_count < MIN_POINTS or track.time_spread <= 0.0:
        return Quantity.absent(_lack(track), _DRIFT_METHOD)
    slope = track.product / track.time_spread
    residuals = max(track.frequency_spread - slope * track.product, 0.0)
    excess = max(1.0, residuals / (track.point_count - 2))
    return Quantity.valid(slope, math.sqrt(excess / track.time_spread), _DRIFT_METHOD)


def frequency_scatter_hz(track: FrequencyTrack) -> Quantity:
    """Express how much a frequency differs from the one before it.

    s = sqrt(sum (f[i+1] - f[i])² / (2 (n - 1))): the Allan deviation at the windows' spacing, in Hz. Independent
    frequencies of standard deviation s give s; a drift of d Hz a window adds d²/2 to s².

    Args:
        track: The sums over the frequencies.

    Returns:
        The scatter in Hz, with the sigma s sqrt(3 n - 4) / (2 (n - 1)) of independent Gaussian frequencies.
        Absent with fewer than 3 points. A loss between two windows counts as one step.

    References:
        von Neumann, Kent, Bellinson and Hart 1941; Allan 1966.

    Examples:
        >>> track = FrequencyTrack.none()
        >>> for second, hz in enumerate([1.0, -1.0, 1.0, -1.0]):
        ...     track += FrequencyTrack.point(second, hz, 1.0)
        >>> round(frequency_scatter_hz(track).value, 3)
        1.414
    """
    if track.point_count < MIN_POINTS:
        return Quantity.absent(_lack(track), _SCATTER_METHOD)
    steps = track.point_count - 1
    scatter = math.sqrt(track.squared_steps / (2.0 * steps))
    return Quantity.valid(scatter, scatter * math.sqrt(3.0 * track.point_count - 4.0) / (2.0 * steps), _SCATTER_METHOD)


def _lack(track: FrequencyTrack) -> Reason:
    return Reason.TOO_FEW_SAMPLES if track.point_count else Reason.NO_LINE
