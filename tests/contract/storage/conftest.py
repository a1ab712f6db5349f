"""Every backend that the contract holds for; a later backend adds its factory here."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from storage_svc.measurements import MeasurementStore
from storage_svc.measurements.row_spool import ROW_SPOOL, RowSpool
from storage_svc.measurements.spooled import SpooledMeasurements
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.measurements.timescale import TimescaleMeasurements
from storage_svc.objects import ObjectStore
from storage_svc.objects.local import LocalObjects
from storage_svc.objects.minio import MinioObjects
from tests.servers.minio import MinioServer
from tests.servers.rows import SERVED, RowServer, fresh_database, served

PART_BYTES = 5 * 1024**2
"""The smallest part that S3 takes."""


@pytest.fixture(params=["local", "minio"])
def object_server(request: pytest.FixtureRequest) -> MinioServer | None:
    """Where the objects of a test are; None for a folder."""
    return request.getfixturevalue("minio") if request.param == "minio" else None


@pytest.fixture
async def objects(object_server: MinioServer | None, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    store: ObjectStore
    if object_server is None:
        store = LocalObjects(tmp_path / "bucket")
    else:
        store = MinioObjects(object_server.settings(part_bytes=PART_BYTES), f"bucket-{secrets.token_hex(8)}")
    await store.start()
    yield store
    await store.close()


@pytest.fixture(params=["sqlite", *SERVED])
def row_server(request: pytest.FixtureRequest) -> RowServer | None:
    """The database under test; None for the embedded one."""
    return None if request.param == "sqlite" else served(request, request.param)


@pytest.fixture
async def rows(row_server: RowServer | None, tmp_path: Path) -> AsyncIterator[MeasurementStore]:
    async with AsyncExitStack() as stack:
        if row_server is None:
            store: MeasurementStore = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
        else:
            settings = await stack.enter_async_context(fresh_database(row_server))
            # As the service uses it.
            spool = await RowSpool.open(tmp_path / ROW_SPOOL, 2**20)
            store = SpooledMeasurements(TimescaleMeasurements(settings), spool)
        yield store
        await store.close()
