"""Two small helpers for tasks that belong together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_together(*jobs: Coroutine[Any, Any, None]) -> None:
    """Runs jobs side by side until all are done or one fails; no job outlives this call.

    Raises:
        Exception: What the first job failed with, itself and not in a group.
    """
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await end(*tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and waits until they are over; their results and failures stay with them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
