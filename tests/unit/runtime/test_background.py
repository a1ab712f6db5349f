"""Work beside the calls: a crash of it ends the service, in good order and not silently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from heimdall.common.v1.iq_pb2 import Heartbeat
from heimdall.dsp.v1.dsp_pb2 import ProcessRequest, ProcessResponse
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceStub
from heimdall.runtime.background import ServiceFailedError
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import ServerContext
from heimdall.runtime.settings import MeshSettings
from tests.unit.runtime.service import NAME, Context, read, serving

_WAIT_S = 10.0
_Status = health_pb2.HealthCheckResponse


async def health_of(address: str, name: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=_WAIT_S)
        return int(answer.status)


async def test_a_crash_is_told_by_health_at_once_and_raised_after_the_drain() -> None:
    crash, failed, finish = asyncio.Event(), asyncio.Event(), asyncio.Event()
    contexts = list[ServerContext]()

    async def break_down() -> None:
        await crash.wait()
        raise LookupError("the work lost its way")

    async def work(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        yield ProcessResponse(heartbeat=Heartbeat())
        await finish.wait()
        yield ProcessResponse(heartbeat=Heartbeat())

    async def serve(address: asyncio.Future[str]) -> None:
        async with serving(
            streaming=work,
            mesh=MeshSettings(drain_notice_s=0, drain_timeout_s=_WAIT_S),
            contexts=contexts,
            background=break_down(),
            on_failure=failed.set,
        ) as started:
            address.set_result(started)
            await failed.wait()

    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(started))
    async with asyncio.timeout(_WAIT_S):
        address = await started
        assert await health_of(address, NAME) == _Status.SERVING
        async with open_channel("dsp", address) as channel:
            call = DspServiceStub(channel).Process(timeout=_WAIT_S)
            await read(call)
            crash.set()
            await failed.wait()
            for name in ("", NAME):
                assert await health_of(address, name) == _Status.NOT_SERVING
            # It can not become SERVING again, whatever a backend says.
            await contexts[0].health.set(NAME, _Status.SERVING)
            assert await health_of(address, NAME) == _Status.NOT_SERVING
            assert not server.done()
            finish.set()
            await read(call)
        with pytest.raises(ServiceFailedError, match="the test's work crashed: LookupError: the work lost its way"):
            await server


async def test_what_the_work_waits_for_may_not_be_cancelled_silently() -> None:
    lost = asyncio.get_running_loop().create_future()
    failed = asyncio.Event()

    async def wait_for_it() -> None:
        await lost

    async def serve() -> None:
        async with serving(background=wait_for_it(), on_failure=failed.set):
            lost.cancel()
            async with asyncio.timeout(_WAIT_S):
                await failed.wait()

    with pytest.raises(ServiceFailedError, match="was cancelled"):
        await serve()


async def test_work_that_ends_or_is_ended_is_no_failure() -> None:
    ended = asyncio.Event()
    failures = list[None]()

    async def run_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(background=asyncio.sleep(0), on_failure=lambda: failures.append(None)) as address:
        assert await health_of(address, NAME) == _Status.SERVING
    async with serving(background=run_for_ever(), on_failure=lambda: failures.append(None)):
        pass
    assert ended.is_set()
    assert failures == []
