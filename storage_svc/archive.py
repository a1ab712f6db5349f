"""Takes finished recordings out of the spool: samples, then metadata, then the row, then the spool is cleared."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc import contents, sigmf
from storage_svc.ids import RecordingKey
from storage_svc.measurements import MeasurementStore
from storage_svc.objects import ObjectNotFoundError, ObjectStore, Stretch
from storage_svc.sigmf_collections import SigmfCollections
from storage_svc.spool import Spool
from storage_svc.spool.room import disk_failure

_log = structlog.get_logger(__name__)

_WORKER_COUNT: Final = 32
"""Most recordings that are settled at once; the object store bounds its uploads itself."""

_PATIENCE_S: Final = 5.0
"""How long a writer waits until its recording is settled; then it is told that it is spooled."""

_LOOK_UP_PATIENCE_S: Final = 3.0
"""How long the look for a pair may take: somebody who wants to write samples waits for it."""

_HOPELESS: Final = frozenset(
    {ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH, ErrorReason.ERROR_REASON_RECORDING_FINISHED},
)
"""Failures that no repeat mends."""

_SAMPLE_FIELDS: Final = (
    "sample_count",
    "first_sample_unix_ns",
    "last_sample_unix_ns",
    "data_object_key",
    "meta_object_key",
    "data_sha512",
    "data_size_bytes",
)
"""What only a recording with samples has."""

_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 60.0


@dataclass(eq=False)
class _Waiting:
    """A finished recording that is not settled yet."""

    recording: Recording
    """As its journal has it."""
    stored: Recording | None = None
    """As it will be settled, once its pair is in the object store."""
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is settled, or was tried in vain."""
    settled: Recording | None = None
    """As it was settled."""

    @property
    def needs_objects(self) -> bool:
        """Whether it can not be settled while the object store is away."""
        return bool(self.recording.data_object_key) and self.stored is None


def is_given_up(recording: Recording) -> bool:
    """Returns whether a recording ended without the samples that were received, so that there is nothing to resume."""
    return (
        recording.state == Recording.State.STATE_STORED
        and not recording.sample_count
        and recording.incomplete_cause.reason in _HOPELESS
    )


class Archive:
    """Settles finished recordings, at once where the stores allow it, else when they are back."""

    def __init__(
        self, spool: Spool, objects: ObjectStore, rows: MeasurementStore, collections: SigmfCollections
    ) -> None:
        """Takes the stores; `settle_steadily` has to run."""
        self._spool = spool
        self._objects = objects
        self._rows = rows
        self._collections = collections
        self._waiting: dict[RecordingKey, _Waiting] = {}
        self._ready: asyncio.Queue[RecordingKey] = asyncio.Queue()
        self._postponed: set[RecordingKey] = set()
        self._any_postponed = asyncio.Event()
        self._is_away = False
        """Whether there is no use in trying the object store before the next ping, or the next retry."""
        self._ping_failed = False
        self._is_back = asyncio.Event()
        self._pause_s = _FIRST_PAUSE_S
        self._ended = False

    def waiting(self, key: RecordingKey) -> Recording | None:
        """Returns a recording that is finished and not yet settled."""
        waiting = self._waiting.get(key)
        return None if waiting is None else waiting.recording

    async def holds(self, key: RecordingKey) -> bool:
        """Returns whether the pair of a recording is known to be complete in the object store.

        If the store can not tell in time, the samples that come are spooled, and `settle` looks again.
        """
        try:
            async with asyncio.timeout(_LOOK_UP_PATIENCE_S):
                await self._objects.size_bytes(key.meta_object_key)
        except (ObjectNotFoundError, HeimdallError, TimeoutError):
            return False
        return True

    async def ping_objects(self) -> None:
        """Uses the object store; if it was away and is back, what waits for it goes on at once.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        try:
            await self._objects.ping()
        except HeimdallError:
            self._is_away = self._ping_failed = True
            self._is_back.clear()
            raise
        self._is_away = False
        if self._ping_failed:
            self._ping_failed = False
            self._is_back.set()

    def add(self, recording: Recording) -> None:
        """Takes in a finished recording; what came first is settled first."""
        self._take(recording)

    async def settle(self, recording: Recording) -> Recording:
        """Settles a finished recording, or leaves it for later if a store is away or slow.

        Args:
            recording: The recording as its journal has it, SPOOLED or DISCARDED.

        Returns:
            The recording: STORED or DISCARDED, or still SPOOLED.
        """
        waiting = self._take(recording)
        if not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await waiting.tried.wait()
        return waiting.settled or recording

    async def settle_steadily(self) -> None:
        """Settles what is finished, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._retry())
                for _ in range(_WORKER_COUNT):
                    tasks.create_task(self._work())
        finally:
            self._ended = True
            for waiting in self._waiting.values():
                waiting.tried.set()

    def _take(self, recording: Recording) -> _Waiting:
        key = _key(recording)
        if key not in self._waiting:
            self._waiting[key] = _Waiting(recording)
            self._ready.put_nowait(key)
        return self._waiting[key]

    def _postpone(self, key: RecordingKey) -> None:
        self._waiting[key].tried.set()
        self._postponed.add(key)
        self._any_postponed.set()

    async def _work(self) -> None:
        """Settles one recording after the other, for ever."""
        while True:
            key = await self._ready.get()
            waiting = self._waiting[key]
            if self._is_away and waiting.needs_objects:
                self._postpone(key)
                continue
            facts = {"task_id": key.task_id, "receiver_id": key.receiver_id}
            try:
                settled = await self._settle(key, waiting)
            except HeimdallError as error:
                _log.warning("recording_waits", reason=error.reason_name, message=error.message, **facts)
                self._is_away |= error.metadata.get("backend") == "objects"
                self._postpone(key)
            except Exception:  # noqa: BLE001  # the outermost boundary: one damaged recording holds up no other
                _log.exception("recording_not_settled", **facts)
                self._postpone(key)
            else:
                _log.info("recording_settled", state=Recording.State.Name(settled.state), **facts)
                self._pause_s = _FIRST_PAUSE_S
                del self._waiting[key]
                waiting.settled = settled
                waiting.tried.set()

    async def _retry(self) -> None:
        """Brings back what was tried in vain, in the order in which it was finished, for ever."""
        while True:
            await self._any_postponed.wait()
            try:
                async with asyncio.timeout(self._pause_s):
                    await self._is_back.wait()
            except TimeoutError:
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._is_back.clear()
            self._any_postponed.clear()
            self._is_away = False
            postponed, self._postponed = self._postponed, set()
            for key in self._waiting:
                if key in postponed:
                    self._ready.put_nowait(key)

    async def _settle(self, key: RecordingKey, waiting: _Waiting) -> Recording:
        if waiting.stored is None:
            try:
                waiting.stored = await self._store(key, waiting.recording)
            except HeimdallError as error:
                if error.reason not in _HOPELESS:
                    raise
                return await self._give_up(key, waiting.recording, error)
        await self._rows.put_recording(waiting.stored)
        await self._collections.complete(key.task_id)
        try:
            await self._spool.remove(key)
        except OSError as error:
            raise disk_failure(error, "clear the spool") from error
        return waiting.stored

    async def _give_up(self, key: RecordingKey, recording: Recording, cause: HeimdallError) -> Recording:
        """Says in the row of a recording why it has no samples; its files are kept for a person to look at."""
        given_up = Recording()
        given_up.CopyFrom(recording)
        given_up.state = Recording.State.STATE_STORED
        given_up.complete = False
        given_up.incomplete_cause.CopyFrom(cause.to_detail())
        for name in _SAMPLE_FIELDS:
            given_up.ClearField(name)
        await self._rows.put_recording(given_up)
        try:
            await self._spool.set_aside(key, cause.message)
        except OSError as error:
            raise disk_failure(error, "set aside a recording") from error
        return given_up

    async def _store(self, key: RecordingKey, recording: Recording) -> Recording:
        """Puts the pair of a recording into the object store, if it has one; returns the recording as it is then."""
        settled = Recording()
        settled.CopyFrom(recording)
        if recording.data_object_key:
            is_there = await self._is_there(recording)
            try:
                meta, stretches = await asyncio.to_thread(_read_journal, recording, self._spool.journal_path(key))
            except OSError as error:
                raise disk_failure(error, "read the journal") from error
            await self._objects.put_file(
                recording.data_object_key,
                self._spool.samples_path(key),
                data_sha512=recording.data_sha512,
                stretches=stretches,
            )
            if not is_there:
                await self._objects.put_bytes(recording.meta_object_key, meta)
            settled.location = self._objects.location(recording.meta_object_key)
        if recording.state == Recording.State.STATE_SPOOLED:
            settled.state = Recording.State.STATE_STORED
        return settled

    async def _is_there(self, recording: Recording) -> bool:
        """Returns whether the store has the metadata of a recording, which then stays as it is.

        It can be there from a try that did not come to its end, or since the recording was opened again while neither
        store could tell that it is finished. In the second case it may say more than that of now would.

        Raises:
            HeimdallError: RECORDING_FINISHED if it is that of other samples, BACKEND_UNAVAILABLE.
        """
        try:
            meta = await self._objects.get_bytes(recording.meta_object_key)
        except ObjectNotFoundError:
            return False
        try:
            stored_sha512 = await asyncio.to_thread(sigmf.data_sha512, meta)
        except ValueError as error:
            stored_sha512 = f"unknown ({error})"
        if stored_sha512 != recording.data_sha512:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_RECORDING_FINISHED,
                f"the object store holds other samples of {recording.receiver_id} in {recording.acquisition_id}: their "
                f"SHA-512 is {stored_sha512}, not {recording.data_sha512}",
            )
        return True


def _read_journal(recording: Recording, journal: Path) -> tuple[bytes, list[Stretch]]:
    """Returns the metadata of a recording, and what the file of its samples consists of."""
    held = contents.read_journal(journal)
    return sigmf.build_meta(recording, held), held.stretches


def _key(recording: Recording) -> RecordingKey:
    return RecordingKey(recording.acquisition_id, recording.receiver_id)
