"""Both sides of a stream: heartbeats when idle, an end after silence, and clear failures for the one who sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
import pytest

from heimdall import errors
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Heartbeat, IqEvent
from heimdall.dsp.v1.dsp_pb2 import ProcessRequest, ProcessResponse
from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceStub
from heimdall.errors import HeimdallError
from heimdall.runtime import streams
from heimdall.runtime.channel import open_channel
from heimdall.runtime.streams import ClientStream, heartbeat_now, receive, with_heartbeats
from tests.unit.runtime.service import Context, echo_heartbeats, read, serving

if TYPE_CHECKING:
    DspStream = ClientStream[ProcessRequest, ProcessResponse]

_WAIT_S = 10.0


def _heartbeat_request() -> ProcessRequest:
    return ProcessRequest(event=IqEvent(heartbeat=heartbeat_now()))


def _open(
    channel: grpc.aio.Channel, *, heartbeat_interval_s: float = 5.0, idle_timeout_s: float = _WAIT_S
) -> DspStream:
    return ClientStream(
        DspServiceStub(channel).Process(timeout=_WAIT_S),
        peer="dsp",
        make_heartbeat=_heartbeat_request,
        heartbeat_interval_s=heartbeat_interval_s,
        idle_timeout_s=idle_timeout_s,
    )


async def test_an_idle_caller_is_heard_every_interval() -> None:
    async with (
        serving() as address,
        open_channel("dsp", address) as channel,
        _open(channel, heartbeat_interval_s=0.05) as stream,
    ):
        sent_ns = []
        for _ in range(4):
            answer = await stream.receive()
            assert answer is not None
            sent_ns.append(answer.heartbeat.send_time.ToNanoseconds())
    intervals_s = [(later - earlier) / 1e9 for earlier, later in pairwise(sent_ns)]
    assert min(intervals_s) >= 0.04


async def test_an_idle_service_is_heard_until_its_work_is_done() -> None:
    answers = asyncio.Queue[ProcessResponse | None](maxsize=4)

    async def work(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        async for answer in with_heartbeats(answers, lambda: ProcessResponse(heartbeat=Heartbeat()), interval_s=0.05):
            yield answer

    async with serving(streaming=work) as address, open_channel("dsp", address) as channel, _open(channel) as stream:
        for _ in range(2):
            answer = await stream.receive()
            assert answer is not None
            assert answer.WhichOneof("response") == "heartbeat"
        done = ProcessResponse()
        done.measurement.receiver_id = "torino"
        await answers.put(done)
        await answers.put(None)
        while (answer := await stream.receive()) is not None:
            last = answer
        assert last.measurement.receiver_id == "torino"


async def test_a_silent_caller_is_ended_and_a_heartbeat_is_life() -> None:
    async def listen(
        requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        async for _ in receive(requests, idle_timeout_s=0.5):
            yield ProcessResponse(heartbeat=Heartbeat())

    async with serving(streaming=listen) as address, open_channel("dsp", address) as channel:
        loop = asyncio.get_running_loop()
        call = DspServiceStub(channel).Process(timeout=_WAIT_S)
        began_s = loop.time()
        for _ in range(4):
            await asyncio.sleep(0.2)
            await call.write(_heartbeat_request())
            await read(call)
        assert loop.time() - began_s > 0.5
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    failure = errors.from_rpc_error(caught.value, "dsp")
    assert (failure.reason, failure.code) == (ErrorReason.ERROR_REASON_STREAM_IDLE, grpc.StatusCode.ABORTED)


async def test_a_silent_service_counts_as_lost() -> None:
    async def sleep(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        yield ProcessResponse(heartbeat=Heartbeat())
        await asyncio.Event().wait()

    async with (
        serving(streaming=sleep) as address,
        open_channel("dsp", address) as channel,
        _open(channel, idle_timeout_s=0.2) as stream,
    ):
        assert await stream.receive() is not None
        with pytest.raises(HeimdallError) as caught:
            await stream.receive()
        assert caught.value.reason == ErrorReason.ERROR_REASON_STREAM_IDLE
        with pytest.raises(HeimdallError) as caught:
            await stream.receive()
        assert caught.value.reason == ErrorReason.ERROR_REASON_STREAM_IDLE
        # The call is given up with it; its sender is told so, and is not taken for cancelled itself.
        with pytest.raises(HeimdallError) as caught:
            await stream.send(_heartbeat_request())
        assert caught.value.reason == ErrorReason.ERROR_REASON_CANCELLED


async def test_what_lies_unread_after_a_standstill_is_read_by_the_caller() -> None:
    async def stand_still(
        requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        await anext(requests)
        yield ProcessResponse(heartbeat=Heartbeat())
        # The caller is in this process too. What was just sent to it is under way, and it waits for it since before.
        time.sleep(1.0)  # noqa: ASYNC251 (nothing else stands still like this)
        await anext(requests)
        yield ProcessResponse(heartbeat=Heartbeat())

    async with (
        serving(streaming=stand_still) as address,
        open_channel("dsp", address) as channel,
        _open(channel, idle_timeout_s=0.5) as stream,
    ):
        await stream.send(_heartbeat_request())
        assert await stream.receive() is not None
        assert not stream.peer_fell_silent
        await stream.send(_heartbeat_request())
        assert await stream.receive() is not None


async def test_what_lies_unread_after_a_standstill_is_read_by_the_service() -> None:
    async def echo(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        async for request in receive(requests, idle_timeout_s=0.5):
            yield ProcessResponse(heartbeat=request.event.heartbeat)

    async with serving(streaming=echo) as address, open_channel("dsp", address) as channel, _open(channel) as stream:
        await stream.send(_heartbeat_request())
        assert await stream.receive() is not None
        # The service, which is in this process too, waits for more by now.
        sending = asyncio.create_task(stream.send(_heartbeat_request()))
        await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251 (nothing else stands still like this)
        await sending
        assert await stream.receive() is not None


async def test_a_silent_caller_that_does_not_read_either_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_END_WITHIN_S", 0.3)
    missed, ended = asyncio.Event(), asyncio.Event()

    async def pour(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        async def listen() -> None:
            try:
                async for _ in receive(requests, idle_timeout_s=0.2):
                    pass
            finally:
                missed.set()

        listening = asyncio.create_task(listen())
        big = ProcessResponse()
        big.measurement.receiver_id = "x" * 65_536
        try:
            while True:
                yield big
        finally:
            ended.set()
            await asyncio.gather(listening, return_exceptions=True)

    async with serving(streaming=pour) as address, open_channel("dsp", address) as channel:
        call = DspServiceStub(channel).Process(timeout=_WAIT_S)
        await call.write(_heartbeat_request())
        async with asyncio.timeout(_WAIT_S / 2):
            await missed.wait()
            # The windows are full by now, and the handler waits in a write.
            assert not ended.is_set()
            await ended.wait()
        # What was sent before lies there, and why there is no more.
        assert (await read(call)).HasField("measurement")

        async def read_on() -> None:
            while isinstance(await call.read(), ProcessResponse):
                continue

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_on()
    assert errors.from_rpc_error(caught.value, "dsp").reason == ErrorReason.ERROR_REASON_STREAM_IDLE


async def _pour(stream: DspStream, request: ProcessRequest) -> None:
    while True:
        await stream.send(request)


async def _answer_count(stream: DspStream, failures: list[HeimdallError]) -> int:
    count = 0
    try:
        while await stream.receive() is not None:
            count += 1
    except HeimdallError as failure:
        failures.append(failure)
    return count


@pytest.mark.parametrize("size_bytes", [1_000, 256 * 1024])
@pytest.mark.parametrize("fails", [True, False])
async def test_both_ends_of_a_caller_learn_how_the_peer_ended_while_it_was_sending(
    size_bytes: int, fails: bool
) -> None:
    # grpc.aio itself tells INTERNAL in most such races, and drops answers that were not read yet.
    async def end_early(
        requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        for _ in range(5):
            yield ProcessResponse(heartbeat=Heartbeat())
        await anext(requests)
        if fails:
            raise HeimdallError(ErrorReason.ERROR_REASON_SPOOL_FULL, "no room", metadata={"free_bytes": 0})

    block = ProcessRequest()
    block.event.block.samples = bytes(size_bytes)
    expected = ErrorReason.ERROR_REASON_SPOOL_FULL if fails else ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE
    async with serving(streaming=end_early) as address, open_channel("dsp", address) as channel:
        for _ in range(20):
            read_failures: list[HeimdallError] = []
            async with _open(channel) as stream, asyncio.timeout(_WAIT_S), asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(_answer_count(stream, read_failures))
                with pytest.raises(HeimdallError) as caught:
                    await _pour(stream, block)
            assert caught.value.reason == expected
            assert reading.result() == 5
            assert [failure.reason for failure in read_failures] == ([expected] if fails else [])
            if fails:
                assert caught.value.metadata == {"free_bytes": "0"}


async def test_sending_to_a_stream_that_ended_well_says_so() -> None:
    async def end(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        yield ProcessResponse(heartbeat=Heartbeat())

    async with serving(streaming=end) as address, open_channel("dsp", address) as channel, _open(channel) as stream:
        assert await stream.receive() is not None
        assert await stream.receive() is None
        with pytest.raises(HeimdallError) as caught:
            await stream.send(_heartbeat_request())
        assert caught.value.reason == ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE


async def test_half_closing_lets_the_answers_arrive_and_ends_the_heartbeats() -> None:
    seen = list[ProcessRequest]()

    async def collect(
        requests: AsyncIterator[ProcessRequest], context: Context
    ) -> AsyncGenerator[ProcessResponse, None]:
        async for request in requests:
            seen.append(request)
        await asyncio.sleep(0.1)
        yield ProcessResponse(heartbeat=Heartbeat())

    async with (
        serving(streaming=collect) as address,
        open_channel("dsp", address) as channel,
        _open(channel, heartbeat_interval_s=0.02) as stream,
    ):
        await stream.send(_heartbeat_request())
        await stream.close()
        assert await stream.receive() is not None
        assert await stream.receive() is None
        assert len(seen) >= 1


async def test_leaving_the_stream_cancels_the_call() -> None:
    ended = asyncio.Event()

    async def echo(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        try:
            async for answer in echo_heartbeats(requests, context):
                yield answer
        finally:
            ended.set()

    async with serving(streaming=echo) as address, open_channel("dsp", address) as channel:
        async with _open(channel) as stream:
            await stream.send(_heartbeat_request())
            await stream.receive()
        async with asyncio.timeout(_WAIT_S / 2):
            await ended.wait()


async def test_a_caller_that_sends_while_its_peer_reads_nothing_is_held_back() -> None:
    release = asyncio.Event()

    async def stall(requests: AsyncIterator[ProcessRequest], context: Context) -> AsyncGenerator[ProcessResponse, None]:
        await release.wait()
        async for request in requests:
            yield ProcessResponse(heartbeat=request.event.heartbeat)

    big = ProcessRequest()
    big.event.block.samples = bytes(64 * 1024)
    sent_count = 0

    async def pour(stream: DspStream) -> None:
        nonlocal sent_count
        for _ in range(400):
            await stream.send(big)
            sent_count += 1
        await stream.close()

    async with serving(streaming=stall) as address, open_channel("dsp", address) as channel, _open(channel) as stream:
        pouring = asyncio.create_task(pour(stream))
        done, _ = await asyncio.wait((pouring,), timeout=1.0)
        assert not done
        # 25 MiB wait to be sent. What is parked on the way is bounded by the windows of both ends, about 0.5 MiB; with
        # the windows that gRPC grows by itself it would be 4 MiB and more.
        assert sent_count * 64 * 1024 <= 2 * 1024 * 1024
        release.set()
        answer_count = 0
        while await stream.receive() is not None:
            answer_count += 1
        await pouring
        assert answer_count == 400
