"""Tells the health of each backend by really using it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)

_PING_INTERVAL_S: Final = 2.0
_PING_TIMEOUT_S: Final = 5.0


class _Prober:
    """Uses one backend, never twice at once: a disk that hangs would get ever more threads to hang."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._running: asyncio.Task[None] | None = None

    async def trouble(self) -> str:
        """Returns why the backend can not be used; empty if it can."""
        if self._running is None:
            self._running = asyncio.create_task(self._use())
        done, _ = await asyncio.wait({self._running}, timeout=_PING_TIMEOUT_S)
        if not done:
            return f"no answer within {_PING_TIMEOUT_S:g} s"
        ended, self._running = self._running, None
        try:
            ended.result()
        except HeimdallError as error:
            return error.message
        return ""

    async def close(self) -> None:
        """Ends a use that is still going on."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _use(self) -> None:
        await self._ping()


async def watch_backends(
    health: HealthServicer, full_name: str, pings: Mapping[str, Callable[[], Awaitable[None]]]
) -> None:
    """Sets the health of every backend again and again, for ever.

    The service itself stays SERVING while a backend is away or the spool is full: rows and reads still work, and a
    writer learns from the answer why it has to wait.

    Args:
        health: Where it is told, as <full_name>/<backend>.
        full_name: Name of the service.
        pings: Uses each backend; raises HeimdallError if it can not be used.
    """
    probers = {name: _Prober(ping) for name, ping in pings.items()}
    known: dict[str, bool] = {}
    try:
        while True:
            troubles = await asyncio.gather(*(prober.trouble() for prober in probers.values()))
            for name, trouble in zip(probers, troubles, strict=True):
                up = not trouble
                if known.get(name) != up:
                    status = health_pb2.HealthCheckResponse
                    await health.set(f"{full_name}/{name}", status.SERVING if up else status.NOT_SERVING)
                    (_log.info if up else _log.warning)("backend_changed", backend=name, up=up, trouble=trouble)
                known[name] = up
            await asyncio.sleep(_PING_INTERVAL_S)
    finally:
        for prober in probers.values():
            await prober.close()
