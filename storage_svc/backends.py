"""Tells the health of each backend by really using it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from heimdall.errors import HeimdallError
from storage_svc.spool import Spool

_log = structlog.get_logger(__name__)

_PING_INTERVAL_S: Final = 2.0
_PING_TIMEOUT_S: Final = 5.0


async def watch_backends(
    health: HealthServicer, full_name: str, pings: Mapping[str, Callable[[], Awaitable[None]]], spool: Spool
) -> None:
    """Sets the health of every backend, and of the spool, again and again, for ever.

    The service itself stays SERVING while a backend is away or the spool is full: rows and reads still work, and a
    writer learns from the answer why it has to wait.

    Args:
        health: Where it is told, as <full_name>/<backend>.
        full_name: Name of the service.
        pings: Uses each backend; raises HeimdallError if it is away.
        spool: Is NOT_SERVING while it has no room.
    """
    known: dict[str, bool] = {}
    while True:
        states = {name: await _answers(ping) for name, ping in pings.items()}
        states["spool"] = not spool.room.is_full
        for name, up in states.items():
            if known.get(name) != up:
                status = health_pb2.HealthCheckResponse
                await health.set(f"{full_name}/{name}", status.SERVING if up else status.NOT_SERVING)
                _log.info("backend_changed", backend=name, up=up)
        known = states
        await asyncio.sleep(_PING_INTERVAL_S)


async def _answers(ping: Callable[[], Awaitable[None]]) -> bool:
    try:
        async with asyncio.timeout(_PING_TIMEOUT_S):
            await ping()
    except (HeimdallError, TimeoutError):
        return False
    return True
