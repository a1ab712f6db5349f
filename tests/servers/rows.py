"""Every database that keeps rows, for tests that hold for all of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from heimdall.runtime.settings import TimescaleSettings
from tests.servers.pglite import PgliteServer
from tests.servers.postgres import PostgresServer

GIVEN_DSN = os.environ.get("HEIMDALL_TEST_TIMESCALE_DSN")
"""A TimescaleDB of the developer's own, whose user may make databases; the tests make one each there."""
SERVED = ("pglite", "postgres", "given") if GIVEN_DSN else ("pglite", "postgres")
"""Names of the databases that are served; all but PostgreSQL have the extension."""


@dataclass
class GivenServer:
    """The TimescaleDB that HEIMDALL_TEST_TIMESCALE_DSN names."""

    dsn: str


RowServer: TypeAlias = PgliteServer | PostgresServer | GivenServer


def served(request: pytest.FixtureRequest, name: str) -> RowServer:
    """Returns a server by its name; for fixtures that are not asynchronous, and therefore can start one."""
    if name == "given":
        assert GIVEN_DSN is not None
        return GivenServer(GIVEN_DSN)
    server: RowServer = request.getfixturevalue(name)
    return server


@asynccontextmanager
async def fresh_database(server: RowServer, **values: Any) -> AsyncIterator[TimescaleSettings]:
    """Makes an empty database and removes it in the end.

    Args:
        server: Where.
        values: Settings beside those that lead there.

    Yields:
        What a store needs to use it. Nothing is compressed or deleted by itself unless the values say so.
    """
    values = {"compress_after_days": 0, "retention_days": 0} | values
    if isinstance(server, PgliteServer):
        await server.clear()
        place: dict[str, Any] = {"dsn": server.dsn, "max_connection_count": 1, "use_copy": False}
        yield TimescaleSettings.model_validate(place | values)
    elif isinstance(server, PostgresServer):
        name = await server.create_database()
        yield TimescaleSettings.model_validate({"dsn": server.dsn(name), "password": server.password} | values)
        await server.drop_database(name)
    else:
        name = f"heimdall_test_{token_hex(6)}"
        await _execute(server.dsn, f"CREATE DATABASE {name}")
        dsn = urlunsplit(urlsplit(server.dsn)._replace(path=f"/{name}"))
        yield TimescaleSettings.model_validate({"dsn": dsn} | values)
        await _execute(server.dsn, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
