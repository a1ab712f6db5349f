"""The RPC surface of the storage service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import FieldViolation, HeimdallError, InvalidFieldsError
from heimdall.runtime.settings import MeshSettings
from heimdall.storage.v1 import storage_pb2 as pb
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceServicer
from storage_svc import paging, requests
from storage_svc.batches import measurement_batches
from storage_svc.ids import RecordingKey, id_violations
from storage_svc.measurements import MeasurementStore
from storage_svc.measurements.base import acquisition_cursor, aggregate_cursor, recording_cursor
from storage_svc.objects import ObjectNotFoundError, ObjectStore
from storage_svc.reading import Reader, not_found
from storage_svc.recordings import Recordings
from storage_svc.sigmf_collections import TERMINAL_STATES, SigmfCollections
from storage_svc.writing import write_recording

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_URL_LIFETIME_S = 3600.0
_MAX_URL_LIFETIME_S = 7 * 86400.0


class StorageService(StorageServiceServicer):
    """Answers the calls; everything it knows is in the stores that it is given."""

    def __init__(
        self,
        recordings: Recordings,
        reader: Reader,
        collections: SigmfCollections,
        objects: ObjectStore,
        rows: MeasurementStore,
        mesh: MeshSettings,
    ) -> None:
        """Takes the stores and the mesh's times."""
        self._recordings = recordings
        self._reader = reader
        self._collections = collections
        self._objects = objects
        self._rows = rows
        self._mesh = mesh

    async def WriteRecording(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.WriteRecordingRequest], context: _Context
    ) -> AsyncIterator[pb.WriteRecordingResponse]:
        """Writes one recording."""
        async for response in write_recording(self._recordings, request_iterator, self._mesh):
            yield response

    async def ReadRecording(  # noqa: N802
        self, request: pb.ReadRecordingRequest, context: _Context
    ) -> AsyncIterator[pb.ReadRecordingResponse]:
        """Replays a recording, or a part of it."""
        requests.check_range(request)
        async for event in self._reader.read(request):
            yield pb.ReadRecordingResponse(event=event)

    async def ListRecordings(  # noqa: N802
        self, request: pb.ListRecordingsRequest, context: _Context
    ) -> pb.ListRecordingsResponse:
        """Lists recordings, newest window first."""
        size = paging.page_size(request.page_size)
        after = paging.decode_token(request.page_token, (int, str, str))
        page = await self._rows.list_recordings(requests.row_filter(request.filter), after, size + 1)
        response = pb.ListRecordingsResponse(recordings=[self._current(recording) for recording in page[:size]])
        if len(page) > size:
            response.next_page_token = paging.encode_token(recording_cursor(page[size - 1]))
        return response

    async def GetRecordingUrl(  # noqa: N802
        self, request: pb.GetRecordingUrlRequest, context: _Context
    ) -> pb.GetRecordingUrlResponse:
        """Makes URLs from which a recording can be downloaded."""
        bad = id_violations(acquisition_id=request.acquisition_id, receiver_id=request.receiver_id)
        lifetime_s = _DEFAULT_URL_LIFETIME_S
        if request.HasField("lifetime"):
            lifetime_s = request.lifetime.seconds + request.lifetime.nanos / 1e9
        if not 1 <= lifetime_s <= _MAX_URL_LIFETIME_S:
            bad.append(FieldViolation("lifetime", f"is {lifetime_s:g} s, must be 1 s to 7 days"))
        requests.refuse(bad)
        key = RecordingKey(request.acquisition_id, request.receiver_id)
        recording = await self._reader.find(key)
        if recording.state != Recording.State.STATE_STORED or not recording.data_object_key:
            raise not_found(key, f"it is not in the object store, its state is {Recording.State.Name(recording.state)}")
        response = pb.GetRecordingUrlResponse()
        response.expire_time.GetCurrentTime()
        response.expire_time.FromNanoseconds(response.expire_time.ToNanoseconds() + round(lifetime_s * 1e9))
        try:
            response.data_url = await self._objects.url(recording.data_object_key, lifetime_s)
            response.meta_url = await self._objects.url(recording.meta_object_key, lifetime_s)
        except ObjectNotFoundError as error:
            raise not_found(key, str(error)) from error
        return response

    async def WriteMeasurements(  # noqa: N802
        self, request: pb.WriteMeasurementsRequest, context: _Context
    ) -> pb.WriteMeasurementsResponse:
        """Stores measurements; the first of a key wins."""
        requests.check_measurements(request)
        counts = await self._rows.write_measurements(request.measurements)
        return pb.WriteMeasurementsResponse(
            inserted_count=counts.inserted,
            duplicate_count=len(request.measurements) - counts.inserted - counts.waiting,
            waiting_count=counts.waiting,
        )

    async def QueryMeasurements(  # noqa: N802
        self, request: pb.QueryMeasurementsRequest, context: _Context
    ) -> AsyncIterator[pb.QueryMeasurementsResponse]:
        """Streams measurements in batches, newest first."""
        size = paging.page_size(request.batch_size, "batch_size")
        scope = request.scope or MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
        bad = []
        if scope not in MeasurementScope.values():
            bad.append(FieldViolation("scope", f"is {scope}, must be SUMMARY or WINDOW"))
        if request.max_count < 0:
            bad.append(FieldViolation("max_count", f"is {request.max_count}, must be 0 or more"))
        requests.refuse(bad)
        selected = requests.row_filter(request.filter)
        async for batch in measurement_batches(self._rows, scope, selected, size, request.max_count):
            yield pb.QueryMeasurementsResponse(measurements=batch)

    async def AggregateMeasurements(  # noqa: N802
        self, request: pb.AggregateMeasurementsRequest, context: _Context
    ) -> pb.AggregateMeasurementsResponse:
        """Summarises measurements, newest first."""
        size = paging.page_size(request.page_size)
        after = paging.decode_token(request.page_token, (int, str, float))
        selected, bucket_hours = requests.aggregation(request)
        page = await self._rows.aggregate_measurements(selected, bucket_hours, after, size + 1)
        response = pb.AggregateMeasurementsResponse(aggregates=page[:size])
        if len(page) > size:
            response.next_page_token = paging.encode_token(aggregate_cursor(page[size - 1]))
        return response

    async def PutAcquisition(  # noqa: N802
        self, request: pb.PutAcquisitionRequest, context: _Context
    ) -> pb.PutAcquisitionResponse:
        """Stores the state of an acquisition; with a terminal one also the collection of its recordings."""
        requests.check_put_acquisition(request)
        acquisition = request.acquisition
        waiting = await self._rows.put_acquisition(acquisition, request.expected_revision)
        if acquisition.state in TERMINAL_STATES:
            await self._collections.complete(acquisition.acquisition_id)
        return pb.PutAcquisitionResponse(acquisition=acquisition, waiting=waiting)

    async def GetAcquisition(  # noqa: N802
        self, request: pb.GetAcquisitionRequest, context: _Context
    ) -> pb.GetAcquisitionResponse:
        """Returns one acquisition."""
        requests.refuse(id_violations(acquisition_id=request.acquisition_id))
        acquisition = await self._rows.get_acquisition(request.acquisition_id)
        if acquisition is None:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_ACQUISITION_NOT_FOUND,
                f"there is no acquisition {request.acquisition_id}",
                metadata={"acquisition_id": request.acquisition_id},
            )
        return pb.GetAcquisitionResponse(acquisition=acquisition)

    async def ListAcquisitions(  # noqa: N802
        self, request: pb.ListAcquisitionsRequest, context: _Context
    ) -> pb.ListAcquisitionsResponse:
        """Lists acquisitions, newest first."""
        size = paging.page_size(request.page_size)
        after = paging.decode_token(request.page_token, (int, str))
        unknown = [state for state in request.states if state not in Acquisition.State.values() or not state]
        if unknown:
            raise InvalidFieldsError([FieldViolation("states", f"holds {unknown}, which are no states")])
        page = await self._rows.list_acquisitions(request.states, after, size + 1)
        response = pb.ListAcquisitionsResponse(acquisitions=page[:size])
        if len(page) > size:
            response.next_page_token = paging.encode_token(acquisition_cursor(page[size - 1]))
        return response

    def _current(self, recording: Recording) -> Recording:
        """Returns a listed recording as it is now; the row of one that is being written is from its beginning."""
        if recording.state != Recording.State.STATE_WRITING:
            return recording
        key = RecordingKey(recording.acquisition_id, recording.receiver_id)
        return self._recordings.snapshot(key) or recording
