"""Counts the work that a stopping service waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.calls import RunningCall


class Drain:
    """Says whether a service still takes new work, and waits until the running work is done."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False
        self._at_expiry: list[Callable[[], None]] = []
        self._calls = set[RunningCall]()

    @property
    def refusing(self) -> bool:
        """Whether new work is refused."""
        return self._refusing

    def refuse(self) -> None:
        """Refuses new work from now on."""
        self._refusing = True

    def at_expiry(self, end_work: Callable[[], None]) -> None:
        """Names what brings work to a good end early, once a stopping service has waited long enough for it.

        Args:
            end_work: Called once, and not at all if the work is done in time; returns at once.
        """
        self._at_expiry.append(end_work)

    def expire(self) -> bool:
        """Brings work to a good end early; returns whether there is a kind of it that can be ended so."""
        for end_work in self._at_expiry:
            end_work()
        return bool(self._at_expiry)

    @property
    def calls_running(self) -> bool:
        """Whether some of the work are calls."""
        return bool(self._calls)

    def end_calls(self) -> None:
        """Ends the calls that still run; their callers are told DRAINING."""
        for call in self._calls:
            text = "the service is stopping and could not wait for the end of this call"
            call.end(HeimdallError(ErrorReason.ERROR_REASON_DRAINING, text))

    @contextmanager
    def work(self, call: RunningCall | None = None) -> Iterator[None]:
        """Marks a piece of work that a stopping service waits for.

        Args:
            call: The call that it is, if it is one.

        Raises:
            HeimdallError: DRAINING if the service takes no new work.
        """
        if self._refusing:
            raise HeimdallError(ErrorReason.ERROR_REASON_DRAINING, "the service is stopping and takes no new work")
        self._count += 1
        self._idle.clear()
        if call is not None:
            self._calls.add(call)
        try:
            yield
        finally:
            if call is not None:
                self._calls.discard(call)
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
