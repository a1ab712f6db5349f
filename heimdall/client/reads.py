"""What the mesh has recorded and measured, read back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall.client.calls import IDLE_TIMEOUT_S, answer_of, next_of
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import IqEvent
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1 import storage_pb2

if TYPE_CHECKING:
    # Modules that read arrays or URLs are imported when they are needed: most callers need neither.
    from heimdall.recorded import RecordedSamples, SampleRun
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub


class StorageReads:
    """The part of the client that reads from the storage service."""

    _storage: StorageServiceAsyncStub

    async def list_recordings(
        self, record_filter: storage_pb2.RecordFilter | None = None, *, page_size: int = 100
    ) -> AsyncGenerator[Recording, None]:
        """Lists recordings, page by page.

        Args:
            record_filter: What to select; None for all.
            page_size: Recordings that are fetched at a time, 1 to 1000.

        Yields:
            Recordings, newest first.
        """
        request = storage_pb2.ListRecordingsRequest(page_size=page_size, filter=record_filter)
        while True:
            page = await answer_of(self._storage.ListRecordings(request), "storage")
            for recording in page.recordings:
                yield recording
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_recording_url(
        self, acquisition_id: str, receiver_id: str, *, lifetime_s: float = 3600.0
    ) -> storage_pb2.GetRecordingUrlResponse:
        """Returns URLs from which whoever has them can download a recording for a while.

        Args:
            acquisition_id: Acquisition that it belongs to.
            receiver_id: Receiver that it belongs to.
            lifetime_s: How long they work in s, 1 to 604800.

        Raises:
            HeimdallError: RECORDING_NOT_FOUND, also if it is not in the object store yet; INVALID_FIELD;
                URL_UNSUPPORTED if the object store is a folder.
        """
        request = storage_pb2.GetRecordingUrlRequest(acquisition_id=acquisition_id, receiver_id=receiver_id)
        request.lifetime.FromTimedelta(timedelta(seconds=lifetime_s))
        return await answer_of(self._storage.GetRecordingUrl(request), "storage")

    async def download_recording(self, recording: Recording, folder: Path, *, ca_file: Path | None = None) -> Path:
        """Puts the SigMF pair of a recording into a folder, and checks the samples against their SHA-512.

        It comes from the URLs of get_recording_url; where the object store is a folder on this machine, from there.

        Args:
            recording: The recording, as listed.
            folder: Where to put the pair; made if it is missing. Files of the same name are replaced.
            ca_file: PEM file of certificates to trust for URLs; None for the system's.

        Returns:
            The path of the metadata. It appears last, and only with the samples that belong to it.

        Raises:
            HeimdallError: As get_recording_url, but URL_UNSUPPORTED only if the folder is on another machine;
                BACKEND_UNAVAILABLE if the object store does not give it, CHECKSUM_MISMATCH.
            OSError: If a file can not be read or written.
        """
        from heimdall.download import copy_pair, download_pair

        if recording.state == Recording.STATE_STORED and not recording.data_object_key:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_RECORDING_NOT_FOUND,
                f"the recording of {recording.receiver_id} in {recording.acquisition_id} holds no samples, so there is "
                "no SigMF pair",
                metadata={"acquisition_id": recording.acquisition_id, "receiver_id": recording.receiver_id},
            )
        try:
            urls = await self.get_recording_url(recording.acquisition_id, recording.receiver_id)
        except HeimdallError as error:
            if error.reason != ErrorReason.ERROR_REASON_URL_UNSUPPORTED:
                raise
            return await copy_pair(recording, folder)
        return await download_pair(recording, urls, folder, ca_file)

    async def read_recording(
        self,
        acquisition_id: str,
        receiver_id: str,
        *,
        sample_range: tuple[int, int] | None = None,
        time_range_unix_ns: tuple[int, int] | None = None,
    ) -> AsyncGenerator[IqEvent, None]:
        """Replays a recording, or a part of it.

        Args:
            acquisition_id: Acquisition that it belongs to.
            receiver_id: Receiver that it belongs to.
            sample_range: First index and end, exclusive; an end of 0 means the end of the recording.
            time_range_unix_ns: Start and end, exclusive, in UTC ns since 1970; not together with sample_range.

        Yields:
            One segment, then blocks and gaps in order, then one end; heartbeats are left out. Index 0 is the first
            sample of the window also if only a part is read.

        Raises:
            ValueError: If both ranges are given.
            HeimdallError: RECORDING_NOT_FOUND, INVALID_FIELD, CHECKSUM_MISMATCH.
        """
        if sample_range is not None and time_range_unix_ns is not None:
            raise ValueError("sample_range and time_range_unix_ns are both given; a part is named by one of them")
        request = storage_pb2.ReadRecordingRequest(acquisition_id=acquisition_id, receiver_id=receiver_id)
        if sample_range is not None:
            request.sample_range.first_sample_index, request.sample_range.end_sample_index = sample_range
        if time_range_unix_ns is not None:
            request.time_range.start_unix_ns, request.time_range.end_unix_ns = time_range_unix_ns
        call = self._storage.ReadRecording(request)
        try:
            while (answer := await next_of(call, "storage", IDLE_TIMEOUT_S)) is not None:
                if not answer.event.HasField("heartbeat"):
                    yield answer.event
        finally:
            call.cancel()

    async def read_samples(
        self,
        acquisition_id: str,
        receiver_id: str,
        *,
        sample_range: tuple[int, int] | None = None,
        time_range_unix_ns: tuple[int, int] | None = None,
    ) -> RecordedSamples:
        """Reads a recording, or a part of it, into numpy arrays, all of it at once.

        Args:
            acquisition_id: As for read_recording, and so are the others.
            receiver_id: Receiver that it belongs to.
            sample_range: First index and end, exclusive.
            time_range_unix_ns: Start and end, exclusive, in UTC ns since 1970.

        Returns:
            Runs of complex64 samples that are never joined across a gap, and the gaps.

        Raises:
            ValueError: As read_recording.
            HeimdallError: As read_recording; INVALID_FIELD too if the range has neither a sample nor a gap.
        """
        from heimdall.recorded import recorded_samples

        events = self.read_recording(
            acquisition_id, receiver_id, sample_range=sample_range, time_range_unix_ns=time_range_unix_ns
        )
        async with aclosing(events):
            return await recorded_samples(events)

    async def stream_samples(
        self,
        acquisition_id: str,
        receiver_id: str,
        *,
        sample_range: tuple[int, int] | None = None,
        time_range_unix_ns: tuple[int, int] | None = None,
    ) -> AsyncGenerator[SampleRun, None]:
        """Reads a recording, or a part of it, into numpy arrays of at most 250 ms and 256 KiB each as recorded.

        Args:
            acquisition_id: As for read_recording, and so are the others.
            receiver_id: Receiver that it belongs to.
            sample_range: First index and end, exclusive.
            time_range_unix_ns: Start and end, exclusive, in UTC ns since 1970.

        Yields:
            Runs of complex64 samples in order. One that does not begin where the one before it ended follows a gap.
            Times are those that were known when the samples came; read_samples has those of the final time solution.

        Raises:
            ValueError: As read_recording.
            HeimdallError: As read_recording.
        """
        from heimdall.recorded import sample_runs

        events = self.read_recording(
            acquisition_id, receiver_id, sample_range=sample_range, time_range_unix_ns=time_range_unix_ns
        )
        async with aclosing(events), aclosing(sample_runs(events)) as runs:
            async for run in runs:
                yield run

    async def query_measurements(
        self,
        record_filter: storage_pb2.RecordFilter | None = None,
        *,
        scope: MeasurementScope.ValueType = MeasurementScope.MEASUREMENT_SCOPE_SUMMARY,
        max_count: int = 0,
        batch_size: int = 100,
    ) -> AsyncGenerator[Measurement, None]:
        """Reads measurements.

        Args:
            record_filter: What to select; None for all.
            scope: Summaries, or measurement windows.
            max_count: Most measurements to return; 0 for all.
            batch_size: Most measurements that are fetched at a time, 1 to 1000.

        Yields:
            Measurements, newest first.
        """
        request = storage_pb2.QueryMeasurementsRequest(
            filter=record_filter, scope=scope, max_count=max_count, batch_size=batch_size
        )
        call = self._storage.QueryMeasurements(request)
        try:
            while (answer := await next_of(call, "storage", IDLE_TIMEOUT_S)) is not None:
                for measurement in answer.measurements:
                    yield measurement
        finally:
            call.cancel()

    async def aggregate_measurements(
        self,
        record_filter: storage_pb2.RecordFilter | None = None,
        *,
        bucket: timedelta = timedelta(hours=1),
        page_size: int = 100,
    ) -> AsyncGenerator[storage_pb2.MeasurementAggregate, None]:
        """Summarises measurements by time, receiver and centre frequency, page by page.

        Args:
            record_filter: What to summarise, None for all; its times must be full hours of UTC, and it can not name an
                acquisition.
            bucket: Length of a bucket in whole hours, 1 h to 366 days; buckets begin at multiples of it since 1970.
            page_size: Aggregates that are fetched at a time, 1 to 1000.

        Yields:
            Aggregates, newest bucket first.
        """
        request = storage_pb2.AggregateMeasurementsRequest(filter=record_filter, page_size=page_size)
        request.bucket_duration.FromTimedelta(bucket)
        while True:
            page = await answer_of(self._storage.AggregateMeasurements(request), "storage")
            for aggregate in page.aggregates:
                yield aggregate
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
