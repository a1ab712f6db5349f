"""The DSP service's RPCs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import grpc

from dsp_svc.requests import read_config, read_spectrum_job
from dsp_svc.session import Session
from dsp_svc.spectrum import compute_spectrum, warm_up
from heimdall.common.v1 import measurement_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.dsp.v1 import dsp_pb2, dsp_pb2_grpc
from heimdall.errors import BadFieldError, HeimdallError
from heimdall.runtime.server import ServerContext, ServiceDefinition
from heimdall.runtime.settings import Settings
from heimdall.runtime.streams import heartbeat_now, receive, with_heartbeats

_ANSWER_COUNT = 4

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")


class DspService(dsp_pb2_grpc.DspServiceServicer):
    """Measures samples on a pool of threads; nothing outlives a call."""

    def __init__(self, pool: ThreadPoolExecutor, heartbeat_interval_s: float, idle_timeout_s: float) -> None:
        """Builds the service.

        Args:
            pool: The threads that compute; each stream uses one at a time.
            heartbeat_interval_s: How often an idle stream is kept alive.
            idle_timeout_s: Silence that ends a stream.
        """
        self._pool = pool
        self._heartbeat_interval_s = heartbeat_interval_s
        self._idle_timeout_s = idle_timeout_s

    async def Process(  # noqa: N802 (named by the contract)
        self, request_iterator: AsyncIterator[dsp_pb2.ProcessRequest], context: _Context
    ) -> AsyncIterator[dsp_pb2.ProcessResponse]:
        """Measures one receiver's stream."""
        answers: asyncio.Queue[dsp_pb2.ProcessResponse | None] = asyncio.Queue(_ANSWER_COUNT)
        worker = asyncio.create_task(self._measure(request_iterator, answers))
        try:
            async for answer in with_heartbeats(answers, _heartbeat, self._heartbeat_interval_s):
                yield answer
            await worker
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    async def ComputeSpectrum(  # noqa: N802 (named by the contract)
        self, request: dsp_pb2.ComputeSpectrumRequest, context: _Context
    ) -> dsp_pb2.ComputeSpectrumResponse:
        """Measures one run of samples."""
        job = read_spectrum_job(request)
        return dsp_pb2.ComputeSpectrumResponse(measurement=await self._compute(compute_spectrum, job))

    async def _measure(
        self,
        requests: AsyncIterator[dsp_pb2.ProcessRequest],
        answers: asyncio.Queue[dsp_pb2.ProcessResponse | None],
    ) -> None:
        """Answers the requests, and closes the answers in good order even when that fails."""
        try:
            async with (
                aclosing(receive(requests, self._idle_timeout_s)) as received,
                aclosing(self._measurements(received)) as measurements,
            ):
                async for measurement in measurements:
                    await answers.put(dsp_pb2.ProcessResponse(measurement=measurement))
        finally:
            # A cancelled worker has nobody left to tell, and a full queue would hold it for ever.
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                await answers.put(None)

    async def _measurements(
        self, requests: AsyncIterator[dsp_pb2.ProcessRequest]
    ) -> AsyncGenerator[measurement_pb2.Measurement, None]:
        session: Session | None = None
        async for request in requests:
            kind = request.WhichOneof("request")
            if session is None:
                if kind != "config":
                    raise _unexpected(kind or "request", "the first message of a stream must be config")
                session = Session(read_config(request.config))
                continue
            if kind != "event":
                raise _unexpected(kind or "request", "only events may follow the config")
            for run in session.accept(request.event):
                window = await self._compute(session.measure, run)
                if window is not None:
                    yield window
            if request.event.HasField("end"):
                yield await self._compute(session.summarise, request.event.end)
                return
        raise _unexpected("request", "the stream was closed before its end event")

    async def _compute(self, work: Callable[[_ItemT], _ResultT], item: _ItemT) -> _ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, item)


def define(settings: Settings) -> ServiceDefinition:
    """Describes the service to the runtime."""
    return ServiceDefinition(
        name="dsp",
        full_name=dsp_pb2.DESCRIPTOR.services_by_name["DspService"].full_name,
        port=settings.dsp.port,
        max_stream_count=settings.dsp.max_stream_count,
        setup=_setup,
    )


@asynccontextmanager
async def _setup(context: ServerContext) -> AsyncIterator[None]:
    settings = context.settings
    worker_count = settings.dsp.worker_count or os.cpu_count() or 1
    with ThreadPoolExecutor(worker_count, thread_name_prefix="dsp") as pool:
        await asyncio.get_running_loop().run_in_executor(pool, warm_up)
        service = DspService(pool, settings.mesh.heartbeat_interval_s, settings.mesh.idle_timeout_s)
        dsp_pb2_grpc.add_DspServiceServicer_to_server(service, context.server)
        yield


def _heartbeat() -> dsp_pb2.ProcessResponse:
    return dsp_pb2.ProcessResponse(heartbeat=heartbeat_now())


def _unexpected(field: str, text: str) -> HeimdallError:
    return BadFieldError(ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, field, text)
