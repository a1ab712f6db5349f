"""A service of this project whose handlers a test writes, run by the real runtime on a real port."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc

from heimdall.dsp.v1.dsp_pb2 import ComputeSpectrumRequest, ComputeSpectrumResponse, ProcessRequest, ProcessResponse
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceServicer, add_DspServiceServicer_to_server
from heimdall.runtime.server import ServerContext, ServiceDefinition, running_server
from heimdall.runtime.settings import MeshSettings, Settings

NAME = "heimdall.dsp.v1.DspService"

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Unary: TypeAlias = Callable[[ComputeSpectrumRequest, Context], Awaitable[ComputeSpectrumResponse]]
Streaming: TypeAlias = Callable[[AsyncIterator[ProcessRequest], Context], AsyncGenerator[ProcessResponse, None]]


async def answer_at_once(request: ComputeSpectrumRequest, context: Context) -> ComputeSpectrumResponse:
    return ComputeSpectrumResponse()


async def echo_heartbeats(
    requests: AsyncIterator[ProcessRequest], context: Context
) -> AsyncGenerator[ProcessResponse, None]:
    async for request in requests:
        yield ProcessResponse(heartbeat=request.event.heartbeat)


async def read(call: grpc.aio.StreamStreamCall[ProcessRequest, ProcessResponse]) -> ProcessResponse:
    """Reads one answer, of which there must be one."""
    answer = await call.read()
    assert isinstance(answer, ProcessResponse)
    return answer


class ScriptedDsp(DspServiceServicer):
    """Answers as the test says."""

    def __init__(self, unary: Unary, streaming: Streaming) -> None:
        self._unary = unary
        self._streaming = streaming

    async def ComputeSpectrum(  # noqa: N802 (named by the contract)
        self, request: ComputeSpectrumRequest, context: Context
    ) -> ComputeSpectrumResponse:
        return await self._unary(request, context)

    def Process(  # noqa: N802 (named by the contract)
        self, requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        return self._streaming(requests, context)


@asynccontextmanager
async def serving(
    *,
    unary: Unary = answer_at_once,
    streaming: Streaming = echo_heartbeats,
    max_stream_count: int = 8,
    mesh: MeshSettings | None = None,
    port: int = 0,
    contexts: list[ServerContext] | None = None,
    background: Coroutine[Any, Any, None] | None = None,
    on_failure: Callable[[], None] = lambda: None,
) -> AsyncIterator[str]:
    """Serves the handlers and yields the address; what the runtime hands to the set-up is put into contexts."""

    @asynccontextmanager
    async def setup(context: ServerContext) -> AsyncIterator[None]:
        add_DspServiceServicer_to_server(ScriptedDsp(unary, streaming), context.server)
        if contexts is not None:
            contexts.append(context)
        if background is None:
            yield
        else:
            async with context.background(background, "the test's work"):
                yield

    definition = ServiceDefinition("dsp", NAME, port, max_stream_count, setup)
    settings = Settings(mesh=mesh or MeshSettings(drain_notice_s=0, drain_timeout_s=5))
    async with running_server(definition, settings, on_failure=on_failure) as address:
        yield address
