"""Events on their way to storage: kept until they are acknowledged, sent again where a broken stream goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import IqEvent
from heimdall.errors import HeimdallError


@dataclass(frozen=True)
class _Entry:
    event: IqEvent
    first_index: int
    end_index: int
    sample_count: int
    size_bytes: int


class Outbox:
    """A bounded run of events without a seam. One task puts, one sends, one acknowledges, all in one event loop."""

    def __init__(self, max_bytes: int) -> None:
        """Makes an empty outbox.

        Args:
            max_bytes: Size of the unacknowledged events from which there is no room; one event may exceed it.
        """
        self._max_bytes = max_bytes
        self._entries = deque[_Entry]()
        self._sent_count = 0
        self._size_bytes = 0
        self._closed = False
        self._abandoned = False
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.end_index = 0
        """Index after the last event that was put."""
        self.acknowledged_index = 0
        """Index up to which everything is durable."""
        self.acknowledged_sample_count = 0
        """Number of samples that are durable."""

    async def wait_for_room(self) -> None:
        """Waits while too much is unacknowledged."""
        await self._room.wait()

    def put(self, event: IqEvent) -> None:
        """Appends an event; whoever has many waits for room before."""
        count = event.block.sample_count if event.HasField("block") else 0
        lost = event.gap.lost_sample_count if event.HasField("gap") else 0
        first, self.end_index = self.end_index, self.end_index + count + lost
        if self._abandoned:
            return
        entry = _Entry(event, first, self.end_index, count, event.ByteSize())
        self._entries.append(entry)
        self._size_bytes += entry.size_bytes
        self._update_room()
        self._more.set()

    def close(self) -> None:
        """Says that no more events follow."""
        self._closed = True
        self._more.set()

    def abandon(self) -> None:
        """Drops everything, now and later: nobody sends it any more."""
        self._abandoned = True
        self._entries.clear()
        self._size_bytes = 0
        self._update_room()

    async def unsent(self) -> AsyncIterator[IqEvent]:
        """Yields the events that were not sent yet, as they come; ends once it is closed and all were sent."""
        while True:
            while self._sent_count < len(self._entries):
                self._sent_count += 1
                yield self._entries[self._sent_count - 1].event
            if self._closed:
                return
            self._more.clear()
            await self._more.wait()

    def acknowledge(self, next_index: int) -> None:
        """Drops what is durable.

        Args:
            next_index: First index that is not durable yet.
        """
        self.acknowledged_index = max(self.acknowledged_index, next_index)
        while self._entries and self._is_durable(self._entries[0], next_index):
            entry = self._entries.popleft()
            self._size_bytes -= entry.size_bytes
            self._sent_count = max(0, self._sent_count - 1)
            self.acknowledged_sample_count += entry.sample_count
        self._update_room()

    def rewind(self, next_index: int) -> None:
        """Goes back to where storage wants to go on.

        Args:
            next_index: Index that storage wants next.

        Raises:
            HeimdallError: INDEX_MISMATCH if events from there on are not held any more, or never were.
        """
        self.acknowledge(next_index)
        self._sent_count = 0
        start = self._entries[0].first_index if self._entries else self.end_index
        if next_index != start:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_INDEX_MISMATCH,
                f"storage wants to go on at index {next_index}; the events that are held begin at {start}",
                metadata={"next_sample_index": next_index, "first_held_index": start},
            )

    @staticmethod
    def _is_durable(entry: _Entry, next_index: int) -> bool:
        """A segment or status is only known to be durable once something after it is."""
        return entry.end_index <= next_index if entry.end_index > entry.first_index else entry.end_index < next_index

    def _update_room(self) -> None:
        if self._size_bytes < self._max_bytes:
            self._room.set()
        else:
            self._room.clear()
