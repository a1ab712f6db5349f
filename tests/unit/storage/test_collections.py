"""Collections that are due while a store is slow or away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc import sigmf_collections
from storage_svc.ids import RecordingKey, collection_object_key
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.objects.local import LocalObjects
from storage_svc.sigmf_collections import SigmfCollections

TASK = "task-1"


class SlowObjects(LocalObjects):
    """A folder whose collections take as long as the test wants, and may then be refused."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.turns: asyncio.Queue[HeimdallError | None] = asyncio.Queue()
        self.round_count = 0

    async def put_bytes(self, key: str, content: bytes) -> None:
        if key.endswith(".sigmf-collection"):
            self.round_count += 1
            refusal = await self.turns.get()
            if refusal is not None:
                raise refusal
        await super().put_bytes(key, content)


async def store(objects: LocalObjects, rows: SqliteMeasurements, receiver_id: str) -> None:
    """Stores the metadata and the row of a recording."""
    key = RecordingKey(TASK, receiver_id)
    await objects.put_bytes(key.meta_object_key, b"{}")
    await rows.put_recording(
        Recording(
            acquisition_id=TASK,
            receiver_id=receiver_id,
            state=Recording.STATE_STORED,
            meta_object_key=key.meta_object_key,
        )
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.005)


async def test_collection_stays_due_for_a_recording_that_came_while_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sigmf_collections, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(sigmf_collections, "_RETRY_INTERVAL_S", 0.05)
    objects = SlowObjects(tmp_path / "bucket")
    rows = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    due = tmp_path / "due" / TASK
    collections = SigmfCollections(due.parent, objects, rows)
    await collections.start()
    over = Acquisition(acquisition_id=TASK, state=Acquisition.STATE_SUCCEEDED, revision=1)
    await rows.put_acquisition(over, 0)
    await store(objects, rows, "rx-1")
    writing = asyncio.create_task(collections.write_steadily())
    try:
        await collections.complete(TASK)
        await store(objects, rows, "rx-2")
        await collections.complete(TASK)
        assert due.exists()
        # The first round, which knows one recording, ends well; the one for the second is refused.
        objects.turns.put_nowait(None)
        await until(lambda: objects.round_count == 2)
        objects.turns.put_nowait(HeimdallError(ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, "away"))
        await until(lambda: objects.round_count == 3)
        assert due.exists()
        for _ in range(5):
            objects.turns.put_nowait(None)
        await until(lambda: not due.exists())
        content = json.loads(await objects.get_bytes(collection_object_key(TASK)))
        assert [stream["name"] for stream in content["collection"]["core:streams"]] == ["rx-1", "rx-2"]
    finally:
        writing.cancel()
        await asyncio.wait({writing})
        await rows.close()
