"""What one stream holds of its upstream: a bounded ring of pieces, the state, and what there is to tell."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import Final

from fetcher_svc.cutter import Described
from fetcher_svc.receivers.timefit import TimeFit
from fetcher_svc.run_tracker import Loss, LossReason
from fetcher_svc.timeline import Placed, Timeline
from heimdall.errors import HeimdallError

MAX_NOTICE_COUNT: Final = 16
"""Notices that wait to be told; older ones are dropped, the log has them all."""
_PIECE_BYTES: Final = 64
"""What a piece without samples counts for in the ring."""


class UpstreamState(Enum):
    """What an upstream is doing."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"


class Feed:
    """One stream's end of an upstream. The upstream puts, the stream takes; nothing here blocks."""

    def __init__(self, ring_bytes: int) -> None:
        """Begins empty.

        Args:
            ring_bytes: Most bytes held; beyond them the oldest samples are dropped and declared as lost.
        """
        self._ring_bytes = ring_bytes
        self._pieces: deque[Placed | Loss | Described] = deque()
        self._byte_count = 0
        self._wanted_bytes: int | None = 0
        self._wanted_end_ns: int | None = None
        self.wake = asyncio.Event()
        self.state = UpstreamState.WAITING
        self.described: Described | None = None
        self.first: Placed | None = None
        self.last: Placed | None = None
        self.failure: HeimdallError | None = None
        self.last_error: HeimdallError | None = None
        self.attempt_count = 0
        self.timeline: Timeline | None = None
        self.fit = TimeFit()
        self.dropped_stamp_count = 0
        self._notices: deque[HeimdallError] = deque(maxlen=MAX_NOTICE_COUNT)
        self._state_told: UpstreamState | None = None

    def put(self, piece: Placed | Loss | Described) -> None:
        """Adds a piece; drops the oldest samples if the ring is full."""
        if isinstance(piece, Placed):
            self._note(piece)
        elif self.first is None:
            # What was lost before this stream's first sample is not its loss.
            if isinstance(piece, Described):
                self.described = piece
            return
        self._pieces.append(piece)
        self._byte_count += _size(piece)
        while self._byte_count > self._ring_bytes and len(self._pieces) > 1:
            self._drop_oldest()
        if not isinstance(piece, Placed) or self._is_wanted(piece):
            self.wake.set()

    def want(self, byte_count: int | None, end_unix_ns: int | None) -> None:
        """Says which frames the stream wants to be woken for; at first it is every one.

        Args:
            byte_count: Wakes when more than this many bytes are held; None: no frame wakes.
            end_unix_ns: Wakes when this time, in ns since 1970, is reached; None: no time wakes.
        """
        self._wanted_bytes = byte_count
        self._wanted_end_ns = end_unix_ns

    def take(self) -> Placed | Loss | Described | None:
        """Removes and returns the oldest piece; None if there is none."""
        if not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._byte_count -= _size(piece)
        return piece

    @property
    def available_from(self) -> Placed | None:
        """The oldest frame that can still be delivered."""
        return next((piece for piece in self._pieces if isinstance(piece, Placed)), self.last)

    def change_state(self, state: UpstreamState) -> None:
        """Notes what the upstream does now."""
        if state is not self.state:
            self.state = state
            self.wake.set()

    def notify(self, error: HeimdallError, *, is_cause: bool = True) -> None:
        """Notes something to tell with the next status.

        Args:
            error: What there is to tell.
            is_cause: Whether it is why samples are missing from now on.
        """
        self._notices.append(error)
        if is_cause:
            self.last_error = error
        self.wake.set()

    def fail(self, error: HeimdallError) -> None:
        """Notes that no more samples will come."""
        self.failure = error
        self.last_error = error
        self.wake.set()

    @property
    def has_news(self) -> bool:
        """Whether state or notices were not told yet."""
        return bool(self._notices) or self.state is not self._state_told

    def take_news(self) -> list[HeimdallError]:
        """Removes and returns the notices, and counts the state as told."""
        self._state_told = self.state
        notices = list(self._notices)
        self._notices.clear()
        return notices

    def _is_wanted(self, piece: Placed) -> bool:
        if self._wanted_bytes is not None and self._byte_count > self._wanted_bytes:
            return True
        # By one ns early rather than late: both times are rounded.
        return self._wanted_end_ns is not None and piece.time_at(piece.end) + 1 >= self._wanted_end_ns

    def _note(self, piece: Placed) -> None:
        if self.first is None:
            self.first = piece
        self.last = piece
        stamp_ns = piece.frame.stamp_ns
        if piece.stamp_good and stamp_ns is not None:
            self.fit.add(piece.run, piece.position, stamp_ns, piece.frame.stamp_age_s)
        else:
            self.dropped_stamp_count += 1

    def _drop_oldest(self) -> None:
        """Drops the oldest frame; a loss takes its place, one with any that is there already."""
        kept: list[Loss | Described] = []
        while self._pieces:
            piece = self._pieces.popleft()
            self._byte_count -= _size(piece)
            if isinstance(piece, Placed):
                break
            kept.append(piece)
        else:
            return
        dropped = Loss(piece.position, piece.frame.sample_count, True, LossReason.BACKPRESSURE)
        before = kept[-1] if kept else None
        if isinstance(before, Loss) and before.reason is LossReason.BACKPRESSURE:
            kept.pop()
            dropped = Loss(before.position, before.count + dropped.count, True, LossReason.BACKPRESSURE)
        for item in reversed([*kept, dropped]):
            self._pieces.appendleft(item)
            self._byte_count += _size(item)


def _size(piece: Placed | Loss | Described) -> int:
    return len(piece.frame.samples) if isinstance(piece, Placed) else _PIECE_BYTES
