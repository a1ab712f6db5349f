"""The stream of one receiver from its fetcher, called again where it broke, as one run of events without a seam."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from coordinator_svc.backoff import Backoff, is_transport_failure
from coordinator_svc.tasks import end
from coordinator_svc.window import NS, Window
from heimdall.clock import Clock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, End, Gap, GapReason, IqEvent, Segment
from heimdall.common.v1.receiver_pb2 import Tuning
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1.fetcher_pb2 import StreamIqRequest, StreamIqResponse
from heimdall.runtime.settings import MeshSettings
from heimdall.runtime.streams import ClientStream, heartbeat_now

if TYPE_CHECKING:
    from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceAsyncStub

_log = structlog.get_logger(__name__)

RATE_CHANGE_LIMIT: Final = 1e-3
"""Relative change of the announced rate that means another format; ppm are a receiver's newer estimate of its clock."""

_MAX_RETRY_DELAY_S: Final = 2.0
"""Longest wait between two calls: a fetcher that is back is not to lose samples because nobody asks it."""

_AFTER_WINDOW_S: Final = 0.5
"""How long after the window's end a broken stream is still called again; later nothing of the window can come."""


@dataclass(frozen=True)
class StreamOrder:
    """What is asked of the fetcher."""

    acquisition_id: str
    """Who asks."""
    receiver_id: str
    """The receiver."""
    tuning: Tuning
    """What it is set to."""
    max_wait_s: float
    """How long the fetcher waits for a free slot."""
    give_up_s: float
    """Time of the event loop at which the acquisition ends at the latest."""


class FetcherLink:
    """Streams one receiver, through any number of calls."""

    def __init__(
        self,
        stub: FetcherServiceAsyncStub,
        order: StreamOrder,
        window: asyncio.Future[Window],
        settings: MeshSettings,
        clock: Clock,
    ) -> None:
        """Prepares the link; connects to nothing yet.

        Args:
            stub: The fetcher that owns the receiver.
            order: What is asked of it.
            window: The window, once it is chosen.
            settings: Heartbeats and idle times.
            clock: Host clock, in whose time the fetcher is told when to give up.
        """
        self._stub = stub
        self._order = order
        self._window = window
        self._settings = settings
        self._clock = clock
        self._stopping = asyncio.Event()
        self._backoff = Backoff(max_s=_MAX_RETRY_DELAY_S)
        self._segment: Segment | None = None
        self._origin_unix_ns: int | None = None
        self._lead_s: float | None = None
        self._hole_reason = GapReason.GAP_REASON_SERVICE_RESTART
        self.next_index = 0
        """Index after the last block or gap."""
        self.attempt_count = 0
        """Connections tried to the receiver, as far as is known."""
        self.trouble: HeimdallError | None = None
        """Why the last call failed; None since a segment came."""

    def stop(self) -> None:
        """Asks the fetcher to flush and end the stream."""
        self._stopping.set()

    def due_s(self, unix_ns: int) -> float | None:
        """Returns the time of the event loop at which a sample is due; None before the first segment.

        Reckoned from the fastest delivery so far, by the receiver's own time: it may differ from this host's.

        Args:
            unix_ns: UTC of the sample in ns since 1970.
        """
        return None if self._lead_s is None else unix_ns / NS + self._lead_s

    async def stream(self, deliver: Callable[[IqEvent], Awaitable[None]]) -> End:
        """Delivers every event but heartbeats, in order and without a seam, and returns the end.

        Args:
            deliver: Takes one event; is awaited, which is what slows a stream down.

        Returns:
            How the fetcher ended the stream; its error is data.

        Raises:
            HeimdallError: Why the receiver can not be streamed, or why the stream broke for good.
        """
        while True:
            earlier_attempts = self.attempt_count
            self.attempt_count += 1
            try:
                ending = await self._call(deliver)
            except HeimdallError as error:
                self.trouble = error
                delay_s = self._delay_before_retry_s(error)
                if delay_s is None:
                    raise
                _log.info(
                    "receiver_stream_broken",
                    acquisition_id=self._order.acquisition_id,
                    receiver_id=self._order.receiver_id,
                    reason=error.reason_name,
                    message=error.message,
                    next_index=self.next_index,
                    retry_in_s=round(delay_s, 3),
                )
                await asyncio.sleep(delay_s)
            else:
                self.attempt_count = earlier_attempts + ending.attempt_count
                return ending

    async def _call(self, deliver: Callable[[IqEvent], Awaitable[None]]) -> End:
        async with ClientStream(
            self._stub.StreamIq(),
            peer=f"fetcher of {self._order.receiver_id}",
            make_heartbeat=lambda: StreamIqRequest(heartbeat=heartbeat_now()),
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            idle_timeout_s=self._settings.idle_timeout_s,
        ) as stream:
            await stream.send(StreamIqRequest(open=self._open()))
            orders = asyncio.create_task(self._send_orders(stream))
            try:
                while (answer := await stream.receive()) is not None:
                    if answer.event.HasField("end"):
                        self._check_index("end.end_sample_index", answer.event.end.end_sample_index)
                        return answer.event.end
                    if self._take(answer.event):
                        await deliver(answer.event)
            except HeimdallError as error:
                if error.reason == ErrorReason.ERROR_REASON_STREAM_IDLE and not stream.peer_fell_silent:
                    # The fetcher heard nothing from here for so long that it let the receiver go.
                    self._hole_reason = GapReason.GAP_REASON_BACKPRESSURE
                raise
            finally:
                await end(orders)
        raise HeimdallError(
            ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE,
            f"the fetcher closed the stream of {self._order.receiver_id} without an end event",
            metadata={"receiver_id": self._order.receiver_id},
        )

    def _open(self) -> StreamIqRequest.Open:
        order = self._order
        opening = StreamIqRequest.Open(
            receiver_id=order.receiver_id, tuning=order.tuning, acquisition_id=order.acquisition_id
        )
        opening.max_wait.FromTimedelta(timedelta(seconds=order.max_wait_s))
        left_s = order.give_up_s - asyncio.get_running_loop().time()
        opening.give_up_time.FromNanoseconds(self._clock.unix_ns() + round(left_s * NS))
        if self._segment is not None and self._window.done():
            opening.resume = True
            opening.resume_sample_index = self.next_index
            opening.resume_origin_unix_ns = self._origin_unix_ns or self._window.result().start_unix_ns
            opening.resume_gap_reason = self._hole_reason
        return opening

    async def _send_orders(self, stream: ClientStream[StreamIqRequest, StreamIqResponse]) -> None:
        try:
            window = await asyncio.shield(self._window)
            message = StreamIqRequest.Window(start_unix_ns=window.start_unix_ns, end_unix_ns=window.end_unix_ns)
            await stream.send(StreamIqRequest(window=message))
            await self._stopping.wait()
            await stream.send(StreamIqRequest(stop=StreamIqRequest.Stop()))
        except HeimdallError:
            # The reader of this stream gets the same failure and acts on it.
            return

    def _take(self, event: IqEvent) -> bool:
        """Follows the indices; returns whether the event is to be delivered."""
        kind = event.WhichOneof("event")
        if kind == "block":
            self._take_block(event.block)
        elif kind == "gap":
            self._take_gap(event.gap)
        elif kind == "segment":
            return self._take_segment(event.segment)
        return kind != "heartbeat"

    def _take_segment(self, segment: Segment) -> bool:
        known, self._segment = self._segment, segment
        self.trouble = None
        if known is None:
            self._note_delivery(segment.available_from_unix_ns)
            return True
        self._backoff.succeeded()
        change = abs(segment.sample_rate_hz / known.sample_rate_hz - 1)
        if known.sample_format != segment.sample_format or change > RATE_CHANGE_LIMIT:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_FORMAT_CHANGED,
                f"{self._order.receiver_id} came back with {segment.sample_rate_hz} Hz in format "
                f"{segment.sample_format} after {known.sample_rate_hz} Hz in format {known.sample_format}",
                metadata={"receiver_id": self._order.receiver_id, "sample_rate_hz": segment.sample_rate_hz},
            )
        segment.sample_rate_hz = known.sample_rate_hz
        return _description(known) != _description(segment)

    def _take_block(self, block: Block) -> None:
        self._check_window("block")
        self._check_index("block.first_sample_index", block.first_sample_index)
        if self._segment is not None:
            # Anew with each block: over a whole stream the announced rate errs by many samples, over one loss by few.
            rate_hz = self._segment.sample_rate_hz
            self._origin_unix_ns = block.first_sample_unix_ns - round(block.first_sample_index * NS / rate_hz)
            self._note_delivery(block.first_sample_unix_ns + round(block.sample_count * NS / rate_hz))
        self._hole_reason = GapReason.GAP_REASON_SERVICE_RESTART
        self.next_index += block.sample_count

    def _note_delivery(self, unix_ns: int) -> None:
        """Notes that the sample of that time has come by now."""
        lead_s = asyncio.get_running_loop().time() - unix_ns / NS
        self._lead_s = lead_s if self._lead_s is None else min(self._lead_s, lead_s)

    def _take_gap(self, gap: Gap) -> None:
        self._check_window("gap")
        self._check_index("gap.first_lost_index", gap.first_lost_index)
        self.next_index += gap.lost_sample_count

    def _check_window(self, kind: str) -> None:
        if self._segment is None or not self._window.done():
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE,
                f"the fetcher of {self._order.receiver_id} sent a {kind} before the segment or the window",
                metadata={"receiver_id": self._order.receiver_id, "field": kind},
            )

    def _check_index(self, field: str, index: int) -> None:
        if index != self.next_index:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_INDEX_MISMATCH,
                f"the fetcher of {self._order.receiver_id} sent {field} {index}; {self.next_index} comes next",
                metadata={"receiver_id": self._order.receiver_id, "field": field, "index": index},
            )

    def _delay_before_retry_s(self, error: HeimdallError) -> float | None:
        """Returns the wait before the next call; None if there is no point in one."""
        delay_s = self._backoff.delay_after_s(error)
        # What a receiver answers to the first call is final; after that its fetcher may still hold the old channel.
        if delay_s is None or (self._segment is None and not is_transport_failure(error)):
            return None
        if self._stopping.is_set():
            return None
        # Without a segment there is nothing to reckon with; whoever waits for one gives up at the window's end.
        over_s = self.due_s(self._window.result().end_unix_ns) if self._window.done() else None
        until_s = self._order.give_up_s if over_s is None else over_s + _AFTER_WINDOW_S
        return delay_s if delay_s < until_s - asyncio.get_running_loop().time() else None


def _description(segment: Segment) -> Segment:
    """Returns what a segment says of the receiver, without its place in the stream."""
    description = Segment()
    description.CopyFrom(segment)
    description.ClearField("first_sample_index")
    description.ClearField("available_from_unix_ns")
    return description
