"""Storage processes that are killed: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import grpc
import pytest

from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.spool.journal import encode_finish
from tests.integration.storage.process import refused, storage_process
from tests.integration.storage.support import (
    BLOCK,
    Writer,
    block,
    end_at,
    gap,
    opening,
    read,
    sample_bytes,
    samples_of,
    segment,
)


async def test_killed_in_mid_write_resumes_where_it_acknowledged(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    async with storage_process(data, log) as storage, Writer(storage.stub) as writer:
        await writer.open(opening(epoch=1))
        await writer.send(segment(), block(0), gap(BLOCK, 100))
        for number in range(1, 12):
            await writer.send(block(number * BLOCK + 100))
            if number == 6:
                await writer.acknowledged_up_to(3 * BLOCK)
        await storage.kill()
        with pytest.raises((HeimdallError, grpc.aio.AioRpcError)):
            await writer.acknowledged_up_to(1 << 40)
        acknowledged = writer.acknowledged[-1]
    async with storage_process(data, log) as storage, Writer(storage.stub) as writer:
        resumed = await writer.open(opening(epoch=2))
        assert resumed >= acknowledged >= 3 * BLOCK
        assert (resumed - 100) % BLOCK == 0
        await writer.send(segment(), *(block(first) for first in range(resumed, 12 * BLOCK + 100, BLOCK)))
        recording = await writer.finish(end_at(12 * BLOCK + 100))
        assert recording.complete
        expected = sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 100, 11 * BLOCK)
        assert samples_of(await read(storage.stub)) == expected
        assert recording.data_size_bytes == len(expected)


@pytest.mark.parametrize("torn", ["journal", "samples", "both", "flipped"])
async def test_torn_tail_is_cut_off(tmp_path: Path, torn: str) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    async with storage_process(data, log) as storage, Writer(storage.stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0), block(BLOCK))
        await writer.acknowledged_up_to(2 * BLOCK)
        await storage.kill()
    tear(data / "spool" / "task-1" / "rx-1", torn)
    expected = BLOCK if torn == "flipped" else 2 * BLOCK
    async with storage_process(data, log) as storage, Writer(storage.stub) as writer:
        assert await writer.open(opening(epoch=2)) == expected
        await writer.send(block(expected))
        await writer.finish(end_at(expected + BLOCK))
        assert samples_of(await read(storage.stub)) == sample_bytes(0, expected + BLOCK)


def tear(folder: Path, how: str) -> None:
    """Leaves the files as a power cut in the middle of a later write, or a failing disk, may."""
    if how in ("journal", "both"):
        with (folder / "journal").open("ab") as journal:
            journal.write(b"\x40\x00\x00\x00\x12\x34\x56\x78\x02torn")
    if how in ("samples", "both"):
        with (folder / "samples").open("ab") as samples:
            samples.write(bytes(1234))
    if how == "flipped":
        content = bytearray((folder / "samples").read_bytes())
        content[-1] ^= 1
        (folder / "samples").write_bytes(content)


async def test_killed_between_finish_and_store_is_settled_at_the_next_start(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    async with storage_process(data, log) as storage, Writer(storage.stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        opened = (data / "spool" / "task-1" / "rx-1" / "journal").read_bytes()
        recording = await writer.finish(end_at(BLOCK))
    undo_settling(data, recording, opened)
    async with storage_process(data, log) as storage:
        async with asyncio.timeout(10):
            while (data / "spool" / "task-1").exists():
                await storage.stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)
        (listed,) = (await storage.stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
        assert listed == recording
        assert samples_of(await read(storage.stub)) == sample_bytes(0, BLOCK)


def undo_settling(folder: Path, recording: Recording, opened: bytes) -> None:
    """Brings back the moment after the journal was closed and the samples moved, before metadata and row were made."""
    spooled = Recording()
    spooled.CopyFrom(recording)
    spooled.state = Recording.State.STATE_SPOOLED
    spooled.location = ""
    finish = encode_finish(spooled.SerializeToString(), end_at(BLOCK).SerializeToString())
    spool = folder / "spool" / "task-1" / "rx-1"
    spool.mkdir(parents=True)
    (spool / "journal").write_bytes(opened + finish)
    Path(recording.location).unlink()
    database = sqlite3.connect(folder / "heimdall.sqlite3")
    database.execute("DELETE FROM recordings")
    database.commit()
    database.close()


async def test_sigterm_in_mid_write_keeps_everything_and_exits_zero(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    async with storage_process(data, log) as storage, Writer(storage.stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        storage.process.terminate()
        await writer.send(block(BLOCK))
        recording = await writer.finish(end_at(2 * BLOCK))
        assert recording.state == Recording.State.STATE_STORED
        async with asyncio.timeout(10):
            assert await storage.process.wait() == 0


async def test_second_service_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    data, log = tmp_path / "data", tmp_path / "log"
    async with storage_process(data, log):
        assert f"{data} is in use by another storage service" in await refused(data, tmp_path / "second.log")


async def test_corrupt_database_is_refused(tmp_path: Path) -> None:
    database = tmp_path / "heimdall.sqlite3"
    database.write_bytes(b"this is no database at all, but it is long enough to be taken for one" * 20)
    assert f"storage: storage.data_dir: {database}: " in await refused(tmp_path, tmp_path / "log")


async def test_unusable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "storage.data_dir" in await refused(tmp_path / "file" / "data", tmp_path / "log")


async def test_spool_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    line = await refused(tmp_path, tmp_path / "log")
    assert line == f"storage: storage.data_dir: {tmp_path / 'spool'} can not be used: File exists"
