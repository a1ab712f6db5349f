"""The coordinator's RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health_pb2

from coordinator_svc.directory import ReceiverDirectory
from coordinator_svc.peers import Peers, open_peers
from coordinator_svc.recovery import RUNNING_STATES
from coordinator_svc.registry import Registry
from coordinator_svc.validation import MAX_FREQUENCY_HZ, MIN_FREQUENCY_HZ
from heimdall.clock import Clock, SystemClock
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from heimdall.errors import HeimdallError
from heimdall.runtime.server import ServerContext, ServiceDefinition
from heimdall.runtime.settings import CoordinatorSettings, Settings

FULL_NAME: Final = coordinator_pb2.DESCRIPTOR.services_by_name["CoordinatorService"].full_name

_MAX_WATCH_COUNT: Final = 256
_CANCEL_WAIT_S: Final = 20.0
_RECOVERY_WAIT_S: Final = 2.0

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class CoordinatorService(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """Answers callers; the acquisitions themselves run in the registry."""

    def __init__(
        self, registry: Registry, directory: ReceiverDirectory, peers: Peers, settings: CoordinatorSettings
    ) -> None:
        """Builds the service.

        Args:
            registry: The acquisitions that run here.
            directory: The receivers.
            peers: The services.
            settings: The limits.
        """
        self._registry = registry
        self._directory = directory
        self._peers = peers
        self._settings = settings

    async def StartAcquisition(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.StartAcquisitionRequest, context: _Context
    ) -> coordinator_pb2.StartAcquisitionResponse:
        """Accepts an acquisition."""
        acquisition = await self._registry.start(request.spec, request.request_id)
        return coordinator_pb2.StartAcquisitionResponse(acquisition=acquisition)

    async def GetAcquisition(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.GetAcquisitionRequest, context: _Context
    ) -> coordinator_pb2.GetAcquisitionResponse:
        """Returns an acquisition that runs, or that storage has."""
        return coordinator_pb2.GetAcquisitionResponse(acquisition=await self._now(request.acquisition_id))

    async def ListAcquisitions(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.ListAcquisitionsRequest, context: _Context
    ) -> coordinator_pb2.ListAcquisitionsResponse:
        """Lists what storage has, with those that run as they are now."""
        wanted = list(request.states)
        if any(state in RUNNING_STATES for state in wanted):
            # Storage is told of few states on the way, so which of them an acquisition is in is decided here.
            wanted += [state for state in RUNNING_STATES if state not in wanted]
        page, token = await self._peers.archive.page(wanted, request.page_size, request.page_token)
        answer = coordinator_pb2.ListAcquisitionsResponse(next_page_token=token)
        for stored in page:
            run = self._registry.get(stored.acquisition_id)
            acquisition = stored if run is None else run.report.live
            if not request.states or acquisition.state in request.states:
                answer.acquisitions.append(acquisition)
        return answer

    async def WatchAcquisition(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.WatchAcquisitionRequest, context: _Context
    ) -> AsyncIterator[coordinator_pb2.WatchAcquisitionResponse]:
        """Streams snapshots to the end of an acquisition."""
        run = self._registry.get(request.acquisition_id)
        if run is None:
            stored = await self._now(request.acquisition_id)
            yield coordinator_pb2.WatchAcquisitionResponse(acquisition=stored)
            return
        async with aclosing(run.report.watch()) as snapshots:
            async for snapshot in snapshots:
                yield coordinator_pb2.WatchAcquisitionResponse(acquisition=snapshot)

    async def CancelAcquisition(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.CancelAcquisitionRequest, context: _Context
    ) -> coordinator_pb2.CancelAcquisitionResponse:
        """Cancels an acquisition and waits for its end."""
        run = self._registry.get(request.acquisition_id)
        if run is None:
            return coordinator_pb2.CancelAcquisitionResponse(acquisition=await self._now(request.acquisition_id))
        run.cancel(discard=request.discard)
        try:
            async with asyncio.timeout(_CANCEL_WAIT_S):
                await run.report.ended.wait()
        except TimeoutError:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
                f"{request.acquisition_id} is cancelled, and storage did not confirm its end in {_CANCEL_WAIT_S:g} s",
                metadata={"acquisition_id": request.acquisition_id},
            ) from None
        return coordinator_pb2.CancelAcquisitionResponse(acquisition=run.report.snapshot())

    async def ListReceivers(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.ListReceiversRequest, context: _Context
    ) -> coordinator_pb2.ListReceiversResponse:
        """Asks every fetcher."""
        await self._directory.refresh()
        away = self._directory.unreachable
        return coordinator_pb2.ListReceiversResponse(
            receivers=[owned.receiver for owned in self._directory.known().values() if owned.target not in away],
            unreachable_fetchers=away.keys(),
        )

    async def GetLimits(  # noqa: N802 (named by the contract)
        self, request: coordinator_pb2.GetLimitsRequest, context: _Context
    ) -> coordinator_pb2.GetLimitsResponse:
        """Returns the limits of the settings."""
        answer = coordinator_pb2.GetLimitsResponse(
            min_frequency_hz=MIN_FREQUENCY_HZ,
            max_frequency_hz=MAX_FREQUENCY_HZ,
            max_acquisition_count=self._settings.max_acquisition_count,
            max_receiver_count=self._settings.max_receiver_count,
            version=version("heimdall-radio"),
        )
        answer.max_duration.FromTimedelta(timedelta(seconds=self._settings.max_duration_s))
        answer.max_wait.FromTimedelta(timedelta(seconds=self._settings.max_wait_s))
        return answer

    async def _now(self, acquisition_id: str) -> Acquisition:
        run = self._registry.get(acquisition_id)
        return await self._peers.archive.get(acquisition_id) if run is None else run.report.snapshot()


def define(settings: Settings, clock: Clock | None = None) -> ServiceDefinition:
    """Describes the service to the runtime.

    Args:
        settings: All settings.
        clock: Host clock; default: the system's.
    """
    return ServiceDefinition(
        name="coordinator",
        full_name=FULL_NAME,
        port=settings.coordinator.port,
        max_stream_count=_MAX_WATCH_COUNT,
        setup=partial(_setup, clock=SystemClock() if clock is None else clock),
        starts_ready=False,
    )


@asynccontextmanager
async def _setup(context: ServerContext, clock: Clock) -> AsyncIterator[None]:
    async with open_peers(context.settings.mesh) as peers:
        directory = ReceiverDirectory(peers.fetchers)
        registry = Registry(peers, directory, context.settings, context.drain, clock)
        service = CoordinatorService(registry, directory, peers, context.settings.coordinator)
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(service, context.server)

        async def recover() -> None:
            await registry.recover()
            await context.health.set(FULL_NAME, health_pb2.HealthCheckResponse.SERVING)

        try:
            async with context.background(recover(), "recovery") as recovering:
                # As a rule that takes milliseconds, and whoever finds the port open also finds the service ready.
                await asyncio.wait({recovering}, timeout=_RECOVERY_WAIT_S)
                yield
        finally:
            await registry.close()
            await directory.close()
