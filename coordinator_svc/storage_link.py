"""Writes one recording to storage, through any number of calls: nothing that was acknowledged is sent twice."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog

from coordinator_svc.backoff import Backoff
from coordinator_svc.outbox import Outbox
from coordinator_svc.tasks import end, run_together
from coordinator_svc.window import Window
from heimdall.clock import Clock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import End, EndReason, Gap, GapReason, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import MeshSettings
from heimdall.runtime.streams import ClientStream, heartbeat_now
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest, WriteRecordingResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

_log = structlog.get_logger(__name__)

_Stream = ClientStream[WriteRecordingRequest, WriteRecordingResponse]


class RecordingWriter:
    """Sends events to storage in the background and keeps them until they are durable."""

    def __init__(
        self,
        stub: StorageServiceAsyncStub,
        opening: WriteRecordingRequest.Open,
        settings: MeshSettings,
        clock: Clock,
        *,
        max_unacknowledged_bytes: int,
        on_progress: Callable[[], None],
        on_failure: Callable[[HeimdallError], None],
    ) -> None:
        """Prepares a writer; sends nothing before start.

        Args:
            stub: The storage service.
            opening: Names the recording; the window, the epoch and whether it is resumed are filled in later.
            settings: Heartbeats and idle times.
            clock: Host clock, of which the epochs are made.
            max_unacknowledged_bytes: Size of unacknowledged events from which there is no room.
            on_progress: Called when more samples became durable.
            on_failure: Called once if the recording can not be written any more.
        """
        self._stub = stub
        self._opening = opening
        self._settings = settings
        self._clock = clock
        self._outbox = Outbox(max_unacknowledged_bytes)
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._finish: WriteRecordingRequest.Finish | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: HeimdallError | None = None
        self._backoff = Backoff()
        self.recording: Recording | None = None
        """The finished recording, once storage confirmed it."""
        self.trouble: HeimdallError | None = None
        """Why the last call failed; None since storage acknowledged something."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await end(self._task)

    @property
    def started(self) -> bool:
        """Whether the recording was opened or is about to be."""
        return self._task is not None

    @property
    def end_index(self) -> int:
        """Index after the last event that was taken."""
        return self._outbox.end_index

    @property
    def stored_sample_count(self) -> int:
        """Number of samples that storage made durable."""
        return self._outbox.acknowledged_sample_count

    def start(self, window_start_unix_ns: int, window_end_unix_ns: int) -> None:
        """Opens the recording and begins to send."""
        self._opening.window_start_unix_ns = window_start_unix_ns
        self._opening.window_end_unix_ns = window_end_unix_ns
        self._task = asyncio.create_task(self._write())

    async def wait_for_room(self) -> None:
        """Waits while too much is unacknowledged."""
        await self._outbox.wait_for_room()

    def put(self, event: IqEvent) -> None:
        """Takes an event; whoever has many waits for room before. After a final failure events are dropped."""
        self._outbox.put(event)

    async def finish(self, disposition: WriteRecordingRequest.Finish.Disposition.ValueType, ending: End) -> None:
        """Ends the recording once everything was sent and waits until storage confirms it.

        Args:
            disposition: Whether the samples are kept.
            ending: How the stream of the receiver ended.

        Raises:
            HeimdallError: Why the recording could not be finished.
        """
        self._finish = WriteRecordingRequest.Finish(disposition=disposition, end=ending)
        self._outbox.close()
        if self._task is not None:
            await asyncio.shield(self._task)
        if self._failure is not None:
            raise self._failure

    async def _write(self) -> None:
        while self.recording is None:
            try:
                await self._call()
            except HeimdallError as error:
                self.trouble = error
                delay_s = self._backoff.delay_after_s(error)
                _log.warning(
                    "recording_stream_broken",
                    acquisition_id=self._opening.acquisition_id,
                    receiver_id=self._opening.receiver.receiver_id,
                    reason=error.reason_name,
                    message=error.message,
                    acknowledged_index=self._outbox.acknowledged_index,
                    retry_in_s=None if delay_s is None else round(delay_s, 3),
                )
                if delay_s is None:
                    self._failure = error
                    self._outbox.abandon()
                    self._on_failure(error)
                    return
                await asyncio.sleep(delay_s)

    async def _call(self) -> None:
        async with ClientStream(
            self._stub.WriteRecording(),
            peer="storage",
            make_heartbeat=_heartbeat,
            heartbeat_interval_s=self._settings.heartbeat_interval_s,
            idle_timeout_s=self._settings.idle_timeout_s,
        ) as stream:
            # As a rule the clock also grows over a restart of the coordinator.
            self._opening.writer_epoch = max(self._opening.writer_epoch + 1, self._clock.unix_ns())
            await stream.send(WriteRecordingRequest(open=self._opening))
            opened = await _opened(stream)
            # From here on something may be acknowledged, and is not held any more.
            self._opening.resumed = True
            self._outbox.rewind(opened.next_sample_index)
            await run_together(self._send(stream), self._receive(stream))

    async def _send(self, stream: _Stream) -> None:
        async for event in self._outbox.unsent():
            await stream.send(WriteRecordingRequest(event=event))
        if self._finish is not None:
            await stream.send(WriteRecordingRequest(finish=self._finish))
            await stream.close()

    async def _receive(self, stream: _Stream) -> None:
        while (answer := await stream.receive()) is not None:
            if answer.HasField("ack"):
                self._backoff.succeeded()
                self.trouble = None
                self._outbox.acknowledge(answer.ack.next_sample_index)
                self._on_progress()
            elif answer.HasField("recording"):
                self.recording = answer.recording
        if self.recording is None:
            raise _closed_early()


async def close_abandoned(
    stub: StorageServiceAsyncStub,
    opening: WriteRecordingRequest.Open,
    recording: Recording,
    cause: HeimdallError,
    settings: MeshSettings,
    writer_epoch: int,
) -> None:
    """Finishes a recording whose writer is gone, with what storage holds of it; the rest of its window becomes a gap.

    Args:
        stub: The storage service.
        opening: Names the recording.
        recording: The recording as storage has it.
        cause: Why it ends.
        settings: Heartbeats and idle times.
        writer_epoch: UTC in ns since 1970.

    Raises:
        HeimdallError: Why it could not be finished.
    """
    opening.writer_epoch = writer_epoch
    try:
        await _close_abandoned(stub, opening, recording, cause, settings)
    except HeimdallError as error:
        if error.reason != ErrorReason.ERROR_REASON_WRITER_SUPERSEDED or "writer_epoch" not in error.metadata:
            raise
        # The clock was set back since the writer that is gone opened the recording.
        opening.writer_epoch = int(str(error.metadata["writer_epoch"])) + 1
        await _close_abandoned(stub, opening, recording, cause, settings)


async def _close_abandoned(
    stub: StorageServiceAsyncStub,
    opening: WriteRecordingRequest.Open,
    recording: Recording,
    cause: HeimdallError,
    settings: MeshSettings,
) -> None:
    finish = WriteRecordingRequest.Finish(disposition=WriteRecordingRequest.Finish.DISPOSITION_KEEP)
    finish.end.reason = EndReason.END_REASON_FAILED
    finish.end.error.CopyFrom(cause.to_detail())
    if recording.HasField("time_solution"):
        finish.end.time_solution.CopyFrom(recording.time_solution)
    window = Window(recording.window_start_unix_ns, recording.window_end_unix_ns)
    async with ClientStream(
        stub.WriteRecording(),
        peer="storage",
        make_heartbeat=_heartbeat,
        heartbeat_interval_s=settings.heartbeat_interval_s,
        idle_timeout_s=settings.idle_timeout_s,
    ) as stream:
        await stream.send(WriteRecordingRequest(open=opening))
        held = (await _opened(stream)).next_sample_index
        rest = window.sample_count(recording.segment.sample_rate_hz) - held
        if recording.HasField("segment") and rest > 0:
            reason = GapReason.GAP_REASON_SERVICE_RESTART
            gap = Gap(first_lost_index=held, lost_sample_count=rest, reason=reason, cause=cause.to_detail())
            await stream.send(WriteRecordingRequest(event=IqEvent(gap=gap)))
            held += rest
        finish.end.end_sample_index = held
        finish.end.received_sample_count = recording.sample_count
        finish.end.lost_sample_count = held - recording.sample_count
        await stream.send(WriteRecordingRequest(finish=finish))
        await stream.close()
        finished = False
        while (answer := await stream.receive()) is not None:
            finished = finished or answer.HasField("recording")
    if not finished:
        raise _closed_early()


async def _opened(stream: _Stream) -> WriteRecordingResponse.Opened:
    while (answer := await stream.receive()) is not None:
        if answer.HasField("opened"):
            return answer.opened
    raise _closed_early()


def _closed_early() -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE, "storage closed the stream before the recording was finished"
    )


def _heartbeat() -> WriteRecordingRequest:
    return WriteRecordingRequest(event=IqEvent(heartbeat=heartbeat_now()))
