"""Counts the work that a stopping service waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError


class Drain:
    """Says whether a service still takes new work, and waits until the running work is done."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False

    @property
    def refusing(self) -> bool:
        """Whether new work is refused."""
        return self._refusing

    def refuse(self) -> None:
        """Refuses new work from now on."""
        self._refusing = True

    @contextmanager
    def work(self) -> Iterator[None]:
        """Marks a piece of work that a stopping service waits for.

        Raises:
            HeimdallError: DRAINING if the service takes no new work.
        """
        if self._refusing:
            raise HeimdallError(ErrorReason.ERROR_REASON_DRAINING, "the service is stopping and takes no new work")
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._idle.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no work is running.

        Args:
            timeout_s: Longest wait.

        Returns:
            Whether all work was done in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
