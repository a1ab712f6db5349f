"""The real TimescaleDB, compiled to WebAssembly: one connection at a time, in memory, no COPY, no background jobs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import asyncpg
import pytest

from heimdall.local import reserved_ports
from tools.pglite_package import packages_folder

_HOST: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 50.0
_POLL_S: Final = 0.05
_SCRIPT: Final = Path(__file__).with_name("pglite_server.mjs")
_TABLES: Final = ("measurements", "measurement_windows", "recordings", "acquisitions", "pings", "schema_migrations")


@dataclass
class PgliteServer:
    """A TimescaleDB with one database, which serves whoever connects after the one before has gone."""

    port: int

    @property
    def dsn(self) -> str:
        """Where the database is."""
        return f"postgresql://postgres@{_HOST}:{self.port}/postgres?sslmode=disable"

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a storage service that keeps its rows here, as HEIMDALL_ variables."""
        return {
            "HEIMDALL_STORAGE_ROWS": "timescale",
            "HEIMDALL_TIMESCALE_DSN": self.dsn,
            "HEIMDALL_TIMESCALE_MAX_CONNECTION_COUNT": "1",
            "HEIMDALL_TIMESCALE_USE_COPY": "false",
        }

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """Lends the one connection, for which everybody else has to have gone."""
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def clear(self) -> None:
        """Removes every table."""
        async with self.connection() as connection:
            for table in _TABLES:
                # Not together: TimescaleDB drops a hypertable only by itself.
                await connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")


@asynccontextmanager
async def pglite_server() -> AsyncIterator[PgliteServer]:
    """Runs the server with an empty database."""
    node = shutil.which("node")
    if node is None or not packages_folder().exists():
        message = f"{packages_folder()} or Node.js is missing; run 'make tools'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with ExitStack() as stack:
        port = stack.enter_context(reserved_ports(_HOST, ["pglite"]))["pglite"]
        log = stack.enter_context(tempfile.TemporaryFile())
        server = PgliteServer(port)
        # It ends when its standard input does, so it does not outlive this process.
        process = await asyncio.to_thread(_popen, [node, _SCRIPT, packages_folder(), str(port)], log)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await _answers(server):
                    if process.poll() is not None:
                        log.seek(0)
                        raise AssertionError(f"TimescaleDB did not start:\n{log.read().decode()}")
                    await asyncio.sleep(_POLL_S)
            yield server
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)


def _popen(command: list[str | Path], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)


async def _answers(server: PgliteServer) -> bool:
    try:
        async with server.connection():
            return True
    except OSError:
        return False
