"""The whole mesh inside one event loop, on free ports, with simulated receivers: for the tests of everybody."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heimdall.client import HeimdallClient
from heimdall.clock import Clock
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.runtime.server import ServiceDefinition, running_server
from heimdall.runtime.settings import (
    CoordinatorSettings,
    DspSettings,
    FetcherSettings,
    MeshSettings,
    Settings,
    StorageSettings,
)
from simulator import Scenario, Simulator, StationSpec, ToneSpec

NAMES = ("storage", "dsp", "fetcher", "coordinator")
"""The services in the order in which they start."""

SAMPLE_RATE_HZ = 12_000.0
"""True and announced rate of the stations made by station()."""


def station(station_id: str, **values: Any) -> StationSpec:
    """Describes a simulated station in Turin with a carrier 1 kHz above the dial.

    Args:
        station_id: Also the receiver_id.
        values: Further keys of StationSpec, such as fault.
    """
    plain: dict[str, Any] = {
        "latitude_deg": 45.07,
        "longitude_deg": 7.69,
        "altitude_m": 250.0,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "tone": (ToneSpec(offset_hz=1000.0, dbm=-60.0),),
    }
    return StationSpec(id=station_id, **{**plain, **values})


@dataclass
class Mesh:
    """A running mesh. Its services can be stopped and started again one by one, on the port they had."""

    folder: Path
    """Holds receivers.toml and the data of storage."""
    simulator: Simulator
    """The receivers."""
    settings: Settings
    """Settings of all services; ports and targets are filled in as they start."""
    clock: Clock | None = None
    """Host clock of those services to which times matter; default: the system's."""
    stacks: dict[str, AsyncExitStack] = field(default_factory=dict)
    """What runs, by name."""

    def target(self, name: str) -> str:
        """Returns the address of a service."""
        mesh = self.settings.mesh
        return mesh.fetcher_targets[0] if name == "fetcher" else str(getattr(mesh, f"{name}_target"))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[HeimdallClient]:
        """Opens a client of this mesh."""
        async with HeimdallClient(self.target("coordinator"), self.target("storage")) as client:
            yield client

    async def start(self, name: str) -> None:
        """Starts a service, on the port that it had if it ran before."""
        module = importlib.import_module(f"{name}_svc.{'definition' if name == 'storage' else 'service'}")
        define: Callable[..., ServiceDefinition] = module.define
        clocks = (self.clock,) if name in ("fetcher", "coordinator") else ()
        self.stacks[name] = AsyncExitStack()
        server = running_server(define(self.settings, *clocks), self.settings)
        address = await self.stacks[name].enter_async_context(server)
        port = int(address.rpartition(":")[2])
        section = getattr(self.settings, name).model_copy(update={"port": port})
        key, value = ("fetcher_targets", (address,)) if name == "fetcher" else (f"{name}_target", address)
        mesh = self.settings.mesh.model_copy(update={key: value})
        self.settings = self.settings.model_copy(update={name: section, "mesh": mesh})

    async def stop(self, name: str) -> None:
        """Stops a service as SIGTERM does."""
        await self.stacks.pop(name).aclose()


@asynccontextmanager
async def running_mesh(
    folder: Path,
    stations: Iterable[StationSpec],
    *,
    without: Iterable[str] = (),
    max_frequency_hz: float = 30e6,
    mesh: dict[str, Any] | None = None,
    coordinator: dict[str, Any] | None = None,
    storage: dict[str, Any] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Mesh]:
    """Runs a simulator and the services.

    Args:
        folder: An empty folder.
        stations: The receivers to simulate.
        without: Names of services that are not started.
        max_frequency_hz: Highest frequency of every receiver.
        mesh: Further keys of the section [mesh].
        coordinator: Further keys of the section [coordinator].
        storage: Further keys of the section [storage].
        clock: Host clock of the fetcher and the coordinator, by which the simulated world starts too.

    Yields:
        The mesh, every service of which is ready.
    """
    begin_unix_ns = None if clock is None else clock.unix_ns()
    scenario = Scenario(station=tuple(stations))
    async with Simulator(scenario, record_sent=True, any_port=True, start_unix_ns=begin_unix_ns) as simulator:
        receivers_file = folder / "receivers.toml"
        receivers_file.write_text(receivers_toml(simulator, max_frequency_hz=max_frequency_hz))
        running = Mesh(
            folder,
            simulator,
            Settings(
                mesh=MeshSettings(**{"drain_notice_s": 0, "drain_timeout_s": 5, **(mesh or {})}),
                coordinator=CoordinatorSettings(port=0, **(coordinator or {})),
                fetcher=FetcherSettings(port=0, receivers_file=receivers_file, state_file=folder / "fetcher.sqlite3"),
                dsp=DspSettings(port=0),
                storage=StorageSettings(port=0, data_dir=folder / "data", **(storage or {})),
            ),
            clock,
        )
        try:
            for name in NAMES:
                if name not in without:
                    await running.start(name)
            yield running
        finally:
            for name in reversed(NAMES):
                if name in running.stacks:
                    await running.stop(name)


def state_names(acquisition: Acquisition) -> tuple[str, list[str]]:
    """Returns the state of an acquisition and those of its outcomes, without their prefix."""
    outcomes = [ReceiverOutcome.State.Name(outcome.state).removeprefix("STATE_") for outcome in acquisition.outcomes]
    return Acquisition.State.Name(acquisition.state).removeprefix("STATE_"), outcomes


async def last(snapshots: AsyncIterator[Acquisition]) -> Acquisition:
    """Returns the last of a run of snapshots."""
    newest: Acquisition | None = None
    async for snapshot in snapshots:
        newest = snapshot
    assert newest is not None
    return newest


def receivers_toml(
    simulator: Simulator,
    *,
    max_frequency_hz: float = 30e6,
    urls: Mapping[str, str] | None = None,
    further: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Returns the receivers.toml of a simulator.

    Args:
        simulator: Runs already, so that its ports are known.
        max_frequency_hz: Highest frequency of every receiver.
        urls: Where a receiver is found instead of at its own port, by its id.
        further: More keys, by receiver.
    """
    entries = []
    for spec in simulator.scenario.station:
        keys: dict[str, Any] = {
            "receiver_id": spec.id,
            "name": spec.id,
            "driver": "kiwisdr",
            "url": (urls or {}).get(spec.id, simulator.stations[spec.id].url),
            "latitude_deg": spec.latitude_deg,
            "longitude_deg": spec.longitude_deg,
            "altitude_m": spec.altitude_m,
            "min_frequency_hz": 0.0,
            "max_frequency_hz": max_frequency_hz,
            **(further or {}).get(spec.id, {}),
        }
        entries.append("[[receiver]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return "\n".join(entries)
