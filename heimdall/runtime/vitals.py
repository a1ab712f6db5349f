"""What this process takes of the machine: memory, open files, threads, tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import psutil
import structlog

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one process takes at one moment."""

    resident_bytes: int
    """Its memory that is in RAM."""
    open_file_count: int | None
    """Its open files, sockets and pipes, on Linux with the folder that is read to count them; None where the system
    does not count them."""
    thread_count: int
    """Its threads, those of libraries included."""
    task_count: int
    """Tasks of the event loop that have not ended."""


def read_vitals() -> Vitals:
    """Returns what this process takes now; called from its event loop.

    Raises:
        OSError: If the system does not let it look, as when no file is left to open.
        psutil.Error: Likewise.
    """
    process = psutil.Process()
    with process.oneshot():
        return Vitals(
            resident_bytes=process.memory_info().rss,
            open_file_count=process.num_fds() if psutil.POSIX else None,
            thread_count=process.num_threads(),
            task_count=len(asyncio.all_tasks()),
        )


@asynccontextmanager
async def logged_vitals(interval_s: float) -> AsyncIterator[None]:
    """Logs one line event=vitals at once and then at every interval until the context is left.

    Args:
        interval_s: Time between two lines; 0 for none.
    """
    task = asyncio.create_task(_log_vitals(interval_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _log_vitals(interval_s: float) -> None:
    while interval_s:
        try:
            known = {fact: value for fact, value in asdict(read_vitals()).items() if value is not None}
        except (OSError, psutil.Error) as error:
            # What keeps us from looking may pass, and is worth a line itself.
            _log.warning("vitals_unreadable", message=str(error))
        else:
            _log.info("vitals", **known)
        await asyncio.sleep(interval_s)
