"""How finished recordings leave the spool when a store is slow, refuses or is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc import archive, backends
from storage_svc.ids import BUCKET
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.objects import Stretch
from storage_svc.objects.local import LocalObjects
from tests.e2e.faults.bench import eventually, until
from tests.integration.storage.support import (
    BLOCK,
    block,
    end_at,
    gap,
    opening,
    read,
    running_storage,
    sample_bytes,
    samples_of,
    segment,
    storage_settings,
    write,
)

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

SPOOLED, STORED = Recording.State.STATE_SPOOLED, Recording.State.STATE_STORED


class Stores:
    """The embedded stores, made to fail, hang or count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.objects_away = False
        self.rows_away = False
        self.reachable_by_ping = True
        self.failed_pings = 0
        self.damaged = ""
        self.puts: list[str] = []
        self.rows: list[str] = []
        self.now_running = 0
        self.most_running = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        put_file, put_recording, ping = LocalObjects.put_file, SqliteMeasurements.put_recording, LocalObjects.ping

        async def put(
            objects: LocalObjects, key: str, path: Path, *, data_sha512: str, stretches: Sequence[Stretch]
        ) -> None:
            receiver_id = path.parent.name
            self.puts.append(receiver_id)
            self.now_running += 1
            self.most_running = max(self.most_running, self.now_running)
            try:
                await self.go_on.wait()
                if self.objects_away:
                    raise away("objects")
                if receiver_id == self.damaged:
                    raise HeimdallError(ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH, "the samples are not those")
                await put_file(objects, key, path, data_sha512=data_sha512, stretches=stretches)
            finally:
                self.now_running -= 1

        async def put_row(rows: SqliteMeasurements, recording: Recording) -> None:
            if recording.state == STORED:
                self.rows.append(recording.receiver_id)
                if self.rows_away:
                    raise away("measurements")
            await put_recording(rows, recording)

        async def use(objects: LocalObjects) -> None:
            if not self.reachable_by_ping:
                self.failed_pings += 1
                raise away("objects")
            await ping(objects)

        monkeypatch.setattr(LocalObjects, "put_file", put)
        monkeypatch.setattr(LocalObjects, "ping", use)
        monkeypatch.setattr(SqliteMeasurements, "put_recording", put_row)


def away(backend: str) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, f"{backend} is away", metadata={"backend": backend}
    )


FIRST_PAUSE_S = 0.1


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    monkeypatch.setattr(backends, "_PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(archive, "_FIRST_PAUSE_S", FIRST_PAUSE_S)
    monkeypatch.setattr(archive, "_LONGEST_PAUSE_S", 0.4)
    return Stores(monkeypatch)


@pytest.fixture
async def stub(stores: Stores, tmp_path: Path) -> AsyncIterator[StorageServiceAsyncStub]:
    async with running_storage(storage_settings(tmp_path)) as stub:
        yield stub


async def record(stub: StorageServiceAsyncStub, receiver_id: str) -> int:
    recording = await write(stub, [segment(receiver_id), block(0)], end_at(BLOCK), opening(receiver_id=receiver_id))
    return recording.state


async def states(stub: StorageServiceAsyncStub) -> dict[str, int]:
    listed = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
    return {recording.receiver_id: recording.state for recording in listed}


async def all_stored(stub: StorageServiceAsyncStub) -> None:
    async def are_stored() -> bool:
        return set((await states(stub)).values()) == {STORED}

    await eventually(are_stored)


async def test_what_waits_follows_in_order_when_the_store_is_back(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_WORKER_COUNT", 1)
    monkeypatch.setattr(archive, "_FIRST_PAUSE_S", 60.0)
    names = ["rx-5", "rx-3", "rx-4", "rx-1"]
    async with running_storage(storage_settings(tmp_path)) as stub:
        stores.objects_away = True
        for name in names:
            assert await record(stub, name) == SPOOLED
    stores.puts.clear()
    async with running_storage(storage_settings(tmp_path)) as stub:
        await until(lambda: "rx-5" in stores.puts)
        stores.reachable_by_ping = False
        await until(lambda: stores.failed_pings > 0)
        # Nothing overtakes what waits already, and nobody waits for an answer that is known.
        stores.puts.clear()
        assert await record(stub, "rx-2") == SPOOLED
        assert stores.puts == []
        stores.objects_away, stores.reachable_by_ping = False, True
        await all_stored(stub)
    assert stores.puts == [*names, "rx-2"]


async def test_pauses_grow_while_it_fails_and_are_short_again_afterwards(
    stub: StorageServiceAsyncStub, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    timeout = asyncio.timeout

    def noting(delay_s: float | None) -> asyncio.Timeout:
        if delay_s in (0.1, 0.2, 0.4, 0.8):
            pauses.append(delay_s)
        return timeout(delay_s)

    monkeypatch.setattr(asyncio, "timeout", noting)
    for receiver_id in ("rx-1", "rx-2"):
        stores.objects_away = True
        stores.puts.clear()
        pauses.clear()
        assert await record(stub, receiver_id) == SPOOLED
        await until(lambda: len(stores.puts) == 5)
        stores.objects_away = False
        await all_stored(stub)
        assert pauses == [0.1, 0.2, 0.4, 0.4, 0.4]


async def test_row_that_can_not_be_written_does_not_have_its_samples_stored_again(
    stub: StorageServiceAsyncStub, stores: Stores
) -> None:
    stores.rows_away = True
    assert await record(stub, "rx-1") == SPOOLED
    assert samples_of(await read(stub)) == sample_bytes(0, BLOCK)
    await until(lambda: len(stores.rows) >= 3)
    stores.rows_away = False
    await all_stored(stub)
    assert stores.puts == ["rx-1"]
    assert samples_of(await read(stub)) == sample_bytes(0, BLOCK)


async def test_slow_store_holds_up_no_writer_and_takes_many_at_once(
    stub: StorageServiceAsyncStub, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_PATIENCE_S", 0.1)
    stores.go_on.clear()
    names = [f"rx-{number}" for number in range(8)]
    assert await asyncio.gather(*(record(stub, name) for name in names)) == [SPOOLED] * 8
    assert stores.most_running == 8
    # Spooled is enough to be read, and to be finished again.
    assert samples_of(await read(stub, receiver_id="rx-3")) == sample_bytes(0, BLOCK)
    stores.go_on.set()
    await all_stored(stub)
    assert sorted(stores.puts) == names


def check_given_up(recording: Recording) -> None:
    """Asserts that a recording says of no sample that it is stored."""
    assert (recording.state, recording.complete) == (STORED, False)
    assert (recording.sample_count, recording.data_size_bytes, recording.data_sha512) == (0, 0, "")
    assert (recording.first_sample_unix_ns, recording.last_sample_unix_ns) == (0, 0)
    assert (recording.data_object_key, recording.meta_object_key, recording.location) == ("", "", "")


async def test_damaged_recording_is_told_kept_and_holds_up_no_other(
    stub: StorageServiceAsyncStub, stores: Stores, tmp_path: Path
) -> None:
    stores.damaged = "rx-1"
    recording = await write(stub, [segment(), block(0), gap(BLOCK, 7)], end_at(BLOCK + 7))
    assert recording.incomplete_cause.reason == ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH
    check_given_up(recording)
    # What was lost on the way stays lost.
    assert (recording.lost_sample_count, recording.gap_count) == (7, 1)
    with pytest.raises(HeimdallError, match="the samples are not those"):
        await write(stub, [], end_at(BLOCK + 7))
    assert await record(stub, "rx-2") == STORED
    with pytest.raises(HeimdallError, match="it holds no samples"):
        await read(stub)
    kept = tmp_path / "spool" / "task-1" / "rx-1.unreadable" / "samples"
    assert kept.read_bytes() == sample_bytes(0, BLOCK)


async def test_metadata_that_can_not_be_read_is_not_replaced(stub: StorageServiceAsyncStub, tmp_path: Path) -> None:
    meta = tmp_path / BUCKET / "sessions" / "task-1" / "rx-1.sigmf-meta"
    meta.parent.mkdir(parents=True)
    meta.write_text("{}")
    recording = await write(stub, [segment(), block(0)], end_at(BLOCK))
    assert recording.incomplete_cause.reason == ErrorReason.ERROR_REASON_RECORDING_FINISHED
    check_given_up(recording)
    with pytest.raises(HeimdallError, match="holds other samples of rx-1") as caught:
        await write(stub, [], end_at(BLOCK))
    assert caught.value.reason == ErrorReason.ERROR_REASON_RECORDING_FINISHED
    assert "SHA-512 is unknown (the metadata lacks global), not" in recording.incomplete_cause.message
    assert meta.read_text() == "{}"
    kept = tmp_path / "spool" / "task-1" / "rx-1.unreadable" / "samples"
    assert kept.read_bytes() == sample_bytes(0, BLOCK)


async def test_crash_in_one_holds_up_no_other(
    stub: StorageServiceAsyncStub, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_journal = archive._read_journal

    def crash(recording: Recording, journal: Path) -> tuple[bytes, list[Stretch]]:
        if recording.receiver_id == "rx-1":
            raise ValueError("this journal is not what it should be")
        return read_journal(recording, journal)

    monkeypatch.setattr(archive, "_read_journal", crash)
    assert await record(stub, "rx-1") == SPOOLED
    assert await record(stub, "rx-2") == STORED
    monkeypatch.undo()
    await all_stored(stub)
