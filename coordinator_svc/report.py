"""The living report of one acquisition: changed in place by the pipeline, read as whole snapshots by watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from heimdall.client import TERMINAL_STATES
from heimdall.clock import Clock
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome

PROGRESS_INTERVAL_S: Final = 0.2
"""Shortest time between two snapshots that differ in progress only."""


class _Watcher:
    """What one watcher waits for."""

    def __init__(self) -> None:
        self.progress = asyncio.Event()
        self.state = asyncio.Event()


class Report:
    """One acquisition as it is now, and those who watch it."""

    def __init__(self, acquisition: Acquisition, clock: Clock) -> None:
        """Takes over a report.

        Args:
            acquisition: The report so far; owned by this object from now on.
            clock: Dates the changes.
        """
        self._live = acquisition
        self._clock = clock
        self._watchers = set[_Watcher]()
        self.ended = asyncio.Event()
        """Set once the report is terminal."""

    @property
    def live(self) -> Acquisition:
        """The report itself; whoever changes it calls changed or progressed."""
        return self._live

    def outcome(self, index: int) -> ReceiverOutcome:
        """Returns the living outcome of one receiver, by its place in the spec."""
        return self._live.outcomes[index]

    def snapshot(self) -> Acquisition:
        """Returns a copy of the report."""
        copy = Acquisition()
        copy.CopyFrom(self._live)
        return copy

    def now_unix_ns(self) -> int:
        """Returns UTC in ns since 1970, never before a time that the report has already."""
        return max(self._clock.unix_ns(), self._live.update_time.ToNanoseconds())

    def progressed(self) -> None:
        """Tells that counters changed."""
        self._live.revision += 1
        self._live.update_time.FromNanoseconds(self.now_unix_ns())
        for watcher in self._watchers:
            watcher.progress.set()

    def changed(self) -> None:
        """Tells that a state changed."""
        self._live.revision += 1
        self._live.update_time.FromNanoseconds(self.now_unix_ns())
        self._wake()

    def end(self, final: Acquisition) -> None:
        """Replaces the report by its terminal form."""
        self._live.CopyFrom(final)
        self.ended.set()
        self._wake()

    async def watch(self) -> AsyncGenerator[Acquisition, None]:
        """Yields the current snapshot, changes of state at once, progress at most five times a second, the end last.

        Only the newest snapshot is ever kept, so a slow watcher costs nothing.
        """
        loop = asyncio.get_running_loop()
        watcher = _Watcher()
        self._watchers.add(watcher)
        try:
            while True:
                watcher.progress.clear()
                watcher.state.clear()
                taken_s = loop.time()
                snapshot = self.snapshot()
                yield snapshot
                if snapshot.state in TERMINAL_STATES:
                    return
                await watcher.progress.wait()
                try:
                    async with asyncio.timeout_at(taken_s + PROGRESS_INTERVAL_S):
                        await watcher.state.wait()
                except TimeoutError:
                    continue
        finally:
            self._watchers.discard(watcher)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.progress.set()
            watcher.state.set()
