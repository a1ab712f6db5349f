"""The life of a server: health, reflection, channelz, deadlines passed on, and a drain that waits for work only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from heimdall import errors
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Heartbeat
from heimdall.dsp.v1.dsp_pb2 import ComputeSpectrumRequest, ComputeSpectrumResponse, ProcessRequest, ProcessResponse
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceStub
from heimdall.runtime import deadline
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import ServerContext
from heimdall.runtime.settings import MeshSettings
from tests.unit.runtime.service import NAME, Context, read, serving

_WAIT_S = 10.0
_Status = health_pb2.HealthCheckResponse


async def test_health_answers_for_the_process_and_for_each_service() -> None:
    async with serving() as address, grpc.aio.insecure_channel(address) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        for name in ("", NAME):
            answer = await check(health_pb2.HealthCheckRequest(service=name).SerializeToString(), timeout=_WAIT_S)
            assert _Status.FromString(answer).status == _Status.SERVING
        unknown = health_pb2.HealthCheckRequest(service="heimdall.nothing").SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(unknown, timeout=_WAIT_S)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_and_channelz_show_the_service() -> None:
    async with serving() as address, grpc.aio.insecure_channel(address) as channel:
        ask: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        (answer,) = [answer async for answer in ask(iter([request]), timeout=_WAIT_S)]
        listed = reflection_pb2.ServerReflectionResponse.FromString(answer).list_services_response
        names = {service.name for service in listed.service}
        assert names == {
            NAME,
            "grpc.health.v1.Health",
            "grpc.channelz.v1.Channelz",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        get: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/grpc.channelz.v1.Channelz/GetServers"
        )
        servers = channelz_pb2.GetServersResponse.FromString(await get(b"", timeout=_WAIT_S))
        assert len(servers.server) >= 1


async def test_the_callers_deadline_bounds_the_calls_made_for_it() -> None:
    seen_s = list[float | None]()

    async def inner(request: ComputeSpectrumRequest, context: Context) -> ComputeSpectrumResponse:
        seen_s.append(context.time_remaining())
        return ComputeSpectrumResponse()

    async with serving(unary=inner) as inner_address, open_channel("dsp", inner_address) as inner_channel:

        async def outer(request: ComputeSpectrumRequest, context: Context) -> ComputeSpectrumResponse:
            seen_s.append(context.time_remaining())
            stub = DspServiceStub(inner_channel)
            await stub.ComputeSpectrum(request, timeout=60)
            await stub.ComputeSpectrum(request, timeout=0.5)
            return ComputeSpectrumResponse()

        async with serving(unary=outer) as address, open_channel("dsp", address) as channel:
            await DspServiceStub(channel).ComputeSpectrum(ComputeSpectrumRequest(), timeout=3)
    own_s, passed_on_s, shorter_s = (limit_s or 0 for limit_s in seen_s)
    # On the wire gRPC rounds a deadline up by as much as 0.1 s.
    assert 1 < own_s <= 3.1
    assert 1 < passed_on_s <= 3.1
    assert 0 < shorter_s <= 0.6


async def test_a_call_whose_deadline_has_passed_is_not_made_any_more() -> None:
    async with serving() as address, open_channel("dsp", address) as channel:
        deadline.set_deadline(0.01)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await DspServiceStub(channel).ComputeSpectrum(ComputeSpectrumRequest(), timeout=_WAIT_S)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_unary_call_without_a_deadline_gets_that_of_the_service_config() -> None:
    seen_s = list[float | None]()

    async def look(request: ComputeSpectrumRequest, context: Context) -> ComputeSpectrumResponse:
        seen_s.append(context.time_remaining())
        return ComputeSpectrumResponse()

    async with serving(unary=look) as address, open_channel("dsp", address) as channel:
        await DspServiceStub(channel).ComputeSpectrum(ComputeSpectrumRequest())
    # ComputeSpectrum has 10 s in dsp_service_config.json.
    assert seen_s[0] is not None
    assert 8 < seen_s[0] <= 10.1


async def test_draining_refuses_new_work_and_waits_for_what_runs() -> None:
    running, finish = asyncio.Event(), asyncio.Event()

    async def work(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        running.set()
        await finish.wait()
        yield ProcessResponse(heartbeat=Heartbeat())

    contexts = list[ServerContext]()
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with serving(streaming=work, contexts=contexts) as started:
            address.set_result(started)
            await stop.wait()

    async with asyncio.TaskGroup() as tasks:
        server = tasks.create_task(serve())
        async with open_channel("dsp", await address) as channel, asyncio.timeout(_WAIT_S):
            stub = DspServiceStub(channel)
            call = stub.Process(timeout=_WAIT_S)
            await running.wait()
            stop.set()
            while not contexts[0].drain.refusing:  # noqa: ASYNC110 (nothing announces it)
                await asyncio.sleep(0.01)
            # A plain channel, since ours no longer offers the call to a service that is NOT_SERVING.
            async with grpc.aio.insecure_channel(await address) as plain:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await DspServiceStub(plain).ComputeSpectrum(ComputeSpectrumRequest(), timeout=_WAIT_S)
            failure = errors.from_rpc_error(caught.value, "dsp")
            assert (failure.reason, failure.code) == (ErrorReason.ERROR_REASON_DRAINING, grpc.StatusCode.UNAVAILABLE)
            assert not server.done()
            finish.set()
            assert (await read(call)).HasField("heartbeat")
            await server


async def test_background_work_is_waited_for_and_what_overruns_is_cut_off() -> None:
    cut = asyncio.Event()

    async def hang(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        try:
            yield ProcessResponse(heartbeat=Heartbeat())
            await asyncio.Event().wait()
        finally:
            # The clean-up of a handler is waited for: the service frees its resources only after it.
            await asyncio.sleep(0.1)
            cut.set()

    mesh = MeshSettings(drain_notice_s=0, drain_timeout_s=0.2)
    async with serving(streaming=hang, mesh=mesh) as address:
        channel = open_channel("dsp", address)
        call = DspServiceStub(channel).Process(timeout=_WAIT_S)
        await read(call)
    assert cut.is_set()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert errors.from_rpc_error(caught.value, "dsp").reason == ErrorReason.ERROR_REASON_DRAINING
    await channel.close()


async def test_work_that_can_come_to_a_good_end_early_gets_the_time_for_it() -> None:
    told = asyncio.Event()

    async def hand_over(
        requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        yield ProcessResponse(heartbeat=Heartbeat())
        await told.wait()
        await asyncio.sleep(0.1)
        yield ProcessResponse(heartbeat=Heartbeat())

    contexts = list[ServerContext]()
    mesh = MeshSettings(drain_notice_s=0, drain_timeout_s=0.2)
    async with serving(streaming=hand_over, mesh=mesh, contexts=contexts) as address:
        contexts[0].drain.at_expiry(told.set)
        channel = open_channel("dsp", address)
        call = DspServiceStub(channel).Process(timeout=_WAIT_S)
        await read(call)
    assert (await read(call)).HasField("heartbeat")
    assert await call.read() is grpc.aio.EOF
    await channel.close()


async def test_a_call_whose_caller_does_not_read_is_cut_off_too() -> None:
    full, cut = asyncio.Event(), asyncio.Event()

    async def pour(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        big = ProcessResponse()
        big.measurement.receiver_id = "x" * 65_536
        try:
            while True:
                yield big
                full.set()
        finally:
            cut.set()

    mesh = MeshSettings(drain_notice_s=0, drain_timeout_s=0.5)
    async with asyncio.timeout(_WAIT_S / 2):
        async with serving(streaming=pour, mesh=mesh) as address:
            channel = open_channel("dsp", address)
            call = DspServiceStub(channel).Process(timeout=_WAIT_S)
            await full.wait()
        assert cut.is_set()
    call.cancel()
    await channel.close()


async def test_a_watch_that_is_held_open_does_not_delay_the_end() -> None:
    loop = asyncio.get_running_loop()
    seen = list[int]()

    async def watch(address: str, name: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                "/grpc.health.v1.Health/Watch"
            )
            call = method(health_pb2.HealthCheckRequest(service=name).SerializeToString(), timeout=_WAIT_S)
            for _ in range(2):
                answer = await call.read()
                assert isinstance(answer, bytes)
                seen.append(_Status.FromString(answer).status)
                first.set()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    first = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        async with serving(mesh=MeshSettings(drain_notice_s=0.1, drain_timeout_s=30)) as address:
            tasks.create_task(watch(address, NAME))
            await first.wait()
            began_s = loop.time()
        assert loop.time() - began_s < 1
    assert seen == [_Status.SERVING, _Status.NOT_SERVING]


async def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can not listen on 127.0.0.1:{port}; is the port in use"):
            await _serve_once(port)


async def test_two_servers_never_share_a_port() -> None:
    async with serving() as address:
        with pytest.raises(OSError, match="is the port in use"):
            await _serve_once(int(address.rpartition(":")[2]))


async def _serve_once(port: int) -> None:
    async with serving(port=port):
        pass
