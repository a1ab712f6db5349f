"""Channels to services that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from heimdall.runtime.channel import open_channel

SERVICE = "heimdall.fetcher.v1.FetcherService"


@asynccontextmanager
async def _serving(port: int) -> AsyncIterator[int]:
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


async def _ask(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no method
    await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)


async def test_a_new_channel_does_not_inherit_the_failures_of_another() -> None:
    async with asyncio.timeout(30):
        async with _serving(0) as port, open_channel("fetcher", f"127.0.0.1:{port}") as channel:
            await _ask(channel)
        async with open_channel("fetcher", f"127.0.0.1:{port}") as older:
            with pytest.raises(grpc.aio.AioRpcError):
                await _ask(older)
            # The older channel waits now before it tries again; the service is back before that.
            async with _serving(port), open_channel("fetcher", f"127.0.0.1:{port}") as newer:
                await _ask(newer)
