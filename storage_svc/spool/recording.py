"""One recording in the spool while it is being written: what was accepted, what is durable, who writes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import End, EndReason, IqEvent, TimeSolution
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc.ids import RecordingKey
from storage_svc.spool.files import AcceptedEvent, SpoolFiles
from storage_svc.spool.progress import Progress
from storage_svc.spool.room import SpoolRoom, disk_failure

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
        self._io = asyncio.Lock()
        self._jobs: set[asyncio.Task[Any]] = set()
        self._closed = False

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

    def snapshot(self) -> Recording:
        """Returns the recording as it is on disk now, in state WRITING."""
        return self._describe(self.durable, Recording.State.STATE_WRITING)

    async def _commit(self) -> None:
        async with self._io:
            await self._write_pending()

    async def _take_over(self, opening: WriteRecordingRequest.Open) -> None:
        async with self._io:
            await self._write_pending()
            await self._run("record the writer", self._files.write_open, time.time_ns(), opening)
            self.writer_epoch = opening.writer_epoch

    async def _finish(self, verdict: Verdict) -> Recording:
        async with self._io:
            await self._write_pending()
            recording = self._describe(
                self.durable,
                Recording.State.STATE_DISCARDED if verdict.discard else Recording.State.STATE_SPOOLED,
            )
            recording.complete = verdict.cause is None
            recording.finish_time.GetCurrentTime()
            if verdict.cause is not None:
                recording.incomplete_cause.CopyFrom(verdict.cause)
            if verdict.discard:
                recording.data_size_bytes = 0
            elif recording.sample_count:
                recording.data_object_key = self.key.data_object_key
                recording.meta_object_key = self.key.meta_object_key
                recording.data_sha512 = self._files.sha512.hexdigest()
            end = verdict.end or self._lost_end(recording, verdict)
            if end.HasField("time_solution"):
                self.durable.time_solution = end.time_solution
                recording.time_solution.CopyFrom(end.time_solution)
                first_unix_ns, last_unix_ns = self.durable.sample_span_unix_ns
                recording.first_sample_unix_ns, recording.last_sample_unix_ns = first_unix_ns, last_unix_ns
            await self._run("close the journal", self._files.write_finish, recording, end)
            self._close_files()
            return recording

    async def _close(self) -> None:
        async with self._io:
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
        self._raise_failure()
        if not self._pending:
            return
        batch, self._pending, self._pending_bytes = self._pending, [], 0
        reached = self._head.copy()
        await self._run("write the samples", self._files.append, batch)
        self.durable = reached
        self._notify()

    async def _run(self, what: str, work: Callable[..., None], *arguments: object) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        except OSError as error:
            # What is on disk now is known only to recovery, which reads it back before the next writer.
            self.failure = disk_failure(error, what)
            self._close_files()
            self._notify()
            raise self.failure from error

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

    def _lost_end(self, recording: Recording, verdict: Verdict) -> End:
        """Returns the end of a stream whose writer did not tell it."""
        return End(
            end_sample_index=self.durable.next_index,
            reason=EndReason.END_REASON_FAILED,
            error=verdict.cause,
            time_solution=self.durable.time_solution,
            received_sample_count=recording.sample_count,
            lost_sample_count=recording.lost_sample_count,
        )
