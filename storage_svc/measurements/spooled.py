"""A served database that may be away: rows are accepted meanwhile, wait on disk and follow in order."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import structlog

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import MeasurementAggregate, PutAcquisitionRequest, WriteMeasurementsRequest
from storage_svc.ids import RecordingKey
from storage_svc.measurements.base import Cursor, MeasurementStore, RowFilter, WriteCounts, revision_conflict
from storage_svc.measurements.row_spool import (
    DeadLetter,
    Entry,
    Kind,
    RowSpool,
    dead_letter,
    measurement_entries,
    parts_of,
)

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_AWAY: Final = ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
_WRITE_PATIENCE_S: Final = 5.0
"""How long a write waits for the database before its rows wait on disk: half of what callers give us."""
_LOOK_UP_PATIENCE_S: Final = 3.0
"""How long the look for one recording or acquisition may take: somebody who wants to write samples waits for it."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_LOG_INTERVAL_S: Final = 60.0
_RUN_ROWS: Final = 1000
"""Most rows that are fed to the database at once."""
_RUN_BYTES: Final = 4 * 1024 * 1024
"""Most bytes of several rows that are fed to it at once."""
_MOST_HALVINGS: Final = _RUN_ROWS.bit_length() - 1
"""How often these are halved until it is fed single rows."""
_RUNS_AT_A_SIZE: Final = 4
"""Runs that the database takes before they are doubled: each that is too large again costs a statement's timeout."""


class SpooledMeasurements:
    """The rows of another store. While that is away, and until all that waited has followed, writes wait too."""

    def __init__(self, inner: MeasurementStore, spool: RowSpool) -> None:
        """Takes over both; `watch` has to run.

        Args:
            inner: The database.
            spool: Where rows wait for it.
        """
        self._inner = inner
        self._spool = spool
        self._jobs: set[asyncio.Future[Any]] = set()
        self._turns: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()
        self._attempts: set[asyncio.Future[Any]] = set()
        self._any_waiting = asyncio.Event()
        self._known_dead = 0
        self._quiet_until_s = 0.0
        self._halvings = self._taken_runs = 0
        self._take_note()

    async def watch(self) -> None:
        """Replays what waits, and watches over the database; returns when the store was closed.

        Raises:
            Exception: What a part of it crashed with.
        """
        parts = [asyncio.create_task(part) for part in (self._replay(), self._inner.watch())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)

    async def write_measurements(self, measurements: Sequence[Measurement]) -> WriteCounts:
        """Stores measurements, now or later; the first of a key wins."""

        async def wait() -> WriteCounts:
            await self._spool.append(measurement_entries(measurements))
            return WriteCounts(inserted=0, waiting=len(measurements))

        return await self._write(self._write_either(lambda: self._inner.write_measurements(measurements), wait))

    async def query_measurements(
        self, scope: MeasurementScope.ValueType, selected: RowFilter, after: Cursor | None, limit: int
    ) -> list[Measurement]:
        """Returns measurements, newest first; not while some wait that might be among them."""
        await self._refuse_incomplete(Kind.MEASUREMENTS, selected.task_id)
        return await self._inner.query_measurements(scope, selected, after, limit)

    async def aggregate_measurements(
        self, selected: RowFilter, bucket_hours: int, after: Cursor | None, limit: int
    ) -> list[MeasurementAggregate]:
        """Summarises measurements, newest bucket first; not while some wait."""
        await self._refuse_incomplete(Kind.MEASUREMENTS, None)
        return await self._inner.aggregate_measurements(selected, bucket_hours, after, limit)

    async def put_recording(self, recording: Recording) -> None:
        """Makes or replaces the row of a recording, now or later."""
        message = recording.SerializeToString(deterministic=True)
        entry = Entry(
            Kind.RECORDING, recording.acquisition_id, recording.receiver_id, 1, message, accepted_unix_ns=time.time_ns()
        )
        await self._write_in_turn(
            entry,
            lambda: self._inner.put_recording(recording),
            lambda: self._spool.append_state(entry, lambda newest: newest != message),
        )

    async def get_recording(self, key: RecordingKey) -> Recording | None:
        """Returns a recording as it was put last; None if there is none."""
        waiting = await self._newest(Kind.RECORDING, key.task_id, key.receiver_id)
        if waiting is None:
            return await self._answer(self._inner.get_recording(key), _LOOK_UP_PATIENCE_S)
        return Recording.FromString(waiting)

    async def list_recordings(self, selected: RowFilter, after: Cursor | None, limit: int) -> list[Recording]:
        """Returns recordings, newest window first; not while some wait that might be among them."""
        await self._refuse_incomplete(Kind.RECORDING, selected.task_id)
        return await self._inner.list_recordings(selected, after, limit)

    async def put_acquisition(self, acquisition: Acquisition, expected_revision: int) -> bool:
        """Makes or replaces an acquisition that is still at the expected revision, now or later.

        If an earlier state of it waits, that is the one that counts. If none does, the database decides when it is
        back: what it then refuses becomes a dead letter.
        """
        request = PutAcquisitionRequest(acquisition=acquisition, expected_revision=expected_revision)
        message = request.SerializeToString(deterministic=True)
        entry = Entry(Kind.ACQUISITION, acquisition.acquisition_id, "", 1, message, accepted_unix_ns=time.time_ns())

        def is_next(newest: bytes) -> bool:
            waiting = PutAcquisitionRequest.FromString(newest).acquisition
            if waiting == acquisition:
                return False
            if waiting.revision != expected_revision:
                raise revision_conflict(acquisition.acquisition_id, waiting.revision, expected_revision)
            return True

        async def wait() -> bool:
            await self._spool.append_state(entry, is_next)
            return True

        return await self._write_in_turn(
            entry, lambda: self._inner.put_acquisition(acquisition, expected_revision), wait
        )

    async def get_acquisition(self, acquisition_id: str) -> Acquisition | None:
        """Returns an acquisition as it was put last; None if there is none."""
        waiting = await self._newest(Kind.ACQUISITION, acquisition_id, "")
        if waiting is None:
            return await self._answer(self._inner.get_acquisition(acquisition_id), _LOOK_UP_PATIENCE_S)
        return PutAcquisitionRequest.FromString(waiting).acquisition

    async def list_acquisitions(
        self, states: Sequence[Acquisition.State.ValueType], after: Cursor | None, limit: int
    ) -> list[Acquisition]:
        """Returns acquisitions, newest first; not while some wait."""
        await self._refuse_incomplete(Kind.ACQUISITION, None)
        return await self._inner.list_acquisitions(states, after, limit)

    async def ping(self) -> None:
        """Returns if the database can be used and nothing waits for it."""
        await self._spool.refresh()
        self._take_note()
        await self._inner.ping()
        if self._spool.waiting_count:
            raise self._incomplete()

    async def close(self) -> None:
        """Finishes what is being written and disconnects; what waits is replayed after the next start."""
        while unfinished := self._jobs | self._attempts:
            await asyncio.wait(unfinished)
        await self._inner.close()
        await self._spool.close()

    async def _write_in_turn(
        self, state: Entry, store: Callable[[], Awaitable[T]], wait: Callable[[], Awaitable[T]]
    ) -> T:
        """Writes a state of something after the one before it: that must not wait on disk when this one is stored."""
        lock = self._turns.setdefault((state.kind, state.task_id, state.receiver_id), asyncio.Lock())

        async def write() -> T:
            async with lock:
                return await self._write_either(store, wait)

        return await self._write(write())

    async def _write(self, work: Coroutine[Any, Any, T]) -> T:
        """Writes to the database or else the spool, also if the caller does not wait for the answer.

        A database that hangs longer than callers wait would otherwise get nothing but attempts that are given up.
        """
        job = asyncio.create_task(work, context=contextvars.Context())
        self._jobs.add(job)
        job.add_done_callback(self._job_done)
        return await asyncio.shield(job)

    async def _write_either(self, store: Callable[[], Awaitable[T]], wait: Callable[[], Awaitable[T]]) -> T:
        cause = ""
        if not self._spool.waiting_count:
            try:
                # If it still succeeds later, the replay changes nothing. If it is refused, so is the replay.
                return await self._answer(store(), _WRITE_PATIENCE_S)
            except HeimdallError as error:
                if error.reason != _AWAY:
                    raise
                cause = error.message
        answer = await wait()
        self._take_note()
        self._tell_waiting(cause)
        return answer

    async def _answer(self, call: Awaitable[T], patience_s: float) -> T:
        """Returns what the database answers in time; a call that takes longer is left to end by itself.

        Raises:
            HeimdallError: What the call raises, or BACKEND_UNAVAILABLE.
        """
        attempt = asyncio.ensure_future(call)
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)
        try:
            await asyncio.wait({attempt}, timeout=patience_s)
        finally:
            # Nobody else looks at it then.
            if not attempt.done():
                attempt.add_done_callback(_log_late)
        if attempt.done():
            return attempt.result()
        raise HeimdallError(
            _AWAY, f"the database gave no answer within {patience_s:g} s", metadata={"backend": "measurements"}
        )

    def _job_done(self, job: asyncio.Future[Any]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and not isinstance(error := job.exception(), HeimdallError | None):
            _log.error("row_write_crashed", exc_info=error)

    async def _newest(self, kind: Kind, task_id: str, receiver_id: str) -> bytes | None:
        return await self._spool.newest(kind, task_id, receiver_id) if self._spool.waiting_count else None

    async def _refuse_incomplete(self, kind: Kind, task_id: str | None) -> None:
        """Refuses to read what lacks rows that were acknowledged.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        if self._spool.waiting_count and await self._spool.holds(kind, task_id):
            raise self._incomplete()

    def _incomplete(self) -> HeimdallError:
        count = self._spool.waiting_count
        return HeimdallError(
            _AWAY,
            f"the database is, or was, away: {count} rows wait for it on disk and it lacks them; repeat when they have "
            "followed",
            metadata={"backend": "measurements", "waiting_count": count},
        )

    def _take_note(self) -> None:
        """Wakes the replay if something waits, and tells that the number of dead letters has changed."""
        if self._spool.waiting_count:
            self._any_waiting.set()
        count = self._spool.dead_letter_count
        if count != self._known_dead:
            self._known_dead = count
            _log.warning("dead_letters", count=count)

    def _tell_waiting(self, cause: str) -> None:
        """Logs how many rows wait: when it begins, then once a minute."""
        now_s = time.monotonic()
        if cause and now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + _LOG_INTERVAL_S
            _log.warning("rows_waiting", count=self._spool.waiting_count, cause=cause)

    async def _replay(self) -> None:
        """Feeds the database what waits for it, in order, for ever."""
        failures, row_count, started_s = 0, 0, time.monotonic()
        while True:
            if not self._spool.waiting_count:
                if row_count:
                    took_s = round(time.monotonic() - started_s, 3)
                    _log.info("rows_replayed", count=row_count, took_s=took_s)
                    row_count = 0
                    await self._give_back()
                    continue
                self._any_waiting.clear()
                self._quiet_until_s = 0.0
                await self._any_waiting.wait()
                failures, row_count, started_s = 0, 0, time.monotonic()
            try:
                # What was written directly is older than what waits.
                if self._attempts:
                    await asyncio.wait(self._attempts)
                row_count += await self._replay_oldest()
                failures = 0
            except HeimdallError as error:
                self._tell_waiting(error.message)
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures, 10))
                failures += 1
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _give_back(self) -> None:
        """Gives the room that rows took back to the file system; if that fails, later rows take it."""
        try:
            await self._spool.give_back()
        except (HeimdallError, sqlite3.Error, OSError) as error:
            _log.warning("room_not_given_back", message=str(error))

    async def _replay_oldest(self) -> int:
        """Feeds the database what waits longest, and returns the number of rows.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE, or what the spool failed with; the same rows are then fed again.
        """
        max_rows, max_bytes = max(1, _RUN_ROWS >> self._halvings), _RUN_BYTES >> self._halvings
        found = await self._spool.oldest(max_rows, max_bytes)
        dead_letters = await self._feed_in_parts([entry for _, entry in found], max_rows, max_bytes)
        await self._spool.remove([number for number, _ in found], dead_letters)
        for letter in dead_letters:
            _log.warning(
                "dead_letter",
                kind=str(letter.kind),
                task_id=letter.task_id,
                receiver_id=letter.receiver_id,
                rows=letter.row_count,
                reason=letter.reason,
                message=letter.detail,
            )
        self._take_note()
        return sum(entry.row_count for _, entry in found)

    async def _feed_in_parts(self, entries: Sequence[Entry], max_rows: int, max_bytes: int) -> list[DeadLetter]:
        """Feeds the database several entries at once, or one in parts; returns what it refuses.

        A run with a statement that takes too long would for ever be repeated in vain, and nobody can tell that from a
        database that is away: runs are halved with each failure. They grow only when whole entries were taken, because
        a part is not kept as done: what was taken of an entry is fed again with the rest of it, and changes nothing.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        runs = [entries] if len(entries) > 1 else [[part] for part in parts_of(entries[0], max_rows, max_bytes)]
        try:
            dead_letters = [letter for run in runs for letter in await self._feed(run)]
        except HeimdallError:
            self._halvings, self._taken_runs = min(_MOST_HALVINGS, self._halvings + 1), 0
            raise
        self._taken_runs += 1
        if self._taken_runs == _RUNS_AT_A_SIZE:
            self._halvings, self._taken_runs = max(0, self._halvings - 1), 0
        return dead_letters

    async def _feed(self, entries: Sequence[Entry]) -> list[DeadLetter]:
        """Writes entries to the database, together or else each row by itself; returns what it refuses.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        parts = list(entries)
        if sum(entry.row_count for entry in entries) > 1:
            if await _refusal(self._write_entries(entries)) is None:
                return []
            parts = [single for entry in entries for single in parts_of(entry, 1, 0)]
        refused = [(part, why) for part in parts if (why := await _refusal(self._write_entries([part]))) is not None]
        crash = next((why.__cause__ for _, why in refused if why.__cause__ is not None), None)
        if crash is not None:
            _log.error("replay_crashed", exc_info=crash)
        return [dead_letter(part, why) for part, why in refused]

    async def _write_entries(self, entries: Sequence[Entry]) -> None:
        """Writes measurements, or one recording or acquisition."""
        first = entries[0]
        if first.kind == Kind.RECORDING:
            await self._inner.put_recording(Recording.FromString(first.message))
        elif first.kind == Kind.ACQUISITION:
            request = PutAcquisitionRequest.FromString(first.message)
            await self._inner.put_acquisition(request.acquisition, request.expected_revision)
        else:
            rows = [row for entry in entries for row in WriteMeasurementsRequest.FromString(entry.message).measurements]
            await self._inner.write_measurements(rows)


def _log_late(attempt: asyncio.Future[Any]) -> None:
    failure = None if attempt.cancelled() else attempt.exception()
    _log.info("late_answer", failure="" if failure is None else str(failure))


async def _refusal(writing: Coroutine[Any, Any, None]) -> HeimdallError | None:
    """Returns why the database refuses something; None if it does not.

    Raises:
        HeimdallError: BACKEND_UNAVAILABLE.
    """
    try:
        await writing
    except HeimdallError as error:
        if error.reason == _AWAY:
            raise
        return error
    except Exception as error:  # noqa: BLE001  # the outermost boundary of a row: one must not hold up all behind it
        refusal = HeimdallError(ErrorReason.ERROR_REASON_INTERNAL, f"{type(error).__name__}: {error}")
        refusal.__cause__ = error
        return refusal
    return None
