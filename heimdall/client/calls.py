"""Calls as the client makes them: failures become HeimdallError, and no silence lasts for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.runtime.options import CHANNEL_OPTIONS

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

IDLE_TIMEOUT_S: Final = 15.0
"""Silence after which a stream of answers counts as broken; every service sends a heartbeat or an answer before."""


async def check_health(target: str, service: str = "", *, timeout_s: float = 1.0) -> str:
    """Asks a service how it is, by the standard gRPC health protocol.

    The channel of this question is not health-checked itself, so a service that says NOT_SERVING still answers.

    Args:
        target: gRPC target, such as 127.0.0.1:50051.
        service: Full name, such as heimdall.storage.v1.StorageService, or that of a backend; empty for the process.
        timeout_s: Longest wait in s.

    Returns:
        SERVING, NOT_SERVING or UNKNOWN.

    Raises:
        HeimdallError: SERVICE_UNAVAILABLE if nobody answers there, INTERNAL if the name is not known there.
    """
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no method
        request = health_pb2.HealthCheckRequest(service=service)
        answer: health_pb2.HealthCheckResponse = await answer_of(stub.Check(request, timeout=timeout_s), target)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def answer_of(call: Awaitable[ResponseT], peer: str) -> ResponseT:
    """Returns the answer of a call; raises what failed as HeimdallError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error


async def next_of(call: grpc.aio.UnaryStreamCall[RequestT, ResponseT], peer: str, timeout_s: float) -> ResponseT | None:
    """Returns the next answer of a stream, None at its end; raises HeimdallError, also after a silence of timeout_s."""
    try:
        async with asyncio.timeout(timeout_s):
            answer = await call.read()
    except TimeoutError:
        raise HeimdallError(
            ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
            f"{peer}: nothing came for {timeout_s:.0f} s",
            metadata={"peer": peer, "timeout_s": timeout_s},
        ) from None
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error
    return None if answer is grpc.aio.EOF else cast(ResponseT, answer)
