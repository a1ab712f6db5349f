"""The real PostgreSQL on this machine, that tests may stop, kill, freeze and start again."""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
import pytest

from heimdall.local import reserved_ports
from tools.postgres_packages import programs_folder

USER: Final = "heimdall_user"
"""Role of the services: it owns its databases and is no superuser."""

_HOST: Final = "127.0.0.1"
_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 20.0
_POLL_S: Final = 0.02
_OPTIONS: Final = (
    # Nothing has to survive a power cut here; what was committed survives a kill all the same.
    "fsync=off",
    "full_page_writes=off",
    "max_connections=200",
)
_AUTHENTICATION: Final = f"local all all trust\nhost all all {_HOST}/32 scram-sha-256\n"


@dataclass
class PostgresServer:
    """A PostgreSQL server on a port that stays its own while it is down."""

    port: int
    password: str
    """Of the role heimdall_user."""
    folder: Path
    """Its data, its log, and the socket by which the superuser comes in."""
    programs: Path
    _process: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str, user: str = USER) -> str:
        """Returns where a database is, without the password."""
        return f"postgresql://{user}@{_HOST}:{self.port}/{database}"

    def variables(self, database: str) -> dict[str, str]:
        """Returns the settings of a storage service that keeps its rows here, as HEIMDALL_ variables."""
        return {
            "HEIMDALL_STORAGE_ROWS": "timescale",
            "HEIMDALL_TIMESCALE_DSN": self.dsn(database),
            "HEIMDALL_TIMESCALE_PASSWORD": self.password,
        }

    async def connect(self, database: str) -> asyncpg.Connection[Any]:
        """Returns a connection of the services' role for a test's own look."""
        return await asyncpg.connect(self.dsn(database), password=self.password, ssl=False)

    async def create_database(self, template: str = "template1") -> str:
        """Makes a database that belongs to the services' role and returns its name.

        Args:
            template: Database to copy, which nobody is connected to.
        """
        name = f"heimdall_{secrets.token_hex(6)}"
        await self.administer(f"CREATE DATABASE {name} OWNER {USER} TEMPLATE {template}")
        return name

    async def drop_database(self, name: str) -> None:
        """Removes a database, whoever is connected to it."""
        await self.administer(f"DROP DATABASE {name} WITH (FORCE)")

    async def administer(self, *statements: str, database: str = "postgres") -> None:
        """Executes statements as superuser."""
        async with self._superuser(database) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def set_read_only(self, read_only: bool) -> None:
        """Lets the server refuse, or again take, every write of a transaction that begins from now on."""
        value = "on" if read_only else "off"
        await self.administer(f"ALTER SYSTEM SET default_transaction_read_only = {value}", "SELECT pg_reload_conf()")
        async with asyncio.timeout(_START_TIMEOUT_S):
            while await self._setting("default_transaction_read_only") != value:  # noqa: ASYNC110 (a reload says nothing)
                await asyncio.sleep(_POLL_S)

    async def start(self) -> None:
        """Starts the server, again if it ended, and waits until it answers; one that runs goes on."""
        if self._process is not None:
            return
        self._process = await asyncio.to_thread(self._popen)
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await self._answers():
                if self._process.poll() is not None:
                    raise AssertionError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()}")
                await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Ends the server in good order; transactions that are open are rolled back."""
        if self._process is not None:
            processes = self._processes()
            self._process.send_signal(signal.SIGINT)
            await self._wait_until_gone(processes)

    async def kill(self) -> None:
        """Ends every process of the server with SIGKILL, as a crash does, and waits until they are gone."""
        if self._process is not None:
            processes = self._processes()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            await self._wait_until_gone(processes)

    def freeze(self) -> None:
        """Lets the server stand still: it takes connections and does not answer."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    async def initialise(self) -> None:
        """Makes the data folder."""
        self.folder.chmod(0o711)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        command: list[str | Path] = [
            "--pgdata",
            self.folder / "data",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
        ]
        await asyncio.to_thread(self._run, [self.programs / "initdb", "--no-sync", "--locale=C.UTF-8", *command])
        (self.folder / "data" / "pg_hba.conf").write_text(_AUTHENTICATION)

    @asynccontextmanager
    async def _superuser(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection[Any]]:
        connection = await asyncpg.connect(
            host=str(self.folder), port=self.port, user="postgres", database=database, ssl=False
        )
        try:
            yield connection
        finally:
            await connection.close()

    async def _setting(self, name: str) -> Any:
        async with self._superuser() as connection:
            return await connection.fetchval(f"SHOW {name}")

    async def _answers(self) -> bool:
        try:
            await self.administer("SELECT 1")
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        return True

    async def _wait_until_gone(self, processes: list[psutil.Process]) -> None:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_S)
        self._process = None
        _, left = await asyncio.to_thread(psutil.wait_procs, processes, _STOP_TIMEOUT_S)
        assert not left, f"{left} did not end"

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _popen(self) -> subprocess.Popen[bytes]:
        # Not by asyncio: tests share the server, and each has an event loop of its own.
        listen = (f"listen_addresses={_HOST}", f"port={self.port}", f"unix_socket_directories={self.folder}")
        options = [word for option in (*listen, *_OPTIONS) for word in ("-c", option)]
        command = [*_as_postgres(), self.programs / "postgres", "-D", self.folder / "data", *options]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _run(self, command: list[str | Path]) -> None:
        words = [*_as_postgres(), *command]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def postgres_server() -> AsyncIterator[PostgresServer]:
    """Runs a PostgreSQL server without a database of its own."""
    programs = programs_folder()
    if programs is None:
        message = "there is no PostgreSQL here; run 'make tools'"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with ExitStack() as stack:
        port = stack.enter_context(reserved_ports(_HOST, ["postgres"]))["postgres"]
        # Not below pytest's own folder, which only its owner may enter.
        folder = Path(tempfile.mkdtemp(prefix="heimdall-postgres-"))
        stack.callback(shutil.rmtree, folder)
        server = PostgresServer(port, secrets.token_hex(16), folder, programs)
        await server.initialise()
        try:
            await server.start()
            await server.administer(f"CREATE ROLE {USER} LOGIN PASSWORD '{server.password}'")
            yield server
        finally:
            await server.stop()


def _as_postgres() -> list[str | Path]:
    """Returns what a command begins with to run as the user that the package made: PostgreSQL refuses root.

    The interpreter can not make a process of another user by vfork, and in a fork gRPC's handlers may crash.
    """
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
