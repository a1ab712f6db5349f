"""The simulator: every station of a scenario on its own port."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from simulator.clock import SimulationClock
from simulator.emission import Arrival, Modulation
from simulator.kiwi_wav import read_kiwi_wav
from simulator.receiver_path import AntennaSignal
from simulator.replay import Replay, date_frames
from simulator.scenario import Scenario
from simulator.station import Station


class Simulator:
    """Simulated receivers on real sockets, as an async context manager.

    Example:
        async with Simulator(load_scenario("config/demo.toml")) as simulator:
            print(simulator.stations["torino"].url)
    """

    def __init__(
        self,
        scenario: Scenario,
        host: str = "127.0.0.1",
        record_sent: bool = False,
        any_port: bool = False,
        start_unix_ns: int | None = None,
    ) -> None:
        """Takes the description; nothing happens before the context is entered.

        Args:
            scenario: the network to simulate.
            host: address on which all stations listen.
            record_sent: keep every numbered frame in `Station.sent`; grows by 50 kB a second and connection.
            any_port: take free ports in place of the scenario's.
            start_unix_ns: true UTC in the simulated world when the ports open; default: that of this host.
        """
        self.scenario = scenario
        self.stations: dict[str, Station] = {}
        """The running stations by id, in the order of the scenario."""
        self._host = host
        self._record_sent = record_sent
        self._any_port = any_port
        self._start_unix_ns = start_unix_ns
        self._replay = Replay({})
        self._cleanup = AsyncExitStack()

    @property
    def replay_shift_s(self) -> int | None:
        """Whole seconds added to the files' GPS stamps (modulo the week); None before the first client."""
        return self._replay.shift_s

    @property
    def replay_unix_shift_s(self) -> int | None:
        """Whole seconds that make UTC, in s since the Unix epoch, of the files' GPS seconds; None before."""
        return self._replay.unix_shift_s

    async def __aenter__(self) -> Self:
        """Reads the replay files and opens every port.

        Raises:
            KiwiWavError: a replay file cannot be used.
            ValueError: an emitter stands in a station's antenna.
            OSError: a port cannot be opened.
        """
        async with AsyncExitStack() as opened:
            await self._open(opened)
            self._cleanup = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cleanup.aclose()

    async def _open(self, opened: AsyncExitStack) -> None:
        scenario = self.scenario
        files = {spec.id: spec.replay for spec in scenario.station if spec.replay is not None}
        recordings = {name: date_frames(await asyncio.to_thread(read_kiwi_wav, path)) for name, path in files.items()}
        self._replay = Replay(recordings)
        modulations = [await asyncio.to_thread(Modulation, emitter, scenario.seed) for emitter in scenario.emitter]
        clock = SimulationClock(self._start_unix_ns)
        for spec in scenario.station:
            arrivals = [
                Arrival(emitter, spec, modulation)
                for emitter, modulation in zip(scenario.emitter, modulations, strict=True)
            ]
            signal = AntennaSignal(spec, arrivals, scenario.seed)
            station = Station(spec, scenario, signal, clock, self._replay, record_sent=self._record_sent)
            self.stations[spec.id] = station
            opened.push_async_callback(station.stop)
            await station.start(self._host, any_port=self._any_port)
