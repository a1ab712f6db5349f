"""One caller's stream of one receiver: from open over the window to the end, as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from fetcher_svc.admission import ReceiverSlots
from fetcher_svc.cutter import Block, Cutter, Gap, Resume, Segment, Window
from fetcher_svc.feed import Feed, UpstreamState
from fetcher_svc.receivers.base import Tuning
from fetcher_svc.solution import TimeSolution, solve
from fetcher_svc.timeline import TimeBase
from heimdall.clock import Clock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

STATUS_INTERVAL_S: Final = 5.0
BLOCK_INTERVAL_S: Final = 0.2
"""Streams cut their blocks at common instants so far apart: one wake-up of every service then serves all receivers."""
_DUE_MARGIN_NS: Final = 250_000_000
"""Lateness of a sample, beyond that of the last one that came, at which it counts as not coming."""
_NS: Final = 1e9


class EndReason(Enum):
    """Why a stream ended."""

    WINDOW_COMPLETE = "window_complete"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Opening:
    """The segment that opens a stream."""

    segment: Segment
    available_from_unix_ns: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How a stream is doing."""

    state: UpstreamState
    solution: TimeSolution | None
    level_dbm: float | None
    notices: list[HeimdallError]


@dataclass(frozen=True, slots=True)
class Ending:
    """The last event of a stream."""

    end_index: int
    reason: EndReason
    error: HeimdallError | None
    solution: TimeSolution | None
    received_count: int
    lost_count: int
    attempt_count: int


Event: TypeAlias = Opening | Segment | Block | Gap | Progress | Ending


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller opens a stream with."""

    tuning: Tuning
    max_wait_s: float
    give_up_unix_ns: int | None = None
    resume: Resume | None = None


class StreamSession:
    """Joins a caller's wishes with what the receiver sends. Made in the event loop, whose time its deadlines are."""

    def __init__(self, slots: ReceiverSlots, order: Order, *, ring_bytes: int, clock: Clock) -> None:
        """Connects to nothing yet.

        Args:
            slots: The receiver.
            order: What the caller wants, with a checked tuning.
            ring_bytes: Most sample bytes held for a slow caller.
            clock: Host clock; read once, to learn how far off the caller's give_up_time is.
        """
        self._slots = slots
        self._order = order
        self._give_up_s: float | None = None
        if order.give_up_unix_ns is not None:
            left_s = (order.give_up_unix_ns - clock.unix_ns()) / _NS
            self._give_up_s = asyncio.get_running_loop().time() + left_s
        self._feed = Feed(ring_bytes)
        self._window: Window | None = None
        self._cutter: Cutter | None = None
        self._opened = False
        self._stopped = False
        self._caller_error: BaseException | None = None
        self._handover: HeimdallError | None = None

    @property
    def has_window(self) -> bool:
        """Whether the caller said what it wants."""
        return self._window is not None

    def set_window(self, window: Window) -> None:
        """Says what to deliver; once only."""
        self._window = window
        self._feed.wake.set()

    def stop(self) -> None:
        """Delivers what is held and ends."""
        self._stopped = True
        self._feed.wake.set()

    def close_requests(self) -> None:
        """Notes that the caller will say nothing more; without a window it wants all from the first sample on."""
        if self._window is None:
            self.set_window(Window())

    def fail(self, error: BaseException) -> None:
        """Ends the stream because of something the caller did; events raises it."""
        self._caller_error = error
        self._feed.wake.set()

    def hand_over(self, error: HeimdallError) -> None:
        """Lets the receiver go, delivers what is held and ends the stream, for the caller to resume it.

        Args:
            error: Why; events raises it once the caller took what is held.
        """
        self._handover = error
        self._slots.detach(self._feed)
        self._feed.wake.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yields the events of the stream to its end; close it to free the receiver at once.

        Raises:
            HeimdallError: If the receiver refused before its first sample, the caller broke the protocol, or the stream
                is handed over.
        """
        try:
            if self._slots.would_wait(self._order.tuning):
                yield self._progress()
            async with aclosing(self._serve()) as served:
                async for event in served:
                    yield event
        finally:
            self._slots.detach(self._feed)

    async def _serve(self) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        await self._slots.attach(self._order.tuning, self._feed, self._order.max_wait_s)
        status_at = loop.time() + STATUS_INTERVAL_S
        while True:
            self._feed.wake.clear()
            if self._caller_error is not None:
                raise self._caller_error
            if not self._opened and self._feed.described is not None and self._feed.first is not None:
                yield self._open()
            if self._feed.has_news or loop.time() >= status_at:
                status_at = loop.time() + STATUS_INTERVAL_S
                yield self._progress()
            if self._opened and (self._window is not None or self._stopped):
                for event in self._deliver():
                    yield event
            ending = self._find_end()
            if ending is not None:
                for event in ending:
                    yield event
                return
            if self._handover is not None:
                for event in () if self._cutter is None else self._cutter.flush():
                    yield event
                raise self._handover
            if await self._wait(status_at) or self._cutter is None:
                continue
            for event in [*self._deliver(), *self._cutter.flush()]:
                yield event

    async def _wait(self, until: float) -> bool:
        """Waits for news, or until blocks are due; returns whether news came."""
        loop = asyncio.get_running_loop()
        if self._cutter is not None:
            until = (loop.time() // BLOCK_INTERVAL_S + 1) * BLOCK_INTERVAL_S
            self._feed.want(self._cutter.block_byte_count, self._cutter.end_unix_ns)
        elif self._opened:
            self._feed.want(None, None)
        try:
            async with asyncio.timeout_at(min(until, loop.time() + self._seconds_to_deadline())):
                await self._feed.wake.wait()
        except TimeoutError:
            return False
        return True

    def _open(self) -> Opening:
        described, available = self._feed.described, self._feed.available_from
        if described is None or available is None:
            raise ValueError("the receiver is not known yet")
        self._opened = True
        resume = self._order.resume
        return Opening(Segment(0 if resume is None else resume.sample_index, described), available.unix_ns)

    def _progress(self) -> Progress:
        last = self._feed.last
        return Progress(
            state=self._feed.state,
            solution=self._solve(),
            level_dbm=None if last is None else last.frame.level_dbm,
            notices=self._feed.take_news(),
        )

    def _solve(self) -> TimeSolution | None:
        return solve(self._feed, None if self._cutter is None else self._cutter.origin)

    def _deliver(self) -> Iterator[Event]:
        """Cuts what is in the ring, piece by piece, so that a full ring is never copied at once."""
        cutter = self._make_cutter()
        while not cutter.complete:
            piece = self._feed.take()
            if piece is None:
                return
            yield from cutter.push(piece)

    def _make_cutter(self) -> Cutter:
        if self._cutter is None:
            described = self._feed.described
            if described is None:
                raise ValueError("the receiver is not known yet")
            self._cutter = Cutter(
                self._window or Window(),
                described.facts.sample_format.byte_count,
                self._order.resume,
                exact_times=described.base is TimeBase.GNSS,
            )
        return self._cutter

    def _find_end(self) -> list[Event] | None:
        """Returns the last events if the stream is over."""
        feed, cutter = self._feed, self._cutter
        if cutter is not None and cutter.complete:
            return [self._ending(EndReason.WINDOW_COMPLETE, None)]
        if self._stopped:
            flushed: list[Event] = [] if cutter is None else [*cutter.flush()]
            return [*flushed, self._ending(EndReason.STOPPED, None)]
        if not self._opened:
            if feed.failure is not None:
                raise feed.failure
            if self._given_up():
                raise self._not_ready()
            return None
        error = feed.failure
        if error is None and feed.state is not UpstreamState.STREAMING and (self._window_over() or self._given_up()):
            error = feed.last_error
        if error is None and not self._given_up():
            return None
        cutter = self._make_cutter()
        missing: list[Event] = [*cutter.finish(feed.last, error)]
        if error is None:
            error = self._not_ready()
        return [*missing, self._ending(EndReason.FAILED, error)]

    def _ending(self, reason: EndReason, error: HeimdallError | None) -> Ending:
        cutter = self._cutter
        return Ending(
            end_index=0 if cutter is None else cutter.next_index,
            reason=reason,
            error=error,
            solution=self._solve(),
            received_count=0 if cutter is None else cutter.received_count,
            lost_count=0 if cutter is None else cutter.lost_count,
            attempt_count=self._feed.attempt_count,
        )

    def _due_s(self) -> float | None:
        """Returns how long until the window's last sample must have come; None without a window's end."""
        last, timeline = self._feed.last, self._feed.timeline
        if last is None or timeline is None or self._window is None or self._window.end_unix_ns is None:
            return None
        due_ns = last.arrival_at(self._window.end_unix_ns) + _DUE_MARGIN_NS
        return (due_ns - timeline.clock.unix_ns()) / _NS

    def _window_over(self) -> bool:
        due_s = self._due_s()
        return due_s is not None and due_s <= 0

    def _given_up(self) -> bool:
        return self._give_up_s is not None and asyncio.get_running_loop().time() >= self._give_up_s

    def _seconds_to_deadline(self) -> float:
        """Returns how long until time alone can end the stream."""
        left_s = list[float]()
        if self._give_up_s is not None:
            left_s.append(self._give_up_s - asyncio.get_running_loop().time())
        if self._feed.state is not UpstreamState.STREAMING and (due_s := self._due_s()) is not None:
            left_s.append(due_s)
        return max(0.001, min(left_s, default=STATUS_INTERVAL_S))

    def _not_ready(self) -> HeimdallError:
        return HeimdallError(
            ErrorReason.ERROR_REASON_RECEIVER_NOT_READY,
            f"{self._slots.config.receiver_id} did not deliver before the caller's give_up_time",
            metadata={"receiver_id": self._slots.config.receiver_id, "state": self._feed.state.value},
        )
