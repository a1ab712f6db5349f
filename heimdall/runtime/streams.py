"""What every stream of this mesh shares: heartbeats both ways, an end after silence, a bounded queue between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

import grpc

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Heartbeat
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.runtime.calls import end_current

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
ItemT = TypeVar("ItemT")

_STAND_IN: Final = "Internal error from Core"
"""Details that grpc.aio invents when a write fails because the peer has ended the call (grpc/grpc#36066)."""

_STATUS_WAIT_S: Final = 1.0
"""Longest wait for the peer's status once a write has failed; it is on its way or here already."""

_STATUS_POLL_S: Final = 0.01

_LISTEN_ON_SHARE: Final = 1 / 15
"""Part of an idle timeout for which one listens on after it."""

_END_WITHIN_S: Final = 30.0
"""Time for a handler whose caller fell silent to end by itself, as it can once the caller reads what waits for it."""


class _Silence:
    """Limits how long the other side of a stream may say nothing; a context manager around each wait for it.

    When the limit is reached one listens on for a moment: if this process itself stood still, messages lie unread.
    """

    def __init__(self, limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._since_s = 0.0
        self._wait: asyncio.Timeout | None = None
        # One for many waits: messages come often, and a timer for each of them would cost more than they do.
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        self._since_s = self._loop.time()
        self._wait = asyncio.timeout(None)
        await self._wait.__aenter__()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._check, False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait, self._wait = self._wait, None
        if wait is not None:
            await wait.__aexit__(kind, error, trace)

    def _check(self, listened_on: bool) -> None:
        self._timer = None
        if self._wait is None:
            return
        left_s = self._since_s + self._limit_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check, False)
        elif not listened_on:
            self._timer = self._loop.call_later(self._limit_s * _LISTEN_ON_SHARE, self._check, True)
        else:
            self._wait.reschedule(self._loop.time())


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
        HeimdallError: STREAM_IDLE after too long a silence. The whole call ends with it 30 s later, even if its handler
            can not go on because the caller does not read either.
    """
    iterator, silence = aiter(messages), _Silence(idle_timeout_s)
    while True:
        try:
            async with silence:
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            failure = _idle_error(
                f"neither data nor a heartbeat came for {idle_timeout_s:g} s; send a heartbeat every 5 s when idle",
                idle_timeout_s,
            )
            end_current(failure, within_s=_END_WITHIN_S)
            raise failure from None
        yield message


def _idle_error(text: str, idle_timeout_s: float) -> HeimdallError:
    return HeimdallError(ErrorReason.ERROR_REASON_STREAM_IDLE, text, metadata={"idle_timeout_s": idle_timeout_s})


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
        self._silence = _Silence(idle_timeout_s)
        self._lock = asyncio.Lock()
        self._last_sent_s = asyncio.get_running_loop().time()
        self._closed = False
        # Iterating reads on to the end of the call even when a write has failed; reading one by one would not.
        self._answers = aiter(call)
        self._failure: HeimdallError | None = None
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._remember_status)
        self._heartbeats = asyncio.create_task(self._send_heartbeats())
        self.peer_fell_silent = False
        """Whether the call failed because nothing came from the peer; a peer that misses us says STREAM_IDLE too."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heartbeats.cancel()
        self._call.cancel()
        await asyncio.wait((self._heartbeats,))
        if not self._heartbeats.cancelled():
            self._heartbeats.result()

    async def send(self, request: RequestT) -> None:
        """Sends one message; waits while the peer's window is full.

        Raises:
            HeimdallError: Why the call failed. That is known only as far as somebody receives the answers before it;
                otherwise it is INTERNAL here, and receive tells the cause.
        """
        async with self._lock:
            await self._write(request)

    async def close(self) -> None:
        """Half-closes: no more messages follow."""
        async with self._lock:
            self._closed = True
            await self._call.done_writing()

    async def receive(self) -> ResponseT | None:
        """Returns the next answer; None once the peer ended the stream in good order.

        Raises:
            HeimdallError: Why the call failed, or STREAM_IDLE if the peer fell silent.
        """
        if self._failure is not None:
            raise self._failure
        try:
            async with self._silence:
                return await anext(self._answers)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            self.peer_fell_silent = True
            text = f"{self._peer}: neither data nor a heartbeat came for {self._idle_timeout_s:g} s"
            self._failure = _idle_error(text, self._idle_timeout_s)
        except grpc.aio.AioRpcError as error:
            status = await self._peer_status(error)
            if status.code() is grpc.StatusCode.OK:
                return None
            self._failure = from_rpc_error(status, self._peer)
        except asyncio.CancelledError:
            self._failure = self._given_up()
            if _is_cancelled():
                raise
        raise self._failure

    async def _write(self, request: RequestT) -> None:
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(await self._peer_status(error)) from error
        except asyncio.InvalidStateError:
            if self._status is None:
                raise
            raise self._refusal(self._status) from None
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise self._given_up() from None
        self._last_sent_s = asyncio.get_running_loop().time()

    def _given_up(self) -> HeimdallError:
        """Returns the failure of a call that was cancelled here, as giving up a send or a receive does."""
        return HeimdallError(ErrorReason.ERROR_REASON_CANCELLED, f"{self._peer}: the stream was given up")

    def _refusal(self, status: grpc.aio.AioRpcError) -> HeimdallError:
        """Returns why the call takes no more messages."""
        if status.code() is grpc.StatusCode.OK:
            return HeimdallError(
                ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, f"{self._peer}: the stream has ended and takes no more"
            )
        return from_rpc_error(status, self._peer)

    async def _peer_status(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Returns how the peer ended the call, instead of the stand-in for a failed write.

        The peer's status may have been replaced by the stand-in, or come only after the answers before it are read, and
        then without notice. If it does not come, the stand-in is all that is known.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + _STATUS_WAIT_S
        if error.details() != _STAND_IN:
            return error
        while self._status is None and loop.time() < give_up_s:
            await asyncio.sleep(_STATUS_POLL_S)
            self._remember_status(self._call)
        return self._status or error

    def _remember_status(self, call: grpc.aio.Call) -> None:
        """Keeps the peer's status, which a write that fails right after it would replace by the stand-in."""
        status = grpc.aio.AioRpcError(
            _known_by_now(call.code()),
            _known_by_now(call.initial_metadata()),
            _known_by_now(call.trailing_metadata()),
            _known_by_now(call.details()),
        )
        if self._status is None and status.details() != _STAND_IN:
            self._status = status

    async def _send_heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wait_s = self._last_sent_s + self._heartbeat_interval_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                continue
            try:
                async with self._lock:
                    if self._closed:
                        return
                    await self._write(self._make_heartbeat())
            except HeimdallError:
                # The reader of this stream gets the same failure and acts on it.
                return


def _is_cancelled() -> bool:
    """Says whether it is the current task that is cancelled; gRPC reports a cancelled call in the same way."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _known_by_now(coroutine: Coroutine[Any, Any, ItemT]) -> ItemT:
    """Returns the result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(ItemT, stop.value)
    finally:
        coroutine.close()
    raise RuntimeError("the call is done and its status is not there")
