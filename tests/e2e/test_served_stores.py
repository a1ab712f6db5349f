"""Whole acquisitions whose samples go to MinIO and whose rows go to PostgreSQL, each a real server."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from sigmf import SigMFCollection, sigmffile

from heimdall.client import acquisition_spec, check_health
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from storage_svc.ids import BUCKET
from tests.e2e.faults.bench import DIAL_HZ, FaultBench, describe, eventually, fault_bench, station, until
from tests.servers.minio import MinioServer
from tests.servers.postgres import PostgresServer

RECEIVERS: Final = [f"rx-{number}" for number in range(7)]
STORAGE: Final = "heimdall.storage.v1.StorageService"


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[str]:
    name = await postgres.create_database()
    yield name
    await postgres.drop_database(name)


@pytest.fixture
async def bench(
    tmp_path: Path, minio: MinioServer, postgres: PostgresServer, database: str
) -> AsyncIterator[FaultBench]:
    """A mesh of seven receivers; its services run."""
    variables = {**minio.variables, **postgres.variables(database)}
    async with fault_bench(tmp_path, map(station, RECEIVERS), variables=variables) as made:
        yield made


def download(minio: MinioServer, acquisition_id: str, folder: Path) -> dict[str, bytes]:
    """Copies every object of an acquisition into a new folder; returns them by the last part of their keys."""
    folder.mkdir()
    client = minio.client()
    found = {}
    for entry in client.list_objects(BUCKET, f"sessions/{acquisition_id}/", recursive=True):
        key = str(entry.object_name)
        path = folder / key.rpartition("/")[2]
        client.fget_object(BUCKET, key, str(path))
        found[path.name] = path.read_bytes()
    return found


async def check_objects(minio: MinioServer, acquisition: Acquisition, folder: Path) -> None:
    """Holds the bucket to what the acquisition says, by other programs than those that wrote it."""
    objects = await asyncio.to_thread(download, minio, acquisition.acquisition_id, folder)
    names = {f"{receiver}.sigmf-{part}" for receiver in RECEIVERS for part in ("data", "meta")}
    assert set(objects) == names | {"session.sigmf-collection"}
    for outcome in acquisition.outcomes:
        data = objects[f"{outcome.receiver_id}.sigmf-data"]
        assert len(data) == 4 * outcome.received_sample_count > 0
        assert hashlib.sha512(data).hexdigest() == outcome.recording.data_sha512
    metas = [str(folder / f"{receiver}.sigmf-meta") for receiver in RECEIVERS]
    validated = await asyncio.to_thread(
        partial(subprocess.run, [sys.executable, "-m", "sigmf.validate", *metas], capture_output=True, timeout=50)
    )
    assert validated.returncode == 0, validated.stderr
    collection = sigmffile.fromfile(folder / "session.sigmf-collection")
    assert isinstance(collection, SigMFCollection)
    assert sorted(collection.get_stream_names()) == RECEIVERS
    collection.verify_stream_hashes()


async def check_rows(postgres: PostgresServer, database: str, acquisition: Acquisition) -> None:
    """Holds the tables to what the acquisition says."""
    connection = await postgres.connect(database)
    try:
        rows = await connection.fetch("SELECT * FROM measurements WHERE task_id = $1", acquisition.acquisition_id)
        recordings = await connection.fetch("SELECT * FROM recordings WHERE task_id = $1", acquisition.acquisition_id)
        states = await connection.fetch("SELECT state FROM acquisitions")
    finally:
        await connection.close()
    counts = {outcome.receiver_id: outcome.received_sample_count for outcome in acquisition.outcomes}
    assert sorted(row["receiver_id"] for row in rows) == RECEIVERS
    assert {row["receiver_id"]: row["sample_count"] for row in rows} == counts
    for row in [*rows, *recordings]:
        assert row["state"] == "STORED"
        assert row["object_key"] == f"sessions/{row['task_id']}/{row['receiver_id']}.sigmf-data"
    assert sorted(row["receiver_id"] for row in recordings) == RECEIVERS
    assert [row["state"] for row in states] == ["SUCCEEDED"]


async def acquire(bench: FaultBench) -> Acquisition:
    """Records for two seconds from every receiver."""
    spec = acquisition_spec(DIAL_HZ, 2.0, RECEIVERS)
    acquisition = await bench.ended(await bench.start_acquisition(spec))
    assert acquisition.state == Acquisition.STATE_SUCCEEDED, describe(acquisition)
    return acquisition


def spool_is_empty(spool: Path) -> bool:
    return not list(spool.glob("*/rx-*"))


async def health(bench: FaultBench, backend: str) -> str:
    return await check_health(bench.mesh.targets["storage"], f"{STORAGE}/{backend}")


async def test_seven_receivers_to_minio_and_postgresql(
    bench: FaultBench, minio: MinioServer, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    acquisition = await acquire(bench)
    await eventually(bench.all_in_object_store)
    for outcome in acquisition.outcomes:
        assert outcome.recording.state == Recording.STATE_STORED
        assert outcome.recording.location.endswith(f"{outcome.receiver_id}.sigmf-meta")
    await check_objects(minio, acquisition, tmp_path / "downloaded")
    await check_rows(postgres, database, acquisition)
    assert not bench.crashes()


async def test_an_object_store_that_is_down_for_the_whole_acquisition(
    bench: FaultBench, minio: MinioServer, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    await minio.kill()
    try:
        await eventually(lambda: _is(bench, "objects", "NOT_SERVING"))
        acquisition = await acquire(bench)
        assert {outcome.recording.state for outcome in acquisition.outcomes} == {Recording.STATE_SPOOLED}
        assert await health(bench, "measurements") == "SERVING"
        assert await check_health(bench.mesh.targets["storage"], STORAGE) == "SERVING"
    finally:
        await minio.start()
    await eventually(bench.all_in_object_store, timeout_s=40)
    await until(partial(spool_is_empty, tmp_path / "data" / "spool"))
    await check_objects_when_complete(minio, acquisition, tmp_path)
    await check_rows(postgres, database, acquisition)
    assert await health(bench, "objects") == "SERVING"
    assert not bench.crashes()


async def test_a_database_that_is_down_for_the_whole_acquisition(
    bench: FaultBench, minio: MinioServer, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    await postgres.stop()
    try:
        await eventually(lambda: _is(bench, "measurements", "NOT_SERVING"))
        acquisition = await acquire(bench)
        assert {outcome.recording.state for outcome in acquisition.outcomes} == {Recording.STATE_STORED}
        assert await check_health(bench.mesh.targets["storage"], STORAGE) == "SERVING"
    finally:
        await postgres.start()
    await eventually(bench.all_in_object_store, timeout_s=40)
    await check_objects_when_complete(minio, acquisition, tmp_path)
    await check_rows(postgres, database, acquisition)
    assert await health(bench, "measurements") == "SERVING"
    assert not bench.crashes()


def collection_names_all(minio: MinioServer, acquisition_id: str) -> bool:
    """Whether the collection is there and has every receiver: it is written last."""
    client, key = minio.client(), f"sessions/{acquisition_id}/session.sigmf-collection"
    if not list(client.list_objects(BUCKET, key)):
        return False
    content = client.get_object(BUCKET, key).read()
    return all(receiver.encode() in content for receiver in RECEIVERS)


async def check_objects_when_complete(minio: MinioServer, acquisition: Acquisition, tmp_path: Path) -> None:
    """As check_objects, once the collection is complete."""
    await eventually(partial(asyncio.to_thread, collection_names_all, minio, acquisition.acquisition_id), 40)
    await check_objects(minio, acquisition, tmp_path / "downloaded")


async def _is(bench: FaultBench, backend: str, status: str) -> bool:
    return await health(bench, backend) == status
