"""A service as a process, run by the real runtime, a part of which crashes as soon as somebody asks for a spectrum."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from heimdall.dsp.v1.dsp_pb2 import ComputeSpectrumRequest, ComputeSpectrumResponse
from heimdall.dsp.v1.dsp_pb2_grpc import add_DspServiceServicer_to_server
from heimdall.runtime.boot import main
from heimdall.runtime.server import ServerContext, ServiceDefinition
from heimdall.runtime.settings import Settings
from tests.unit.runtime.service import NAME, Context, ScriptedDsp, echo_heartbeats


def define(settings: Settings) -> ServiceDefinition:
    return ServiceDefinition("dsp", NAME, settings.dsp.port, 8, setup)


@asynccontextmanager
async def setup(context: ServerContext) -> AsyncIterator[None]:
    asked = asyncio.Event()

    async def answer(request: ComputeSpectrumRequest, call: Context) -> ComputeSpectrumResponse:
        asked.set()
        return ComputeSpectrumResponse()

    async def break_down() -> None:
        await asked.wait()
        raise ZeroDivisionError("a fault of this service")

    add_DspServiceServicer_to_server(ScriptedDsp(answer, echo_heartbeats), context.server)
    async with context.background(break_down(), "housekeeping"):
        yield


if __name__ == "__main__":
    main("dsp", define)
