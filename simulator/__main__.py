"""Serves a scenario: `python -m simulator SCENARIO.toml`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from simulator.kiwi_wav import KiwiWavError
from simulator.network import Simulator
from simulator.scenario import Scenario, ScenarioError, load_scenario


async def serve(scenario: Scenario, host: str, *, any_port: bool) -> None:
    """Runs the scenario until SIGINT or SIGTERM; writes one line of JSON with the ports when ready."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with Simulator(scenario, host=host, any_port=any_port) as simulator:
        ports = {name: {"host": s.host, "port": s.port} for name, s in simulator.stations.items()}
        sys.stdout.write(json.dumps({"stations": ports}) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def with_ports(scenario: Scenario, assignments: Sequence[str]) -> Scenario:
    """Returns the scenario with other ports.

    Args:
        scenario: The scenario as it was read.
        assignments: ID=PORT of each station that gets another port.

    Raises:
        ScenarioError: An assignment is malformed or names no station.
    """
    ports: dict[str, int] = {}
    for assignment in assignments:
        name, _, port = assignment.partition("=")
        if not port.isdecimal() or int(port) > 65535:
            raise ScenarioError(f"--port {assignment}: ID=PORT was expected, with a port of 0 to 65535")
        ports[name] = int(port)
    known = {station.id for station in scenario.station}
    if unknown := sorted(ports.keys() - known):
        raise ScenarioError(f"--port {unknown[0]}: no such station; there are {', '.join(sorted(known))}")
    stations = tuple(
        station.model_copy(update={"port": ports.get(station.id, station.port)}) for station in scenario.station
    )
    return scenario.model_copy(update={"station": stations})


def main() -> int:
    """Parses the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="simulator", description="Simulated KiwiSDR receivers.")
    parser.add_argument("scenario", type=Path, help="TOML file that describes stations and emitters")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    ports = parser.add_mutually_exclusive_group()
    ports.add_argument("--any-port", action="store_true", help="take free ports, not the scenario's")
    ports.add_argument(
        "--port", action="append", default=[], metavar="ID=PORT", help="port of one station, not the scenario's"
    )
    arguments = parser.parse_args()
    # Standard output belongs to the line with the ports.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        scenario = with_ports(load_scenario(arguments.scenario), arguments.port)
        asyncio.run(serve(scenario, arguments.host, any_port=arguments.any_port))
    except (ScenarioError, KiwiWavError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
