"""Cuts a window out of a receiver's axis: blocks and gaps that follow one another without overlap or hole."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from fetcher_svc.receivers.base import Facts
from fetcher_svc.run_tracker import Loss
from fetcher_svc.timeline import Placed, TimeBase
from heimdall.errors import HeimdallError

MAX_BLOCK_S: Final = 0.25
MAX_BLOCK_BYTES: Final = 256 * 1024


class GapReason(Enum):
    """Why samples are missing."""

    SEQUENCE = "sequence"
    TIMESTAMP = "timestamp"
    RECONNECT = "reconnect"
    BACKPRESSURE = "backpressure"
    LATE_START = "late_start"
    EARLY_END = "early_end"
    SERVICE_RESTART = "service_restart"


@dataclass(frozen=True, slots=True)
class Window:
    """What a stream wants, in UTC sample time."""

    start_unix_ns: int | None = None
    """First instant, inclusive, in ns since 1970; None: from the first sample on."""
    end_unix_ns: int | None = None
    """End, exclusive, in ns since 1970; None: until stopped."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a stream goes on that was broken before."""

    sample_index: int
    """First index to deliver."""
    origin_unix_ns: int
    """UTC of index 0 as the broken stream had it, in ns since 1970."""
    gap_reason: GapReason = GapReason.SERVICE_RESTART
    """Why what the receiver sent in between is missing."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the receiver does from here on."""

    facts: Facts
    base: TimeBase


@dataclass(frozen=True, slots=True)
class Segment:
    """A description with the index from which on it holds."""

    first_index: int
    described: Described


@dataclass(frozen=True, slots=True)
class Stamp:
    """A good time stamp."""

    index: int
    unix_ns: int
    age_s: int


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive samples."""

    first_index: int
    unix_ns: int
    """UTC of the first sample in ns since 1970."""
    sample_count: int
    samples: bytes
    stamps: list[Stamp] = field(default_factory=list)
    overload: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing samples."""

    first_index: int
    count: int
    exact: bool
    reason: GapReason
    cause: HeimdallError | None = None


class Cutter:
    """Turns placed frames and losses into the blocks and gaps of one window.

    A loss is kept back until the frame behind it shows whether the window ends inside it.
    """

    def __init__(
        self, window: Window, sample_byte_count: int, resume: Resume | None = None, *, exact_times: bool = True
    ) -> None:
        """Begins before the window.

        Args:
            window: What to cut out.
            sample_byte_count: Bytes of one complex sample.
            resume: Where to go on, if a stream was broken.
            exact_times: Whether a time names one sample, whatever connection it came over.
        """
        self._window = window
        self._sample_byte_count = sample_byte_count
        self._resume = resume
        self._exact_times = exact_times
        self._origin: int | None = None
        self._next = 0
        self._end: int | None = None
        self._losses: list[Loss] = []
        self._parts: list[tuple[Placed, int, int]] = []
        self._part_sample_count = 0
        self._block_byte_count = 0
        self._complete = False
        self._received_count = 0
        self._lost_count = 0

    @property
    def origin(self) -> int | None:
        """Position of index 0; None before the window."""
        return self._origin

    @property
    def complete(self) -> bool:
        """Whether the window's end was reached."""
        return self._complete

    @property
    def next_index(self) -> int:
        """Index after what was delivered or declared missing."""
        return 0 if self._origin is None else self._next - self._origin

    @property
    def received_count(self) -> int:
        """Samples delivered."""
        return self._received_count

    @property
    def lost_count(self) -> int:
        """Samples declared missing."""
        return self._lost_count

    @property
    def end_unix_ns(self) -> int | None:
        """End of the window in ns since 1970; None without one."""
        return self._window.end_unix_ns

    @property
    def block_byte_count(self) -> int:
        """Bytes of samples that make the next block full; before the first frame none are needed to look."""
        return max(0, self._block_byte_count - self._part_sample_count * self._sample_byte_count)

    def push(self, piece: Placed | Loss | Described) -> list[Block | Gap | Segment]:
        """Takes the next piece of the axis; returns what is ready, in order."""
        if self._complete:
            return []
        if isinstance(piece, Loss):
            self._losses.append(piece)
            return []
        if isinstance(piece, Described):
            return [*self.flush(), Segment(self.next_index, piece)]
        if self._origin is None and not self._begin(piece):
            return []
        self._find_end(piece)
        out: list[Block | Gap | Segment] = [*self._declare_losses(), *self._declare_hole(piece.position)]
        first, end = max(piece.position, self._next), self._clip(piece.end)
        if first < end:
            out += self._append(piece, first, end)
        if self._end is not None and self._next >= self._end:
            out += self.flush()
            self._complete = True
        return out

    def flush(self) -> list[Block | Gap | Segment]:
        """Returns what waits for its block to fill."""
        if not self._parts or self._origin is None:
            return []
        first_frame, first, _ = self._parts[0]
        size = self._sample_byte_count
        pieces = [
            frame.frame.samples[(begin - frame.position) * size : (end - frame.position) * size]
            for frame, begin, end in self._parts
        ]
        stamps = [
            Stamp(frame.position - self._origin, frame.frame.stamp_ns, frame.frame.stamp_age_s)
            for frame, begin, end in self._parts
            if frame.stamp_good and frame.frame.stamp_ns is not None and begin <= frame.position < end
        ]
        block = Block(
            first_index=first - self._origin,
            unix_ns=first_frame.time_at(first),
            sample_count=self._part_sample_count,
            samples=b"".join(pieces),
            stamps=stamps,
            overload=any(frame.frame.overload for frame, _, _ in self._parts),
        )
        self._parts.clear()
        self._part_sample_count = 0
        return [block]

    def finish(self, last: Placed | None, cause: HeimdallError | None) -> list[Block | Gap | Segment]:
        """Ends the window although its end did not come: what is missing up to it becomes an EARLY_END gap.

        Args:
            last: The last frame that came, to know where the window's end lies; None if none came.
            cause: Why no more samples come.
        """
        if self._complete:
            return []
        out = self.flush()
        self._complete = True
        if last is None or self._window.end_unix_ns is None:
            return out
        if self._origin is None:
            self._set_origin(last)
        self._end = max(last.position_at(self._window.end_unix_ns), self._next)
        out += self._declare_losses()
        if self._next < self._end:
            out += self._gap(self._end, False, GapReason.EARLY_END, cause)
        return out

    def _begin(self, piece: Placed) -> bool:
        start_ns = self._window.start_unix_ns
        if self._resume is None and start_ns is not None and piece.position_at(start_ns) >= piece.end:
            self._losses.clear()
            return False
        self._set_origin(piece)
        return True

    def _set_origin(self, piece: Placed) -> None:
        start_ns = self._window.start_unix_ns
        if self._resume is not None:
            distance_ns = self._resume.origin_unix_ns - piece.unix_ns
            self._origin = piece.position + round(distance_ns * piece.rate_hz / 1e9)
            self._next = self._origin + self._resume.sample_index
            if self._next >= piece.position and not self._exact_times:
                # The clock can not tell that samples are missing, but what came before the break ends there.
                self._next = piece.position - 1
                self._origin = self._next - self._resume.sample_index
            return
        self._origin = piece.position if start_ns is None else piece.position_at(start_ns)
        self._next = self._origin

    def _find_end(self, piece: Placed) -> None:
        end_ns = self._window.end_unix_ns
        if end_ns is None:
            return
        end = piece.position_at(end_ns)
        if end <= piece.end:
            self._end = max(end, self._next)

    def _clip(self, position: int) -> int:
        return position if self._end is None else min(position, self._end)

    def _declare_losses(self) -> list[Block | Gap | Segment]:
        out: list[Block | Gap | Segment] = []
        for loss in self._losses:
            out += self._declare_hole(loss.position)
            end = self._clip(loss.position + loss.count)
            if self._next < end:
                out += self._gap(end, loss.exact, GapReason(loss.reason.value), loss.cause)
        self._losses.clear()
        return out

    def _declare_hole(self, position: int) -> list[Block | Gap | Segment]:
        """Declares what the receiver sent before this stream could hear it."""
        end = self._clip(position)
        if self._next >= end:
            return []
        reason = GapReason.LATE_START if self._resume is None else self._resume.gap_reason
        return self._gap(end, False, reason, None)

    def _gap(
        self, end: int, exact: bool, reason: GapReason, cause: HeimdallError | None
    ) -> list[Block | Gap | Segment]:
        out = self.flush()
        gap = Gap(self.next_index, end - self._next, exact, reason, cause)
        self._lost_count += gap.count
        self._next = end
        return [*out, gap]

    def _append(self, piece: Placed, first: int, end: int) -> list[Block | Gap | Segment]:
        limit = max(1, min(int(piece.rate_hz * MAX_BLOCK_S), MAX_BLOCK_BYTES // self._sample_byte_count))
        self._block_byte_count = limit * self._sample_byte_count
        out: list[Block | Gap | Segment] = []
        count = end - first
        if self._part_sample_count + count > limit:
            out += self.flush()
        self._received_count += count
        self._next = end
        while first < end:
            cut = min(end, first + limit)
            self._parts.append((piece, first, cut))
            self._part_sample_count += cut - first
            if self._part_sample_count + piece.frame.sample_count > limit:
                out += self.flush()
            first = cut
        return out
