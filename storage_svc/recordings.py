"""Who writes which recording: opening, taking over, abandoning, finishing."""

from __future__ import annotations

import asyncio
import contextvars
import time
from weakref import WeakValueDictionary

import structlog

from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import End, EndReason, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import BadFieldError, FieldViolation, HeimdallError, InvalidFieldsError, from_detail
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc.archive import Archive, is_given_up
from storage_svc.ids import RecordingKey
from storage_svc.measurements import MeasurementStore
from storage_svc.spool import Spool, SpooledRecording, SpoolUnreadableError, Verdict
from storage_svc.spool.room import disk_failure

_log = structlog.get_logger(__name__)

_RETRY_INTERVAL_S = 5.0
"""Wait before a recording whose disk failed is finished again."""


class RecordingWriter:
    """One stream's hold on a recording; lost when another stream takes the recording over."""

    def __init__(self, key: RecordingKey, spooled: SpooledRecording | None, finished: Recording | None) -> None:
        """Holds a recording that is being written, or looks at one that is finished."""
        self.key = key
        self.spooled = spooled
        self.finished = finished
        self.changed = asyncio.Event()
        """Set when `failure` or `durable_index` may have changed."""
        self._superseded_by: int | None = None

    @property
    def durable_index(self) -> int:
        """First index that is not durable yet, gaps included."""
        if self.finished is not None:
            return self.finished.sample_count + self.finished.lost_sample_count
        return 0 if self.spooled is None else self.spooled.durable.next_index

    @property
    def failure(self) -> HeimdallError | None:
        """Why this stream can not go on; None if it can."""
        if self._superseded_by is not None:
            return superseded(self.key, self._superseded_by)
        return None if self.spooled is None else self.spooled.failure

    def supersede(self, writer_epoch: int) -> None:
        """Takes the recording away, for a writer of this epoch."""
        self._superseded_by = writer_epoch
        self.changed.set()

    async def accept(self, event: IqEvent) -> None:
        """Takes in one event.

        Raises:
            HeimdallError: If it can not come next, the recording is finished or taken over, or the disk failed.
        """
        if self.failure is not None:
            raise self.failure
        if self.finished is not None or self.spooled is None:
            if event.WhichOneof("event") in ("heartbeat", "status"):
                # A writer that did not hear of the finish repeats a last status: no acknowledgement vouched for it.
                return
            raise _finished(self.key, self.durable_index)
        await self.spooled.accept(event)

    async def commit(self) -> None:
        """Makes durable what was accepted.

        Raises:
            HeimdallError: If the recording was taken over or the disk failed.
        """
        if self.failure is not None:
            raise self.failure
        if self.spooled is not None:
            await self.spooled.commit()


class Recordings:
    """Every recording that is not settled yet, and the rules about its writers."""

    def __init__(self, spool: Spool, archive: Archive, rows: MeasurementStore, resume_window_s: float) -> None:
        """Takes the stores; `start`, then `finish_abandoned` have to run.

        Args:
            spool: Where recordings are written.
            archive: Where they go when finished.
            rows: Where their rows are.
            resume_window_s: How long an abandoned recording waits for its writer.
        """
        self._spool = spool
        self._archive = archive
        self._rows = rows
        self._resume_window_s = resume_window_s
        self._writers: dict[RecordingKey, RecordingWriter] = {}
        self._deadlines_s: dict[RecordingKey, float] = {}
        self._deadlines_changed = asyncio.Event()
        self._locks: WeakValueDictionary[RecordingKey, asyncio.Lock] = WeakValueDictionary()
        self._finishes: set[asyncio.Task[Recording]] = set()

    async def start(self) -> None:
        """Recovers what is on disk: finished recordings are settled, the others wait for their writers.

        Raises:
            OSError: If the spool can not be read or written.
        """
        found = await self._spool.start()
        for recording in sorted(found.finished, key=lambda recording: recording.finish_time.ToNanoseconds()):
            self._archive.add(recording)
        for key, why in found.unreadable.items():
            await self._give_up(key, _unreadable(key, why))
        for spooled in self._spool.all_open():
            self._abandon(spooled.key, self._resume_window_s)
            _log.info(
                "recording_recovered",
                task_id=spooled.key.task_id,
                receiver_id=spooled.key.receiver_id,
                next_sample_index=spooled.durable.next_index,
            )

    async def open(self, opening: WriteRecordingRequest.Open) -> RecordingWriter:
        """Makes a recording, or resumes it where its last writer got to.

        Args:
            opening: The valid opening message.

        Raises:
            HeimdallError: WRITER_SUPERSEDED for a lower epoch than seen before, INVALID_FIELD for another window,
                SPOOL_FULL, BACKEND_UNAVAILABLE, CHECKSUM_MISMATCH if what was written before can not be read back,
                RECORDING_FINISHED if it is kept aside since other samples are stored.
        """
        key = RecordingKey(opening.acquisition_id, opening.receiver.receiver_id)
        async with self._lock(key):
            spooled, finished = await self._find(key)
            if spooled is None and finished is None:
                finished = await self._find_stored(key, resumed=opening.resumed)
            if finished is not None:
                if is_given_up(finished):
                    raise from_detail(finished.incomplete_cause)
                return RecordingWriter(key, None, finished)
            if spooled is None:
                spooled = await self._spool.create(key, opening)
                # Until somebody holds it: the caller may go away meanwhile.
                self._abandon(key, self._resume_window_s)
                await self._put_row(spooled.snapshot())
            else:
                await self._take_over(spooled, opening)
            writer = RecordingWriter(key, spooled, None)
            spooled.watcher = writer.changed
            self._writers[key] = writer
            self._deadlines_s.pop(key, None)
            return writer

    async def finish(self, writer: RecordingWriter, request: WriteRecordingRequest.Finish) -> Recording:
        """Finishes the recording for its writer, and goes on with it if the writer does not wait for the answer.

        A repeat, with the same end, returns the finished recording.

        Raises:
            HeimdallError: INDEX_MISMATCH if the end is not what was written, RECORDING_FINISHED if it was finished
                otherwise, WRITER_SUPERSEDED, or the disk's failure.
        """
        job = asyncio.create_task(self._finish_for(writer, request), context=contextvars.Context())
        self._finishes.add(job)
        job.add_done_callback(self._finish_done)
        return await asyncio.shield(job)

    async def close(self) -> None:
        """Waits for the recordings that are being finished."""
        await asyncio.gather(*self._finishes, return_exceptions=True)

    async def _finish_for(self, writer: RecordingWriter, request: WriteRecordingRequest.Finish) -> Recording:
        discard = request.disposition == WriteRecordingRequest.Finish.Disposition.DISPOSITION_DISCARD
        async with self._lock(writer.key):
            if writer.failure is not None:
                raise writer.failure
            if writer.finished is not None or writer.spooled is None:
                return _finished_as_asked(writer, request, discard)
            spooled = writer.spooled
            end = request.end if request.HasField("end") else None
            if end is not None and not discard:
                _check_end(spooled, end)
            verdict = Verdict(end, None if end is None else _cause(end), discard)
            return await self._finish(spooled, verdict)

    async def release(self, writer: RecordingWriter) -> None:
        """Ends a stream's hold; an unfinished recording waits for its next writer from now on."""
        if self._writers.get(writer.key) is not writer or writer.spooled is None:
            return
        del self._writers[writer.key]
        writer.spooled.watcher = None
        self._abandon(writer.key, self._resume_window_s)
        try:
            await writer.spooled.commit()
        except HeimdallError as error:
            if writer.spooled.failure is None:
                # It was finished meanwhile.
                return
            _log.warning(
                "recording_not_committed",
                task_id=writer.key.task_id,
                receiver_id=writer.key.receiver_id,
                message=error.message,
            )

    def snapshot(self, key: RecordingKey) -> Recording | None:
        """Returns a recording that is being written or waits to be settled, as it is now."""
        spooled = self._spool.get(key)
        return self._archive.waiting(key) if spooled is None else spooled.snapshot()

    async def finish_abandoned(self) -> None:
        """Finishes recordings whose writers did not come back in time, for ever."""
        while True:
            self._deadlines_changed.clear()
            now_s = time.monotonic()
            for key in [key for key, deadline_s in self._deadlines_s.items() if deadline_s <= now_s]:
                await self._finish_lost(key)
            wait_s = min(self._deadlines_s.values(), default=float("inf")) - time.monotonic()
            try:
                async with asyncio.timeout(max(wait_s, 0) if self._deadlines_s else None):
                    await self._deadlines_changed.wait()
            except TimeoutError:
                continue

    async def _take_over(self, spooled: SpooledRecording, opening: WriteRecordingRequest.Open) -> None:
        try:
            _check_resumable(spooled, opening)
            previous = self._writers.pop(spooled.key, None)
            if previous is not None:
                previous.supersede(opening.writer_epoch)
            await spooled.take_over(opening)
        finally:
            if spooled.key not in self._writers:
                self._abandon(spooled.key, self._resume_window_s)

    async def _finish_lost(self, key: RecordingKey) -> None:
        async with self._lock(key):
            if key not in self._deadlines_s:
                return
            del self._deadlines_s[key]
            try:
                spooled, _ = await self._find(key)
                if spooled is not None:
                    await self._finish(spooled, Verdict(None, _writer_lost(self._resume_window_s).to_detail()))
            except HeimdallError as error:
                _log.warning(
                    "recording_not_finished", task_id=key.task_id, receiver_id=key.receiver_id, message=error.message
                )
                self._abandon(key, _RETRY_INTERVAL_S)

    async def _finish(self, spooled: SpooledRecording, verdict: Verdict) -> Recording:
        recording = await spooled.finish(verdict)
        self._spool.forget(spooled.key)
        self._writers.pop(spooled.key, None)
        self._deadlines_s.pop(spooled.key, None)
        return await self._archive.settle(recording)

    def _finish_done(self, job: asyncio.Task[Recording]) -> None:
        self._finishes.discard(job)
        # A writer that went away reads no failure; the recording then waits for its next writer, or for its deadline.
        if not job.cancelled() and not isinstance(error := job.exception(), HeimdallError | None):
            _log.error("recording_finish_crashed", exc_info=error)

    async def _find(self, key: RecordingKey) -> tuple[SpooledRecording | None, Recording | None]:
        """Returns the recording in the spool: as it is written, or as it was finished. The caller holds its lock."""
        spooled = self._spool.get(key)
        if spooled is not None and spooled.failure is None:
            return spooled, None
        waiting = self._archive.waiting(key)
        if waiting is not None:
            return None, waiting
        if spooled is not None:
            # Its disk failed. What is durable is what recovery finds, for this writer, a later one, or none; until the
            # disk allows that, it stays here to be read.
            self._abandon(key, self._resume_window_s)
            previous = self._writers.pop(key, None)
            if previous is not None:
                previous.changed.set()
        try:
            found = await self._spool.load(key)
        except SpoolUnreadableError as error:
            self._spool.forget(key)
            failure = _unreadable(key, str(error))
            await self._give_up(key, failure)
            raise failure from error
        except OSError as error:
            raise disk_failure(error, "read the spool") from error
        if isinstance(found, SpooledRecording):
            return found, None
        self._spool.forget(key)
        if found is not None:
            self._archive.add(found)
        return None, found

    async def _find_stored(self, key: RecordingKey, *, resumed: bool) -> Recording | None:
        """Returns a recording that is finished and gone from the spool; None if there is none, or nobody can tell.

        Args:
            key: The recording.
            resumed: Whether a writer had opened it before, so that there is one.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE if the rows can not be asked and there is one.
        """
        try:
            row = await self._rows.get_recording(key)
        except HeimdallError:
            # Samples are accepted while the rows are away, but not in place of a recording that was there before.
            if resumed or await self._archive.holds(key):
                raise
            return None
        is_finished = row is not None and row.state != Recording.State.STATE_WRITING
        return row if is_finished else None

    async def _give_up(self, key: RecordingKey, cause: HeimdallError) -> None:
        """Says in the row of a recording, if it has one, that it holds nothing and why."""
        self._deadlines_s.pop(key, None)
        try:
            row = await self._rows.get_recording(key)
            if row is not None and row.state == Recording.State.STATE_WRITING:
                row.state = Recording.State.STATE_STORED
                row.incomplete_cause.CopyFrom(cause.to_detail())
                row.finish_time.GetCurrentTime()
                await self._rows.put_recording(row)
        except HeimdallError as error:
            _log.warning(
                "recording_row_missing", task_id=key.task_id, receiver_id=key.receiver_id, message=error.message
            )

    async def _put_row(self, recording: Recording) -> None:
        """Makes the recording visible in lists; samples are accepted without it."""
        try:
            await self._rows.put_recording(recording)
        except HeimdallError as error:
            _log.warning(
                "recording_row_missing",
                task_id=recording.acquisition_id,
                receiver_id=recording.receiver_id,
                message=error.message,
            )

    def _abandon(self, key: RecordingKey, wait_s: float) -> None:
        self._deadlines_s[key] = time.monotonic() + wait_s
        self._deadlines_changed.set()

    def _lock(self, key: RecordingKey) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


def superseded(key: RecordingKey, seen_epoch: int) -> HeimdallError:
    """Returns the failure of a writer after a newer one came."""
    return HeimdallError(
        ErrorReason.ERROR_REASON_WRITER_SUPERSEDED,
        f"another writer, of epoch {seen_epoch}, has taken over the recording of {key.receiver_id} in {key.task_id}",
        metadata={"writer_epoch": seen_epoch},
    )


def _check_resumable(spooled: SpooledRecording, opening: WriteRecordingRequest.Open) -> None:
    if opening.writer_epoch < spooled.writer_epoch:
        raise superseded(spooled.key, spooled.writer_epoch)
    bad = []
    for name in ("window_start_unix_ns", "window_end_unix_ns"):
        first, now = getattr(spooled.opening, name), getattr(opening, name)
        if first != now:
            bad.append(FieldViolation(f"open.{name}", f"is {now}, must be {first} as when the recording was opened"))
    if bad:
        raise InvalidFieldsError(bad)


def _check_end(spooled: SpooledRecording, end: End) -> None:
    if end.end_sample_index != spooled.accepted_index:
        raise BadFieldError(
            ErrorReason.ERROR_REASON_INDEX_MISMATCH,
            "finish.end.end_sample_index",
            f"is {end.end_sample_index}, must be {spooled.accepted_index}, where the last event ended",
            index=end.end_sample_index,
            next_sample_index=spooled.accepted_index,
        )
    if end.HasField("time_solution"):
        spooled.check_time_solution(end.time_solution, "finish.end.time_solution")


def _cause(end: End) -> ErrorDetail | None:
    """Returns why a recording with this end is incomplete; None if it is complete."""
    if end.reason == EndReason.END_REASON_WINDOW_COMPLETE:
        return None
    if end.reason == EndReason.END_REASON_STOPPED:
        return HeimdallError(
            ErrorReason.ERROR_REASON_CANCELLED, "the stream was stopped before the end of the window"
        ).to_detail()
    if end.HasField("error"):
        return end.error
    return HeimdallError(
        ErrorReason.ERROR_REASON_SAMPLES_LOST, "the stream from the receiver failed and did not say why"
    ).to_detail()


def _finished_as_asked(writer: RecordingWriter, request: WriteRecordingRequest.Finish, discard: bool) -> Recording:
    recording = writer.finished
    if recording is None:
        raise _finished(writer.key, writer.durable_index)
    was_discarded = recording.state == Recording.State.STATE_DISCARDED
    same_end = was_discarded or request.end.end_sample_index == writer.durable_index
    if discard != was_discarded or not same_end:
        raise _finished(writer.key, writer.durable_index)
    return recording


def _finished(key: RecordingKey, next_index: int) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_RECORDING_FINISHED,
        f"the recording of {key.receiver_id} in {key.task_id} is finished and takes no more samples",
        metadata={"next_sample_index": next_index},
    )


def _unreadable(key: RecordingKey, why: str) -> HeimdallError:
    """Returns the failure of a recording of which nothing can be read back."""
    return HeimdallError(
        ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH,
        f"what was received of {key.receiver_id} in {key.task_id} can not be read back: {why}",
        metadata={"acquisition_id": key.task_id, "receiver_id": key.receiver_id},
    )


def _writer_lost(resume_window_s: float) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_WRITER_LOST,
        f"the writer went away and did not come back within {resume_window_s:g} s",
        metadata={"resume_window_s": resume_window_s},
    )
