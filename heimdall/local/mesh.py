"""The four services as four processes: started together, watched, restarted, and ended together."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
import structlog
from grpc_health.v1 import health_pb2

from heimdall.local.process import ProcessStartError, TiedProcess, run_together
from heimdall.runtime.options import CHANNEL_OPTIONS
from heimdall.runtime.settings import Settings

_log = structlog.get_logger(__name__)

SERVICE_NAMES: Final = ("coordinator", "fetcher", "dsp", "storage")
"""Short names of the services, in the order of their default ports."""

START_TIMEOUT_S: Final = 30.0
"""Longest time from starting a process until it is SERVING."""

_STOP_ALLOWANCE_S: Final = 10.0
"""Longest time beyond its drain timeout that a service takes to end what it could not wait for."""

_RESTART_DELAY_S: Final = 1.0

_OUTGOING_FREE_PORTS: Final = range(20_000, 32_768)
"""Ports that neither common servers nor, on Linux, outgoing connections take."""


def ports_from(base: int) -> dict[str, int]:
    """Returns the ports of the services, counted up from one.

    Args:
        base: Port of the coordinator, 1 to 65532.
    """
    return {name: base + number for number, name in enumerate(SERVICE_NAMES)}


@contextmanager
def reserved_ports(host: str, names: Iterable[str] = SERVICE_NAMES) -> Iterator[dict[str, int]]:
    """Keeps a free port for each name, which only a server that shares addresses can listen on, as every service does.

    Two callers at the same time get different ports. All lie below the range from which the kernel takes the ports of
    outgoing connections: one of those could be lent to a connection while a service that died is started again.

    Args:
        host: Address that will be listened on.
        names: What the ports are for; default: the services.

    Yields:
        The ports by name.

    Raises:
        OSError: If there are not so many.
    """
    candidates = random.sample(_OUTGOING_FREE_PORTS, len(_OUTGOING_FREE_PORTS))
    with ExitStack() as sockets:
        yield {name: _reserve(host, candidates, sockets) for name in names}


def _reserve(host: str, candidates: list[int], sockets: ExitStack) -> int:
    while candidates:
        port = candidates.pop()
        holder = sockets.enter_context(socket.socket())
        with suppress(OSError):
            # The order matters: the kernel gives a port alone, and then lets those in who listen with SO_REUSEADDR.
            holder.bind((host, port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return port
        holder.close()
    raise OSError(f"{host} has no free port in {_OUTGOING_FREE_PORTS}")


class LocalMesh:
    """The four services on this machine. Leaving the context ends them all."""

    def __init__(
        self,
        settings: Settings,
        ports: Mapping[str, int],
        *,
        config: Path | None = None,
        environment: Mapping[str, str] | None = None,
        log_dir: Path | None = None,
    ) -> None:
        """Plans a mesh; nothing is started before start.

        Args:
            settings: The settings as the processes will read them, ports and targets aside.
            ports: Port of every service.
            config: The heimdall.toml that the processes read.
            environment: More HEIMDALL_ variables for the processes.
            log_dir: Where each process's log goes, as <service>.log; default: this process's standard error.
        """
        self._host = settings.mesh.host
        self._stop_timeout_s = settings.mesh.drain_timeout_s + _STOP_ALLOWANCE_S
        self._ports = dict(ports)
        self._arguments = ["--config", str(config)] if config is not None else []
        self._environment = {**self.environment(), **(environment or {})}
        self._log_dir = log_dir
        self._processes: dict[str, TiedProcess] = {}

    @property
    def targets(self) -> dict[str, str]:
        """The gRPC target of every service."""
        return {name: f"{self._host}:{port}" for name, port in self._ports.items()}

    @property
    def pids(self) -> dict[str, int]:
        """The process id of everything that was started, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    async def ended(self, name: str) -> int:
        """Waits until a service ends and returns its exit status; minus the signal's number if a signal ended it.

        Args:
            name: Short name of a service that was started.
        """
        return await self._processes[name].wait()

    def environment(self) -> dict[str, str]:
        """Returns the variables that tell a process of this mesh where everything is."""
        variables = {f"HEIMDALL_{name.upper()}_PORT": str(port) for name, port in self._ports.items()}
        variables |= {f"HEIMDALL_MESH_{name.upper()}_TARGET": target for name, target in self.targets.items()}
        del variables["HEIMDALL_MESH_FETCHER_TARGET"]
        variables["HEIMDALL_MESH_FETCHER_TARGETS"] = json.dumps([self.targets["fetcher"]])
        # No balancer reads the health of a mesh on one machine, so nobody has to be given notice.
        variables["HEIMDALL_MESH_DRAIN_NOTICE_S"] = "0"
        return variables

    async def __aenter__(self) -> Self:
        """Returns the mesh."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends every process, as stop does."""
        await self.stop()

    async def stop(self) -> None:
        """Ends every process; each drains.

        The coordinator goes first: the acquisitions that it finishes while draining need all the others.
        """
        coordinator = self._processes.get("coordinator")
        if coordinator is not None:
            await coordinator.stop(self._stop_timeout_s)
        await asyncio.gather(*(process.stop(self._stop_timeout_s) for process in self._processes.values()))

    def adopt(self, process: TiedProcess) -> None:
        """Takes over another process, which then ends together with the services.

        Args:
            process: A running process; its name is none of a service.
        """
        self._processes[process.name] = process

    async def start(self, *names: str) -> None:
        """Starts services at once and waits until they are SERVING.

        Args:
            names: Short names of the services; none for all.

        Raises:
            ProcessStartError: If a port is taken, or one ends or is not SERVING in time; names the first.
        """
        await run_together(*(self._start_one(name) for name in names or SERVICE_NAMES))

    async def _start_one(self, name: str) -> None:
        self._require_free_port(name)
        log_file = None if self._log_dir is None else self._log_dir / f"{name}.log"
        process = await TiedProcess.start(
            name, f"{name}_svc", self._arguments, environment=self._environment, log_file=log_file
        )
        self._processes[name] = process
        ended = asyncio.create_task(process.wait())
        serving = asyncio.create_task(wait_until_serving(name, self.targets[name], START_TIMEOUT_S))
        try:
            await asyncio.wait((ended, serving), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise ProcessStartError(await process.describe_end())
            await serving
        finally:
            ended.cancel()
            serving.cancel()
            await asyncio.gather(ended, serving, return_exceptions=True)

    async def keep_running(self) -> None:
        """Starts a service again whenever it ends by itself; returns never.

        Raises:
            ProcessStartError: If one that ended can not be started again.
        """
        await run_together(*(self._keep_one_running(name) for name in SERVICE_NAMES))

    async def _keep_one_running(self, name: str) -> None:
        while True:
            status = await self.ended(name)
            _log.error("service_died", process=name, status=status, restart_delay_s=_RESTART_DELAY_S)
            await asyncio.sleep(_RESTART_DELAY_S)
            await self._start_one(name)

    def _require_free_port(self, name: str) -> None:
        try:
            socket.create_server((self._host, self._ports[name])).close()
        except OSError as error:
            raise ProcessStartError(
                f"{name} can not listen on {self.targets[name]} ({error.strerror}); --port-base takes other ports"
            ) from error


async def wait_until_serving(name: str, target: str, timeout_s: float) -> None:
    """Waits until a service says that it can do its work.

    Args:
        name: Short name of the service.
        target: Its gRPC target.
        timeout_s: Longest wait.

    Raises:
        ProcessStartError: If the time passes first.
    """
    # Not open_channel: its balancing never calls a service that is not SERVING.
    options = {
        **dict(CHANNEL_OPTIONS),
        "grpc.initial_reconnect_backoff_ms": 50,
        "grpc.min_reconnect_backoff_ms": 50,
        "grpc.max_reconnect_backoff_ms": 100,
    }
    async with grpc.aio.insecure_channel(target, options=list(options.items())) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        call = watch(health_pb2.HealthCheckRequest(service=full_name(name)), timeout=timeout_s, wait_for_ready=True)
        status = "unreachable"
        try:
            async for answer in call:
                status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.aio.AioRpcError as error:
            raise ProcessStartError(
                f"{name} at {target} was {status} for {timeout_s:g} s: {error.details()}"
            ) from error
        finally:
            call.cancel()
    raise ProcessStartError(f"{name} at {target} was {status} and ended the watch of its health")


def full_name(name: str) -> str:
    """Returns the gRPC name of a service, which is also its health name.

    Args:
        name: Short name of the service.
    """
    return f"heimdall.{name}.v1.{name.capitalize()}Service"
