"""Files that appear whole or not at all."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

ResultT = TypeVar("ResultT")


class FileWriter:
    """A file that is being written, and the one thread that does so."""

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        """Takes both."""
        self.file = file
        self._pool = pool

    async def run(self, work: Callable[[], ResultT]) -> ResultT:
        """Does work on the file in its thread; what was begun ends before the file is closed, also if cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


@asynccontextmanager
async def whole_file(path: Path) -> AsyncGenerator[FileWriter, None]:
    """Opens a file under another name, and gives it its own when the block ends well; else it is removed.

    Args:
        path: The file; one of that name is replaced. Its folder must be there.

    Raises:
        OSError: If it can not be written.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with ThreadPoolExecutor(1) as pool:
        in_pool = partial(asyncio.get_running_loop().run_in_executor, pool)
        file: BinaryIO = await in_pool(scratch.open, "xb")
        try:
            yield FileWriter(file, pool)
            await in_pool(_publish, file, scratch, path)
        finally:
            await in_pool(_tidy, file, scratch)


def _publish(file: BinaryIO, scratch: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    scratch.replace(path)


def _tidy(file: BinaryIO, scratch: Path) -> None:
    try:
        file.close()
    finally:
        scratch.unlink(missing_ok=True)
