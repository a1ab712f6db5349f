"""Puts the frames of all connections to a receiver on one axis of sample positions, and gives each frame its time.

Position 0 is the first sample that the receiver sent; lost samples take positions too. Windows are cut from this axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from fetcher_svc.arrival import ArrivalModel
from fetcher_svc.gnss import StampQuality
from fetcher_svc.receivers.base import Facts, Frame
from fetcher_svc.run_tracker import Loss, LossReason, RunTracker, Tracked
from heimdall.clock import SteadyClock, SystemClock
from heimdall.errors import HeimdallError

_NS = 1e9


class TimeBase(Enum):
    """Whose clock gives the sample times."""

    GNSS = "gnss"
    ARRIVAL = "arrival"


@dataclass(slots=True)
class Placed:
    """A frame with its place and time."""

    position: int
    unix_ns: int
    """UTC of the first sample in ns since 1970."""
    rate_hz: float
    """Best sample rate when it came."""
    run: int
    """Number of the stretch without a step of the receiver's clock that it belongs to; each connection begins one."""
    stamp_good: bool
    """Whether its own stamp is a time that can be trusted."""
    frame: Frame

    @property
    def end(self) -> int:
        """Position after the last sample."""
        return self.position + self.frame.sample_count

    def position_at(self, unix_ns: int) -> int:
        """Returns the position of the first sample at or after a time, in ns since 1970."""
        # Sample times are stated in whole ns, so a sample that is half a ns early by the line is still on time.
        return self.position + math.ceil((unix_ns - self.unix_ns - 0.5) * self.rate_hz / _NS)

    def time_at(self, position: int) -> int:
        """Returns the UTC of a sample in ns since 1970."""
        return self.unix_ns + round((position - self.position) * _NS / self.rate_hz)

    def arrival_at(self, unix_ns: int) -> int:
        """Returns when a sample of that time is due here if it travels as this frame did, by the clock of arrivals."""
        return unix_ns + self.frame.arrival_unix_ns - self.time_at(self.end)


class Timeline:
    """The axis of one receiver, over all its connections."""

    def __init__(self, clock: SteadyClock | None = None) -> None:
        """Begins without a connection.

        Args:
            clock: Dates the arrivals of all connections, since what lies between two of them is measured by it;
                default: that of this host.
        """
        self.clock = SteadyClock(SystemClock()) if clock is None else clock
        self._run = -1
        self._tracker: RunTracker | None = None
        self._offset: int | None = None
        self._end = 0
        self._gnss_end: tuple[int, int] | None = None
        self._base: TimeBase | None = None
        self._cause: HeimdallError | None = None
        self._arrivals = ArrivalModel()
        self._arrival_rate_hz = 0.0
        self._arrival_origin_ns: int | None = None
        self._round_trip_s = 0.0

    @property
    def base(self) -> TimeBase | None:
        """Whose clock gives the times now; None while that is not known."""
        return self._base

    @property
    def quality(self) -> StampQuality:
        """What the receiver's stamps are worth."""
        return StampQuality.ABSENT if self._tracker is None else self._tracker.quality

    @property
    def disagreeing(self) -> bool:
        """Whether the latest stamps contradict each other or the earlier ones."""
        return self._tracker is not None and self._tracker.disagreeing

    @property
    def contradiction_ns(self) -> float:
        """By how much the latest stamps are later than the earlier ones have it, in ns; 0 unless they disagree."""
        return 0.0 if self._tracker is None else self._tracker.contradiction_ns

    @property
    def arrival_sigma_ns(self) -> float:
        """Uncertainty of times that come from arrivals, with what the origin in use is off the newest arrivals.

        If the host clock was set meanwhile nobody knows whether it was right before or is now, so that counts too.
        """
        newest_ns, used_ns = self._arrivals.origin_ns, self._arrival_origin_ns
        drift_ns = 0 if newest_ns is None or used_ns is None else newest_ns - used_ns
        return math.hypot(self._arrivals.sigma_ns(self._round_trip_s), drift_ns, self.clock.step_ns)

    def begin_run(self, facts: Facts, round_trip_s: float, cause: HeimdallError | None = None) -> None:
        """Begins a connection.

        Args:
            facts: What the receiver announced.
            round_trip_s: How long it took to answer the connect.
            cause: Why the connection before it ended, if there was one.
        """
        before = self._tracker
        if before is None:
            self._arrival_rate_hz = facts.sample_rate_hz
        self._run += 1 if before is None else 1 + before.line
        self._tracker = RunTracker(facts, before.rate_hz if before is not None and before.fitted else None)
        self._round_trip_s = round_trip_s
        self._offset = None
        self._base = None
        self._cause = cause or self._cause

    def note_lost_frame(self, cause: HeimdallError) -> None:
        """Notes that a frame came that can not be read, and why."""
        if self._tracker is not None:
            self._tracker.note_lost_frame(cause)

    def push(self, frame: Frame) -> list[Placed | Loss]:
        """Takes the next frame; returns what is settled by it, in order.

        Raises:
            HeimdallError: If the receiver's counter can not be.
        """
        tracker = self._running()
        return self._place(tracker, tracker.push(frame))

    def end_run(self) -> list[Placed | Loss]:
        """Returns what was still held when the connection ended."""
        tracker = self._running()
        return self._place(tracker, tracker.finish())

    def _running(self) -> RunTracker:
        if self._tracker is None:
            raise ValueError("no run was begun")
        return self._tracker

    def _place(self, tracker: RunTracker, steps: list[Tracked | Loss]) -> list[Placed | Loss]:
        placed: list[Placed | Loss] = []
        frames = [step for step in steps if isinstance(step, Tracked)]
        if self._offset is None:
            if not frames:
                return []
            loss = self._join(tracker, frames)
            if loss is not None:
                placed.append(loss)
            self._offset = self._end
        for tracked in frames:
            end = self._offset + tracked.position + tracked.frame.sample_count
            self._arrivals.add(end, tracked.frame.arrival_unix_ns, self._arrival_rate_hz)
        if self._base is TimeBase.ARRIVAL and self._arrival_origin_ns is None:
            # Held from here on: a window must not stretch because later frames travelled faster.
            self._arrival_origin_ns = self._arrivals.origin_ns
        for step in steps:
            if isinstance(step, Loss):
                placed.append(Loss(step.position + self._offset, step.count, step.exact, step.reason, step.cause))
            else:
                placed.append(self._timed(tracker, step, self._offset + step.position))
        last = placed[-1] if placed else None
        if isinstance(last, Placed):
            self._end = last.end
            if self._base is TimeBase.GNSS:
                self._gnss_end = last.end, last.time_at(last.end)
        return placed

    def _timed(self, tracker: RunTracker, step: Tracked, position: int) -> Placed:
        frame, rate_hz = step.frame, tracker.rate_hz
        unix_ns: int | None
        good = self._base is TimeBase.GNSS and step.stamp_holds and frame.stamp_quality is StampQuality.GOOD
        if good:
            unix_ns = frame.stamp_ns
        elif self._base is TimeBase.GNSS:
            unix_ns = tracker.time_at(step.position)
        else:
            rate_hz, origin_ns = self._arrival_rate_hz, self._arrival_origin_ns
            unix_ns = None if origin_ns is None else origin_ns + round(position * _NS / rate_hz)
        if unix_ns is None:
            raise ValueError("a frame can not be placed before its time base is known")
        return Placed(position, unix_ns, rate_hz, self._run + step.line, good, frame)

    def _join(self, tracker: RunTracker, frames: list[Tracked]) -> Loss | None:
        """Decides whose clock holds for a new run, and how many samples were lost before it."""
        trusted = tracker.quality is StampQuality.GOOD and tracker.time_at(0) is not None
        self._base = TimeBase.GNSS if trusted else TimeBase.ARRIVAL
        if not self._end:
            return None
        start_ns = tracker.time_at(frames[0].position)
        if trusted and self._gnss_end is not None and start_ns is not None:
            # A run that broke before its stamps were believed may lie between; what it is off ends here.
            position, end_ns = self._gnss_end
            count = position + round((start_ns - end_ns) * tracker.rate_hz / _NS) - self._end
        else:
            # The two runs share no clock but the host's.
            start_ns = min(
                step.frame.arrival_unix_ns
                - round((step.position + step.frame.sample_count - frames[0].position) * _NS / tracker.rate_hz)
                for step in frames
            )
            arrival_ns = self._arrivals.time_at(self._end, self._arrival_rate_hz)
            count = 0 if arrival_ns is None else round((start_ns - arrival_ns) * tracker.rate_hz / _NS)
        # A new connection never continues the old one without a loss, however small the clocks say it is.
        loss = Loss(self._end, max(1, count), False, LossReason.RECONNECT, self._cause)
        self._end += loss.count
        self._cause = None
        return loss
