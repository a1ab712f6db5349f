"""Database and object store away at once: recordings are accepted, and what is stored already is never replaced."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc
import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import EndReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.ids import BUCKET, RecordingKey
from tests.e2e.faults.bench import eventually, until
from tests.integration.storage.process import StorageProcess, storage_process
from tests.integration.storage.support import (
    BLOCK,
    Writer,
    block,
    end_at,
    opening,
    read,
    sample_bytes,
    samples_of,
    segment,
)
from tests.servers.minio import MinioServer
from tests.servers.postgres import PostgresServer

SPOOLED, STORED = Recording.State.STATE_SPOOLED, Recording.State.STATE_STORED


class Stores:
    """A database and an object store that go away together."""

    def __init__(self, postgres: PostgresServer, database: str, minio: MinioServer, folder: Path) -> None:
        self.minio = minio
        self.task_id = f"task-{uuid.uuid4().hex[:8]}"
        self._postgres = postgres
        self._database = database
        self._folder = folder

    @asynccontextmanager
    async def storage(self) -> AsyncIterator[StorageProcess]:
        """Runs storage on them; it keeps its folder."""
        variables = {
            **self._postgres.variables(self._database),
            **self.minio.variables,
            "HEIMDALL_TIMESCALE_CONNECT_TIMEOUT_S": "2",
        }
        async with storage_process(self._folder / "data", self._folder / "log", variables) as storage:
            yield storage

    def object(self, key: str) -> bytes:
        """Returns what the object store has under a key."""
        with closing(self.minio.client().get_object(BUCKET, key)) as response:
            return response.data

    async def kill(self) -> None:
        await self.minio.kill()
        await self._postgres.kill()

    async def start(self) -> None:
        await self.minio.start()
        await self._postgres.start()

    async def freeze(self) -> None:
        """Lets them keep their connections and answer nothing."""
        self.minio.freeze()
        self._postgres.freeze()

    async def thaw(self) -> None:
        self.minio.thaw()
        self._postgres.thaw()


@pytest.fixture
async def stores(postgres: PostgresServer, minio: MinioServer, tmp_path: Path) -> AsyncIterator[Stores]:
    database = await postgres.create_database()
    stores = Stores(postgres, database, minio, tmp_path)
    yield stores
    # In case that the test failed while they were down.
    await minio.start()
    await postgres.start()
    await postgres.drop_database(database)


async def record(
    storage: StorageProcess,
    key: RecordingKey,
    seed: str = "a",
    *,
    blocks: int = 1,
    reason: EndReason.ValueType = EndReason.END_REASON_WINDOW_COMPLETE,
) -> Recording:
    """Writes a whole recording; one of no blocks is ended without a sample."""
    async with Writer(storage.stub) as writer:
        await writer.open(opening(key.task_id, key.receiver_id))
        await writer.send(segment(key.receiver_id))
        for number in range(blocks):
            await writer.send(block(number * BLOCK, seed=seed))
        return await writer.finish(end_at(blocks * BLOCK, reason=reason))


async def listed(storage: StorageProcess, task_id: str) -> dict[str, Recording]:
    """Returns the recordings by receiver; raises HeimdallError while a row waits."""
    request = pb.ListRecordingsRequest(filter=pb.RecordFilter(acquisition_id=task_id))
    try:
        recordings = (await storage.stub.ListRecordings(request, timeout=9)).recordings
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "storage") from error
    return {recording.receiver_id: recording for recording in recordings}


async def recordings_of(storage: StorageProcess, task_id: str) -> dict[str, Recording]:
    """Returns the recordings by receiver, once no row waits any more."""
    found = {}

    async def are_told() -> bool:
        found.update(await listed(storage, task_id))
        return True

    await eventually(are_told, 30)
    return found


async def all_are_stored(storage: StorageProcess, task_id: str) -> None:
    async def are_stored() -> bool:
        found = await listed(storage, task_id)
        return {recording.state for recording in found.values()} == {STORED}

    await eventually(are_stored, 30)


@pytest.mark.parametrize(
    ("take_away", "bring_back"), [(Stores.kill, Stores.start), (Stores.freeze, Stores.thaw)], ids=["dead", "frozen"]
)
async def test_recordings_are_accepted(
    stores: Stores, take_away: Callable[[Stores], Awaitable[None]], bring_back: Callable[[Stores], Awaitable[None]]
) -> None:
    keys = [RecordingKey(stores.task_id, f"rx-{number}") for number in range(3)]
    async with stores.storage() as storage:
        await storage.health("objects", serving=True)
        await storage.health("measurements", serving=True)
        await take_away(stores)
        try:
            states = await asyncio.gather(*(record(storage, key, key.receiver_id) for key in keys))
            assert [recording.state for recording in states] == [SPOOLED] * 3
        finally:
            await bring_back(stores)
        await all_are_stored(storage, stores.task_id)
        for key in keys:
            events = await read(storage.stub, acquisition_id=key.task_id, receiver_id=key.receiver_id)
            assert samples_of(events) == sample_bytes(0, BLOCK, key.receiver_id)


async def test_what_is_stored_is_not_replaced(stores: Stores, tmp_path: Path) -> None:
    """A writer that did not hear that its recordings are finished begins them again while nobody can tell."""
    stored = {receiver_id: RecordingKey(stores.task_id, receiver_id) for receiver_id in ("again", "same", "empty")}
    async with stores.storage() as storage:
        await storage.health("measurements", serving=True)
        for key in stored.values():
            assert (await record(storage, key)).state == STORED
        as_stored = await recordings_of(storage, stores.task_id)
        metas = {key: stores.object(key.meta_object_key) for key in stored.values()}
        await storage.kill()
    await stores.kill()
    async with stores.storage() as storage:
        assert (await record(storage, stored["again"], "b")).state == SPOOLED
        # All samples came again, and then the writer gave up.
        stopped = await record(storage, stored["same"], reason=EndReason.END_REASON_STOPPED)
        assert (stopped.state, stopped.complete) == (SPOOLED, False)
        await record(storage, stored["empty"], blocks=0)
        await stores.start()
        spooled = tmp_path / "data" / "spool" / stores.task_id
        await until(lambda: [path.name for path in spooled.iterdir()] == ["again.unreadable"], 20)
        found = await recordings_of(storage, stores.task_id)
        assert found == as_stored
        assert [(recording.state, recording.complete) for recording in found.values()] == [(STORED, True)] * 3
        for key in stored.values():
            events = await read(storage.stub, acquisition_id=key.task_id, receiver_id=key.receiver_id)
            assert samples_of(events) == sample_bytes(0, BLOCK)
        assert (spooled / "again.unreadable" / "samples").read_bytes() == sample_bytes(0, BLOCK, "b")
        # Once there is somebody to ask, the writer is told that everything is there.
        async with Writer(storage.stub) as writer:
            assert await writer.open(opening(stores.task_id, "again")) == BLOCK
        assert "holds other samples of again" in storage.log
    for key in stored.values():
        assert stores.object(key.data_object_key) == sample_bytes(0, BLOCK)
        assert stores.object(key.meta_object_key) == metas[key]


async def test_a_writer_that_was_there_before_waits_for_somebody_who_can_tell(stores: Stores, tmp_path: Path) -> None:
    finished, begun = RecordingKey(stores.task_id, "finished"), RecordingKey(stores.task_id, "begun")
    async with stores.storage() as storage:
        await storage.health("measurements", serving=True)
        assert (await record(storage, finished)).state == STORED
        async with Writer(storage.stub) as writer:
            await writer.open(opening(begun.task_id, begun.receiver_id))
            await writer.send(segment(begun.receiver_id), block(0))
            await writer.acknowledged_up_to(BLOCK)
        await storage.kill()
    await stores.kill()
    async with stores.storage() as storage:
        async with Writer(storage.stub) as writer:
            with pytest.raises(HeimdallError) as caught:
                await writer.open(opening(finished.task_id, finished.receiver_id, 2, resumed=True))
        assert caught.value.reason_name == "BACKEND_UNAVAILABLE"
        assert caught.value.retry_delay_s == 2.0
        assert not (tmp_path / "data" / "spool" / finished.task_id / finished.receiver_id).exists()
        # What is in the spool needs nobody to tell.
        async with Writer(storage.stub) as writer:
            assert await writer.open(opening(begun.task_id, begun.receiver_id, 2, resumed=True)) == BLOCK
            await writer.send(block(BLOCK))
            assert (await writer.finish(end_at(2 * BLOCK))).state == SPOOLED
        await stores.start()
        await storage.health("measurements", serving=True)
        async with Writer(storage.stub) as writer:
            assert await writer.open(opening(finished.task_id, finished.receiver_id, 3, resumed=True)) == BLOCK
            assert (await writer.finish(end_at(BLOCK))).state == STORED
        # When both can tell that there is nothing, there is nothing to wait for.
        async with Writer(storage.stub) as writer:
            assert await writer.open(opening(stores.task_id, "never", resumed=True)) == 0


async def test_it_is_told_when_the_object_store_is_back_first(stores: Stores) -> None:
    key = RecordingKey(stores.task_id, "rx-1")
    async with stores.storage() as storage:
        assert (await record(storage, key)).state == STORED
        await storage.kill()
    await stores.kill()
    async with stores.storage() as storage, Writer(storage.stub) as writer:
        await writer.open(opening(key.task_id, key.receiver_id))
        await stores.start()
        await storage.health("objects", serving=True)
        await storage.health("measurements", serving=True)
        await writer.send(segment(key.receiver_id))
        await writer.send(block(0, seed="b"))
        answer = await writer.finish(end_at(BLOCK))
        assert (answer.complete, answer.data_object_key, answer.sample_count) == (False, "", 0)
        assert answer.incomplete_cause.reason == ErrorReason.ERROR_REASON_RECORDING_FINISHED
