"""One recording in the spool while it is being written: what was accepted, what is durable, who writes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import End, EndReason, IqEvent, TimeSolution
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc.ids import RecordingKey
from storage_svc.spool.files import AcceptedEvent, SpoolFiles
from storage_svc.spool.progress import Progress
from storage_svc.spool.room import SpoolRoom, disk_failure

P = ParamSpec("P")
T = TypeVar("T")

_RECORD_OVERHEAD_BYTES = 16
"""Room that the framing of one event takes in the journal, rounded up."""


@dataclass(frozen=True)
class Verdict:
    """How a recording is finished."""

    end: End | None
    """How the stream ended, as the writer told it; None if the writer was lost."""
    cause: ErrorDetail | None
    """Why the recording is incomplete; None if it is complete."""
    discard: bool = False
    """Whether its samples are thrown away."""


@dataclass(frozen=True)
class Batch:
    """Events on their way to the disk."""

    files: SpoolFiles
    """Where they go."""
    events: list[AcceptedEvent]
    """The events."""
    reached: Progress
    """How far the recording is once they are durable."""


def write_batches(batches: Sequence[Batch]) -> list[OSError | None]:
    """Makes some batches durable, one after the other; runs in a thread.

    Returns:
        For each batch why it failed; None if it is durable.
    """
    outcomes: list[OSError | None] = []
    for batch in batches:
        try:
            batch.files.append(batch.events)
            outcomes.append(None)
        except OSError as error:
            outcomes.append(error)
    return outcomes


class SpooledRecording:
    """Accepts the events of a recording and makes them durable. Lives in the event loop; disk work runs in threads."""

    def __init__(
        self,
        key: RecordingKey,
        opening: WriteRecordingRequest.Open,
        open_unix_ns: int,
        files: SpoolFiles,
        *,
        progress: Progress,
        writer_epoch: int,
        room: SpoolRoom,
        executor: Executor,
        sync_bytes: int,
        on_dirty: Callable[[SpooledRecording], None],
    ) -> None:
        """Takes over the files of a new or recovered recording."""
        self.key = key
        self.opening = opening
        self.writer_epoch = writer_epoch
        self.durable = progress.copy()
        self.watcher: asyncio.Event | None = None
        """Set when the durable index moved or the disk failed."""
        self.lock = asyncio.Lock()
        """Held by whoever works on the files."""
        self.failure: HeimdallError | None = None
        """Why the files can not be used any more; they are recovered before the next writer."""
        self._open_unix_ns = open_unix_ns
        self._files = files
        self._head = progress
        self._pending: list[AcceptedEvent] = []
        self._pending_bytes = 0
        self._room = room
        self._executor = executor
        self._sync_bytes = sync_bytes
        self._on_dirty = on_dirty
        self._jobs: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether the files take nothing more: finished, failed or stopping."""
        return self._closed

    @property
    def accepted_index(self) -> int:
        """Index after the last accepted block or gap."""
        return self._head.next_index

    async def accept(self, event: IqEvent) -> None:
        """Takes in an event; waits for the disk when too much is waiting to be made durable.

        Args:
            event: The event; its samples are moved out of it.

        Raises:
            HeimdallError: If it can not come next, if there is no room, or if the disk failed.
        """
        self._raise_failure()
        samples = b""
        kind = event.WhichOneof("event")
        if kind == "heartbeat":
            return
        if kind == "block":
            samples = event.block.samples
            event.block.ClearField("samples")
        self._head.check(event, len(samples), self.key.receiver_id)
        if kind == "segment" and self._head.repeats_segment(event.segment):
            return
        # A parsed message holds on to all bytes it came from, samples included; its copy does not.
        kept = IqEvent()
        kept.CopyFrom(event)
        size_bytes = len(samples) + kept.ByteSize() + _RECORD_OVERHEAD_BYTES
        self._room.take(self.key, size_bytes)
        self._head.apply(kept)
        self._pending.append(AcceptedEvent(kept, samples))
        self._pending_bytes += size_bytes
        self._on_dirty(self)
        if self._pending_bytes >= self._sync_bytes:
            await self.commit()

    def check_time_solution(self, solution: TimeSolution, field: str) -> None:
        """Refuses a time solution from which no time can be computed; arguments as of Progress.

        Raises:
            InvalidFieldsError: If a part of it can not be.
        """
        self._head.check_time_solution(solution, field)

    async def commit(self) -> None:
        """Makes durable what was accepted so far.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE if the disk failed.
        """
        await self._finish_even_if_cancelled(self._commit())

    async def take_over(self, opening: WriteRecordingRequest.Open) -> None:
        """Records a further writer, after making durable what the one before it sent.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE if the disk failed.
        """
        await self._finish_even_if_cancelled(self._take_over(opening))

    async def finish(self, verdict: Verdict) -> Recording:
        """Makes everything durable and closes the journal.

        Returns:
            The recording, SPOOLED or DISCARDED.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE if the disk failed.
        """
        return await self._finish_even_if_cancelled(self._finish(verdict))

    async def close(self) -> None:
        """Makes durable what was accepted, if the disk allows, and closes the files."""
        await self._finish_even_if_cancelled(self._close())

    def take_pending(self) -> Batch | None:
        """Returns what waits to be written; None if nothing does. The caller holds the lock and calls `written`.

        Raises:
            HeimdallError: Why the files can not be written any more.
        """
        self._raise_failure()
        if not self._pending:
            return None
        batch = Batch(self._files, self._pending, self._head.copy())
        self._pending, self._pending_bytes = [], 0
        return batch

    def written(self, batch: Batch, error: OSError | None) -> HeimdallError | None:
        """Takes note of what became of a batch; returns what a failure means to the writer."""
        if error is not None:
            return self._fail(error)
        self.durable = batch.reached
        self._notify()
        return None

    def snapshot(self) -> Recording:
        """Returns the recording as it is on disk now, in state WRITING."""
        return self._describe(self.durable, Recording.State.STATE_WRITING)

    async def _commit(self) -> None:
        async with self.lock:
            await self._write_pending()

    async def _take_over(self, opening: WriteRecordingRequest.Open) -> None:
        async with self.lock:
            await self._write_pending()
            try:
                await self._run(self._files.write_open, time.time_ns(), opening)
            except OSError as error:
                raise self._fail(error) from error
            self.writer_epoch = opening.writer_epoch

    async def _finish(self, verdict: Verdict) -> Recording:
        async with self.lock:
            batch = self.take_pending()
            events = [] if batch is None else batch.events
            conclude = partial(self._conclude, self._head.copy(), verdict)
            try:
                recording = await self._run(self._files.finish, events, conclude)
            except OSError as error:
                raise self._fail(error) from error
            self._close_files()
            self.durable = self._head
            self._notify()
            return recording

    async def _close(self) -> None:
        async with self.lock:
            if not self._closed and self.failure is None:
                try:
                    await self._write_pending()
                finally:
                    self._close_files()
                    self.failure = HeimdallError(
                        ErrorReason.ERROR_REASON_DRAINING, "the storage service is stopping; resume when it is back"
                    )

    async def _write_pending(self) -> None:
        """Writes what is pending; the caller holds the lock."""
        batch = self.take_pending()
        if batch is not None:
            failure = self.written(batch, (await self._run(write_batches, [batch]))[0])
            if failure is not None:
                raise failure

    async def _run(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *arguments, **options))

    def _fail(self, error: OSError) -> HeimdallError:
        """Gives the files up: what is on disk now is known only to recovery, which runs before the next writer."""
        self._room.failed(error)
        self.failure = disk_failure(error, "write the recording")
        self._close_files()
        self._notify()
        return self.failure

    async def _finish_even_if_cancelled(self, work: Coroutine[Any, Any, T]) -> T:
        """Lets work on the files run to its end in its own task: a thread can not be stopped half-way."""
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._job_done)
        return await asyncio.shield(job)

    def _job_done(self, job: asyncio.Task[Any]) -> None:
        self._jobs.discard(job)
        # A cancelled caller does not read the outcome; a failure of the disk is kept in self.failure.
        if not job.cancelled():
            job.exception()

    def _notify(self) -> None:
        if self.watcher is not None:
            self.watcher.set()

    def _close_files(self) -> None:
        if not self._closed:
            self._closed = True
            self._files.close()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_RECORDING_FINISHED,
                f"the recording of {self.key.receiver_id} in {self.key.task_id} is finished and takes no more samples",
                metadata={"next_sample_index": self.durable.next_index},
            )

    def _conclude(self, progress: Progress, verdict: Verdict, sha512: str) -> tuple[Recording, End]:
        """Returns the finished recording and its end; runs in a thread, on a copy of the progress."""
        end = End()
        if verdict.end is not None:
            end.CopyFrom(verdict.end)
        else:
            end.reason = EndReason.END_REASON_FAILED
            end.end_sample_index = progress.next_index
            end.received_sample_count = progress.sample_count
            end.lost_sample_count = progress.lost_sample_count
            if verdict.cause is not None:
                end.error.CopyFrom(verdict.cause)
            if progress.time_solution is not None:
                end.time_solution.CopyFrom(progress.time_solution)
        if end.HasField("time_solution"):
            progress.time_solution = end.time_solution
        states = Recording.State
        recording = self._describe(progress, states.STATE_DISCARDED if verdict.discard else states.STATE_SPOOLED)
        recording.complete = verdict.cause is None
        # Never before its start, even if the clock was set back.
        recording.finish_time.FromNanoseconds(max(time.time_ns(), self._open_unix_ns))
        if verdict.cause is not None:
            recording.incomplete_cause.CopyFrom(verdict.cause)
        if verdict.discard:
            recording.data_size_bytes = 0
        elif recording.sample_count:
            recording.data_object_key = self.key.data_object_key
            recording.meta_object_key = self.key.meta_object_key
            recording.data_sha512 = sha512
        return recording, end

    def _describe(self, progress: Progress, state: Recording.State.ValueType) -> Recording:
        first_unix_ns, last_unix_ns = progress.sample_span_unix_ns
        recording = Recording(
            acquisition_id=self.key.task_id,
            receiver_id=self.key.receiver_id,
            state=state,
            segment=progress.opening_segment,
            window_start_unix_ns=self.opening.window_start_unix_ns,
            window_end_unix_ns=self.opening.window_end_unix_ns,
            sample_count=progress.sample_count,
            lost_sample_count=progress.lost_sample_count,
            gap_count=progress.gap_count,
            first_sample_unix_ns=first_unix_ns,
            last_sample_unix_ns=last_unix_ns,
            time_solution=progress.time_solution,
            data_size_bytes=progress.data_size_bytes,
        )
        recording.create_time.FromNanoseconds(self._open_unix_ns)
        return recording
