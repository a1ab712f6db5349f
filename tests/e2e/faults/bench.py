"""The mesh as processes with simulated receivers, and the means to break it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format

from heimdall.client import TERMINAL_STATES, HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec, ReceiverOutcome
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, reason_name
from heimdall.local import SERVICE_NAMES, LocalMesh, reserved_ports
from heimdall.runtime.channel import open_channel
from heimdall.runtime.settings import Settings
from heimdall.storage.v1.storage_pb2 import GetAcquisitionRequest
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from simulator import Scenario, Simulator, StationSpec
from tests.integration.mesh import SAMPLE_RATE_HZ, receivers_toml, station

__all__ = ["DIAL_HZ", "SAMPLE_RATE_HZ", "FaultBench", "fault_bench", "problems", "station", "until"]

DIAL_HZ: Final = 7.1e6
POLL_S: Final = 0.05


@dataclass
class FaultBench:
    """A running mesh. Every service is a process of its own, the receivers are simulated in this one."""

    folder: Path
    """Logs, receivers.toml and the data of storage."""
    simulator: Simulator
    """The receivers; they remember what they sent."""
    mesh: LocalMesh
    """The processes."""
    client: HeimdallClient
    """A client of the mesh."""

    async def start(self, *names: str) -> None:
        """Starts services, again if they ran before, and waits until they are SERVING and the client reaches them."""
        await self.mesh.start(*names)
        # A channel that was refused a connection tries again within seconds only.
        if "coordinator" in names:
            await eventually(self._coordinator_answers)
        if "storage" in names:
            await eventually(self._storage_answers)

    async def kill(self, *names: str) -> None:
        """Ends processes with SIGKILL, all at once, and waits until they are gone."""
        for name in names:
            self.signal(name, signal.SIGKILL)
        await asyncio.gather(*(self.mesh.ended(name) for name in names))

    async def terminate(self, name: str, timeout_s: float = 45.0) -> int:
        """Ends a process with SIGTERM; returns its exit status."""
        self.signal(name, signal.SIGTERM)
        async with asyncio.timeout(timeout_s):
            return await self.mesh.ended(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a service, such as SIGSTOP and SIGCONT."""
        os.kill(self.mesh.pids[name], number)

    def thaw(self) -> None:
        """Lets every process that stands still go on, so that it can end."""
        for name in self.mesh.pids:
            with suppress(ProcessLookupError):
                self.signal(name, signal.SIGCONT)

    def resident_bytes(self, name: str) -> int:
        """Returns the resident memory of a service."""
        pages = Path(f"/proc/{self.mesh.pids[name]}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def log(self, name: str) -> str:
        """Returns what a service logged, over all its lives."""
        return (self.folder / f"{name}.log").read_text()

    def crashes(self) -> list[str]:
        """Returns what the services logged of faults of their own."""
        lines = [line for name in SERVICE_NAMES for line in self.log(name).splitlines()]
        return [line for line in lines if "_crashed" in line or "Traceback" in line]

    async def stored(self, acquisition_id: str, sample_count: int, timeout_s: float = 30.0) -> Acquisition:
        """Waits until every receiver has stored so many samples of a running acquisition; returns it."""
        async with asyncio.timeout(timeout_s):
            async for snapshot in self.client.watch_acquisition(acquisition_id):
                if all(outcome.stored_sample_count >= sample_count for outcome in snapshot.outcomes):
                    return snapshot
        raise AssertionError(f"the acquisition ended first: {describe(snapshot)}")

    async def ended(self, acquisition_id: str, timeout_s: float = 60.0) -> Acquisition:
        """Waits until the coordinator says that an acquisition is terminal, even if it is away for a time."""
        acquisition = Acquisition()

        async def is_terminal() -> bool:
            acquisition.CopyFrom(await self.client.get_acquisition(acquisition_id))
            return acquisition.state in TERMINAL_STATES

        await eventually(is_terminal, timeout_s)
        return acquisition

    async def _coordinator_answers(self) -> bool:
        return bool(await self.client.get_limits())

    async def _storage_answers(self) -> bool:
        await anext(self.client.list_recordings(), None)
        return True

    async def recordings(self) -> dict[str, Recording]:
        """Returns every recording by its receiver."""
        return {recording.receiver_id: recording async for recording in self.client.list_recordings()}

    async def all_in_object_store(self) -> bool:
        """Returns whether every recording is STORED."""
        return all(recording.state == Recording.STATE_STORED for recording in (await self.recordings()).values())

    async def stored_state(self, acquisition_id: str) -> int:
        """Returns the state of an acquisition as storage has it."""
        async with open_channel("storage", self.mesh.targets["storage"]) as channel:
            request = GetAcquisitionRequest(acquisition_id=acquisition_id)
            return (await StorageServiceStub(channel).GetAcquisition(request, timeout=5)).acquisition.state

    async def start_acquisition(self, spec: AcquisitionSpec, request_id: str = "") -> str:
        """Starts an acquisition; returns its id."""
        return (await self.client.start_acquisition(spec, request_id)).acquisition_id


@asynccontextmanager
async def fault_bench(
    folder: Path,
    stations: Iterable[StationSpec],
    *,
    receivers: Mapping[str, Mapping[str, Any]] | None = None,
    targets: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    urls: Mapping[str, str] | None = None,
    start: bool = True,
) -> AsyncIterator[FaultBench]:
    """Runs simulated receivers and the four services as processes.

    Args:
        folder: An empty folder.
        stations: The receivers to simulate.
        receivers: Further keys of receivers.toml by receiver, such as slots.
        targets: Where the coordinator finds a service instead of at its own port, by name; such as a relay.
        variables: Further settings as HEIMDALL_ variables.
        urls: Where the fetcher finds a receiver instead of at its own port, by receiver; such as a relay.
        start: Whether the services are started.

    Yields:
        The bench; every service is SERVING if they were started.
    """
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(
            Simulator(Scenario(station=tuple(stations)), record_sent=True, any_port=True)
        )
        receivers_file = folder / "receivers.toml"
        receivers_file.write_text(receivers_toml(simulator, further=receivers or {}, urls=urls or {}))
        environment = {
            "HEIMDALL_FETCHER_RECEIVERS_FILE": str(receivers_file),
            "HEIMDALL_FETCHER_STATE_FILE": str(folder / "fetcher.sqlite3"),
            "HEIMDALL_STORAGE_DATA_DIR": str(folder / "data"),
            **{f"HEIMDALL_MESH_{name.upper()}_TARGET": target for name, target in (targets or {}).items()},
            **(variables or {}),
        }
        if fetcher := environment.pop("HEIMDALL_MESH_FETCHER_TARGET", None):
            environment["HEIMDALL_MESH_FETCHER_TARGETS"] = f'["{fetcher}"]'
        ports = stack.enter_context(reserved_ports("127.0.0.1"))
        mesh = await stack.enter_async_context(LocalMesh(Settings(), ports, environment=environment, log_dir=folder))
        client = await stack.enter_async_context(HeimdallClient(mesh.targets["coordinator"], mesh.targets["storage"]))
        bench = FaultBench(folder, simulator, mesh, client)
        if start:
            await bench.start()
        try:
            yield bench
        finally:
            bench.thaw()


async def eventually(ask: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> None:
    """Asks again and again until the answer is yes; a failed call is a no."""
    async with asyncio.timeout(timeout_s):
        while True:
            with suppress(HeimdallError):
                if await ask():
                    return
            await asyncio.sleep(POLL_S)


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Waits until a condition holds; returns how long that took in s."""
    started_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (what happens in another process has no event to wait for)
            await asyncio.sleep(POLL_S)
    return time.monotonic() - started_s


def problems(outcome: ReceiverOutcome) -> list[str]:
    """Returns the names of the problems of an outcome, the weightiest first."""
    return [reason_name(problem.reason) for problem in outcome.problems]


def describe(acquisition: Acquisition) -> str:
    """Returns an acquisition as text, for the message of a failed assertion."""
    return json_format.MessageToJson(acquisition)
