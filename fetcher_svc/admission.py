"""Who may use a receiver: equal tunings share a connection, others wait for one of its slots."""

from __future__ import annotations

import asyncio
from contextvars import Context

import structlog

from fetcher_svc.feed import Feed
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Receiver, Tuning
from fetcher_svc.station import Station
from fetcher_svc.upstream import Upstream
from heimdall.clock import Clock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)


class ReceiverSlots:
    """One receiver with its connections. A slot is taken until its connection is really closed."""

    def __init__(self, config: ReceiverConfig, receiver: Receiver, station: Station, clock: Clock) -> None:
        """Begins with all slots free.

        Args:
            config: The receiver's entry in receivers.toml.
            receiver: Its driver.
            station: Where it is; other receivers may be there too.
            clock: Host clock.
        """
        self.config = config
        self.receiver = receiver
        self.station = station
        self._clock = clock
        self._upstreams: dict[Upstream, tuple[Tuning, asyncio.Task[None]]] = {}

    @property
    def used_count(self) -> int:
        """Slots in use."""
        return len(self._upstreams)

    @property
    def is_connected(self) -> bool:
        """Whether a slot is in use whose stream does not just wait before it connects again."""
        return any(not upstream.waiting for upstream in self._upstreams)

    def would_wait(self, tuning: Tuning) -> bool:
        """Returns whether a stream with this tuning would have to wait now, for a slot or for another's connect."""
        if any(its_tuning == tuning and not upstream.closing for upstream, (its_tuning, _) in self._upstreams.items()):
            return False
        return len(self._upstreams) >= self.config.slots or self.station.is_tried

    async def attach(self, tuning: Tuning, feed: Feed, max_wait_s: float) -> None:
        """Connects a stream to the receiver, sharing a connection that has the tuning already.

        Args:
            tuning: What the stream wants, checked and with defaults filled in.
            feed: The stream's end.
            max_wait_s: Longest wait for a free slot, or for the outcome of a connect that decides for all.

        Raises:
            HeimdallError: RECEIVER_BUSY if no slot became free in time, RECEIVER_BACKING_OFF while it is left alone.
        """
        receiver_id, loop = self.config.receiver_id, asyncio.get_running_loop()
        deadline = loop.time() + max_wait_s
        while True:
            for upstream, (its_tuning, _) in self._upstreams.items():
                if its_tuning == tuning and not upstream.closing:
                    upstream.add(feed)
                    return
            hold = self.station.find_hold(receiver_id)
            if hold is not None:
                raise hold
            has_slot = len(self._upstreams) < self.config.slots
            if has_slot and self._start(tuning, feed):
                return
            if not await self.station.wait_change(max(0.0, deadline - loop.time())):
                raise self.station.trial_hold(receiver_id) if has_slot else self._busy(max_wait_s)

    def detach(self, feed: Feed) -> None:
        """Lets a stream go; with its last stream a connection is closed at once."""
        for upstream, (_, task) in self._upstreams.items():
            upstream.remove(feed)
            if upstream.feed_count == 0 and not upstream.closing:
                upstream.closing = True
                task.cancel()

    async def close(self) -> None:
        """Closes every connection."""
        tasks = [task for _, task in self._upstreams.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, tuning: Tuning, feed: Feed) -> bool:
        """Connects to the receiver for a stream if its station may be connected now; returns whether it may."""
        upstream = Upstream(self.config, self.receiver, tuning, self.station, self._clock)
        if not self.station.try_begin(upstream):
            return False
        upstream.add(feed)
        # It may outlive the call that began it, and so must not inherit that call's deadline.
        task = asyncio.create_task(self._serve(upstream), context=Context())
        self._upstreams[upstream] = (tuning, task)
        return True

    async def _serve(self, upstream: Upstream) -> None:
        try:
            await upstream.run()
        except Exception as error:  # noqa: BLE001 (outermost boundary of a task: every stream must learn of a crash)
            _log.exception("upstream_crashed", receiver_id=self.config.receiver_id)
            upstream.fail(
                HeimdallError(
                    ErrorReason.ERROR_REASON_INTERNAL,
                    f"the driver of {self.config.receiver_id} failed; the fetcher's log has the details",
                    metadata={"receiver_id": self.config.receiver_id, "error": type(error).__name__},
                )
            )
        finally:
            upstream.closing = True
            del self._upstreams[upstream]
            self.station.tell_change()

    def _busy(self, max_wait_s: float) -> HeimdallError:
        tunings = ", ".join(f"{tuning.center_frequency_hz:.0f} Hz" for tuning, _ in self._upstreams.values())
        return HeimdallError(
            ErrorReason.ERROR_REASON_RECEIVER_BUSY,
            f"all {self.config.slots} slots of {self.config.receiver_id} are in use with other tunings ({tunings}) "
            f"and none became free within {max_wait_s:g} s",
            metadata={
                "receiver_id": self.config.receiver_id,
                "slot_count": self.config.slots,
                "max_wait_s": max_wait_s,
            },
        )
