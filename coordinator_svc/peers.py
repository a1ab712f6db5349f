"""The services that the coordinator calls, and its plain questions to storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
import structlog

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.dsp.v1 import dsp_pb2_grpc
from heimdall.errors import from_rpc_error
from heimdall.fetcher.v1 import fetcher_pb2_grpc
from heimdall.runtime.channel import open_channel
from heimdall.runtime.settings import MeshSettings
from heimdall.storage.v1 import storage_pb2, storage_pb2_grpc

if TYPE_CHECKING:
    from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceAsyncStub
    from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceAsyncStub
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

AnswerT = TypeVar("AnswerT")

_log = structlog.get_logger(__name__)

_WAITING: Final = "storage keeps it on disk until its database is back"


async def ask(call: Awaitable[AnswerT], peer: str) -> AnswerT:
    """Returns the answer of a unary call; its deadline comes from the service config.

    Raises:
        HeimdallError: Why the call failed.
    """
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error


class Archive:
    """The unary calls to storage. Each raises HeimdallError."""

    def __init__(self, stub: StorageServiceAsyncStub) -> None:
        self._stub = stub

    async def put(self, acquisition: Acquisition, expected_revision: int) -> None:
        """Stores an acquisition; REVISION_CONFLICT if another revision than the expected one is stored."""
        request = storage_pb2.PutAcquisitionRequest(acquisition=acquisition, expected_revision=expected_revision)
        answer = await ask(self._stub.PutAcquisition(request), "storage")
        if answer.waiting:
            _log.warning(
                "acquisition_waits",
                acquisition_id=acquisition.acquisition_id,
                state=Acquisition.State.Name(acquisition.state).removeprefix("STATE_"),
                message=_WAITING,
            )

    async def get(self, acquisition_id: str) -> Acquisition:
        """Returns a stored acquisition; ACQUISITION_NOT_FOUND if there is none."""
        request = storage_pb2.GetAcquisitionRequest(acquisition_id=acquisition_id)
        return (await ask(self._stub.GetAcquisition(request), "storage")).acquisition

    async def page(
        self, states: Sequence[Acquisition.State.ValueType], page_size: int, page_token: str
    ) -> tuple[list[Acquisition], str]:
        """Returns one page of acquisitions, newest first, and the token of the next."""
        request = storage_pb2.ListAcquisitionsRequest(page_size=page_size, page_token=page_token, states=states)
        answer = await ask(self._stub.ListAcquisitions(request), "storage")
        return list(answer.acquisitions), answer.next_page_token

    async def recordings(self, acquisition_id: str) -> dict[str, Recording]:
        """Returns the recordings of an acquisition by receiver."""
        request = storage_pb2.ListRecordingsRequest(
            page_size=1000, filter=storage_pb2.RecordFilter(acquisition_id=acquisition_id)
        )
        answer = await ask(self._stub.ListRecordings(request), "storage")
        return {recording.receiver_id: recording for recording in answer.recordings}

    async def summaries(self, acquisition_id: str) -> dict[str, Measurement]:
        """Returns the summaries of an acquisition by receiver."""
        request = storage_pb2.QueryMeasurementsRequest(
            filter=storage_pb2.RecordFilter(acquisition_id=acquisition_id),
            scope=MeasurementScope.MEASUREMENT_SCOPE_SUMMARY,
        )
        found = dict[str, Measurement]()
        call = self._stub.QueryMeasurements(request, timeout=10)
        try:
            async for answer in call:
                found.update((measurement.receiver_id, measurement) for measurement in answer.measurements)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "storage") from error
        finally:
            call.cancel()
        return found

    async def write_measurements(self, measurements: Sequence[Measurement]) -> None:
        """Stores measurements; a repeat changes nothing."""
        request = storage_pb2.WriteMeasurementsRequest(measurements=measurements)
        answer = await ask(self._stub.WriteMeasurements(request), "storage")
        if answer.waiting_count:
            _log.warning(
                "measurements_wait",
                acquisition_id=measurements[0].acquisition_id,
                receiver_id=measurements[0].receiver_id,
                count=answer.waiting_count,
                message=_WAITING,
            )


@dataclass(frozen=True)
class Peers:
    """Stubs of every service that the coordinator calls."""

    fetchers: Mapping[str, FetcherServiceAsyncStub]
    """By target, in the order of the settings."""
    dsp: DspServiceAsyncStub
    """Measures streams."""
    storage: StorageServiceAsyncStub
    """Keeps recordings."""
    archive: Archive
    """Keeps acquisitions and measurements."""


@asynccontextmanager
async def open_peers(settings: MeshSettings) -> AsyncIterator[Peers]:
    """Opens one channel to each service and closes them at the end; connects on first use."""
    async with AsyncExitStack() as stack:
        fetchers = dict[str, "FetcherServiceAsyncStub"]()
        for target in settings.fetcher_targets:
            channel = await stack.enter_async_context(open_channel("fetcher", target))
            fetchers[target] = fetcher_pb2_grpc.FetcherServiceStub(channel)
        dsp = await stack.enter_async_context(open_channel("dsp", settings.dsp_target))
        storage = await stack.enter_async_context(open_channel("storage", settings.storage_target))
        stub = storage_pb2_grpc.StorageServiceStub(storage)
        yield Peers(fetchers, dsp_pb2_grpc.DspServiceStub(dsp), stub, Archive(stub))
