"""Services as processes: they say what they can not start with, and leave in good order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from heimdall.common.v1.iq_pb2 import Heartbeat, IqEvent
from heimdall.dsp.v1.dsp_pb2 import ComputeSpectrumRequest, ProcessRequest
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceStub
from tests.integration.service_process import FULL_NAMES, START_S, ready_process, service_process

_SERVICES = sorted(FULL_NAMES)
_Status = health_pb2.HealthCheckResponse


@pytest.mark.parametrize("name", _SERVICES)
async def test_sigterm_turns_health_to_not_serving_for_a_while_and_ends_with_0(name: str, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with ready_process(name, tmp_path, {"HEIMDALL_MESH_DRAIN_NOTICE_S": "0.5"}) as service:
        address = await service.address()
        async with grpc.aio.insecure_channel(address) as channel:
            watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                "/grpc.health.v1.Health/Watch"
            )
            check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
            request = health_pb2.HealthCheckRequest(service=FULL_NAMES[name]).SerializeToString()
            call = watch(request, timeout=60)
            assert await _status(call) == _Status.SERVING
            service.process.send_signal(signal.SIGTERM)
            began_s = loop.time()
            assert await _status(call) == _Status.NOT_SERVING
            # While the notice lasts the service still answers, so that a balancer can learn of it.
            assert _Status.FromString(await check(request, timeout=10)).status == _Status.NOT_SERVING
            # The watch stays open until the service cuts it; that must not hold it up.
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await service.ended() == 0, service.log
        assert loop.time() - began_s >= 0.5
        assert "event=service_stopped" in service.log
        assert "drained=true" in service.log
        assert "Traceback" not in service.log


@pytest.mark.parametrize("name", _SERVICES)
async def test_sigterm_again_and_again_ends_a_service_with_0(name: str, tmp_path: Path) -> None:
    async with ready_process(name, tmp_path, {}) as service:
        await service.address()
        while service.process.returncode is None:
            # Not send_signal: it may reap the process before asyncio does.
            with suppress(ProcessLookupError):
                os.kill(service.process.pid, signal.SIGTERM)
            await asyncio.sleep(0.002)
        assert await service.ended() == 0, service.log
        assert "drained=true" in service.log


async def test_vitals_are_those_of_the_process(tmp_path: Path) -> None:
    variables = {"HEIMDALL_LOG_VITALS_INTERVAL_S": "0.05"}
    async with service_process("dsp", tmp_path, variables) as service:
        await service.address()
        async with asyncio.timeout(START_S):
            while not _is_seen(service.process.pid, await service.line_of("vitals")):
                continue
        service.process.send_signal(signal.SIGTERM)
        assert await service.ended() == 0, service.log
    assert "Traceback" not in service.log


def _is_seen(pid: int, line: str) -> bool:
    """Returns whether a line of vitals says what is seen of the process from outside, once it has come to rest."""
    facts = {key: int(value) for key, _, value in (part.partition("=") for part in line.split()) if value.isdecimal()}
    seen = psutil.Process(pid)
    return (
        # Looking at its own files a process has one more of them open.
        facts["open_file_count"] - seen.num_fds() in {0, 1}
        and facts["thread_count"] == seen.num_threads()
        and facts["resident_bytes"] == pytest.approx(seen.memory_info().rss, rel=0.02)
    )


async def _status(call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> int:
    answer = await call.read()
    assert isinstance(answer, bytes)
    return _Status.FromString(answer).status


async def test_a_crash_of_background_work_ends_a_service_with_1_after_it_drained(tmp_path: Path) -> None:
    async with service_process("dsp", tmp_path, {}, "tests.integration.failing_service") as service:
        async with grpc.aio.insecure_channel(await service.address()) as channel:
            stub = DspServiceStub(channel)
            running = stub.Process(timeout=30)
            beat = ProcessRequest(event=IqEvent(heartbeat=Heartbeat()))
            await running.write(beat)
            await running.read()
            watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                "/grpc.health.v1.Health/Watch"
            )
            call = watch(health_pb2.HealthCheckRequest(service=FULL_NAMES["dsp"]).SerializeToString(), timeout=30)
            assert await _status(call) == _Status.SERVING
            await stub.ComputeSpectrum(ComputeSpectrumRequest(), timeout=30)
            assert await _status(call) == _Status.NOT_SERVING
            # The stream that runs is served to its end.
            await running.write(beat)
            await running.read()
            await running.done_writing()
            assert await running.read() is grpc.aio.EOF
        assert await service.ended() == 1
    assert "event=background_work_crashed" in service.log
    assert "work=housekeeping" in service.log
    assert service.lines[-1] == (
        "dsp: housekeeping crashed: ZeroDivisionError: a fault of this service; the log has it in full"
    )
    assert "drained=true" in service.log


@pytest.mark.parametrize("name", _SERVICES)
async def test_a_taken_port_ends_a_service_with_2_and_one_line(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with service_process(name, tmp_path, {f"HEIMDALL_{name.upper()}_PORT": port}) as service:
            assert await service.ended() == 2
    assert f"{name}: can not listen on 127.0.0.1:{port}; is the port in use?" in service.lines
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HEIMDALL_DSP_PORT": "7x"}, "environment HEIMDALL_DSP_PORT: dsp.port: Input should be a valid integer"),
        ({"HEIMDALL_DSP_PROT": "7"}, "environment HEIMDALL_DSP_PROT: dsp.prot: no such key (value '7'); known here:"),
        ({"HEIMDALL_CONFIG": "nowhere.toml"}, "nowhere.toml: no such file"),
    ],
)
async def test_wrong_settings_end_a_service_with_2_and_say_what_is_wrong(
    tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    async with service_process("dsp", tmp_path, variables) as service:
        assert await service.ended() == 2
    assert f"dsp: {expected}" in service.log
    assert "Traceback" not in service.log
