"""What a stream knows of its sample times, and why they are worse than they should be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fetcher_svc.feed import Feed
from fetcher_svc.gnss import StampQuality
from fetcher_svc.receivers.timefit import CALIBRATION_SIGMA_NS, DRIFT_NS_PER_S, MIN_STAMP_COUNT, Fit
from fetcher_svc.timeline import Placed, TimeBase

OLD_SOLUTION_S: Final = 60
"""Age of a GNSS solution, in s, from which on the time counts as degraded; it then runs on the receiver's own clock."""
_TOLD_STEP_NS: Final = 10_000_000
"""Step of the host clock from which on it is told; less is lost in the uncertainty of arrival times."""


class Degradation(Enum):
    """Why times are not from GNSS, or worse than they should be."""

    STAMPS_OFF = "stamps_off"
    NO_GNSS_FIX = "no_gnss_fix"
    GNSS_SOLUTION_OLD = "gnss_solution_old"
    DISAGREES_WITH_HOST = "disagrees_with_host"
    STAMPS_INCONSISTENT = "stamps_inconsistent"
    TOO_FEW_STAMPS = "too_few_stamps"


@dataclass(frozen=True, slots=True)
class TimeSolution:
    """time(index) = reference_unix_ns + (index - reference_index) / sample_rate_hz."""

    base: TimeBase
    reference_index: int
    reference_unix_ns: int
    sample_rate_hz: float
    sample_rate_sigma_hz: float | None
    time_sigma_ns: float
    rms_ns: float | None
    used_count: int
    dropped_count: int
    degradation: Degradation | None
    message: str


def solve(feed: Feed, origin: int | None) -> TimeSolution | None:
    """Returns the best solution so far; None before the first sample.

    Args:
        feed: The stream's end of its upstream.
        origin: Position of index 0; None before the window, then indices count from the first sample.
    """
    if feed.first is None or feed.last is None or feed.timeline is None or feed.timeline.base is None:
        return None
    reference = feed.first.position if origin is None else origin
    fit = feed.fit.solve() if feed.timeline.base is TimeBase.GNSS else None
    if fit is None:
        return _without_fit(feed, feed.last, feed.timeline.base, reference)
    degradation, message = _judge(feed, fit)
    # Nobody knows which of them are right.
    contradiction_ns = 0.0 if feed.timeline is None else feed.timeline.contradiction_ns
    return TimeSolution(
        base=TimeBase.GNSS,
        reference_index=0,
        reference_unix_ns=fit.time_at(reference),
        sample_rate_hz=fit.rate_hz,
        sample_rate_sigma_hz=fit.rate_sigma_hz,
        time_sigma_ns=math.hypot(fit.time_sigma_ns, contradiction_ns),
        rms_ns=fit.rms_ns,
        used_count=fit.used_count,
        dropped_count=feed.dropped_stamp_count + fit.rejected_count,
        degradation=degradation,
        message=message,
    )


def _without_fit(feed: Feed, last: Placed, base: TimeBase, reference: int) -> TimeSolution:
    if base is TimeBase.GNSS:
        sigma_ns = math.hypot(CALIBRATION_SIGMA_NS, DRIFT_NS_PER_S * last.frame.stamp_age_s)
        degradation = Degradation.TOO_FEW_STAMPS
        message = f"{len(feed.fit)} good stamps came; a fit needs {MIN_STAMP_COUNT}"
    else:
        sigma_ns = 0.0 if feed.timeline is None else feed.timeline.arrival_sigma_ns
        degradation, message = _distrust(feed, last)
        step_ns = 0 if feed.timeline is None else feed.timeline.clock.step_ns
        if abs(step_ns) >= _TOLD_STEP_NS:
            message += f"; the host clock was set by {step_ns / 1e9:+.3f} s after it had dated the first samples"
    return TimeSolution(
        base=base,
        reference_index=0,
        reference_unix_ns=last.time_at(reference),
        sample_rate_hz=last.rate_hz,
        sample_rate_sigma_hz=None,
        time_sigma_ns=sigma_ns,
        rms_ns=None,
        used_count=len(feed.fit) if base is TimeBase.GNSS else 0,
        dropped_count=feed.dropped_stamp_count,
        degradation=degradation,
        message=message,
    )


def _judge(feed: Feed, fit: Fit) -> tuple[Degradation | None, str]:
    if feed.timeline is not None and feed.timeline.disagreeing:
        by_s = feed.timeline.contradiction_ns / 1e9
        by = f" by {by_s:+.6f} s" if by_s else ""
        return Degradation.STAMPS_INCONSISTENT, f"the latest stamps contradict the earlier ones{by} and were not used"
    if fit.oldest_age_s >= OLD_SOLUTION_S:
        return (
            Degradation.GNSS_SOLUTION_OLD,
            f"the receiver's last GNSS solution was up to {fit.oldest_age_s} s old; below {OLD_SOLUTION_S} s is good",
        )
    return None, ""


def _distrust(feed: Feed, last: Placed) -> tuple[Degradation, str]:
    """Says why the receiver's own time is not used."""
    quality = StampQuality.ABSENT if feed.timeline is None else feed.timeline.quality
    if quality is StampQuality.NO_FIX:
        return Degradation.NO_GNSS_FIX, f"the receiver has no GNSS solution (age {last.frame.stamp_age_s})"
    if quality is StampQuality.FAR_FROM_HOST and last.frame.stamp_ns is not None:
        distance_s = (last.frame.stamp_ns - last.frame.arrival_unix_ns) / 1e9
        return Degradation.DISAGREES_WITH_HOST, f"the stamps are {distance_s:+.3f} s from the host clock"
    if quality is StampQuality.ABSENT and last.frame.stamp_ns is None:
        return Degradation.STAMPS_OFF, "the receiver's owner switched the stamps off: all are zero"
    return Degradation.STAMPS_INCONSISTENT, "no three stamps in a row agreed with each other and the sample rate"
