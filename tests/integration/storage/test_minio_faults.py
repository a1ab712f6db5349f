"""An object store that fails in every way while recordings are made: nothing is lost, and nothing is half visible."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from minio import Minio
from minio.datatypes import Object
from minio.error import MinioException
from sigmf import SigMFCollection
from urllib3.exceptions import HTTPError

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.ids import BUCKET, RecordingKey, collection_object_key
from tests.e2e.faults.bench import eventually, until
from tests.integration.storage.process import StorageProcess, refused, storage_process
from tests.integration.storage.support import Writer, block, end_at, opening, read, sample_bytes, samples_of, segment
from tests.servers.minio import MinioServer
from tests.servers.refusing_relay import refusing_relay

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

BLOCK = 64 * 1024
LARGE = 256 * BLOCK
"""Samples of a recording that takes a while to upload: 64 MiB."""

SPOOLED, STORED = Recording.State.STATE_SPOOLED, Recording.State.STATE_STORED


@pytest.fixture
def task_id() -> str:
    """An acquisition of the test's own: the bucket is shared."""
    return f"task-{uuid.uuid4().hex[:8]}"


def variables(server: MinioServer, **more: str) -> dict[str, str]:
    return {
        **server.variables,
        "HEIMDALL_MINIO_PART_BYTES": str(5 * 1024**2),
        "HEIMDALL_MINIO_TIMEOUT_S": "5",
        **{f"HEIMDALL_MINIO_{name.upper()}": value for name, value in more.items()},
    }


async def record(stub: StorageServiceAsyncStub, key: RecordingKey, count: int) -> Recording:
    """Writes a whole recording, whose samples are its own."""
    async with Writer(stub) as writer:
        await writer.open(opening(key.task_id, key.receiver_id))
        await writer.send(segment(key.receiver_id))
        for first in range(0, count, BLOCK):
            size = min(BLOCK, count - first)
            await writer.send(await asyncio.to_thread(block, first, size, seed=key.receiver_id))
        await writer.acknowledged_up_to(count)
        return await writer.finish(end_at(count))


async def end(stub: StorageServiceAsyncStub, task_id: str) -> None:
    ended = Acquisition(acquisition_id=task_id, revision=1, state=Acquisition.State.STATE_SUCCEEDED)
    ended.create_time.GetCurrentTime()
    await stub.PutAcquisition(pb.PutAcquisitionRequest(acquisition=ended), timeout=10)


async def states(stub: StorageServiceAsyncStub, task_id: str) -> dict[str, int]:
    request = pb.ListRecordingsRequest()
    request.filter.acquisition_id = task_id
    listed = (await stub.ListRecordings(request, timeout=5)).recordings
    return {recording.receiver_id: recording.state for recording in listed}


def objects_of(client: Minio, task_id: str) -> dict[str, Object]:
    found = client.list_objects(BUCKET, prefix=f"sessions/{task_id}/", recursive=True)
    return {str(entry.object_name).rpartition("/")[2]: entry for entry in found}


def is_uploading(client: Minio, key: RecordingKey) -> bool:
    try:
        return bool(client._list_multipart_uploads(BUCKET, prefix=key.data_object_key).uploads)
    except MinioException:
        return False


@asynccontextmanager
async def nothing_half_visible(server: MinioServer, key: RecordingKey, count: int) -> AsyncIterator[None]:
    """Looks into the bucket all the time: samples are there whole or not at all, and metadata only with them."""
    client = server.client(timeout_s=1)
    half = []

    def look() -> None:
        with suppress(MinioException, HTTPError):
            found = objects_of(client, key.task_id)
            data, meta = (found.get(f"{key.receiver_id}.sigmf-{kind}") for kind in ("data", "meta"))
            if (data is not None and data.size != 4 * count) or (meta is not None and data is None):
                half.append({name: entry.size for name, entry in found.items()})

    async def look_steadily() -> None:
        while True:
            await asyncio.to_thread(look)
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look_steadily())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait({looking})
    assert half == []


async def all_is_stored(
    storage: StorageProcess, server: MinioServer, data: Path, task_id: str, counts: Mapping[str, int], tmp_path: Path
) -> None:
    """Waits until every recording is in the store and checks that it is the one that was acknowledged.

    Args:
        storage: The service.
        server: The store.
        data: The folder of the service.
        task_id: The acquisition, which is over.
        counts: The number of samples of every receiver.
        tmp_path: Where to download to.
    """

    async def is_stored() -> bool:
        return await states(storage.stub, task_id) == dict.fromkeys(counts, STORED)

    await eventually(is_stored)
    due = data / "collections-due" / task_id
    await until(lambda: not (data / "spool" / task_id).exists() and not due.exists())
    client = server.client()
    expected = {f"{receiver_id}.sigmf-{kind}" for receiver_id in counts for kind in ("data", "meta")}
    collection_name = collection_object_key(task_id).rpartition("/")[2]
    found = objects_of(client, task_id)
    assert found.keys() == expected | {collection_name}
    for name in found:
        client.fget_object(BUCKET, f"sessions/{task_id}/{name}", str(tmp_path / name))
    for receiver_id, count in counts.items():
        content = await asyncio.to_thread(sample_bytes, 0, count, receiver_id)
        stored = (tmp_path / f"{receiver_id}.sigmf-data").read_bytes()
        assert stored == content
        meta = json.loads((tmp_path / f"{receiver_id}.sigmf-meta").read_bytes())
        assert meta["global"]["core:sha512"] == hashlib.sha512(content).hexdigest()
        events = await read(storage.stub, acquisition_id=task_id, receiver_id=receiver_id)
        assert samples_of(events) == content
    collection = SigMFCollection(metadata=json.loads((tmp_path / collection_name).read_bytes()), base_path=tmp_path)
    collection.verify_stream_hashes()
    assert collection.get_stream_names() == sorted(counts)


async def test_store_killed_in_mid_upload(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data, client, key = tmp_path / "data", minio.client(), RecordingKey(task_id, "rx-1")
    async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
        await storage.health("objects", serving=True)
        async with nothing_half_visible(minio, key, LARGE):
            writing = asyncio.create_task(record(storage.stub, key, LARGE))
            await until(lambda: is_uploading(client, key), 20)
            await minio.kill()
            try:
                assert (await writing).state == SPOOLED
                await storage.health("objects", serving=False)
                await storage.health("", serving=True)
                await end(storage.stub, task_id)
            finally:
                await minio.start()
            await all_is_stored(storage, minio, data, task_id, {"rx-1": LARGE}, tmp_path)
        await storage.health("objects", serving=True)
        assert "Traceback" not in storage.log


async def test_store_away_for_a_whole_acquisition(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    counts = {"rx-1": 3000, "rx-2": 4000, "rx-3": 5000}
    await minio.kill()
    try:
        async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
            await storage.health("objects", serving=False)
            for receiver_id, count in counts.items():
                assert (await record(storage.stub, RecordingKey(task_id, receiver_id), count)).state == SPOOLED
            await end(storage.stub, task_id)
            assert "could not write to bucket heimdall-raw-iq: Connection refused" in storage.log
            # What is to be done is remembered on disk.
            await storage.kill()
        async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
            content = sample_bytes(0, 3000, "rx-1")
            assert samples_of(await read(storage.stub, acquisition_id=task_id)) == content
            await minio.start()
            await all_is_stored(storage, minio, data, task_id, counts, tmp_path)
    finally:
        await minio.start()


async def test_wrong_credentials(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    wrong = variables(minio, secret_key="not the password")
    async with storage_process(data, tmp_path / "log", wrong) as storage:
        await storage.health("objects", serving=False)
        await storage.health("", serving=True)
        assert (await record(storage.stub, RecordingKey(task_id, "rx-1"), 3000)).state == SPOOLED
        await end(storage.stub, task_id)
        assert "it refuses minio.access_key or minio.secret_key (SignatureDoesNotMatch" in storage.log
        assert "not the password" not in storage.log
    async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
        await all_is_stored(storage, minio, data, task_id, {"rx-1": 3000}, tmp_path)


async def test_missing_credentials_are_refused_at_start(tmp_path: Path) -> None:
    line = await refused(tmp_path / "data", tmp_path / "log", {"HEIMDALL_STORAGE_OBJECTS": "minio"})
    assert "minio.access_key: is missing" in line


async def test_bucket_that_is_removed(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data, client = tmp_path / "data", minio.client()
    async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
        await storage.health("objects", serving=True)
        assert (await record(storage.stub, RecordingKey(f"{task_id}-gone", "rx-1"), 3000)).state == STORED
        for _ in range(3):
            # The service writes to it every 2 s.
            with suppress(MinioException):
                for entry in list(client.list_objects(BUCKET, recursive=True)):
                    client.remove_object(BUCKET, str(entry.object_name))
                client.remove_bucket(BUCKET)
                break
        assert (await record(storage.stub, RecordingKey(task_id, "rx-1"), 3000)).state == STORED
        await end(storage.stub, task_id)
        await all_is_stored(storage, minio, data, task_id, {"rx-1": 3000}, tmp_path)


async def test_store_that_answers_503(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    counts = {"rx-1": 3000, "rx-2": 12 * BLOCK * 2}
    async with (
        refusing_relay(minio.endpoint) as relay,
        storage_process(data, tmp_path / "log", variables(minio, endpoint=relay.endpoint)) as storage,
    ):
        await storage.health("objects", serving=True)
        # Only what is large is too much: the service finds the store in order, and goes on trying by itself.
        relay.refuses = lambda line: line.startswith(f"PUT /{BUCKET}/sessions/")
        for receiver_id, count in counts.items():
            assert (await record(storage.stub, RecordingKey(task_id, receiver_id), count)).state == SPOOLED
        await end(storage.stub, task_id)
        assert "SlowDown: Please reduce your request rate." in storage.log
        relay.refuses = lambda _: True
        await storage.health("objects", serving=False)
        assert objects_of(minio.client(), task_id) == {}
        relay.refuses = lambda _: False
        await storage.health("objects", serving=True)
        await all_is_stored(storage, minio, data, task_id, counts, tmp_path)


async def test_storage_killed_in_mid_upload(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data, client, key = tmp_path / "data", minio.client(), RecordingKey(task_id, "rx-1")
    async with nothing_half_visible(minio, key, LARGE):
        async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
            writing = asyncio.create_task(record(storage.stub, key, LARGE))
            await until(lambda: is_uploading(client, key), 20)
            await storage.kill()
            await asyncio.wait({writing})
            assert writing.exception() is not None
        async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
            await end(storage.stub, task_id)
            await all_is_stored(storage, minio, data, task_id, {"rx-1": LARGE}, tmp_path)


async def test_store_that_stands_still_holds_up_no_writer(minio: MinioServer, task_id: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with storage_process(data, tmp_path / "log", variables(minio)) as storage:
        await storage.health("objects", serving=True)
        minio.freeze()
        try:
            async with asyncio.timeout(8):
                assert (await record(storage.stub, RecordingKey(task_id, "rx-1"), 3000)).state == SPOOLED
            await end(storage.stub, task_id)
            await storage.health("objects", serving=False)
        finally:
            minio.thaw()
        await all_is_stored(storage, minio, data, task_id, {"rx-1": 3000}, tmp_path)
