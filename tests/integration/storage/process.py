"""Storage as a process of its own, that tests may kill, freeze and take the disk from."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from heimdall.local import reserved_ports
from heimdall.local.mesh import wait_until_serving
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from storage_svc.definition import FULL_NAME

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

_Status = health_pb2.HealthCheckResponse


@dataclass
class StorageProcess:
    """A storage service that runs."""

    process: asyncio.subprocess.Process
    stub: StorageServiceAsyncStub
    log_file: Path
    plain: grpc.aio.Channel
    """A channel that does not look at the health of the service."""

    @property
    def log(self) -> str:
        """Everything on its standard error."""
        return text_of(self.log_file)

    async def kill(self) -> None:
        """Ends it with SIGKILL and waits until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def health(self, backend: str, *, serving: bool, timeout_s: float = 20.0) -> None:
        """Waits until a backend is SERVING, or NOT_SERVING; "" stands for the service itself."""
        name = f"{FULL_NAME}/{backend}" if backend else FULL_NAME
        wanted = _Status.SERVING if serving else _Status.NOT_SERVING
        health: Any = health_pb2_grpc.HealthStub(self.plain)
        seen = []
        async with asyncio.timeout(timeout_s):
            async for answer in health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=2 * timeout_s):
                seen.append(_Status.ServingStatus.Name(answer.status))
                if answer.status == wanted:
                    return
        raise AssertionError(f"{name} was {seen}")


def text_of(log_file: Path) -> str:
    return log_file.read_text()


def environment(folder: Path, port: int, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    return {
        **os.environ,
        "HEIMDALL_STORAGE_PORT": str(port),
        "HEIMDALL_STORAGE_DATA_DIR": str(folder),
        "HEIMDALL_STORAGE_SYNC_INTERVAL_S": "0.02",
        "HEIMDALL_MESH_DRAIN_NOTICE_S": "0",
        **(variables or {}),
    }


@asynccontextmanager
async def storage_process(
    folder: Path, log_file: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[StorageProcess]:
    """Runs a storage process on a port of its own: gRPC backs off from an address that just refused it.

    Args:
        folder: The data folder.
        log_file: Where its standard error is appended.
        variables: Further settings as HEIMDALL_ variables.
    """
    with reserved_ports("127.0.0.1", ["storage"]) as ports:
        process = await start(environment(folder, ports["storage"], variables), log_file)
        try:
            address = f"127.0.0.1:{ports['storage']}"
            await _until_serving(process, address, log_file)
            async with open_channel("storage", address) as channel, grpc.aio.insecure_channel(address) as plain:
                yield StorageProcess(process, StorageServiceStub(channel), log_file, plain)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _until_serving(process: asyncio.subprocess.Process, address: str, log_file: Path) -> None:
    serving = asyncio.create_task(wait_until_serving("storage", address, 30))
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
        assert not ended.done(), f"the process did not start:\n{text_of(log_file)}"
        await serving
    finally:
        serving.cancel()
        ended.cancel()
        await asyncio.gather(serving, ended, return_exceptions=True)


async def start(variables: Mapping[str, str], log_file: Path) -> asyncio.subprocess.Process:
    with log_file.open("ab") as stderr:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "storage_svc", env=variables, stdin=asyncio.subprocess.DEVNULL, stderr=stderr
        )


async def refused(folder: Path, log_file: Path, variables: Mapping[str, str] | None = None) -> str:
    """Starts a service that must not start, and returns the one line that it says why."""
    process = await start(environment(folder, 0, variables), log_file)
    try:
        async with asyncio.timeout(30):
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = text_of(log_file)
    assert status == 2, text
    assert "Traceback" not in text
    return text.splitlines()[-1]
