"""Takes finished recordings out of the spool: samples, then metadata, then the row, then the spool is cleared."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc import contents, sigmf
from storage_svc.ids import RecordingKey
from storage_svc.measurements import MeasurementStore
from storage_svc.objects import ObjectNotFoundError, ObjectStore
from storage_svc.sigmf_collections import SigmfCollections
from storage_svc.spool import Spool
from storage_svc.spool.room import disk_failure

_log = structlog.get_logger(__name__)

_RETRY_INTERVAL_S: Final = 5.0


class Archive:
    """Settles finished recordings, at once where the stores allow it, else when they are back."""

    def __init__(
        self, spool: Spool, objects: ObjectStore, rows: MeasurementStore, collections: SigmfCollections
    ) -> None:
        """Takes the stores; `retry_steadily` has to run."""
        self._spool = spool
        self._objects = objects
        self._rows = rows
        self._collections = collections
        self._waiting: dict[RecordingKey, Recording] = {}
        self._to_retry: set[RecordingKey] = set()
        self._any_to_retry = asyncio.Event()

    def waiting(self, key: RecordingKey) -> Recording | None:
        """Returns a recording that is finished and not yet settled."""
        return self._waiting.get(key)

    async def holds(self, key: RecordingKey) -> bool:
        """Returns whether the pair of a recording is complete in the object store.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        try:
            await self._objects.size_bytes(key.meta_object_key)
        except ObjectNotFoundError:
            return False
        return True

    def add(self, recording: Recording) -> None:
        """Takes in a finished recording that was found in the spool."""
        key = _key(recording)
        self._waiting[key] = recording
        self._to_retry.add(key)
        self._any_to_retry.set()

    async def settle(self, recording: Recording) -> Recording:
        """Settles a finished recording, or leaves it for later if a store is away.

        Args:
            recording: The recording as its journal has it, SPOOLED or DISCARDED.

        Returns:
            The recording: STORED or DISCARDED, or still SPOOLED.
        """
        facts = {"task_id": recording.acquisition_id, "receiver_id": recording.receiver_id}
        self._waiting[_key(recording)] = recording
        try:
            settled = await self._settle(recording)
        except HeimdallError as error:
            _log.warning("recording_waits", reason=error.reason_name, message=error.message, **facts)
            self.add(recording)
            return recording
        _log.info("recording_settled", state=Recording.State.Name(settled.state), **facts)
        return settled

    async def retry_steadily(self) -> None:
        """Settles what could not be settled at once, for ever."""
        while True:
            await self._any_to_retry.wait()
            self._any_to_retry.clear()
            keys, self._to_retry = self._to_retry, set()
            for key in sorted(keys):
                try:
                    await self.settle(self._waiting[key])
                except Exception:  # noqa: BLE001  # the outermost boundary: one damaged recording holds up no other
                    _log.exception("recording_not_settled", task_id=key.task_id, receiver_id=key.receiver_id)
            if self._to_retry:
                await asyncio.sleep(_RETRY_INTERVAL_S)

    async def _settle(self, recording: Recording) -> Recording:
        key = _key(recording)
        settled = Recording()
        settled.CopyFrom(recording)
        if recording.data_object_key:
            await self._store_pair(key, settled)
        elif recording.state == Recording.State.STATE_SPOOLED:
            settled.state = Recording.State.STATE_STORED
        await self._rows.put_recording(settled)
        await self._collections.complete(key.task_id)
        try:
            await self._spool.remove(key)
        except OSError as error:
            raise disk_failure(error, "clear the spool") from error
        self._waiting.pop(key, None)
        return settled

    async def _store_pair(self, key: RecordingKey, recording: Recording) -> None:
        try:
            meta = await asyncio.to_thread(_build_meta, recording, self._spool.journal_path(key))
        except OSError as error:
            raise disk_failure(error, "read the journal") from error
        await self._objects.put_file(
            recording.data_object_key, self._spool.samples_path(key), data_sha512=recording.data_sha512
        )
        await self._objects.put_bytes(recording.meta_object_key, meta)
        recording.state = Recording.State.STATE_STORED
        recording.location = self._objects.location(recording.meta_object_key)


def _build_meta(recording: Recording, journal: Path) -> bytes:
    return sigmf.build_meta(recording, contents.read_journal(journal))


def _key(recording: Recording) -> RecordingKey:
    return RecordingKey(recording.acquisition_id, recording.receiver_id)
