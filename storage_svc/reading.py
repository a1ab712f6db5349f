"""Finds a recording, in the spool or in the object store, and replays it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import ReadRecordingRequest
from storage_svc import contents as contents_of
from storage_svc import durable, sigmf
from storage_svc.contents import Contents
from storage_svc.ids import RecordingKey
from storage_svc.measurements import MeasurementStore
from storage_svc.objects import ObjectNotFoundError, ObjectStore
from storage_svc.recordings import Recordings
from storage_svc.replay import SampleRange, recording_range, replay
from storage_svc.spool import Spool
from storage_svc.timing import first_index_at


class Reader:
    """Reads recordings wherever they are."""

    def __init__(self, spool: Spool, recordings: Recordings, objects: ObjectStore, rows: MeasurementStore) -> None:
        """Takes the places where a recording can be."""
        self._spool = spool
        self._recordings = recordings
        self._objects = objects
        self._rows = rows

    async def find(self, key: RecordingKey) -> Recording:
        """Returns the facts of a recording as they are now.

        Raises:
            HeimdallError: RECORDING_NOT_FOUND.
        """
        recording = self._recordings.snapshot(key) or await self._rows.get_recording(key)
        if recording is None:
            raise not_found(key, "there is no such recording")
        return recording

    async def read(self, request: ReadRecordingRequest) -> AsyncIterator[IqEvent]:
        """Yields the events of a recording, or of the part asked for.

        Args:
            request: The valid request.

        Raises:
            HeimdallError: RECORDING_NOT_FOUND, CHECKSUM_MISMATCH or BACKEND_UNAVAILABLE.
        """
        key = RecordingKey(request.acquisition_id, request.receiver_id)
        recording = await self.find(key)
        if recording.state == Recording.State.STATE_DISCARDED:
            raise not_found(key, "it was discarded")
        contents = await self._spooled_contents(key)
        if contents is None:
            recording = await self.find(key)
            contents = await self._stored_contents(key, recording)
        wanted = _wanted(request, contents)
        async for event in replay(
            contents, wanted, self._source(key, recording), data_sha512=recording.data_sha512 or None
        ):
            yield event

    async def _spooled_contents(self, key: RecordingKey) -> Contents | None:
        if self._recordings.snapshot(key) is None:
            return None
        try:
            return await asyncio.to_thread(contents_of.read_journal, self._spool.journal_path(key))
        except FileNotFoundError:
            # It was settled at this moment.
            return None
        except ValueError as error:
            raise _damaged(key, f"its journal can not be read: {error}") from error

    async def _stored_contents(self, key: RecordingKey, recording: Recording) -> Contents:
        if not recording.meta_object_key:
            raise not_found(key, "it holds no samples")
        try:
            meta = await self._objects.get_bytes(recording.meta_object_key)
        except ObjectNotFoundError as error:
            raise _damaged(key, f"its metadata object {recording.meta_object_key} is missing") from error
        try:
            return await asyncio.to_thread(sigmf.parse_meta, meta)
        except ValueError as error:
            raise _damaged(key, f"its metadata can not be read: {error}") from error

    def _source(self, key: RecordingKey, recording: Recording) -> Callable[[int, int], Awaitable[bytes]]:
        """Returns the function that reads samples: from the spool while they are there, then from the store."""

        async def read(offset_bytes: int, size_bytes: int) -> bytes:
            try:
                return await asyncio.to_thread(durable.read_at, self._spool.samples_path(key), offset_bytes, size_bytes)
            except FileNotFoundError:
                pass
            try:
                return await self._objects.read_range(key.data_object_key, offset_bytes, size_bytes)
            except ObjectNotFoundError as error:
                raise _damaged(key, f"its samples object {key.data_object_key} is missing") from error

        return read


def not_found(key: RecordingKey, why: str) -> HeimdallError:
    """Returns the failure of a caller who wants a recording that is not there."""
    return HeimdallError(
        ErrorReason.ERROR_REASON_RECORDING_NOT_FOUND,
        f"no recording of receiver {key.receiver_id} in acquisition {key.task_id} can be read: {why}",
        metadata={"acquisition_id": key.task_id, "receiver_id": key.receiver_id},
    )


def _damaged(key: RecordingKey, why: str) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH,
        f"the recording of {key.receiver_id} in {key.task_id} is damaged: {why}",
        metadata={"acquisition_id": key.task_id, "receiver_id": key.receiver_id},
    )


def _wanted(request: ReadRecordingRequest, contents: Contents) -> SampleRange:
    whole = recording_range(contents)
    if request.HasField("sample_range"):
        wanted = request.sample_range
        return SampleRange(wanted.first_sample_index, wanted.end_sample_index or whole.end)
    if request.HasField("time_range"):
        solution = contents.solution()
        if solution is None:
            return SampleRange(0, 0)
        first, end = (
            first_index_at(solution, unix_ns)
            for unix_ns in (request.time_range.start_unix_ns, request.time_range.end_unix_ns)
        )
        return SampleRange(max(first, 0), max(end, 0))
    return whole
