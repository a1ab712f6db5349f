"""A storage service on a free port, and a writer that speaks to it as the coordinator does."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from heimdall.common.v1.iq_pb2 import (
    Block,
    End,
    EndReason,
    Gap,
    GapReason,
    IqEvent,
    SampleFormat,
    SampleOrigin,
    Segment,
    Stamp,
    TimeSolution,
    TimeSource,
)
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.runtime.settings import MeshSettings, Settings, StorageSettings
from heimdall.storage.v1 import storage_pb2 as pb
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from storage_svc.definition import define

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

WINDOW_START_UNIX_NS = 1_700_000_000_000_000_000
RATE_HZ = 12_000.0
BLOCK = 3000
KEEP = pb.WriteRecordingRequest.Finish.Disposition.DISPOSITION_KEEP
DISCARD = pb.WriteRecordingRequest.Finish.Disposition.DISPOSITION_DISCARD


def storage_settings(folder: Path, mesh: dict[str, Any] | None = None, **values: Any) -> Settings:
    """Settings of a service that stops at once."""
    return Settings(
        storage=StorageSettings(port=0, data_dir=folder, **{"sync_interval_s": 0.02, **values}),
        mesh=MeshSettings(drain_notice_s=0, drain_timeout_s=0.2, **(mesh or {})),
    )


@asynccontextmanager
async def running_storage(settings: Settings) -> AsyncIterator[StorageServiceAsyncStub]:
    async with running_server(define(settings), settings) as address, open_channel("storage", address) as channel:
        yield StorageServiceStub(channel)


def sample_bytes(first: int, count: int, seed: str = "a") -> bytes:
    """Returns CI16 samples that depend on their index, so that a shifted or repeated one shows."""
    blocks = []
    for number in range(first // 64, (first + count - 1) // 64 + 1):
        digest = hashlib.shake_128(f"{seed}{number}".encode()).digest(64 * 4)
        blocks.append(digest)
    skip = (first - first // 64 * 64) * 4
    return b"".join(blocks)[skip : skip + count * 4]


def time_ns(index: int, rate_hz: float = RATE_HZ) -> int:
    return WINDOW_START_UNIX_NS + round(index * 1e9 / rate_hz)


def segment(receiver_id: str = "rx-1", **values: Any) -> IqEvent:
    made = Segment(
        receiver_id=receiver_id,
        center_frequency_hz=77_500.0,
        sample_rate_hz=RATE_HZ,
        sample_format=SampleFormat.SAMPLE_FORMAT_CI16_LE,
        full_scale=32768.0,
        driver="kiwisdr",
        driver_version="1",
        server_version="KiwiSDR_v1.711",
        passband_low_hz=-5000.0,
        passband_high_hz=5000.0,
        sample_origin=SampleOrigin.SAMPLE_ORIGIN_RAW_IQ,
        time_source=TimeSource.TIME_SOURCE_GNSS,
    )
    made.position.latitude_deg, made.position.longitude_deg, made.position.altitude_m = 45.02, 7.29, 600.0
    for name, value in values.items():
        setattr(made, name, value)
    return IqEvent(segment=made)


def block(first: int, count: int = BLOCK, *, seed: str = "a", overload: bool = False) -> IqEvent:
    stamps = [
        Stamp(sample_index=index, unix_ns=time_ns(index) + 37, age_s=index % 200)
        for index in range(first + (-first) % 512, first + count, 512)
    ]
    return IqEvent(
        block=Block(
            first_sample_index=first,
            first_sample_unix_ns=time_ns(first),
            sample_count=count,
            samples=sample_bytes(first, count, seed),
            stamps=stamps,
            overload=overload,
        )
    )


def gap(first: int, count: int, reason: GapReason.ValueType = GapReason.GAP_REASON_SEQUENCE) -> IqEvent:
    return IqEvent(gap=Gap(first_lost_index=first, lost_sample_count=count, exact=True, reason=reason))


def solution(rate_hz: float = 12_000.25) -> TimeSolution:
    return TimeSolution(
        source=TimeSource.TIME_SOURCE_GNSS,
        reference_sample_index=0,
        reference_unix_ns=WINDOW_START_UNIX_NS,
        sample_rate_hz=rate_hz,
        sample_rate_sigma_hz=0.001,
        time_sigma_ns=120.0,
        rms_ns=80.0,
        stamp_used_count=100,
        stamp_dropped_count=2,
    )


def end_at(index: int, **values: Any) -> End:
    return End(end_sample_index=index, **{"reason": EndReason.END_REASON_WINDOW_COMPLETE, **values})


def opening(
    task_id: str = "task-1", receiver_id: str = "rx-1", epoch: int = 1, *, resumed: bool = False
) -> pb.WriteRecordingRequest.Open:
    made = pb.WriteRecordingRequest.Open(
        acquisition_id=task_id,
        writer_epoch=epoch,
        resumed=resumed,
        window_start_unix_ns=WINDOW_START_UNIX_NS,
        window_end_unix_ns=WINDOW_START_UNIX_NS + 5_000_000_000,
    )
    made.receiver.receiver_id = receiver_id
    made.receiver.display_name = "Aquila di Giaveno"
    made.spec.tuning.center_frequency_hz = 77_500.0
    made.spec.duration.seconds = 5
    made.spec.receiver_ids.append(receiver_id)
    return made


class Writer:
    """One WriteRecording stream; failures of the call are raised as HeimdallError."""

    def __init__(self, stub: StorageServiceAsyncStub) -> None:
        self._call = stub.WriteRecording(timeout=30)
        self.acknowledged: list[int] = []
        self.heartbeat_count = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()

    async def open(self, message: pb.WriteRecordingRequest.Open | None = None) -> int:
        await self._call.write(pb.WriteRecordingRequest(open=message or opening()))
        answer = await self._answer()
        assert answer is not None
        assert answer.HasField("opened")
        return answer.opened.next_sample_index

    async def send(self, *events: IqEvent) -> None:
        for event in events:
            await self.send_raw(pb.WriteRecordingRequest(event=event))

    async def send_raw(self, request: pb.WriteRecordingRequest) -> None:
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self.failure() from None

    async def acknowledged_up_to(self, index: int) -> None:
        """Waits until everything before an index is durable."""
        while not self.acknowledged or self.acknowledged[-1] < index:
            assert await self._answer() is not None, f"ended at {self.acknowledged}"

    async def finish(self, end: End | None, disposition: Any = KEEP) -> Recording:
        request = pb.WriteRecordingRequest.Finish(disposition=disposition, end=end)
        await self.send_raw(pb.WriteRecordingRequest(finish=request))
        while True:
            answer = await self._answer()
            assert answer is not None
            if answer.HasField("recording"):
                assert await self._answer() is None
                return answer.recording

    async def half_close(self) -> None:
        await self._call.done_writing()
        while await self._answer() is not None:
            pass

    async def half_close_empty(self) -> None:
        await self._call.done_writing()

    async def failure(self) -> HeimdallError:
        """Waits for the call to fail and returns why."""
        try:
            while await self._answer() is not None:
                pass
        except HeimdallError as error:
            return error
        raise AssertionError("the call ended well")

    async def _answer(self) -> pb.WriteRecordingResponse | None:
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "storage") from error
        if not isinstance(answer, pb.WriteRecordingResponse):
            return None
        if answer.HasField("ack"):
            self.acknowledged.append(answer.ack.next_sample_index)
        self.heartbeat_count += answer.HasField("heartbeat")
        return answer


async def write(
    stub: StorageServiceAsyncStub,
    events: Iterable[IqEvent],
    end: End,
    message: pb.WriteRecordingRequest.Open | None = None,
) -> Recording:
    """Writes a whole recording."""
    async with Writer(stub) as writer:
        await writer.open(message)
        await writer.send(*events)
        return await writer.finish(end)


async def read(stub: StorageServiceAsyncStub, **values: Any) -> list[IqEvent]:
    """Reads a recording, or a part of it."""
    request = pb.ReadRecordingRequest(**{"acquisition_id": "task-1", "receiver_id": "rx-1", **values})
    try:
        return [answer.event async for answer in stub.ReadRecording(request, timeout=30)]
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "storage") from error


def samples_of(events: Iterable[IqEvent]) -> bytes:
    return b"".join(event.block.samples for event in events)
