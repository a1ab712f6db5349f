"""Boots any service of the mesh and takes it down again in good order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from heimdall.runtime.background import Background
from heimdall.runtime.drain import Drain
from heimdall.runtime.interceptors import CallGuard
from heimdall.runtime.options import SERVER_OPTIONS
from heimdall.runtime.settings import Settings
from heimdall.runtime.vitals import logged_vitals

_log = structlog.get_logger(__name__)

_PROBE_HEADROOM = 32
"""Calls admitted beyond the streams, so that probes and unary calls pass on a full service."""


_CANCELLED_GRACE_S = 0.2
"""Time for last answers once no work is running; probes that still watch are cut off after it."""

_EXPIRY_S = 4.0
"""Time for work that ran too long to come to a good end, while those who wait for it still listen."""

_UNWIND_S = 2.0
"""Time for handlers that are ended or cancelled to clean up: stopping a server cancels them and does not wait."""


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class ServerContext:
    """What a service gets to set itself up with."""

    server: grpc.aio.Server
    """Server to add servicers to."""
    settings: Settings
    """All settings."""
    drain: Drain
    """Counts background work that a stopping service waits for; calls are counted already."""
    health: HealthServicer
    """Health, for the names of backends."""
    owned: Background
    """Work beside the calls; see background."""

    def background(self, work: Coroutine[Any, Any, None], name: str) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """Runs work beside the calls until the context is left, which cancels it.

        If it crashes, the service is NOT_SERVING at once, drains what can be drained, and its process ends with status
        1: nobody would notice a service that answers and no longer does this part of its work.

        Args:
            work: The work; it may end by itself.
            name: What the log calls it.
        """
        return self.owned.running(work, name)


@dataclass(frozen=True)
class ServiceDefinition:
    """What the runtime needs to know of a service."""

    name: str
    """Short name, such as fetcher; also its section of heimdall.toml."""
    full_name: str
    """Full gRPC name, such as heimdall.fetcher.v1.FetcherService; also its health name."""
    port: int
    """Port to listen on; 0 takes a free one."""
    max_stream_count: int
    """Most streaming calls at once."""
    setup: Callable[[ServerContext], AbstractAsyncContextManager[None]]
    """Adds the servicers, holds the service's resources while it runs, and frees them after the last call."""
    starts_ready: bool = True
    """Whether it is SERVING as soon as it listens; if not, setup says so by ServerContext.health once it is."""


@asynccontextmanager
async def running_server(
    definition: ServiceDefinition, settings: Settings, *, on_failure: Callable[[], None] = lambda: None
) -> AsyncIterator[str]:
    """Runs a service inside the current event loop and drains it on the way out.

    Args:
        definition: The service.
        settings: All settings.
        on_failure: Called once if work of the service's own crashed; whoever runs it leaves the context then.

    Yields:
        The address it listens on, as host:port.

    Raises:
        OSError: If the port can not be bound.
        ServiceFailedError: On the way out, if work of the service's own crashed.
    """
    drain = Drain()
    server = grpc.aio.server(
        interceptors=[CallGuard(drain, definition.max_stream_count)],
        options=SERVER_OPTIONS,
        maximum_concurrent_rpcs=definition.max_stream_count + 2 * _PROBE_HEADROOM,
    )
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    channelz.add_channelz_servicer(server)
    names: Sequence[str] = (
        definition.full_name,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)
    await health.set(definition.full_name, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        port = server.add_insecure_port(f"{settings.mesh.host}:{definition.port}")
    except RuntimeError as error:
        raise OSError(f"can not listen on {settings.mesh.host}:{definition.port}; is the port in use?") from error
    background = Background(health, on_failure)
    async with definition.setup(ServerContext(server, settings, drain, health, background)):
        await server.start()
        if definition.starts_ready:
            await health.set(definition.full_name, health_pb2.HealthCheckResponse.SERVING)
        address = f"{settings.mesh.host}:{port}"
        _log.info("service_started", address=address)
        try:
            yield address
        finally:
            await _drain(server, health, drain, settings)
    if background.failure is not None:
        raise background.failure


async def _drain(server: grpc.aio.Server, health: HealthServicer, drain: Drain, settings: Settings) -> None:
    """Tells balancers, refuses new work, waits for running work, then ends what is left and closes.

    A health Watch is a call too and lasts for ever, so only our own count says when the work is done.
    """
    started = time.monotonic()
    await health.enter_graceful_shutdown()
    await asyncio.sleep(settings.mesh.drain_notice_s)
    drain.refuse()
    done = await drain.wait_idle(settings.mesh.drain_timeout_s)
    if not done and drain.expire():
        await drain.wait_idle(_EXPIRY_S)
    if drain.calls_running:
        # A server that is stopped under a call tells its caller that the connection broke.
        drain.end_calls()
        await drain.wait_idle(_UNWIND_S)
    await server.stop(_CANCELLED_GRACE_S)
    if drain.calls_running:
        await drain.wait_idle(_UNWIND_S)
    _log.info("service_stopped", drained=done, took_s=round(time.monotonic() - started, 3))


async def run_until_signal(definition: ServiceDefinition, settings: Settings) -> None:
    """Runs a service until SIGTERM or SIGINT, or until work of its own crashed, then drains it.

    More of these signals change nothing.

    Args:
        definition: The service.
        settings: All settings.

    Raises:
        OSError: If the port can not be bound.
        ServiceFailedError: If work of its own crashed; it has drained.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        async with (
            logged_vitals(settings.log.vitals_interval_s),
            running_server(definition, settings, on_failure=stop.set),
        ):
            await stop.wait()
            _log.info("service_stopping")
    finally:
        # Handlers of probes that watched until now are still being cancelled; ending the loop under them is loud.
        unwinding = asyncio.all_tasks() - {asyncio.current_task()}
        if unwinding:
            await asyncio.wait(unwinding, timeout=_UNWIND_S)
        for number in _STOP_SIGNALS:
            # The end of the loop would bring back the default, by which a process that drained still dies of a signal.
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
