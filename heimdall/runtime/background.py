"""Work that a service does beside its calls, and what becomes of a service whose work crashes."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog
from grpc_health.v1._async import HealthServicer

_log = structlog.get_logger(__name__)


class ServiceFailedError(Exception):
    """A part of the service crashed and the service has ended; the cause is the exception's own."""


class Background:
    """Owns the work beside the calls; the first crash makes the whole service NOT_SERVING, for good."""

    def __init__(self, health: HealthServicer, on_failure: Callable[[], None]) -> None:
        """Owns nothing yet.

        Args:
            health: Where a crash is told.
            on_failure: Called once, at the first crash.
        """
        self.failure: ServiceFailedError | None = None
        """The first crash; None if there was none."""
        self._health = health
        self._on_failure = on_failure

    @asynccontextmanager
    async def running(self, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
        """Runs work until the context is left; arguments as of ServerContext.background.

        Yields:
            The work's task; it never raises a crash, which is told and remembered here.
        """
        task = asyncio.create_task(self._watch(work, name), context=contextvars.Context())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _watch(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # What the work waited for was cancelled, not the work.
            await self._fail(name, RuntimeError("something that it waited for was cancelled"))
        except Exception as error:  # noqa: BLE001  # the outermost boundary of the work: logged in full, ends the service
            await self._fail(name, error)

    async def _fail(self, name: str, error: Exception) -> None:
        _log.error("background_work_crashed", work=name, exc_info=error)
        if self.failure is not None:
            return
        self.failure = ServiceFailedError(f"{name} crashed: {type(error).__name__}: {error}; the log has it in full")
        self.failure.__cause__ = error
        try:
            # Also keeps every later change of health away.
            await self._health.enter_graceful_shutdown()
        finally:
            self._on_failure()
