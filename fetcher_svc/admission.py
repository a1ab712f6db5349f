"""Who may use a receiver: equal tunings share a connection, others wait for one of its slots."""

from __future__ import annotations

import asyncio
from contextvars import Context

import structlog

from fetcher_svc.backoff import Rest
from fetcher_svc.feed import Feed
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Receiver, Tuning
from fetcher_svc.upstream import Upstream
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)


class ReceiverSlots:
    """One receiver with its connections. A slot is taken until its connection is really closed."""

    def __init__(self, config: ReceiverConfig, receiver: Receiver) -> None:
        """Begins with all slots free.

        Args:
            config: The receiver's entry in receivers.toml.
            receiver: Its driver.
        """
        self.config = config
        self.receiver = receiver
        self.rest = Rest()
        self._upstreams: dict[Upstream, tuple[Tuning, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    @property
    def used_count(self) -> int:
        """Slots in use."""
        return len(self._upstreams)

    def would_wait(self, tuning: Tuning) -> bool:
        """Returns whether a stream with this tuning would have to wait for a slot now."""
        return len(self._upstreams) >= self.config.slots and not any(
            its_tuning == tuning and not upstream.closing for upstream, (its_tuning, _) in self._upstreams.items()
        )

    async def attach(self, tuning: Tuning, feed: Feed, max_wait_s: float) -> None:
        """Connects a stream to the receiver, sharing a connection that has the tuning already.

        Args:
            tuning: What the stream wants, checked and with defaults filled in.
            feed: The stream's end.
            max_wait_s: Longest wait for a free slot.

        Raises:
            HeimdallError: RECEIVER_BUSY if no slot became free in time, RECEIVER_BACKING_OFF while it is left alone.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max_wait_s
        while True:
            for upstream, (its_tuning, _) in self._upstreams.items():
                if its_tuning == tuning and not upstream.closing:
                    upstream.add(feed)
                    return
            self.rest.check(self.config.receiver_id, loop.time())
            if len(self._upstreams) < self.config.slots:
                self._start(tuning, feed)
                return
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                raise self._busy(max_wait_s) from None

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

    def _start(self, tuning: Tuning, feed: Feed) -> None:
        upstream = Upstream(self.config.receiver_id, self.receiver, tuning, self.rest)
        upstream.add(feed)
        # It may outlive the call that began it, and so must not inherit that call's deadline.
        task = asyncio.create_task(self._serve(upstream), context=Context())
        self._upstreams[upstream] = (tuning, task)

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
            self._changed.set()

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
