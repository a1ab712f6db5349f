"""One child process that is started, watched and ended in good order."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import structlog

_log = structlog.get_logger(__name__)

_STANDARD_ERROR = 2
_TAIL_BYTES = 4096


class ProcessStartError(Exception):
    """A process could not be started, or ended before it was of use; the text has its last words."""


async def run_together(*steps: Coroutine[Any, Any, None]) -> None:
    """Runs steps at once; the first that fails ends the others and its failure is raised.

    Args:
        steps: What to run.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures


class TiedProcess:
    """A Python module as a child process that never outlives this process.

    It runs in a session of its own, so that Ctrl-C in a terminal reaches only the parent, which then ends its children.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log_file: Path | None) -> None:
        """Wraps a running process; use start."""
        self.name = name
        self._process = process
        self._log_file = log_file

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
        read_output: bool = False,
    ) -> Self:
        """Starts a module.

        Args:
            name: What messages call it.
            module: The module to run, as with python -m.
            arguments: Its command line.
            environment: Variables put above this process's own.
            log_file: Where its standard error is appended; default: this process's own standard error.
            read_output: Whether standard output is read with read_line; else it goes where standard error goes.

        Raises:
            OSError: If the process can not be started or the file can not be written.
        """
        stderr = None if log_file is None else await asyncio.to_thread(log_file.open, "ab")
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "heimdall.local.tied",
                module,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if read_output else (stderr or _STANDARD_ERROR),
                stderr=stderr or _STANDARD_ERROR,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        finally:
            if stderr is not None:
                stderr.close()
        return cls(name, process, log_file)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def read_line(self, timeout_s: float) -> str:
        """Returns the next line of standard output.

        Args:
            timeout_s: Longest wait.

        Raises:
            ProcessStartError: If the process ends or the time passes first.
        """
        if self._process.stdout is None:
            raise ProcessStartError(f"{self.name} was started without read_output, so its output can not be read")
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise ProcessStartError(f"{self.name} printed nothing within {timeout_s:g} s") from None
        if not line:
            raise ProcessStartError(await self.describe_end())
        return line.decode()

    async def wait(self) -> int:
        """Waits until the process ends and returns its status; minus the signal's number if a signal ended it."""
        return await self._process.wait()

    async def describe_end(self) -> str:
        """Waits until the process ends and returns a sentence about it, with the last lines it logged."""
        status = await self._process.wait()
        text = f"{self.name} ended with status {status}"
        if self._log_file is None:
            return text
        tail = (await asyncio.to_thread(self._log_file.read_bytes))[-_TAIL_BYTES:].decode(errors="replace").strip()
        return f"{text}; {self._log_file} ends with:\n{tail}" if tail else text

    async def stop(self, timeout_s: float) -> int:
        """Ends the process with SIGTERM, or SIGKILL if it does not obey, and returns its status.

        Args:
            timeout_s: How long it may take to drain.
        """
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._process.wait()
        except TimeoutError:
            _log.warning("process_killed", process=self.name, pid=self.pid, waited_s=timeout_s)
            self._process.kill()
            return await self._process.wait()
