"""True time of a simulation: one monotonic clock, tied to UTC once at the start."""

from __future__ import annotations

import asyncio
import time

from simulator.gnss import NS_PER_S


class SimulationClock:
    """UTC as the simulated world has it; later steps of the host's clock do not touch it."""

    def __init__(self, start_unix_ns: int | None = None) -> None:
        """Starts the world.

        Args:
            start_unix_ns: UTC at the start, in ns since the Unix epoch; default: that of this host.
        """
        self.start_unix_ns = time.time_ns() if start_unix_ns is None else start_unix_ns
        self._start_monotonic_ns = time.monotonic_ns()

    def now_unix_ns(self) -> int:
        """UTC now, in ns since the Unix epoch."""
        return self.start_unix_ns + time.monotonic_ns() - self._start_monotonic_ns

    async def sleep_until(self, unix_ns: int) -> None:
        """Returns at the given UTC time, at once if that has passed."""
        await asyncio.sleep(max(unix_ns - self.now_unix_ns(), 0) / NS_PER_S)
