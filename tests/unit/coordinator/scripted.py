"""Peers of the coordinator that follow a script, over real gRPC: for what real ones do not do on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from coordinator_svc.service import define
from heimdall.client import HeimdallClient
from heimdall.clock import Clock
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import (
    Block,
    End,
    EndReason,
    Gap,
    GapReason,
    IqEvent,
    SampleFormat,
    Segment,
)
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.dsp.v1 import dsp_pb2, dsp_pb2_grpc
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2, fetcher_pb2_grpc
from heimdall.runtime.server import ServerContext, ServiceDefinition, running_server
from heimdall.runtime.settings import CoordinatorSettings, MeshSettings, Settings
from heimdall.storage.v1 import storage_pb2, storage_pb2_grpc

RATE_HZ = 1000
BLOCK_COUNT = 100
"""Samples of a block; 100 ms."""

Open = fetcher_pb2.StreamIqRequest.Open
Responses = AsyncIterator[IqEvent]


def failure(reason: ErrorReason.ValueType, text: str = "as scripted") -> HeimdallError:
    return HeimdallError(reason, text)


def gap(first: int, lost: int, reason: GapReason.ValueType) -> IqEvent:
    return IqEvent(gap=Gap(first_lost_index=first, lost_sample_count=lost, exact=True, reason=reason))


class Call:
    """One StreamIq call: what came from the caller, and helpers to answer it."""

    def __init__(self, opening: Open, requests: AsyncIterator[fetcher_pb2.StreamIqRequest]) -> None:
        self.opening = opening
        self.window: fetcher_pb2.StreamIqRequest.Window | None = None
        self.stopped = asyncio.Event()
        self._windowed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(requests))

    async def _read(self, requests: AsyncIterator[fetcher_pb2.StreamIqRequest]) -> None:
        async for request in requests:
            if request.HasField("window"):
                self.window = request.window
                self._windowed.set()
            elif request.HasField("stop"):
                self.stopped.set()

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def segment(self, available_from_unix_ns: int | None = None, **values: Any) -> IqEvent:
        segment = Segment(
            receiver_id=self.opening.receiver_id,
            center_frequency_hz=self.opening.tuning.center_frequency_hz,
            sample_rate_hz=RATE_HZ,
            sample_format=SampleFormat.SAMPLE_FORMAT_CI16_LE,
            full_scale=32768,
            available_from_unix_ns=time.time_ns() if available_from_unix_ns is None else available_from_unix_ns,
        )
        segment.MergeFrom(Segment(**values))
        return IqEvent(segment=segment)

    async def wait_for_window(self) -> fetcher_pb2.StreamIqRequest.Window:
        await self._windowed.wait()
        assert self.window is not None
        return self.window

    async def expected_count(self) -> int:
        window = await self.wait_for_window()
        return (window.end_unix_ns - window.start_unix_ns) * RATE_HZ // 10**9

    async def block(self, first: int, count: int = BLOCK_COUNT) -> IqEvent:
        window = await self.wait_for_window()
        begin = window.start_unix_ns + first * 10**9 // RATE_HZ
        samples = b"".join(index.to_bytes(4, "little") for index in range(first, first + count))
        block = Block(first_sample_index=first, first_sample_unix_ns=begin, sample_count=count, samples=samples)
        return IqEvent(block=block)

    def end(self, index: int, reason: EndReason.ValueType = EndReason.END_REASON_WINDOW_COMPLETE) -> IqEvent:
        return IqEvent(end=End(end_sample_index=index, reason=reason, attempt_count=1))


Script = Callable[[Call], Responses]


async def good(call: Call) -> Responses:
    """A receiver that delivers its window at once."""
    yield call.segment()
    total = await call.expected_count()
    for first in range(call.opening.resume_sample_index, total, BLOCK_COUNT):
        yield await call.block(first, min(BLOCK_COUNT, total - first))
    yield call.end(total)


async def endless(call: Call) -> Responses:
    """A receiver that delivers one block and then nothing until it is told to stop."""
    yield call.segment()
    yield await call.block(0)
    await call.stopped.wait()
    yield call.end(BLOCK_COUNT, EndReason.END_REASON_STOPPED)


def refusing(reason: ErrorReason.ValueType, text: str = "as scripted") -> Script:
    async def script(call: Call) -> Responses:
        raise failure(reason, text)
        yield call.segment()

    return script


def dropping(lost: int, reason: GapReason.ValueType) -> Script:
    """A receiver that loses samples after its first block."""

    async def script(call: Call) -> Responses:
        yield call.segment()
        total = await call.expected_count()
        yield await call.block(0)
        yield gap(BLOCK_COUNT, lost, reason)
        for first in range(BLOCK_COUNT + lost, total, BLOCK_COUNT):
            yield await call.block(first, min(BLOCK_COUNT, total - first))
        yield call.end(total)

    return script


class ScriptedFetcher(fetcher_pb2_grpc.FetcherServiceServicer):
    """Answers each call to a receiver with the next of its scripts; the last one is repeated."""

    def __init__(self, scripts: dict[str, list[Script]], max_frequency_hz: float = 30e6) -> None:
        self.scripts = scripts
        self.openings = list[Open]()
        self.active_count = 0
        self.ended_s = list[float]()
        self._max_frequency_hz = max_frequency_hz

    async def ListReceivers(self, request: Any, context: Any) -> fetcher_pb2.ListReceiversResponse:  # noqa: N802
        receivers = [
            Receiver(receiver_id=name, min_frequency_hz=0, max_frequency_hz=self._max_frequency_hz)
            for name in self.scripts
        ]
        return fetcher_pb2.ListReceiversResponse(receivers=receivers)

    async def ProbeReceiver(self, request: Any, context: Any) -> fetcher_pb2.ProbeReceiverResponse:  # noqa: N802
        raise NotImplementedError

    async def StreamIq(  # noqa: N802
        self, request_iterator: AsyncIterator[fetcher_pb2.StreamIqRequest], context: Any
    ) -> AsyncIterator[fetcher_pb2.StreamIqResponse]:
        opening = (await anext(aiter(request_iterator))).open
        scripts = self.scripts[opening.receiver_id]
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0]
        self.openings.append(opening)
        self.active_count += 1
        call = Call(opening, request_iterator)
        try:
            async for event in script(call):
                yield fetcher_pb2.StreamIqResponse(event=event)
        finally:
            await call.close()
            self.active_count -= 1
            self.ended_s.append(time.monotonic())


@dataclass
class Kept:
    """One recording of the scripted storage."""

    opening: storage_pb2.WriteRecordingRequest.Open
    segments: list[Segment] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    finish: storage_pb2.WriteRecordingRequest.Finish | None = None

    @property
    def next_index(self) -> int:
        return sum(b.sample_count for b in self.blocks) + sum(g.lost_sample_count for g in self.gaps)

    def recording(self) -> Recording:
        assert self.finish is not None
        assert self.finish.end.end_sample_index == self.next_index
        discard = self.finish.disposition == storage_pb2.WriteRecordingRequest.Finish.DISPOSITION_DISCARD
        failed = self.finish.end.HasField("error")
        return Recording(
            acquisition_id=self.opening.acquisition_id,
            receiver_id=self.opening.receiver.receiver_id,
            state=Recording.STATE_DISCARDED if discard else Recording.STATE_STORED,
            complete=not failed,
            incomplete_cause=self.finish.end.error if failed else None,
            sample_count=sum(b.sample_count for b in self.blocks),
            lost_sample_count=sum(g.lost_sample_count for g in self.gaps),
            gap_count=len(self.gaps),
        )


class ScriptedStorage(storage_pb2_grpc.StorageServiceServicer):
    """Keeps everything in memory and acknowledges at once; breaks or hangs where it is told to."""

    def __init__(self) -> None:
        self.acquisitions = dict[str, Acquisition]()
        self.puts = list[Acquisition]()
        self.kept = dict[str, Kept]()
        self.openings = list[storage_pb2.WriteRecordingRequest.Open]()
        """One for each call of WriteRecording, those that were refused too."""
        self.measurements = list[Measurement]()
        self.break_after = list[int]()
        """For each call of WriteRecording in turn: after how many events it fails; -1 for never."""
        self.acknowledging = True
        self.hung = asyncio.Event()
        self.hung.set()
        """Cleared to let PutAcquisition wait."""
        self.refusal: HeimdallError | None = None
        """Raised by every call of WriteRecording."""
        self.open_failures = list[HeimdallError]()
        """Raised by WriteRecording in turn, before it answers."""
        self.put_failures = list[HeimdallError]()
        """Raised by PutAcquisition in turn, after storing."""
        self.rows_wait = False
        """Whether rows are told to wait for a database that is away."""

    async def PutAcquisition(  # noqa: N802
        self, request: storage_pb2.PutAcquisitionRequest, context: Any
    ) -> storage_pb2.PutAcquisitionResponse:
        await self.hung.wait()
        new = request.acquisition
        stored = self.acquisitions.get(new.acquisition_id)
        if (stored.revision if stored is not None else 0) != request.expected_revision:
            raise failure(ErrorReason.ERROR_REASON_REVISION_CONFLICT)
        assert new.revision > request.expected_revision
        kept = Acquisition()
        kept.CopyFrom(new)
        self.acquisitions[new.acquisition_id] = kept
        self.puts.append(kept)
        if self.put_failures:
            raise self.put_failures.pop(0)
        return storage_pb2.PutAcquisitionResponse(acquisition=new, waiting=self.rows_wait)

    async def GetAcquisition(  # noqa: N802
        self, request: storage_pb2.GetAcquisitionRequest, context: Any
    ) -> storage_pb2.GetAcquisitionResponse:
        if request.acquisition_id not in self.acquisitions:
            raise failure(ErrorReason.ERROR_REASON_ACQUISITION_NOT_FOUND)
        return storage_pb2.GetAcquisitionResponse(acquisition=self.acquisitions[request.acquisition_id])

    async def ListAcquisitions(  # noqa: N802
        self, request: storage_pb2.ListAcquisitionsRequest, context: Any
    ) -> storage_pb2.ListAcquisitionsResponse:
        wanted = [a for a in self.acquisitions.values() if not request.states or a.state in request.states]
        return storage_pb2.ListAcquisitionsResponse(acquisitions=wanted)

    async def ListRecordings(  # noqa: N802
        self, request: storage_pb2.ListRecordingsRequest, context: Any
    ) -> storage_pb2.ListRecordingsResponse:
        found = []
        for kept in self.kept.values():
            if kept.opening.acquisition_id != request.filter.acquisition_id:
                continue
            if kept.finish is not None:
                found.append(kept.recording())
                continue
            found.append(
                Recording(
                    acquisition_id=kept.opening.acquisition_id,
                    receiver_id=kept.opening.receiver.receiver_id,
                    state=Recording.STATE_WRITING,
                    segment=kept.segments[0],
                    window_start_unix_ns=kept.opening.window_start_unix_ns,
                    window_end_unix_ns=kept.opening.window_end_unix_ns,
                    sample_count=sum(b.sample_count for b in kept.blocks),
                )
            )
        return storage_pb2.ListRecordingsResponse(recordings=found)

    async def ReadRecording(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        raise NotImplementedError
        yield

    async def GetRecordingUrl(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    async def WriteMeasurements(  # noqa: N802
        self, request: storage_pb2.WriteMeasurementsRequest, context: Any
    ) -> storage_pb2.WriteMeasurementsResponse:
        self.measurements += request.measurements
        count = len(request.measurements)
        waiting_count = count if self.rows_wait else 0
        return storage_pb2.WriteMeasurementsResponse(inserted_count=count - waiting_count, waiting_count=waiting_count)

    async def QueryMeasurements(  # noqa: N802
        self, request: storage_pb2.QueryMeasurementsRequest, context: Any
    ) -> AsyncIterator[storage_pb2.QueryMeasurementsResponse]:
        found = [m for m in self.measurements if m.scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY]
        yield storage_pb2.QueryMeasurementsResponse(measurements=found)

    async def AggregateMeasurements(  # noqa: N802
        self, request: storage_pb2.AggregateMeasurementsRequest, context: Any
    ) -> storage_pb2.AggregateMeasurementsResponse:
        raise NotImplementedError

    async def WriteRecording(  # noqa: N802
        self, request_iterator: AsyncIterator[storage_pb2.WriteRecordingRequest], context: Any
    ) -> AsyncIterator[storage_pb2.WriteRecordingResponse]:
        answer = storage_pb2.WriteRecordingResponse
        opening = (await anext(aiter(request_iterator))).open
        self.openings.append(opening)
        if self.refusal is not None:
            raise self.refusal
        if self.open_failures:
            raise self.open_failures.pop(0)
        kept = self.kept.setdefault(opening.receiver.receiver_id, Kept(opening))
        if kept.epochs and opening.writer_epoch < kept.epochs[-1]:
            seen = {"writer_epoch": kept.epochs[-1]}
            raise HeimdallError(ErrorReason.ERROR_REASON_WRITER_SUPERSEDED, "as scripted", metadata=seen)
        kept.epochs.append(opening.writer_epoch)
        events_left = self.break_after.pop(0) if self.break_after else -1
        yield answer(opened=answer.Opened(next_sample_index=kept.next_index))
        async for request in request_iterator:
            if events_left == 0:
                raise failure(ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE)
            events_left -= 1
            if request.HasField("finish"):
                kept.finish = request.finish
                yield answer(recording=kept.recording())
                return
            event = request.event
            if event.HasField("segment"):
                kept.segments.append(event.segment)
            elif event.HasField("block"):
                assert event.block.first_sample_index == kept.next_index
                kept.blocks.append(event.block)
            elif event.HasField("gap"):
                assert event.gap.first_lost_index == kept.next_index
                kept.gaps.append(event.gap)
            if self.acknowledging:
                yield answer(ack=answer.Ack(next_sample_index=kept.next_index))


class ScriptedDsp(dsp_pb2_grpc.DspServiceServicer):
    """Counts samples; fails where it is told to."""

    def __init__(self) -> None:
        self.fail_after: int | None = None
        """Number of events after which every call fails; None for never."""
        self.reading = asyncio.Event()
        self.reading.set()
        """Cleared to let calls take nothing in."""
        self.window_count = 0
        """Windows that come before the summary, all at once."""
        self.trace = [-100.0]
        """What a window and the summary have as the statistics of their spectra."""

    async def ComputeSpectrum(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    async def Process(  # noqa: N802
        self, request_iterator: AsyncIterator[dsp_pb2.ProcessRequest], context: Any
    ) -> AsyncIterator[dsp_pb2.ProcessResponse]:
        config = (await anext(aiter(request_iterator))).config
        count, events = 0, 0
        await self.reading.wait()
        async for request in request_iterator:
            if events == self.fail_after:
                raise failure(ErrorReason.ERROR_REASON_INTERNAL)
            events += 1
            count += request.event.block.sample_count
            if request.event.HasField("end"):
                kinds = MeasurementScope
                scopes = [kinds.MEASUREMENT_SCOPE_WINDOW] * self.window_count + [kinds.MEASUREMENT_SCOPE_SUMMARY]
                for place, scope in enumerate(scopes):
                    measurement = Measurement(
                        acquisition_id=config.acquisition_id,
                        receiver_id=config.receiver_id,
                        scope=scope,
                        first_sample_index=place,
                        sample_count=count,
                    )
                    measurement.products.spectrum_statistics.traces.add().power_dbfs_per_hz.extend(self.trace)
                    yield dsp_pb2.ProcessResponse(measurement=measurement)
                return


@dataclass
class Peers:
    """A coordinator among scripted peers."""

    fetcher: ScriptedFetcher
    storage: ScriptedStorage
    dsp: ScriptedDsp
    client: HeimdallClient
    address: str
    settings: Settings
    stacks: dict[str, AsyncExitStack]
    clock: Clock | None

    async def stop(self, name: str) -> None:
        """Stops one of them."""
        await self.stacks.pop(name).aclose()

    async def restart_coordinator(self) -> None:
        """Runs the coordinator anew, on another port: channels of one process share their back-off from an address."""
        if "coordinator" in self.stacks:
            await self.stop("coordinator")
        self.stacks["coordinator"] = stack = AsyncExitStack()
        self.address = await stack.enter_async_context(running_server(define(self.settings, self.clock), self.settings))
        self.client = HeimdallClient(self.address, self.settings.mesh.storage_target)
        await stack.enter_async_context(self.client)


@asynccontextmanager
async def scripted_peers(
    scripts: dict[str, list[Script]],
    *,
    mesh: dict[str, Any] | None = None,
    clock: Clock | None = None,
    **coordinator: Any,
) -> AsyncIterator[Peers]:
    """Runs a coordinator among scripted peers.

    Args:
        scripts: The scripts of each receiver, one a call.
        mesh: Keys of the section [mesh].
        clock: Host clock of the coordinator.
        coordinator: Keys of the section [coordinator].
    """
    fetcher, storage, dsp = ScriptedFetcher(scripts), ScriptedStorage(), ScriptedDsp()
    add: dict[str, tuple[Callable[[Any, grpc.aio.Server], None], object]] = {
        "fetcher": (fetcher_pb2_grpc.add_FetcherServiceServicer_to_server, fetcher),
        "dsp": (dsp_pb2_grpc.add_DspServiceServicer_to_server, dsp),
        "storage": (storage_pb2_grpc.add_StorageServiceServicer_to_server, storage),
    }
    mesh_settings = MeshSettings(**{"drain_notice_s": 0, "drain_timeout_s": 0, **(mesh or {})})
    settings = Settings(mesh=mesh_settings, coordinator=CoordinatorSettings(port=0, **coordinator))
    stacks = {name: AsyncExitStack() for name in (*add, "coordinator")}
    try:
        targets = {}
        for name, (register, servicer) in add.items():
            definition = _definition(name, register, servicer)
            targets[name] = await stacks[name].enter_async_context(running_server(definition, settings))
        mesh_settings = mesh_settings.model_copy(
            update={
                "fetcher_targets": (targets["fetcher"],),
                "dsp_target": targets["dsp"],
                "storage_target": targets["storage"],
            }
        )
        settings = settings.model_copy(update={"mesh": mesh_settings})
        address = await stacks["coordinator"].enter_async_context(running_server(define(settings, clock), settings))
        async with HeimdallClient(address, targets["storage"]) as client:
            yield Peers(fetcher, storage, dsp, client, address, settings, stacks, clock)
    finally:
        for name in ("coordinator", "fetcher", "dsp", "storage"):
            if name in stacks:
                await stacks[name].aclose()


def _definition(name: str, register: Callable[[Any, grpc.aio.Server], None], servicer: object) -> ServiceDefinition:
    @asynccontextmanager
    async def setup(context: ServerContext) -> AsyncIterator[None]:
        register(servicer, context.server)
        yield

    return ServiceDefinition(
        name=name,
        full_name=f"heimdall.{name}.v1.{name.capitalize()}Service",
        port=0,
        max_stream_count=64,
        setup=setup,
    )
