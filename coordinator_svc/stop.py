"""How an acquisition, or one receiver of it, is told to come to an end."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator_svc.tasks import end
from heimdall.errors import HeimdallError


class StopSignal:
    """Says once that it is time to end, why, and until when the rest has to be closed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason: HeimdallError | None = None
        self._discard = False
        self._finish_by_s = float("inf")

    @property
    def reason(self) -> HeimdallError | None:
        """Why it is time to end; None while it is not."""
        return self._reason

    @property
    def discard(self) -> bool:
        """Whether what was received is to be deleted."""
        return self._discard

    def set(self, reason: HeimdallError, *, finish_by_s: float, discard: bool = False) -> None:
        """Tells to end. The first reason stays; a repeat can only bring the end forward.

        Args:
            reason: Why.
            finish_by_s: Time of the event loop at which everything is closed with what there is.
            discard: Whether what was received is to be deleted.
        """
        if self._reason is None:
            self._reason, self._discard = reason, discard
        self._finish_by_s = min(self._finish_by_s, finish_by_s)
        self._event.set()

    async def let_finish(self, *tasks: asyncio.Task[Any], grace_s: float = float("inf")) -> None:
        """Waits for tasks; once told to end, only for as long as is left. Those that are not done go on.

        Args:
            tasks: What is waited for.
            grace_s: Longest wait in s after the word to end, if that is less than what is left.
        """
        pending: set[asyncio.Task[Any]] = set(tasks)
        told = asyncio.create_task(self._event.wait())
        try:
            while pending and not told.done():
                await asyncio.wait({told, *pending}, return_when=asyncio.FIRST_COMPLETED)
                pending = {task for task in pending if not task.done()}
        finally:
            await end(told)
        if pending:
            left_s = min(self._finish_by_s - asyncio.get_running_loop().time(), grace_s)
            await asyncio.wait(pending, timeout=max(0.0, left_s))
