"""What a caller sees of a service's calls: rich failures, crashes without internals, limits, and streams that end."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from heimdall import errors
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Heartbeat, IqEvent
from heimdall.dsp.v1.dsp_pb2 import ComputeSpectrumRequest, ComputeSpectrumResponse, ProcessRequest, ProcessResponse
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceStub
from heimdall.errors import FieldViolation, HeimdallError, InvalidFieldsError
from heimdall.runtime.channel import open_channel
from heimdall.runtime.options import MAX_MESSAGE_BYTES
from tests.unit.runtime.service import NAME, Context, read, serving

_WAIT_S = 10.0
_CALLER: Final = """
import asyncio, sys
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceStub
from heimdall.runtime.channel import open_channel

async def main():
    async with open_channel("dsp", sys.argv[1]) as channel:
        calls = [DspServiceStub(channel).Process() for _ in range(8)]
        for call in calls:
            await call.read()
        await asyncio.Event().wait()

asyncio.run(main())
"""
_HEARTBEAT = ProcessRequest(event=IqEvent(heartbeat=Heartbeat()))


async def _failure_of_unary(failure: BaseException) -> grpc.aio.AioRpcError:
    async def fail(request: ComputeSpectrumRequest, context: Context) -> ComputeSpectrumResponse:
        raise failure

    async with serving(unary=fail) as address, open_channel("dsp", address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await DspServiceStub(channel).ComputeSpectrum(ComputeSpectrumRequest(), timeout=_WAIT_S)
    return caught.value


async def _failure_of_stream(failure: BaseException) -> grpc.aio.AioRpcError:
    async def fail(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        yield ProcessResponse(heartbeat=Heartbeat())
        raise failure

    async with serving(streaming=fail) as address, open_channel("dsp", address) as channel:
        call = DspServiceStub(channel).Process(timeout=_WAIT_S)
        assert (await read(call)).HasField("heartbeat")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    return caught.value


FailureOf: TypeAlias = Callable[[BaseException], Awaitable[grpc.aio.AioRpcError]]
_FAILURES = [_failure_of_unary, _failure_of_stream]


@pytest.mark.parametrize("failure_of", _FAILURES)
async def test_a_failure_arrives_with_reason_facts_and_retry_delay(failure_of: FailureOf) -> None:
    error = await failure_of(
        HeimdallError(
            ErrorReason.ERROR_REASON_RECEIVER_BUSY,
            "«torino» has no free slot\nfor now",
            metadata={"receiver_id": "torino"},
            retry_delay_s=2.25,
        )
    )
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # the aio error has all that from_call reads
    assert status is not None
    assert status.message == error.details() == "«torino» has no free slot\nfor now"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert [detail.Is(kind.DESCRIPTOR) for detail, kind in zip(status.details, (info, retry), strict=True)] == [
        True
    ] * 2
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.domain, dict(info.metadata)) == ("RECEIVER_BUSY", "heimdall", {"receiver_id": "torino"})
    assert retry.retry_delay.ToMilliseconds() == 2250
    back = errors.from_rpc_error(error, "dsp")
    assert (back.reason, back.metadata, back.retry_delay_s) == (
        ErrorReason.ERROR_REASON_RECEIVER_BUSY,
        {"receiver_id": "torino"},
        2.25,
    )


@pytest.mark.parametrize("failure_of", _FAILURES)
async def test_bad_fields_arrive_one_by_one(failure_of: FailureOf) -> None:
    violations = [FieldViolation("sample_rate_hz", "must be above 0; got -1"), FieldViolation("bin_count", "got 3")]
    error = await failure_of(InvalidFieldsError(violations))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    back = errors.from_rpc_error(error, "dsp")
    assert back.violations == tuple(violations)
    assert back.retry_delay_s is None


@pytest.mark.parametrize("character", ["x", "é", "😀", "\n"])
async def test_a_failure_with_endless_texts_still_arrives_as_itself(character: str) -> None:
    # Ids and values come from the caller, who must not be able to turn a clear refusal into a broken stream.
    violations = [FieldViolation(f"spec.receiver_ids[{i}]", character * 5000) for i in range(200)]
    error = await _failure_of_unary(InvalidFieldsError(violations))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    back = errors.from_rpc_error(error, "dsp")
    assert back.reason == ErrorReason.ERROR_REASON_INVALID_FIELD
    assert back.metadata["field_count"] == "200"
    assert len(back.violations) > 3
    assert back.violations[0].field == "spec.receiver_ids[0]"
    assert back.violations[0].description.startswith(character * 10)


async def test_metadata_without_end_still_arrives_as_the_failure_it_is() -> None:
    metadata = {f"key-{i}": "v" * 1000 for i in range(500)}
    error = await _failure_of_unary(HeimdallError(ErrorReason.ERROR_REASON_SPOOL_FULL, "full", metadata=metadata))
    assert errors.from_rpc_error(error, "dsp").reason == ErrorReason.ERROR_REASON_SPOOL_FULL


@pytest.mark.parametrize("failure_of", _FAILURES)
async def test_a_crash_tells_an_incident_and_nothing_else(failure_of: FailureOf) -> None:
    with structlog.testing.capture_logs() as logs:
        error = await failure_of(ZeroDivisionError("the secret of division"))
    assert error.code() == grpc.StatusCode.INTERNAL
    told = f"{error.details()} {error.trailing_metadata()}"
    assert "secret" not in told
    assert "Traceback" not in told
    incident = errors.from_rpc_error(error, "dsp").metadata["incident"]
    assert incident in str(error.details())
    (crash,) = [entry for entry in logs if entry["event"] == "call_crashed"]
    assert (crash["incident"], crash["exc_info"]) == (incident, True)


@pytest.mark.parametrize("failure_of", _FAILURES)
async def test_a_cancelled_helper_of_a_handler_does_not_leave_the_caller_hanging(
    failure_of: FailureOf,
) -> None:
    error = await failure_of(asyncio.CancelledError())
    assert error.code() == grpc.StatusCode.INTERNAL


async def test_streams_beyond_the_limit_are_refused_and_unary_calls_are_not() -> None:
    async with serving(max_stream_count=2) as address, open_channel("dsp", address) as channel:
        stub = DspServiceStub(channel)
        open_calls = [stub.Process(timeout=_WAIT_S) for _ in range(2)]
        for call in open_calls:
            await call.write(_HEARTBEAT)
            await call.read()
        refused = stub.Process(timeout=_WAIT_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused.read()
        failure = errors.from_rpc_error(caught.value, "dsp")
        assert (failure.reason, failure.code) == (
            ErrorReason.ERROR_REASON_OVERLOADED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        assert failure.metadata == {"limit": "2"}
        assert failure.retry_delay_s == 1
        await stub.ComputeSpectrum(ComputeSpectrumRequest(), timeout=_WAIT_S)
        # A stream that ended makes room.
        await open_calls[0].done_writing()
        assert await open_calls[0].read() is grpc.aio.EOF
        again = stub.Process(timeout=_WAIT_S)
        await again.write(_HEARTBEAT)
        assert (await read(again)).HasField("heartbeat")
        open_calls[1].cancel()
        again.cancel()


@pytest.mark.parametrize("how", ["cancel", "deadline", "channel closed"])
async def test_a_stream_handler_is_closed_when_its_caller_goes_away(how: str) -> None:
    closed = asyncio.Event()

    async def wait(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        try:
            yield ProcessResponse(heartbeat=Heartbeat())
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serving(streaming=wait) as address:
        channel = open_channel("dsp", address)
        call = DspServiceStub(channel).Process(timeout=0.3 if how == "deadline" else _WAIT_S)
        await call.read()
        if how == "cancel":
            call.cancel()
        elif how == "channel closed":
            await channel.close()
        async with asyncio.timeout(_WAIT_S / 2):
            await closed.wait()
        await channel.close()


async def test_a_handler_suspended_at_its_yield_is_closed_too() -> None:
    closed = asyncio.Event()

    async def pour(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        response = ProcessResponse()
        response.measurement.acquisition_id = "x" * 100_000
        try:
            while True:
                yield response
        finally:
            closed.set()

    handlers = list[AsyncGenerator[ProcessResponse, None]]()

    def keep(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        # Referred to from here, the generator is not closed by the garbage collection.
        handlers.append(pour(requests, context))
        return handlers[-1]

    async with serving(streaming=keep) as address, open_channel("dsp", address) as channel:
        call = DspServiceStub(channel).Process(timeout=_WAIT_S)
        await call.read()
        call.cancel()
        async with asyncio.timeout(_WAIT_S / 2):
            await closed.wait()


async def test_a_connection_that_is_lost_during_a_write_is_no_crash(tmp_path: Path) -> None:
    full = asyncio.Barrier(9)

    async def pour(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        big = ProcessResponse()
        big.measurement.receiver_id = "x" * 65_536
        yield big
        await full.wait()
        while True:
            yield big

    # As a process, so that the connection ends with it and without a word.
    script = tmp_path / "caller.py"
    await asyncio.to_thread(script.write_text, _CALLER)
    with structlog.testing.capture_logs() as logs:
        async with serving(streaming=pour) as address, asyncio.timeout(_WAIT_S * 3):
            caller = await asyncio.create_subprocess_exec(sys.executable, script, address)
            try:
                await full.wait()
            finally:
                caller.kill()
                await caller.wait()
            # Whether the write fails first, or gRPC cancels the handler, is different from call to call.
            while len(calls := [entry for entry in logs if entry["event"] == "call"]) < 8:  # noqa: ASYNC110 (a log)
                await asyncio.sleep(0.01)
    assert [call["code"] for call in calls] == ["CANCELLED"] * 8
    assert [entry for entry in logs if entry["event"] == "call_crashed"] == []


async def test_an_answer_above_the_limit_is_a_crash() -> None:
    async def too_much(
        requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        response = ProcessResponse()
        response.measurement.acquisition_id = "x" * MAX_MESSAGE_BYTES
        yield response

    with structlog.testing.capture_logs() as logs:
        async with serving(streaming=too_much) as address, open_channel("dsp", address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await DspServiceStub(channel).Process(timeout=_WAIT_S).read()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [entry["event"] for entry in logs].count("call_crashed") == 1


async def test_what_does_not_decode_gets_grpcs_own_code_and_harms_nothing() -> None:
    garbage = b"\xff\xff\xff"
    async with serving() as address, open_channel("dsp", address) as channel:
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/ComputeSpectrum")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(garbage, timeout=_WAIT_S)
        assert caught.value.code() == grpc.StatusCode.UNKNOWN
        stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{NAME}/Process")
        call = stream(timeout=_WAIT_S)
        await call.write(garbage)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() == grpc.StatusCode.UNKNOWN
        assert "ProcessRequest" in str(caught.value.details())
        await DspServiceStub(channel).ComputeSpectrum(ComputeSpectrumRequest(), timeout=_WAIT_S)


async def test_a_message_above_the_limit_is_refused_by_the_server_itself() -> None:
    too_large = ComputeSpectrumRequest(samples=bytes(MAX_MESSAGE_BYTES)).SerializeToString()
    unlimited = [("grpc.max_send_message_length", -1)]
    async with serving() as address, grpc.aio.insecure_channel(address, options=unlimited) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/ComputeSpectrum")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(too_large, timeout=_WAIT_S)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MAX_MESSAGE_BYTES) in str(caught.value.details())
        await method(b"", timeout=_WAIT_S)


async def test_a_method_that_does_not_exist_is_unimplemented() -> None:
    async with serving() as address, open_channel("dsp", address) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{NAME}/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", timeout=_WAIT_S)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
