"""A collection that can not be written when its acquisition ends: nobody is held up, and it is written later."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sigmf import SigMFCollection

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc import sigmf_collections
from storage_svc.objects.local import LocalObjects
from tests.integration.storage.support import (
    BLOCK,
    block,
    end_at,
    opening,
    running_storage,
    segment,
    storage_settings,
    write,
)

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub


class FailingObjects:
    """Takes no collection while it is told so, or does not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = False
        self.answering = asyncio.Event()
        self.answering.set()
        put_bytes = LocalObjects.put_bytes

        async def put(objects: LocalObjects, key: str, content: bytes) -> None:
            if key.endswith("collection"):
                await self.answering.wait()
                if self.failing:
                    raise HeimdallError(ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, "the store is away")
            await put_bytes(objects, key, content)

        monkeypatch.setattr(LocalObjects, "put_bytes", put)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> FailingObjects:
    monkeypatch.setattr(sigmf_collections, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(sigmf_collections, "_RETRY_INTERVAL_S", 0.1)
    return FailingObjects(monkeypatch)


async def end(stub: StorageServiceAsyncStub, task_id: str = "task-1") -> None:
    """Records one receiver and ends the acquisition."""
    await write(stub, [segment(), block(0)], end_at(BLOCK), opening(task_id))
    ended = Acquisition(acquisition_id=task_id, revision=1, state=Acquisition.STATE_SUCCEEDED)
    ended.create_time.GetCurrentTime()
    answer = await stub.PutAcquisition(pb.PutAcquisitionRequest(acquisition=ended), timeout=10)
    assert answer.acquisition == ended


async def names_in(folder: Path, task_id: str = "task-1") -> list[str]:
    """Waits for the collection and returns the recordings that it names."""
    path = folder / "heimdall-raw-iq" / "sessions" / task_id / "session.sigmf-collection"
    async with asyncio.timeout(10):
        while not path.is_file() or (folder / "collections-due" / task_id).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    collection = SigMFCollection(metadata=json.loads(path.read_bytes()), base_path=path.parent)
    collection.verify_stream_hashes()
    names: list[str] = collection.get_stream_names()
    return names


async def test_it_is_written_when_the_store_is_back(tmp_path: Path, objects: FailingObjects) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        objects.failing = True
        await end(stub)
        assert [path.name for path in (tmp_path / "collections-due").iterdir()] == ["task-1"]
        # Another recording that comes late has its say too.
        await write(stub, [segment("rx-2"), block(0)], end_at(BLOCK), opening(receiver_id="rx-2"))
        objects.failing = False
        assert await names_in(tmp_path) == ["rx-1", "rx-2"]


async def test_it_is_written_after_a_restart(tmp_path: Path, objects: FailingObjects) -> None:
    objects.failing = True
    async with running_storage(storage_settings(tmp_path)) as stub:
        await end(stub)
    objects.failing = False
    async with running_storage(storage_settings(tmp_path)):
        assert await names_in(tmp_path) == ["rx-1"]


async def test_store_that_hangs_holds_up_nobody(tmp_path: Path, objects: FailingObjects) -> None:
    async with running_storage(storage_settings(tmp_path)) as stub:
        objects.answering.clear()
        async with asyncio.timeout(10):
            await asyncio.gather(*(end(stub, f"task-{number}") for number in range(3)))
        objects.answering.set()
        for number in range(3):
            assert await names_in(tmp_path, f"task-{number}") == ["rx-1"]


async def test_what_can_not_be_kept_for_later_is_refused(
    tmp_path: Path, objects: FailingObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    async with running_storage(storage_settings(tmp_path)) as stub:
        monkeypatch.setattr(sigmf_collections, "_make_file", full)
        objects.failing = True
        with pytest.raises(Exception, match="could not keep that a collection is due: No space left") as caught:
            await end(stub)
        assert "UNAVAILABLE" in str(caught.value)
