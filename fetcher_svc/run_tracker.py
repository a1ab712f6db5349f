"""One connection's frames on an axis of their own: what is missing between them, and which stamps hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from fetcher_svc.gnss import StampQuality
from fetcher_svc.receivers.base import Facts, Frame
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

AGREEING_STAMP_COUNT: Final = 3
"""Stamps in a row that must agree before they are believed."""
DECIDING_FRAME_COUNT: Final = 24
"""Frames after which stamps that never agreed are given up."""
RATE_TOLERANCE: Final = 50e-6
"""Relative error of an announced sample rate."""
FITTED_RATE_TOLERANCE: Final = 1e-6
"""Relative error of a rate measured over 1 s or more."""
DELAY_TOLERANCE_NS: Final = 100_000_000
"""A stamp that runs ahead of the fastest arrival by more than this is wrong; after a loss it would not be ahead."""
LEAST_LOSS_SAMPLES: Final = 16
"""A receiver loses whole transfers of its ADC, 48 samples or more; stamps that move by less were put right."""
MAX_SEQUENCE_JUMP: Final = 16_384
"""Frames, some 12 min of a KiwiSDR; a counter that jumps further, or back, is broken."""
SEQUENCE_MODULUS: Final = 1 << 32

_NS: Final = 1e9
_FIT_SPAN_NS: Final = 1_000_000_000
_JITTER_SAMPLES: Final = 0.5


class LossReason(Enum):
    """How a loss was noticed."""

    SEQUENCE = "sequence"
    TIMESTAMP = "timestamp"
    RECONNECT = "reconnect"
    BACKPRESSURE = "backpressure"


@dataclass(frozen=True, slots=True)
class Loss:
    """Samples that are missing."""

    position: int
    count: int
    exact: bool
    reason: LossReason
    cause: HeimdallError | None = None


@dataclass(slots=True)
class Tracked:
    """A frame with its place in the run."""

    position: int
    frame: Frame
    stamp_holds: bool
    """Whether its stamp agrees with its neighbours; says nothing of the receiver's absolute time."""
    line: int = 0
    """How often the receiver's clock was put right before; stamps of two lines do not tell the rate together."""


@dataclass(slots=True)
class _Held:
    frame: Frame
    lost_before: int
    position: int
    """Provisional: losses that only stamps tell are not in it yet."""
    cause: HeimdallError | None
    """Why frames before it are missing, where that is known."""


class RunTracker:
    """Finds losses by the frame counter and by the stamps.

    A stamp that departs from the line of the earlier ones by half a sample or more is held until one agrees with the
    stamp before it: then the receiver dropped samples without counting. If one falls back onto the line, what was held
    was wrong. A step of a few samples, as at the first GNSS solution after long without one, is the receiver's clock
    being put right: no sample is missing, and the times go on from there.
    Stamps that never came with a GNSS solution serve as well, for only their differences count here.
    """

    def __init__(self, facts: Facts, rate_hz: float | None = None) -> None:
        """Begins a run at position 0.

        Args:
            facts: What the receiver announced.
            rate_hz: Sample rate measured on an earlier connection; default: the announced one.
        """
        self._frame_sample_count = facts.frame_sample_count
        self._rate_hz = facts.sample_rate_hz if rate_hz is None else rate_hz
        self._rate_tolerance = RATE_TOLERANCE if rate_hz is None else FITTED_RATE_TOLERANCE
        self._fitted = rate_hz is not None
        self._last_sequence: int | None = None
        self._end = 0
        self._held: list[_Held] = []
        self._deciding = True
        self._first_anchor: tuple[int, int] | None = None
        self._anchor: tuple[int, int] | None = None
        self._anchor_quality = StampQuality.ABSENT
        self._least_delay_ns: int | None = None
        self._recent: list[_Held] = []
        self._disagreeing_count = 0
        self._contradiction_ns = 0.0
        self._refuted: float | None = None
        self._line = 0
        self._corruption: HeimdallError | None = None

    @property
    def rate_hz(self) -> float:
        """Best sample rate so far: measured if stamps span 1 s, else announced."""
        return self._rate_hz

    @property
    def fitted(self) -> bool:
        """Whether the rate was measured."""
        return self._fitted

    @property
    def quality(self) -> StampQuality:
        """What the stamps are worth as time: that of the latest agreeing ones, or why there are none."""
        return self._anchor_quality

    @property
    def disagreeing(self) -> bool:
        """Whether the latest stamps contradict the earlier ones, or none ever agreed."""
        return self._disagreeing_count >= AGREEING_STAMP_COUNT

    @property
    def line(self) -> int:
        """How often the receiver's clock was put right."""
        return self._line

    @property
    def contradiction_ns(self) -> float:
        """By how much the latest stamps are later than the earlier ones have it, in ns; 0 unless they disagree.

        Stamps that can not be right anyway, because they are far from the host clock, contradict nothing.
        """
        return self._contradiction_ns if self.disagreeing else 0.0

    def time_at(self, position: int) -> int | None:
        """Returns the time of a sample by the nearest agreeing stamp, in ns since 1970; None without one."""
        if self._anchor is None:
            return None
        return self._anchor[1] + round((position - self._anchor[0]) * _NS / self._rate_hz)

    def is_exact(self, distance: int) -> bool:
        """Returns whether a time so many samples away still names one sample."""
        return distance * self._rate_tolerance < _JITTER_SAMPLES

    def note_lost_frame(self, cause: HeimdallError) -> None:
        """Notes that a frame came that can not be read; the counter of the next one shows how many are missing."""
        self._corruption = cause

    def push(self, frame: Frame) -> list[Tracked | Loss]:
        """Takes the next frame; returns what is settled by it, in order.

        Raises:
            HeimdallError: PROTOCOL_ERROR if the frame counter can not be.
        """
        held = _Held(frame, self._count_lost(frame), 0, self._corruption)
        self._corruption = None
        held.position = self._end + held.lost_before
        self._end = held.position + frame.sample_count
        if self._deciding:
            self._held.append(held)
            return self._decide(last=False)
        if self._anchor is None:
            self._seek_anchor(held)
            return self._settle([held], holds=self._anchor is not None)
        return self._follow(held)

    def finish(self) -> list[Tracked | Loss]:
        """Returns what was still held when the connection ended."""
        if self._deciding:
            return self._decide(last=True)
        if not self._held:
            return []
        return self._judge_held()

    def _count_lost(self, frame: Frame) -> int:
        if frame.sequence is None:
            return 0
        before, self._last_sequence = self._last_sequence, frame.sequence
        if before is None:
            return 0
        jump = (frame.sequence - before - 1) % SEQUENCE_MODULUS
        if jump > MAX_SEQUENCE_JUMP:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"the frame counter went from {before} to {frame.sequence}",
                metadata={"before": before, "after": frame.sequence},
            )
        return jump * (self._frame_sample_count or frame.sample_count)

    def _decide(self, *, last: bool) -> list[Tracked | Loss]:
        """Waits for stamps that agree, or for certainty that there are none; then places everything held."""
        stamped = [held for held in self._held if held.frame.stamp_ns is not None]
        agreeing = stamped[-AGREEING_STAMP_COUNT:]
        if len(agreeing) == AGREEING_STAMP_COUNT and self._agree(agreeing):
            self._deciding = False
            return self._place_held(agreeing[0])
        unstamped = sum(held.frame.stamp_quality is StampQuality.ABSENT for held in self._held)
        hopeless = unstamped >= AGREEING_STAMP_COUNT and not stamped
        if not (hopeless or last or len(self._held) >= DECIDING_FRAME_COUNT):
            return []
        self._deciding = False
        self._disagreeing_count = len(stamped)
        self._recent = agreeing
        return self._settle(self._release(), holds=False)

    def _place_held(self, anchor: _Held) -> list[Tracked | Loss]:
        """Lays the frames before the first agreeing stamp against it, from the last to the first."""
        self._set_anchor(anchor)
        held = self._release()
        steps: list[Tracked | Loss] = []
        shift = 0
        verdicts: list[tuple[_Held, bool, int]] = []
        for item in reversed(held):
            lost_after = 0
            holds = False
            if item.frame.stamp_ns is not None:
                # Positive if more time passed up to the anchor than samples came: a loss after this frame.
                excess = -self._departure(item) - shift
                holds = abs(excess) < self._tolerance(item.position)
                if not holds and excess >= LEAST_LOSS_SAMPLES and self._spans(item, anchor):
                    holds, lost_after = True, round(excess)
                    shift += lost_after
            verdicts.append((item, holds, lost_after))
        moved = 0
        for item, holds, lost_after in reversed(verdicts):
            if item.lost_before:
                steps.append(self._sequence_loss(item, moved))
            steps.append(Tracked(item.position + moved, item.frame, holds))
            if lost_after:
                end = item.position + moved + item.frame.sample_count
                steps.append(Loss(end, lost_after, True, LossReason.TIMESTAMP))
                moved += lost_after
        self._end += moved
        self._first_anchor = self._anchor = (anchor.position + moved, self._stamp(anchor))
        return steps

    def _follow(self, held: _Held) -> list[Tracked | Loss]:
        if held.frame.stamp_ns is None:
            return self._settle([*self._release(), held], holds=False)
        departure = self._departure(held)
        if abs(departure) < self._tolerance(held.position):
            steps = self._settle(self._release(), holds=False)
            self._move_anchor(held)
            self._disagreeing_count, self._refuted = 0, None
            return [*steps, *self._settle([held], holds=True)]
        if self._refuted is not None and abs(departure - self._refuted) < self._tolerance(held.position):
            # The same wrong stamps as before. One that is held up on its way would make them look like a loss.
            return self._settle([*self._release(), held], holds=False)
        steps = []
        if self._held:
            last = self._held[-1]
            further = departure - self._departure(last)
            if abs(further) < self._tolerance(held.position):
                self._held.append(held)
                return self._judge_held()
            can_go_on = further > 0 and self._plausible(last, self._departure(last))
            if not can_go_on or len(self._held) == DECIDING_FRAME_COUNT:
                steps = self._settle(self._release(), holds=False)
        # The first that departs, or later still than the one before: a station in trouble loses samples frame by frame.
        self._held.append(held)
        return steps

    def _judge_held(self) -> list[Tracked | Loss]:
        """Declares losses if every held stamp can come from one, else keeps the samples together."""
        departures = [self._departure(item) for item in self._held]
        put_right = max(map(abs, departures)) < LEAST_LOSS_SAMPLES
        plausible = all(self._plausible(item, by) for item, by in zip(self._held, departures, strict=True))
        held = self._release()
        if not (put_right or plausible):
            self._refuted = departures[-1]
            return self._settle(held, holds=False)
        if put_right:
            # The rate is not measured across the step.
            self._line += 1
            self._first_anchor = (held[0].position, self._stamp(held[0]))
        before = None if self._anchor is None else self._anchor[0]
        steps: list[Tracked | Loss] = []
        moved = 0
        for item, departure in zip(held, departures, strict=True):
            if item.lost_before:
                steps.append(self._sequence_loss(item, moved))
            lost = round(departure) - moved
            if lost >= LEAST_LOSS_SAMPLES:
                exact = before is not None and self.is_exact(item.position - before)
                steps.append(Loss(item.position + moved, lost, exact, LossReason.TIMESTAMP))
                moved += lost
            item.position += moved
            self._move_anchor(item)
            steps.append(Tracked(item.position, item.frame, True, self._line))
        self._end += moved
        self._disagreeing_count, self._refuted = 0, None
        return steps

    def _settle(self, items: list[_Held], *, holds: bool) -> list[Tracked | Loss]:
        steps: list[Tracked | Loss] = []
        for item in items:
            if item.lost_before:
                steps.append(self._sequence_loss(item, 0))
            steps.append(Tracked(item.position, item.frame, holds, self._line))
            if not holds and not self._deciding and item.frame.stamp_ns is not None:
                self._disagreeing_count += 1
                good = item.frame.stamp_quality is StampQuality.GOOD
                self._contradiction_ns = self._departure(item) * _NS / self._rate_hz if good else 0.0
        return steps

    def _seek_anchor(self, held: _Held) -> None:
        """Looks for stamps that agree in a run that began without any."""
        if held.frame.stamp_ns is None:
            self._recent.clear()
            return
        self._recent = [*self._recent, held][-AGREEING_STAMP_COUNT:]
        if len(self._recent) == AGREEING_STAMP_COUNT and self._agree(self._recent):
            self._set_anchor(held)
            self._disagreeing_count = 0

    def _agree(self, items: list[_Held]) -> bool:
        first_ns = self._stamp(items[0])
        return all(
            abs((self._stamp(item) - first_ns) * self._rate_hz / _NS - (item.position - items[0].position))
            < _JITTER_SAMPLES
            for item in items[1:]
        )

    def _set_anchor(self, held: _Held) -> None:
        self._first_anchor = self._anchor = (held.position, self._stamp(held))
        self._anchor_quality = held.frame.stamp_quality
        self._least_delay_ns = held.frame.arrival_unix_ns - self._stamp(held)

    def _move_anchor(self, held: _Held) -> None:
        stamp_ns = self._stamp(held)
        self._anchor = (held.position, stamp_ns)
        self._anchor_quality = held.frame.stamp_quality
        delay_ns = held.frame.arrival_unix_ns - stamp_ns
        if self._least_delay_ns is None or delay_ns < self._least_delay_ns:
            self._least_delay_ns = delay_ns
        if self._first_anchor is not None and stamp_ns - self._first_anchor[1] >= _FIT_SPAN_NS:
            self._rate_hz = (held.position - self._first_anchor[0]) * _NS / (stamp_ns - self._first_anchor[1])
            self._rate_tolerance = FITTED_RATE_TOLERANCE
            self._fitted = True

    def _departure(self, held: _Held) -> float:
        """Returns by how many samples a stamp is later than the line of the earlier ones says."""
        expected_ns = self.time_at(held.position)
        return 0.0 if expected_ns is None else (self._stamp(held) - expected_ns) * self._rate_hz / _NS

    def _tolerance(self, position: int) -> float:
        distance = 0 if self._anchor is None else abs(position - self._anchor[0])
        return max(_JITTER_SAMPLES, distance * self._rate_tolerance)

    def _plausible(self, held: _Held, departure: float) -> bool:
        """Returns whether a departure can be a loss: later, and not ahead of what the network can deliver."""
        if departure < _JITTER_SAMPLES or self._least_delay_ns is None:
            return False
        delay_ns = held.frame.arrival_unix_ns - self._stamp(held)
        return delay_ns >= self._least_delay_ns - DELAY_TOLERANCE_NS

    def _spans(self, early: _Held, late: _Held) -> bool:
        """Returns whether as much time passed between two arrivals as between the stamps; else the first is stale."""
        passed_ns = late.frame.arrival_unix_ns - early.frame.arrival_unix_ns
        return passed_ns >= self._stamp(late) - self._stamp(early) - DELAY_TOLERANCE_NS

    def _sequence_loss(self, held: _Held, moved: int) -> Loss:
        exact = self._frame_sample_count is not None
        position = held.position - held.lost_before + moved
        return Loss(position, held.lost_before, exact, LossReason.SEQUENCE, held.cause)

    def _release(self) -> list[_Held]:
        held, self._held = self._held, []
        return held

    @staticmethod
    def _stamp(held: _Held) -> int:
        stamp_ns = held.frame.stamp_ns
        if stamp_ns is None:
            raise ValueError("a frame without a stamp has no time")
        return stamp_ns
