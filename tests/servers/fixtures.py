"""The real servers that tests share: one for each process that runs tests, started when it is first asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.servers.minio import MinioServer, minio_server
from tests.servers.pglite import PgliteServer, pglite_server
from tests.servers.postgres import PostgresServer, postgres_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def minio(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MinioServer]:
    """A MinIO server that runs; a test that ends it starts it again."""
    async with minio_server(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres() -> AsyncIterator[PostgresServer]:
    """A PostgreSQL server that runs; a test that ends it starts it again."""
    async with postgres_server() as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pglite() -> AsyncIterator[PgliteServer]:
    """A TimescaleDB that runs; a test clears it before it begins."""
    async with pglite_server() as server:
        yield server
