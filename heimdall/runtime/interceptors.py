"""What happens around every call that a service answers: admission, deadline, errors, one line of log."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime import deadline
from heimdall.runtime.calls import RunningCall
from heimdall.runtime.drain import Drain
from heimdall.runtime.options import MAX_MESSAGE_BYTES

_log = structlog.get_logger(__name__)

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class _UndecodableError(Exception):
    """A message of a stream of requests is not what the contract says."""


class CallGuard(grpc.aio.ServerInterceptor):
    """Guards the calls of this project's own services; health, reflection and channelz pass untouched.

    A handler raises HeimdallError and the caller gets its rich status; anything else that escapes is logged with its
    traceback and reaches the caller as INTERNAL with an incident id only. Handlers of streaming answers are async
    generators and are always closed, also when the call is cancelled, which gRPC itself does not do.
    """

    def __init__(self, drain: Drain, max_stream_count: int) -> None:
        """Builds the guard.

        Args:
            drain: Counts the calls and refuses them while the service stops.
            max_stream_count: Most streaming calls at once; more are refused as OVERLOADED.
        """
        self._drain = drain
        self._max_stream_count = max_stream_count
        self._stream_count = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/heimdall."):
            return handler
        deserializer = handler.request_deserializer
        if handler.request_streaming and deserializer is not None:
            deserializer = _checked(deserializer)
        serializers = {"request_deserializer": deserializer, "response_serializer": handler.response_serializer}
        if handler.response_streaming:
            wrap = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return wrap(self._streaming(method, behavior), **serializers)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **serializers)

    def _unary(self, method: str, behavior: Any) -> Any:
        async def call(request: Any, context: _Context) -> Any:
            failure: HeimdallError
            try:
                with self._around(method, context):
                    async with RunningCall() as running:
                        with self._drain.work(running):
                            return await behavior(request, context)
            except HeimdallError as error:
                failure = error
            return await context.abort_with_status(failure.to_status())

        return call

    def _streaming(self, method: str, behavior: Any) -> Any:
        async def call(request: Any, context: _Context) -> None:
            failure: HeimdallError
            try:
                with self._around(method, context):
                    async with RunningCall() as running:
                        with self._drain.work(running), self._admit():
                            responses: AsyncIterator[Any] = behavior(request, context)
                            async with aclosing(responses) as closing:  # type: ignore[type-var]
                                async for response in closing:
                                    await _write(context, response)
                return
            except _UndecodableError as error:
                # The code that gRPC itself gives where a request is not a stream.
                await context.abort(grpc.StatusCode.UNKNOWN, str(error))
            except HeimdallError as error:
                failure = error
            await context.abort_with_status(failure.to_status())

        return call

    @contextmanager
    def _admit(self) -> Iterator[None]:
        if self._stream_count >= self._max_stream_count:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_OVERLOADED,
                f"{self._stream_count} streams are open, which is the limit; repeat later",
                metadata={"limit": self._max_stream_count},
            )
        self._stream_count += 1
        try:
            yield
        finally:
            self._stream_count -= 1

    @contextmanager
    def _around(self, method: str, context: _Context) -> Iterator[None]:
        """Sets the deadline, logs the call, and turns what is not a HeimdallError into INTERNAL."""
        deadline.set_deadline(context.time_remaining())
        started = time.monotonic()
        code, facts = "OK", dict[str, object]()
        try:
            yield
        except HeimdallError as error:
            code = error.code.name
            facts = {"reason": error.reason_name, "message": error.message}
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                code = "CANCELLED"
                raise
            # Something that the handler awaited was cancelled, not the call: without an answer the caller would hang.
            code, facts = "INTERNAL", {"incident": (failure := _crash(method)).metadata["incident"]}
            raise failure from error
        except grpc.aio.AbortError:
            code = context.code().name if isinstance(context.code(), grpc.StatusCode) else "ABORTED"
            raise
        except _UndecodableError as error:
            code, facts = "UNKNOWN", {"message": str(error)}
            raise
        except Exception as error:  # the outermost boundary of a call: logged in full, told without internals
            code, facts = "INTERNAL", {"incident": (failure := _crash(method)).metadata["incident"]}
            raise failure from error
        finally:
            took_ms = round((time.monotonic() - started) * 1000, 1)
            level = "warning" if code in ("INTERNAL", "UNKNOWN") else "debug" if code == "OK" else "info"
            getattr(_log, level)("call", method=method, peer=context.peer(), code=code, took_ms=took_ms, **facts)


async def _write(context: _Context, response: Any) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:
        if response.ByteSize() > MAX_MESSAGE_BYTES:
            raise
        # What gRPC says of a batch that failed in its core, and as a rule before it cancels the handler.
        raise HeimdallError(ErrorReason.ERROR_REASON_CANCELLED, "the connection to the caller is lost") from error


def _crash(method: str) -> HeimdallError:
    """Logs the exception being handled, with its traceback, and returns what the caller is told of it."""
    incident = uuid.uuid4().hex[:12]
    _log.exception("call_crashed", method=method, incident=incident)
    return HeimdallError(
        ErrorReason.ERROR_REASON_INTERNAL,
        f"internal error; the service's log has it as incident {incident}",
        metadata={"incident": incident},
    )


def _checked(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Tells a message that does not decode apart from a DecodeError of the handler's own making."""

    def checked(message: bytes) -> Any:
        try:
            return deserialize(message)
        except DecodeError as error:
            raise _UndecodableError(str(error)) from error

    return checked
