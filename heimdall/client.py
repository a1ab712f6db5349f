"""The typed asynchronous client of the mesh: start and watch acquisitions, read back what they recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import IqEvent
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.receiver_pb2 import GainMode
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.metrics import metric_named
from heimdall.runtime.channel import open_channel
from heimdall.runtime.options import CHANNEL_OPTIONS
from heimdall.storage.v1 import storage_pb2, storage_pb2_grpc

if TYPE_CHECKING:
    # Those of them that read arrays or URLs are imported when they are needed: most callers need neither.
    from heimdall.coordinator.v1.coordinator_pb2_grpc import CoordinatorServiceAsyncStub
    from heimdall.recorded import RecordedSamples, SampleRun
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

TERMINAL_STATES: Final = frozenset(
    {
        Acquisition.STATE_SUCCEEDED,
        Acquisition.STATE_PARTIALLY_SUCCEEDED,
        Acquisition.STATE_FAILED,
        Acquisition.STATE_CANCELLED,
    }
)
"""States in which an acquisition does not change any more."""

_IDLE_TIMEOUT_S: Final = 15.0
"""Silence after which a stream of answers counts as broken; every service sends a heartbeat or an answer before."""

_DEADLINE_MARGIN_S: Final = 15.0
"""How much longer than until its own deadline an acquisition is watched."""


def acquisition_spec(
    center_frequency_hz: float,
    duration_s: float,
    receiver_ids: Sequence[str],
    *,
    start_time: datetime | None = None,
    max_wait_s: float | None = None,
    min_receivers: int | None = None,
    gain_db: float | None = None,
    automatic_gain: bool = False,
    passband_low_hz: float | None = None,
    passband_high_hz: float | None = None,
    window_duration_s: float | None = None,
    spectrum_bin_count: int | None = None,
    metrics: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> AcquisitionSpec:
    """Builds a spec from plain values. What is None is left to the service's default.

    Args:
        center_frequency_hz: Radio frequency at the centre of the recorded band in Hz.
        duration_s: Length of the window in s, exact to 1 us.
        receiver_ids: Receivers to record from, each once.
        start_time: Start of the window in UTC sample time; must have a time zone. Default: as soon as possible.
        max_wait_s: How long to wait for the receivers to stream, in s.
        min_receivers: Number of receivers that must store a sample for the acquisition not to be FAILED.
        gain_db: Fixed gain on the receivers' own scale in dB. Default: each receiver's own setting.
        automatic_gain: Lets the receivers control their gain; levels then mean nothing.
        passband_low_hz: Lower edge of the filter relative to the centre in Hz. Default: as wide as the receiver can.
        passband_high_hz: Upper edge of the filter relative to the centre in Hz. Default: as wide as the receiver can.
        window_duration_s: Length of a measurement window in s.
        spectrum_bin_count: Number of bins of the spectra that come with the measurements; a power of two.
        metrics: What to measure, out of heimdall.metrics.METRIC_NAMES. Default: everything that is one number.
        labels: Free key and value pairs kept with the acquisition.

    Returns:
        The spec; the service checks its values.

    Raises:
        ValueError: If start_time has no time zone, or there is no such metric.
    """
    spec = AcquisitionSpec(receiver_ids=receiver_ids, min_receivers=min_receivers or 0, labels=labels or {})
    spec.tuning.center_frequency_hz = center_frequency_hz
    if automatic_gain:
        spec.tuning.gain_mode = GainMode.GAIN_MODE_AUTOMATIC
    if gain_db is not None:
        spec.tuning.gain_db = gain_db
    if passband_low_hz is not None:
        spec.tuning.passband_low_hz = passband_low_hz
    if passband_high_hz is not None:
        spec.tuning.passband_high_hz = passband_high_hz
    spec.duration.FromTimedelta(timedelta(seconds=duration_s))
    if start_time is not None:
        spec.start_time.FromDatetime(_in_utc("start_time", start_time))
    if max_wait_s is not None:
        spec.max_wait.FromTimedelta(timedelta(seconds=max_wait_s))
    if window_duration_s is not None:
        spec.measurement.window_duration.FromTimedelta(timedelta(seconds=window_duration_s))
    if spectrum_bin_count is not None:
        spec.measurement.spectrum_bin_count = spectrum_bin_count
    spec.measurement.metrics.extend(metric_named(name) for name in metrics)
    return spec


def record_filter(
    *,
    frequency_hz: float | None = None,
    tolerance_hz: float | None = None,
    last: timedelta | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    receiver_ids: Sequence[str] = (),
    acquisition_id: str = "",
) -> storage_pb2.RecordFilter:
    """Builds a filter of recordings or measurements from plain values. What is None selects everything.

    Args:
        frequency_hz: Centre frequency in Hz; not without tolerance_hz.
        tolerance_hz: How far a centre frequency may be from it, in Hz, 0 or more; the edges belong to it.
        last: Only what began in this time before now, by the clock of this host; not together with start.
        start: Only what begins at or after this; must have a time zone.
        end: Only what begins before this; must have a time zone.
        receiver_ids: Only these receivers; empty for all.
        acquisition_id: Only this acquisition; empty for all.

    Returns:
        The filter; the service checks its values.

    Raises:
        ValueError: If one of frequency_hz and tolerance_hz is given without the other or tolerance_hz is below 0, last
            is given with start or is not above 0, or a time has no time zone.

    Example:
        async for recording in client.list_recordings(
            record_filter(frequency_hz=145.5e6, tolerance_hz=5e3, last=timedelta(hours=24))
        ):
            samples = await client.read_samples(recording.acquisition_id, recording.receiver_id)
    """
    selected = storage_pb2.RecordFilter(receiver_ids=receiver_ids, acquisition_id=acquisition_id)
    if (frequency_hz is None) != (tolerance_hz is None):
        raise ValueError(f"frequency_hz is {frequency_hz} and tolerance_hz is {tolerance_hz}; give both or none")
    if frequency_hz is not None and tolerance_hz is not None:
        if not tolerance_hz >= 0:
            raise ValueError(f"tolerance_hz is {tolerance_hz}, must be 0 or more")
        # In decimal, as they are written: the edges belong to the band, whatever their last binary digit.
        centre, tolerance = Decimal(repr(float(frequency_hz))), Decimal(repr(float(tolerance_hz)))
        selected.min_frequency_hz = max(0.0, float(centre - tolerance))
        selected.max_frequency_hz = float(centre + tolerance)
    if last is not None:
        if start is not None:
            raise ValueError("last and start are both given; the beginning is named by one of them")
        if last <= timedelta():
            raise ValueError(f"last is {last}, must be above 0")
        start = datetime.now(UTC) - last
    if start is not None:
        selected.start_time.FromDatetime(_in_utc("start", start))
    if end is not None:
        selected.end_time.FromDatetime(_in_utc("end", end))
    return selected


def _in_utc(name: str, time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError(f"{name} {time.isoformat()} has no time zone; give one, such as datetime.UTC")
    return time.astimezone(UTC)


async def check_health(target: str, service: str = "", *, timeout_s: float = 1.0) -> str:
    """Asks a service how it is, by the standard gRPC health protocol.

    The channel of this question is not health-checked itself, so a service that says NOT_SERVING still answers.

    Args:
        target: gRPC target, such as 127.0.0.1:50051.
        service: Full name, such as heimdall.storage.v1.StorageService, or that of a backend; empty for the process.
        timeout_s: Longest wait in s.

    Returns:
        SERVING, NOT_SERVING or UNKNOWN.

    Raises:
        HeimdallError: SERVICE_UNAVAILABLE if nobody answers there, INTERNAL if the name is not known there.
    """
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no method
        request = health_pb2.HealthCheckRequest(service=service)
        answer: health_pb2.HealthCheckResponse = await _answer(stub.Check(request, timeout=timeout_s), target)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


class HeimdallClient:
    """Talks to one mesh. Used as an async context manager; safe to share between tasks of one event loop.

    Every method raises HeimdallError with the reason that the service gave, or SERVICE_UNAVAILABLE if it is away.
    Iterators that are left early should be closed with contextlib.aclosing, which ends the call at once.

    Example:
        async with HeimdallClient("127.0.0.1:50051", "127.0.0.1:50054") as client:
            spec = acquisition_spec(145.5e6, 5.0, ["torino", "genova"])
            async for snapshot in client.acquire(spec):
                print(snapshot.state)
    """

    def __init__(self, coordinator_target: str, storage_target: str) -> None:
        """Names the services; connects to nothing yet.

        Args:
            coordinator_target: gRPC target of the coordinator, such as 127.0.0.1:50051.
            storage_target: gRPC target of the storage service, such as 127.0.0.1:50054.
        """
        self._coordinator_target = coordinator_target
        self._storage_target = storage_target
        self._stack = AsyncExitStack()
        self._coordinator: CoordinatorServiceAsyncStub
        self._storage: StorageServiceAsyncStub

    async def __aenter__(self) -> Self:
        coordinator = await self._stack.enter_async_context(open_channel("coordinator", self._coordinator_target))
        storage = await self._stack.enter_async_context(open_channel("storage", self._storage_target))
        self._coordinator = coordinator_pb2_grpc.CoordinatorServiceStub(coordinator)
        self._storage = storage_pb2_grpc.StorageServiceStub(storage)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def start_acquisition(self, spec: AcquisitionSpec, request_id: str = "") -> Acquisition:
        """Starts an acquisition, which then runs by itself.

        Args:
            spec: What to acquire.
            request_id: The caller's own id of this request, best a UUID: a repeat returns the first acquisition.

        Returns:
            The acquisition, ACCEPTED or further.

        Raises:
            HeimdallError: INVALID_FIELD with every bad field, FREQUENCY_OUT_OF_RANGE, ACQUISITION_EXISTS if request_id
                was used with another spec, OVERLOADED, DRAINING.
        """
        request = coordinator_pb2.StartAcquisitionRequest(spec=spec, request_id=request_id)
        return (await _answer(self._coordinator.StartAcquisition(request), "coordinator")).acquisition

    async def acquire(self, spec: AcquisitionSpec, request_id: str = "") -> AsyncGenerator[Acquisition, None]:
        """Starts an acquisition and watches it to its end. Leaving the iterator early does not cancel it.

        Args:
            spec: What to acquire.
            request_id: As for start_acquisition.

        Yields:
            Snapshots with growing revision, the terminal one last.

        Raises:
            HeimdallError: As start_acquisition and watch_acquisition.
        """
        started = await self.start_acquisition(spec, request_id)
        async with aclosing(self.watch_acquisition(started.acquisition_id)) as snapshots:
            async for snapshot in snapshots:
                yield snapshot

    async def watch_acquisition(self, acquisition_id: str) -> AsyncGenerator[Acquisition, None]:
        """Watches an acquisition to its end.

        Args:
            acquisition_id: The acquisition.

        Yields:
            The current snapshot, then changes of state at once and progress at most five times a second, each with a
            greater revision; the terminal one last. A slow caller gets the newest only.

        Raises:
            HeimdallError: ACQUISITION_NOT_FOUND; DEADLINE_EXCEEDED if the acquisition does not end in its time.
        """
        request = coordinator_pb2.WatchAcquisitionRequest(acquisition_id=acquisition_id)
        call = self._coordinator.WatchAcquisition(request)
        timeout_s = _IDLE_TIMEOUT_S
        try:
            while (answer := await _read(call, "coordinator", timeout_s)) is not None:
                yield answer.acquisition
                acquisition = answer.acquisition
                # By the coordinator's times alone: the clock of this host may differ.
                left_ns = acquisition.deadline_time.ToNanoseconds() - acquisition.update_time.ToNanoseconds()
                timeout_s = max(0.0, left_ns / 1e9) + _DEADLINE_MARGIN_S
        finally:
            call.cancel()

    async def get_acquisition(self, acquisition_id: str) -> Acquisition:
        """Returns one acquisition as it is now.

        Raises:
            HeimdallError: ACQUISITION_NOT_FOUND.
        """
        request = coordinator_pb2.GetAcquisitionRequest(acquisition_id=acquisition_id)
        return (await _answer(self._coordinator.GetAcquisition(request), "coordinator")).acquisition

    async def list_acquisitions(
        self, states: Sequence[Acquisition.State.ValueType] = (), *, page_size: int = 100
    ) -> AsyncGenerator[Acquisition, None]:
        """Lists acquisitions, page by page.

        Args:
            states: Only these states; empty for all.
            page_size: Acquisitions that are fetched at a time, 1 to 1000.

        Yields:
            Acquisitions, newest first.
        """
        request = coordinator_pb2.ListAcquisitionsRequest(page_size=page_size, states=states)
        while True:
            page = await _answer(self._coordinator.ListAcquisitions(request), "coordinator")
            for acquisition in page.acquisitions:
                yield acquisition
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel_acquisition(self, acquisition_id: str, *, discard: bool = False) -> Acquisition:
        """Cancels an acquisition; one that has ended is returned unchanged.

        Args:
            acquisition_id: The acquisition.
            discard: Whether to delete what was received. Default: it is kept.

        Returns:
            The acquisition, terminal.

        Raises:
            HeimdallError: ACQUISITION_NOT_FOUND.
        """
        request = coordinator_pb2.CancelAcquisitionRequest(acquisition_id=acquisition_id, discard=discard)
        return (await _answer(self._coordinator.CancelAcquisition(request), "coordinator")).acquisition

    async def list_receivers(self) -> coordinator_pb2.ListReceiversResponse:
        """Returns the receivers of every fetcher that answered, and the addresses of those that did not."""
        request = coordinator_pb2.ListReceiversRequest()
        return await _answer(self._coordinator.ListReceivers(request), "coordinator")

    async def get_limits(self) -> coordinator_pb2.GetLimitsResponse:
        """Returns the limits that requests are held to."""
        return await _answer(self._coordinator.GetLimits(coordinator_pb2.GetLimitsRequest()), "coordinator")

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
            page = await _answer(self._storage.ListRecordings(request), "storage")
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
        return await _answer(self._storage.GetRecordingUrl(request), "storage")

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
            while (answer := await _read(call, "storage", _IDLE_TIMEOUT_S)) is not None:
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
            while (answer := await _read(call, "storage", _IDLE_TIMEOUT_S)) is not None:
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
            page = await _answer(self._storage.AggregateMeasurements(request), "storage")
            for aggregate in page.aggregates:
                yield aggregate
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def health(self, service: str) -> str:
        """Asks one of this client's two services whether it can do its work.

        Args:
            service: coordinator or storage.

        Returns:
            SERVING, NOT_SERVING or UNKNOWN.

        Raises:
            ValueError: If service is another name; check_health asks any target.
            HeimdallError: SERVICE_UNAVAILABLE if nobody answers.
        """
        if service == "coordinator":
            return await check_health(self._coordinator_target, "heimdall.coordinator.v1.CoordinatorService")
        if service == "storage":
            return await check_health(self._storage_target, "heimdall.storage.v1.StorageService")
        raise ValueError(f"service is {service!r}; this client knows coordinator and storage")


async def _answer(call: Awaitable[ResponseT], peer: str) -> ResponseT:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error


async def _read(call: grpc.aio.UnaryStreamCall[RequestT, ResponseT], peer: str, timeout_s: float) -> ResponseT | None:
    """Returns the next answer of a stream, None at its end."""
    try:
        async with asyncio.timeout(timeout_s):
            answer = await call.read()
    except TimeoutError:
        raise HeimdallError(
            ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
            f"{peer}: nothing came for {timeout_s:.0f} s",
            metadata={"peer": peer, "timeout_s": timeout_s},
        ) from None
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error
    return None if answer is grpc.aio.EOF else cast(ResponseT, answer)
