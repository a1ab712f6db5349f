"""Commands as processes, against a storage service in this one."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heimdall.common.v1.measurement_pb2 import Measurement
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.runtime.settings import MinioSettings
from heimdall.storage.v1 import storage_pb2 as pb
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from storage_svc.definition import define
from tests.integration.storage.support import storage_settings

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub


@dataclass
class Printed:
    """How a command ended and what it printed."""

    status: int | None
    out: str
    err: str


@dataclass
class Commands:
    """Runs commands against a storage service."""

    stub: StorageServiceAsyncStub
    target: str
    folder: Path

    async def start(self, *arguments: str, target: str | None = None, **variables: str) -> asyncio.subprocess.Process:
        own = {"HEIMDALL_MESH_STORAGE_TARGET": target or self.target, **variables}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "heimdall.cli",
            *arguments,
            cwd=self.folder,
            env={**os.environ, **own},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, **variables: str) -> Printed:
        process = await self.start(*arguments, **variables)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        return Printed(process.returncode, out.decode(), err.decode())

    async def export(self, name: str, *arguments: str) -> Path:
        """Exports into a file, and returns it."""
        path = self.folder / name
        printed = await self.run("measurements", "export", "--output", name, *arguments)
        assert printed.status == 0, printed.err
        return path

    async def store(self, *measurements: Measurement) -> None:
        for first in range(0, len(measurements), 1000):
            request = pb.WriteMeasurementsRequest(measurements=measurements[first : first + 1000])
            await self.stub.WriteMeasurements(request, timeout=10)


@asynccontextmanager
async def commands_in(folder: Path, minio: MinioSettings | None = None) -> AsyncIterator[Commands]:
    """Runs a storage service with embedded stores, or with its objects in MinIO."""
    settings = storage_settings(folder / "storage", objects="directory" if minio is None else "minio")
    if minio is not None:
        settings = settings.model_copy(update={"minio": minio})
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(running_server(define(settings), settings))
        channel = await stack.enter_async_context(open_channel("storage", address))
        yield Commands(StorageServiceStub(channel), address, folder)
