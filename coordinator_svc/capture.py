"""One receiver of one acquisition, from the first connection to its outcome. It never touches another receiver."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from coordinator_svc.backoff import is_transport_failure
from coordinator_svc.directory import OwnedReceiver
from coordinator_svc.dsp_link import Measurer
from coordinator_svc.fetcher_link import FetcherLink, StreamOrder
from coordinator_svc.outcome import GapCount, conclude_receiver
from coordinator_svc.peers import Peers
from coordinator_svc.stop import StopSignal
from coordinator_svc.storage_link import RecordingWriter
from coordinator_svc.tasks import end
from coordinator_svc.window import NS, Window
from heimdall.clock import SteadyClock
from heimdall.common.v1.acquisition_pb2 import AcquisitionSpec, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import Block, End, EndReason, Gap, GapReason, IqEvent, Segment, Status, StreamState
from heimdall.common.v1.measurement_pb2 import Measurement
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.dsp.v1.dsp_pb2 import ProcessRequest
from heimdall.errors import HeimdallError, from_detail, reason_name
from heimdall.runtime.settings import Settings
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest

_log = structlog.get_logger(__name__)

_FLUSH_S: Final = 0.5
"""How long a fetcher may take to flush and end a stream; then its call is cancelled, which frees the receiver too."""

_CLOSE_S: Final = 2.0
"""Time to close the rest once a recording can not be written any more."""

_WISHED: Final = frozenset({ErrorReason.ERROR_REASON_CANCELLED, ErrorReason.ERROR_REASON_DRAINING})
"""Reasons to stop that somebody wished, unlike a failure or a deadline."""


@dataclass(frozen=True)
class CaptureOrder:
    """What is asked of one receiver, and of whom."""

    acquisition_id: str
    """The acquisition."""
    spec: AcquisitionSpec
    """What it asks for."""
    owned: OwnedReceiver
    """The receiver and its fetcher."""
    max_wait_s: float
    """How long the fetcher waits for a free slot."""
    give_up_s: float
    """Time of the event loop at which the acquisition ends at the latest."""
    max_listed_gaps: int
    """Most gaps that the outcome lists."""
    clock: SteadyClock
    """UTC as the acquisition has it."""


class Capture:
    """Connects one receiver, stores and measures its part of the window, and writes its outcome."""

    def __init__(
        self,
        order: CaptureOrder,
        peers: Peers,
        settings: Settings,
        *,
        outcome: ReceiverOutcome,
        window: asyncio.Future[Window],
        on_state: Callable[[], None],
        on_progress: Callable[[], None],
    ) -> None:
        """Prepares a capture; connects to nothing yet.

        Args:
            order: What is asked.
            peers: The services.
            settings: All settings.
            outcome: The living outcome, changed in place.
            window: The window, once it is chosen.
            on_state: Called when the state of the outcome changed.
            on_progress: Called when anything else of it changed.
        """
        receiver = order.owned.receiver
        self.stop: Final = StopSignal()
        """Ends this capture; what was received is kept or discarded as it says."""
        self.answered: Final = asyncio.Event()
        """Set once the receiver streams, or definitely does not."""
        self.available_from_unix_ns: int | None = None
        """UTC of the first sample that the receiver can deliver; None while it does not stream."""
        self._order = order
        self._outcome = outcome
        self._window = window
        self._on_state = on_state
        self._on_progress = on_progress
        self._gaps = GapCount(order.max_listed_gaps)
        self._failures = list[HeimdallError]()
        self._measurement_failure: HeimdallError | None = None
        self._segment: Segment | None = None
        self._last_notice: ErrorDetail | None = None
        self._next_unix_ns: int | None = None
        stream = StreamOrder(
            order.acquisition_id, receiver.receiver_id, order.spec.tuning, order.max_wait_s, order.give_up_s
        )
        self._link = FetcherLink(peers.fetchers[order.owned.target], stream, window, settings.mesh, order.clock.host)
        opening = WriteRecordingRequest.Open(acquisition_id=order.acquisition_id, receiver=receiver, spec=order.spec)
        self._writer = RecordingWriter(
            peers.storage,
            opening,
            settings.mesh,
            order.clock,
            max_unacknowledged_bytes=settings.coordinator.unacknowledged_bytes,
            on_progress=self._stored_more,
            on_failure=self._writer_failed,
        )
        config = ProcessRequest.Config(
            acquisition_id=order.acquisition_id,
            receiver_id=receiver.receiver_id,
            measurement=order.spec.measurement,
        )
        self._measurer = Measurer(peers.dsp, config, peers.archive, settings.mesh)

    def due_s(self, unix_ns: int) -> float | None:
        """Returns the time of the event loop at which a sample is due; None while the receiver does not stream.

        Args:
            unix_ns: UTC of the sample in ns since 1970, by the receiver's own time.
        """
        return self._link.due_s(unix_ns)

    async def run(self) -> None:
        """Runs the capture to its outcome; never fails, since every failure is part of the outcome."""
        self._set_state(ReceiverOutcome.STATE_PREPARING)
        try:
            async with self._writer, self._measurer:
                ending = await self._receive()
                await self._complete(ending)
        except Exception as error:  # noqa: BLE001 (outermost boundary of one receiver: a fault of ours stays with it)
            incident = uuid.uuid4().hex[:12]
            _log.exception(
                "capture_crashed",
                acquisition_id=self._order.acquisition_id,
                receiver_id=self._outcome.receiver_id,
                incident=incident,
            )
            text = f"internal error; the coordinator's log has it as incident {incident}"
            failure = HeimdallError(ErrorReason.ERROR_REASON_INTERNAL, text, metadata={"incident": incident})
            failure.__cause__ = error
            self._failures.insert(0, failure)
        finally:
            self.answered.set()
        self._conclude()

    def give_up(self, what: str, **facts: object) -> None:
        """Ends the capture of a receiver that does not stream and from which nothing can come any more.

        Args:
            what: What did not come, and until when.
            facts: Every changing part of it as key and value.
        """
        # The fetcher waits as long for a slot, so its own refusal would come a moment too late.
        no_slot = self._outcome.stream_state == StreamState.STREAM_STATE_WAITING
        reason = ErrorReason.ERROR_REASON_RECEIVER_BUSY if no_slot else ErrorReason.ERROR_REASON_RECEIVER_NOT_READY
        use = "; other tunings use all our slots of the receiver" if no_slot else ""
        error = HeimdallError(reason, what + use, metadata=facts)
        self.stop.set(error, finish_by_s=asyncio.get_running_loop().time())

    async def _receive(self) -> End | None:
        """Takes in the stream until it ends, by itself or because it was told to; returns the end, if one came."""
        stream = asyncio.create_task(self._link.stream(self._deliver))
        try:
            await self.stop.let_finish(stream, grace_s=0.0)
            if not stream.done() and self._segment is not None and self._window.done():
                self._link.stop()
                await asyncio.wait({stream}, timeout=_FLUSH_S)
        finally:
            await end(stream)
        if stream.cancelled():
            self._name_trouble(self._link.trouble)
            return None
        error = stream.exception()
        if error is None:
            return stream.result()
        if not isinstance(error, HeimdallError):
            raise error
        self._failures.append(error)
        return None

    async def _deliver(self, event: IqEvent) -> None:
        # From here on nothing is awaited: an event is taken by everybody or, if this is cancelled, by nobody.
        await self._writer.wait_for_room()
        kind = event.WhichOneof("event")
        if kind == "segment":
            self._take_segment(event.segment)
        elif kind == "block":
            self._take_block(event.block)
        elif kind == "gap":
            self._take_gap(event.gap)
        elif kind == "status":
            self._take_status(event.status)
            if not self._writer.started:
                return
        self._measurer.offer(event)
        self._writer.put(event)

    def _take_segment(self, segment: Segment) -> None:
        first, self._segment = self._segment is None, segment
        if first:
            self.available_from_unix_ns = segment.available_from_unix_ns
            self._outcome.stream_state = StreamState.STREAM_STATE_STREAMING
            self._set_state(ReceiverOutcome.STATE_READY)
            self.answered.set()

    def _take_block(self, block: Block) -> None:
        window, outcome = self._window.result(), self._outcome
        if not self._writer.started:
            outcome.expected_sample_count = window.sample_count(self._sample_rate_hz)
            outcome.first_sample_unix_ns = block.first_sample_unix_ns
            self._writer.start(window.start_unix_ns, window.end_unix_ns)
            self._measurer.start()
            self._set_state(ReceiverOutcome.STATE_CAPTURING)
        outcome.received_sample_count += block.sample_count
        last_ns = round((block.sample_count - 1) * NS / self._sample_rate_hz)
        outcome.last_sample_unix_ns = block.first_sample_unix_ns + last_ns
        self._next_unix_ns = block.first_sample_unix_ns + round(block.sample_count * NS / self._sample_rate_hz)
        self._on_progress()

    def _take_gap(self, gap: Gap) -> None:
        begin_unix_ns = self._window.result().start_unix_ns if self._next_unix_ns is None else self._next_unix_ns
        self._next_unix_ns = begin_unix_ns + round(gap.lost_sample_count * NS / self._sample_rate_hz)
        self._gaps.add(gap, self._outcome)
        self._on_progress()

    def _take_status(self, status: Status) -> None:
        if status.HasField("time_solution"):
            self._outcome.time_solution.CopyFrom(status.time_solution)
        if status.state:
            self._outcome.stream_state = status.state
        if status.notices:
            self._last_notice = status.notices[-1]
        self._on_progress()

    @property
    def _sample_rate_hz(self) -> float:
        if self._outcome.HasField("time_solution"):
            return self._outcome.time_solution.sample_rate_hz
        return self._segment.sample_rate_hz if self._segment is not None else 0.0

    async def _complete(self, ending: End | None) -> None:
        """Closes the recording and the measurement with what there is."""
        if ending is not None and ending.HasField("error"):
            self._failures.append(from_detail(ending.error))
        final = self._close(ending)
        finished = not self._writer.started
        if self._writer.started:
            self._set_state(ReceiverOutcome.STATE_FINISHING)
            finished = await self._finish(final)
        reason = self.stop.reason
        natural = ending is not None and ending.reason != EndReason.END_REASON_STOPPED and not self.stop.discard
        if reason is not None and not (natural and finished) and reason not in self._failures:
            self._failures.insert(0, reason)
        away = self._segment is None or self._outcome.stream_state == StreamState.STREAM_STATE_RECONNECTING
        if away and self._last_notice is not None:
            # What the receiver last said is the likely cause of its not being there.
            notice = from_detail(self._last_notice)
            if all(notice.reason != failure.reason for failure in self._failures):
                self._failures.append(notice)

    def _close(self, ending: End | None) -> End:
        """Returns the end of the recording; what the stream owes up to the window's end becomes a gap."""
        outcome, final = self._outcome, End(reason=EndReason.END_REASON_FAILED)
        if ending is not None:
            final.CopyFrom(ending)
        elif self._cancelled:
            final.reason = EndReason.END_REASON_STOPPED
        cut_short = ending is None or ending.reason == EndReason.END_REASON_STOPPED
        cause = next(iter(self._failures), self.stop.reason)
        if cut_short and not self._cancelled:
            self._append_tail_gap(cause)
        if final.reason == EndReason.END_REASON_FAILED and cause is not None and not final.HasField("error"):
            final.error.CopyFrom(cause.to_detail())
        if final.HasField("time_solution"):
            outcome.time_solution.CopyFrom(final.time_solution)
        elif outcome.HasField("time_solution"):
            final.time_solution.CopyFrom(outcome.time_solution)
        outcome.attempt_count = self._link.attempt_count
        outcome.expected_sample_count = outcome.received_sample_count + outcome.lost_sample_count
        final.end_sample_index = outcome.expected_sample_count
        final.received_sample_count = outcome.received_sample_count
        final.lost_sample_count = outcome.lost_sample_count
        final.attempt_count = outcome.attempt_count
        return final

    def _append_tail_gap(self, cause: HeimdallError | None) -> None:
        if self._segment is None or not self._window.done():
            return
        window = self._window.result()
        begin_unix_ns = window.start_unix_ns if self._next_unix_ns is None else self._next_unix_ns
        lost = math.ceil((window.end_unix_ns - begin_unix_ns) * self._sample_rate_hz / NS)
        if lost < 1:
            return
        broken = cause is not None and is_transport_failure(cause)
        reason = GapReason.GAP_REASON_SERVICE_RESTART if broken else GapReason.GAP_REASON_EARLY_END
        gap = Gap(first_lost_index=self._writer.end_index, lost_sample_count=lost, reason=reason)
        if cause is not None:
            gap.cause.CopyFrom(cause.to_detail())
        self._take_gap(gap)
        event = IqEvent(gap=gap)
        self._measurer.offer(event)
        self._writer.put(event)

    async def _finish(self, final: End) -> bool:
        """Finishes recording and measurement side by side; returns whether both were done in time."""
        discard = self.stop.discard and self._cancelled
        finish = WriteRecordingRequest.Finish
        disposition = finish.DISPOSITION_DISCARD if discard else finish.DISPOSITION_KEEP
        recorded = asyncio.create_task(self._writer.finish(disposition, final))
        measured = asyncio.create_task(self._measurer.finish(final))
        try:
            await self.stop.let_finish(recorded, measured)
        finally:
            await end(recorded, measured)
        self._take_recording(recorded)
        self._take_measurement(measured)
        return not recorded.cancelled() and not measured.cancelled()

    def _take_recording(self, recorded: asyncio.Task[None]) -> None:
        outcome = self._outcome
        outcome.stored_sample_count = self._writer.stored_sample_count
        if recorded.cancelled():
            self._name_trouble(self._writer.trouble)
            return
        if isinstance(error := recorded.exception(), HeimdallError):
            self._failures.append(error)
        elif error is not None:
            raise error
        elif self._writer.recording is not None:
            outcome.recording.CopyFrom(self._writer.recording)
            discarded = outcome.recording.state == Recording.STATE_DISCARDED
            outcome.stored_sample_count = 0 if discarded else outcome.recording.sample_count

    def _name_trouble(self, trouble: HeimdallError | None) -> None:
        """Enters what a peer last failed with, which is why it was still being tried when the time was up."""
        if trouble is not None:
            self._failures.append(trouble)

    def _take_measurement(self, measured: asyncio.Task[Measurement]) -> None:
        if measured.cancelled():
            text = "the measurement was not finished in time"
            self._measurement_failure = HeimdallError(ErrorReason.ERROR_REASON_MEASUREMENT_MISSING, text)
        elif isinstance(error := measured.exception(), HeimdallError):
            self._measurement_failure = error
        elif error is not None:
            raise error
        else:
            self._outcome.measurement.CopyFrom(measured.result())

    def _conclude(self) -> None:
        outcome = self._outcome
        outcome.stream_state = StreamState.STREAM_STATE_UNSPECIFIED
        conclude_receiver(
            outcome,
            failures=self._failures,
            gaps=self._gaps,
            measurement_failure=self._measurement_failure,
            cancelled=self._cancelled and self.stop.reason in self._failures,
        )
        _log.info(
            "receiver_ended",
            acquisition_id=self._order.acquisition_id,
            receiver_id=outcome.receiver_id,
            state=ReceiverOutcome.State.Name(outcome.state).removeprefix("STATE_"),
            received=outcome.received_sample_count,
            lost=outcome.lost_sample_count,
            stored=outcome.stored_sample_count,
            problems=",".join(reason_name(problem.reason) for problem in outcome.problems),
        )
        self._on_state()

    @property
    def _cancelled(self) -> bool:
        """Whether somebody wished this end, unlike a failure or a deadline."""
        reason = self.stop.reason
        return reason is not None and reason.reason in _WISHED

    def _stored_more(self) -> None:
        self._outcome.stored_sample_count = self._writer.stored_sample_count
        self._on_progress()

    def _writer_failed(self, error: HeimdallError) -> None:
        self.stop.set(error, finish_by_s=asyncio.get_running_loop().time() + _CLOSE_S)

    def _set_state(self, state: ReceiverOutcome.State.ValueType) -> None:
        self._outcome.state = state
        self._on_state()
