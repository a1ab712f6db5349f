"""One service as a real process, as an operator runs it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[2]
FULL_NAMES = {
    "coordinator": "heimdall.coordinator.v1.CoordinatorService",
    "fetcher": "heimdall.fetcher.v1.FetcherService",
    "dsp": "heimdall.dsp.v1.DspService",
    "storage": "heimdall.storage.v1.StorageService",
}
START_S = 30.0


@dataclass
class ServiceProcess:
    """A started service and what it said so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        """Everything on its standard error."""
        return "\n".join(self.lines)

    async def address(self) -> str:
        """Waits until it listens and returns where."""
        line = await self.line_of("service_started")
        address = re.search(r"address=(\S+)", line)
        assert address is not None, line
        return address[1]

    async def line_of(self, event: str) -> str:
        """Waits for the next line of an event and returns it."""
        async with asyncio.timeout(START_S):
            while True:
                line = await self._line()
                assert line is not None, f"the service ended before it logged {event}:\n{self.log}"
                if f"event={event} " in line:
                    return line

    async def ended(self) -> int:
        """Waits until it has ended and returns its exit status."""
        async with asyncio.timeout(START_S):
            while await self._line() is not None:
                continue
            return await self.process.wait()

    async def _line(self) -> str | None:
        assert self.process.stderr is not None
        raw = await self.process.stderr.readline()
        if not raw:
            return None
        self.lines.append(raw.decode().rstrip())
        return self.lines[-1]


@asynccontextmanager
async def service_process(
    name: str, folder: Path, variables: Mapping[str, str], module: str | None = None
) -> AsyncIterator[ServiceProcess]:
    """Starts a service, or another module in its place, on a free port; kills it at the end if it still runs."""
    own = {
        f"HEIMDALL_{name.upper()}_PORT": "0",
        "HEIMDALL_STORAGE_DATA_DIR": str(folder / "data"),
        "HEIMDALL_FETCHER_STATE_FILE": str(folder / "fetcher.sqlite3"),
        "HEIMDALL_FETCHER_RECEIVERS_FILE": str(REPO_ROOT / "config" / "receivers.toml"),
        "HEIMDALL_MESH_DRAIN_NOTICE_S": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module or f"{name}_svc",
        cwd=REPO_ROOT,
        env={**os.environ, **own, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield ServiceProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def ready_process(name: str, folder: Path, variables: Mapping[str, str]) -> AsyncIterator[ServiceProcess]:
    """Starts a service as above, and for the coordinator the storage without which it is not ready."""
    async with AsyncExitStack() as stack:
        peers = dict[str, str]()
        if name == "coordinator":
            storage = await stack.enter_async_context(service_process("storage", folder, {}))
            peers["HEIMDALL_MESH_STORAGE_TARGET"] = await storage.address()
        yield await stack.enter_async_context(service_process(name, folder, {**peers, **variables}))
