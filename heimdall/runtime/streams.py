"""What every stream of this mesh shares: heartbeats both ways, an end after silence, a bounded queue between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

import grpc

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Heartbeat
from heimdall.errors import HeimdallError, from_rpc_error

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ItemT = TypeVar("ItemT")


def heartbeat_now() -> Heartbeat:
    """Returns a heartbeat that was sent now."""
    heartbeat = Heartbeat()
    heartbeat.send_time.GetCurrentTime()
    return heartbeat


async def receive(messages: AsyncIterator[ItemT], idle_timeout_s: float) -> AsyncGenerator[ItemT, None]:
    """Yields the messages of a caller until it half-closes.

    Args:
        messages: The request iterator of a streaming handler.
        idle_timeout_s: Longest silence; heartbeats count as life.

    Raises:
        HeimdallError: STREAM_IDLE after too long a silence.
    """
    iterator = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(idle_timeout_s):
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise idle_error(idle_timeout_s) from None
        yield message


def idle_error(idle_timeout_s: float) -> HeimdallError:
    """Returns the failure of a stream whose other side fell silent."""
    return HeimdallError(
        ErrorReason.ERROR_REASON_STREAM_IDLE,
        f"neither data nor a heartbeat came for {idle_timeout_s:g} s; send a heartbeat every 5 s when idle",
        metadata={"idle_timeout_s": idle_timeout_s},
    )


async def with_heartbeats(
    answers: asyncio.Queue[ItemT | None], make_heartbeat: Callable[[], ItemT], interval_s: float
) -> AsyncIterator[ItemT]:
    """Yields what a handler's worker puts into its queue, and heartbeats while that is empty.

    Args:
        answers: A bounded queue; None ends the stream.
        make_heartbeat: Builds the heartbeat of this stream's answer type.
        interval_s: Silence after which a heartbeat is sent.
    """
    while True:
        try:
            async with asyncio.timeout(interval_s):
                answer = await answers.get()
        except TimeoutError:
            yield make_heartbeat()
            continue
        if answer is None:
            return
        yield answer


class ClientStream(Generic[RequestT, ResponseT]):
    """The caller's side of a bidirectional stream: sends heartbeats when idle, cancels the call on the way out.

    Failures of the call are raised as HeimdallError by send and receive. Since grpcio 1.83 an abandoned call is never
    cancelled by itself, so this is used as an async context manager always.
    """

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[RequestT, ResponseT],
        *,
        peer: str,
        make_heartbeat: Callable[[], RequestT],
        heartbeat_interval_s: float,
        idle_timeout_s: float,
    ) -> None:
        """Wraps a call that was just started.

        Args:
            call: The call, made without a request iterator.
            peer: Name of the service that is called, for messages.
            make_heartbeat: Builds the heartbeat of this stream's request type.
            heartbeat_interval_s: Silence of ours after which a heartbeat is sent.
            idle_timeout_s: Silence of the peer after which it counts as lost.
        """
        self._call = call
        self._peer = peer
        self._make_heartbeat = make_heartbeat
        self._heartbeat_interval_s = heartbeat_interval_s
        self._idle_timeout_s = idle_timeout_s
        self._lock = asyncio.Lock()
        self._last_sent_s = asyncio.get_running_loop().time()
        self._closed = False
        self._heartbeats = asyncio.create_task(self._send_heartbeats())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeats.cancel()
        await asyncio.gather(self._heartbeats, return_exceptions=True)
        self._call.cancel()

    async def send(self, request: RequestT) -> None:
        """Sends one message; waits while the peer's window is full.

        Raises:
            HeimdallError: Why the call failed.
        """
        try:
            async with self._lock:
                await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self._failure() from None
        self._last_sent_s = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Half-closes: no more messages follow."""
        self._closed = True
        async with self._lock:
            await self._call.done_writing()

    async def receive(self) -> ResponseT | None:
        """Returns the next answer; None once the peer ended the stream in good order.

        Raises:
            HeimdallError: Why the call failed, or STREAM_IDLE if the peer fell silent.
        """
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                answer = await self._call.read()
        except TimeoutError:
            raise idle_error(self._idle_timeout_s) from None
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._peer) from error
        return None if answer is grpc.aio.EOF else cast(ResponseT, answer)

    async def _failure(self) -> HeimdallError:
        """Returns why the call ended, which a failed write does not say."""
        async with asyncio.timeout(self._idle_timeout_s):
            code, details = await self._call.code(), await self._call.details()
            initial, trailing = await self._call.initial_metadata(), await self._call.trailing_metadata()
        return from_rpc_error(grpc.aio.AioRpcError(code, initial, trailing, details), self._peer)

    async def _send_heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            wait_s = self._last_sent_s + self._heartbeat_interval_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                continue
            try:
                await self.send(self._make_heartbeat())
            except HeimdallError:
                # The reader of this stream gets the same failure and acts on it.
                return
