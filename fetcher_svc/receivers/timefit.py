"""A robust straight line through time stamps: sample rate and time of a sample, with honest uncertainties."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

MIN_STAMP_COUNT: Final = 8
"""Fewer stamps make no fit."""
MAX_STAMP_COUNT: Final = 8192
"""Stamps that are kept, the newest: 350 s of a KiwiSDR. Over longer spans its clock is no straight line."""
CALIBRATION_SIGMA_NS: Final = 100.0
"""Accuracy of a KiwiSDR's delay calibration as its author states it (1PPS test)."""
SOLUTION_INTERVAL_S: Final = 5.0
"""Longest usual time between GNSS solutions. Stamps in between share one error, so they count once."""
DRIFT_NS_PER_S: Final = 100.0
"""Growth of a stamp's error with the age of its GNSS solution; steps of 20 to 210 ns every 2 s were measured."""

_CLIP_SIGMAS: Final = 5.0
_CLIP_ROUNDS: Final = 3
_CLIP_FLOOR_NS: Final = 500.0
_NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Fit:
    """A line fit: time(position) = reference_ns + (position - reference_position) / rate."""

    reference_position: int
    reference_ns: int
    rate_hz: float
    rate_sigma_hz: float
    time_sigma_ns: float
    rms_ns: float
    used_count: int
    rejected_count: int
    """Stamps that were too far from the line."""
    oldest_age_s: int
    """Age of the GNSS solution at the worst stamp."""

    def time_at(self, position: int) -> int:
        """Returns the UTC of a sample in ns since 1970."""
        return self.reference_ns + round((position - self.reference_position) * _NS / self.rate_hz)


class TimeFit:
    """Collects stamps, and fits a line when asked.

    After a reconnect the receiver's sample clock goes on with another phase, and the clock of its stamps can be put
    right meanwhile; so each run of samples has its own intercept and all share one rate.
    """

    def __init__(self) -> None:
        # Filled, so that its memory is taken now and not in the course of the stream's first minutes.
        self._ring = np.full((MAX_STAMP_COUNT, 4), 0, dtype=np.int64)
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, MAX_STAMP_COUNT)

    def add(self, run: int, position: int, unix_ns: int, age_s: int) -> None:
        """Adds one good stamp.

        Args:
            run: Number of the run that it belongs to.
            position: Sample that it belongs to.
            unix_ns: UTC in ns since 1970.
            age_s: Age of the GNSS solution in s.
        """
        self._ring[self._count % MAX_STAMP_COUNT] = (run, position, unix_ns, age_s)
        self._count += 1

    def solve(self) -> Fit | None:
        """Fits all stamps kept; None if they are too few or span no time.

        Least squares with one slope and an intercept a run; three rounds drop stamps beyond 5 robust sigmas
        (1.4826 MAD, at least 500 ns). The residuals of neighbouring stamps are correlated, so the uncertainties count
        one independent error a GNSS solution: sigma_rate / rate = rms * sqrt(1 / Sxx * stamps / solutions).
        """
        if len(self) < MIN_STAMP_COUNT:
            return None
        table = self._ring[: len(self)]
        runs, age_s = table[:, 0], table[:, 3]
        base_position, base_ns = int(table[0, 1]), int(table[0, 2])
        x = (table[:, 1] - base_position).astype(np.float64)
        y = (table[:, 2] - base_ns).astype(np.float64)
        keep = np.ones(len(x), dtype=bool)
        slope, offsets = 0.0, np.zeros_like(y)
        residuals = y
        for _ in range(_CLIP_ROUNDS):
            if int(keep.sum()) < MIN_STAMP_COUNT:
                return None
            slope, offsets = _common_slope(runs, x, y, keep)
            if not slope > 0:
                return None
            residuals = y - offsets - slope * x
            spread = 1.4826 * float(np.median(np.abs(residuals[keep])))
            # The limit grows with a solution's age as its error does.
            limit = np.maximum(_CLIP_SIGMAS * spread, _CLIP_FLOOR_NS + DRIFT_NS_PER_S * age_s)
            kept = np.abs(residuals) <= limit
            if np.array_equal(kept, keep):
                break
            keep = kept
        used = int(keep.sum())
        if used < MIN_STAMP_COUNT:
            return None
        rms_ns = float(np.sqrt(np.mean(residuals[keep] ** 2)))
        rate_hz = _NS / slope
        span_s = float(x[keep].max() - x[keep].min()) * slope / _NS
        solutions = max(1.0, min(float(used), span_s / SOLUTION_INTERVAL_S))
        sum_xx = _sum_of_squares(runs[keep], x[keep])
        slope_sigma = rms_ns * math.sqrt(used / solutions / sum_xx)
        oldest_age_s = int(age_s[keep].max())
        jumps_ns = float(np.ptp(offsets[keep]))
        return Fit(
            reference_position=base_position,
            reference_ns=base_ns + round(float(offsets[0])),
            rate_hz=rate_hz,
            rate_sigma_hz=rate_hz * slope_sigma / slope,
            time_sigma_ns=math.hypot(rms_ns, CALIBRATION_SIGMA_NS, DRIFT_NS_PER_S * oldest_age_s, jumps_ns),
            rms_ns=rms_ns,
            used_count=used,
            rejected_count=len(x) - used,
            oldest_age_s=oldest_age_s,
        )


def _common_slope(
    runs: np.ndarray[tuple[int], np.dtype[np.int64]],
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
    y: np.ndarray[tuple[int], np.dtype[np.float64]],
    keep: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> tuple[float, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Returns the slope that all runs share, and each stamp's intercept."""
    sum_xx = sum_xy = 0.0
    means: list[tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], float, float]] = []
    for run in np.unique(runs[keep]):
        every = runs == run
        mine = every & keep
        mean_x, mean_y = float(x[mine].mean()), float(y[mine].mean())
        centred = x[mine] - mean_x
        sum_xx += float(centred @ centred)
        sum_xy += float(centred @ (y[mine] - mean_y))
        means.append((every, mean_x, mean_y))
    slope = sum_xy / sum_xx if sum_xx > 0 else 0.0
    offsets = np.zeros_like(y)
    for every, mean_x, mean_y in means:
        offsets[every] = mean_y - slope * mean_x
    return slope, offsets


def _sum_of_squares(
    runs: np.ndarray[tuple[int], np.dtype[np.int64]], x: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> float:
    return sum(float(np.var(x[runs == run])) * int((runs == run).sum()) for run in np.unique(runs))
