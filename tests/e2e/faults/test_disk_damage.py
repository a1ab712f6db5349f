"""What is on the disk of storage is torn or damaged. Storage is a process of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import google_crc32c
import grpc
import pytest

from heimdall.common.v1.iq_pb2 import Block, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, reason_name
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.spool import journal
from tests.e2e.faults.storage_bench import finish_from, list_acquisitions, no_crash, put_acquisition, refusal
from tests.e2e.faults.table import Group, fault_case
from tests.integration.storage.damage import damage_database
from tests.integration.storage.process import StorageProcess, refused, storage_process
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
    time_ns,
    write,
)

NEXT = IqEvent(block=Block(first_sample_unix_ns=time_ns(0), sample_count=BLOCK))


def torn_write(folder: Path, first: int, how: str) -> None:
    """Leaves the files of a recording as a power cut in the middle of writing one more block may."""
    event = IqEvent()
    event.CopyFrom(NEXT)
    event.block.first_sample_index = first
    samples = sample_bytes(first, BLOCK)
    record = journal.encode_event(google_crc32c.value(samples), event.SerializeToString())
    samples_left, record_left = {
        "samples cut": (samples[:5000], b""),
        "record cut": (samples, record[:-7]),
        "record never filled": (samples, bytes(len(record))),
        "samples garbled": (samples[:4096] + bytes(4096) + samples[8192:], record),
    }[how]
    for name, left in (("samples", samples_left), ("journal", record_left)):
        with (folder / name).open("ab") as file:
            file.write(left)


@fault_case(
    Group.DISK,
    fault="storage is killed in mid-write and the power fails: the last write is torn, in the samples or the journal",
    sees="nothing but the interruption; the log has spool_truncated with the number of bytes cut off",
    stored="what was acknowledged; the recording goes on from there and is complete, nothing twice",
)
async def test_torn_last_write(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ways = ("samples cut", "record cut", "record never filled", "samples garbled")
    written = 0
    for number, how in enumerate(ways):
        async with storage_process(data, tmp_path / f"log-{number}") as storage, Writer(storage.stub) as writer:
            assert await writer.open(opening(epoch=number)) == written
            await writer.send(segment(), block(written), block(written + BLOCK))
            written += 2 * BLOCK
            await writer.acknowledged_up_to(written)
            await storage.kill()
        assert storage.log.count("event=spool_truncated") == (number > 0)
        torn_write(data / "spool" / "task-1" / "rx-1", written, how)
    async with storage_process(data, tmp_path / "log") as storage:
        await finish_from(storage, written, written // BLOCK + 2)
        assert storage.log.count("event=spool_truncated") == 1
        no_crash(storage)
    # Only a whole record without its samples could have been acknowledged, so only its rest is kept.
    (kept,) = (data / "spool" / "task-1").iterdir()
    assert kept.name == "rx-1.unreadable"
    assert len((kept / "samples").read_bytes()) == BLOCK * 4


@fault_case(
    Group.DISK,
    fault="the journal of one of two recordings in the spool is unreadable when storage starts",
    sees="CHECKSUM_MISMATCH (DATA_LOSS) for that recording, naming where its files are; the other one is not affected",
    stored="the unreadable files, set aside as they are; the other recording goes on and is complete",
)
async def test_unreadable_recording(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with (
        storage_process(data, tmp_path / "log") as storage,
        Writer(storage.stub) as good,
        Writer(storage.stub) as bad,
    ):
        for writer, message in ((good, opening(epoch=1)), (bad, opening("task-2"))):
            await writer.open(message)
            await writer.send(segment(), block(0))
            await writer.acknowledged_up_to(BLOCK)
        await storage.kill()
    spooled = data / "spool" / "task-2" / "rx-1"
    garbled = b"\xff" * 16 + (spooled / "journal").read_bytes()[16:]
    (spooled / "journal").write_bytes(garbled)
    async with storage_process(data, tmp_path / "log") as storage:
        failure = await refusal(storage, opening("task-2", epoch=2))
        assert (failure.reason_name, failure.code) == ("CHECKSUM_MISMATCH", grpc.StatusCode.DATA_LOSS)
        kept = spooled.with_name("rx-1.unreadable")
        assert str(kept) in failure.message
        assert (kept / "samples").read_bytes() == sample_bytes(0, BLOCK)
        assert (kept / "journal").read_bytes() == garbled
        assert not spooled.exists()
        wanted = pb.ListRecordingsRequest(filter=pb.RecordFilter(acquisition_id="task-2"))
        (row,) = (await storage.stub.ListRecordings(wanted, timeout=10)).recordings
        assert (row.state, row.complete, row.sample_count) == (Recording.STATE_STORED, False, 0)
        assert reason_name(row.incomplete_cause.reason) == "CHECKSUM_MISMATCH"
        await finish_from(storage, BLOCK, 3)
        assert storage.log.count("event=spool_unreadable") == 1
        no_crash(storage)


async def fill_rows(storage: StorageProcess) -> None:
    """Makes the database large enough to have a middle."""
    for first in range(0, 200, 50):
        names = [f"task-{number}" for number in range(first, first + 50)]
        assert not any(await asyncio.gather(*(put_acquisition(storage, name) for name in names)))


@fault_case(
    Group.DISK,
    fault="the database file is damaged in its middle when storage starts",
    sees="storage ends with status 2 and one line that names the file, what is wrong with it and what to do",
    stored="recordings in the spool and the object store; once the file is moved away, a recording in the spool goes "
    "on and is complete, and the other rows are gone",
)
async def test_database_damaged_at_start(tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = data / "heimdall.sqlite3"
    async with storage_process(data, tmp_path / "log") as storage, Writer(storage.stub) as writer:
        await fill_rows(storage)
        await write(storage.stub, [segment(), block(0)], end_at(BLOCK), opening("task-2"))
        await writer.open(opening(epoch=1))
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        await storage.kill()
    damage_database(database)
    line = await refused(data, tmp_path / "log")
    assert line.startswith(f"storage: storage.data_dir: {database}: is damaged: ")
    assert "restore a backup, or move it away together with its -wal and -shm files" in line
    for file in data.glob("heimdall.sqlite3*"):
        file.rename(tmp_path / file.name)
    async with storage_process(data, tmp_path / "log") as storage:
        await finish_from(storage, BLOCK, 3)
        # Nothing is rebuilt from the object store: the pair is there, and has to be read by other means.
        with pytest.raises(HeimdallError) as caught:
            await read(storage.stub, acquisition_id="task-2")
        assert caught.value.reason_name == "RECORDING_NOT_FOUND"
        pair = data / "heimdall-raw-iq" / "sessions" / "task-2" / "rx-1"
        assert pair.with_suffix(".sigmf-data").read_bytes() == sample_bytes(0, BLOCK)
        assert not (await storage.stub.ListAcquisitions(pb.ListAcquisitionsRequest(), timeout=10)).acquisitions


@fault_case(
    Group.DISK,
    fault="the database file is damaged while storage runs",
    sees="BACKEND_UNAVAILABLE for rows, and the health of measurements is NOT_SERVING; samples are accepted all the "
    "same",
    stored="every recording, SPOOLED; STORED with its row once the file was replaced and storage started again",
)
async def test_database_damaged_while_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = data / "heimdall.sqlite3"
    async with storage_process(data, tmp_path / "log") as storage:
        async with Writer(storage.stub) as before, Writer(storage.stub) as after:
            await fill_rows(storage)
            await before.open(opening("task-1"))
            await before.send(segment(), block(0))
            await before.acknowledged_up_to(BLOCK)
            damage_database(database)
            async with asyncio.timeout(20):
                while (failure := await list_acquisitions(storage)) is None:
                    continue
            assert (failure.reason_name, failure.code) == ("BACKEND_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
            assert f"{database} is damaged" in failure.message
            await storage.health("measurements", serving=False)
            no_row = await put_acquisition(storage, "task-x")
            assert no_row is not None
            assert no_row.reason_name == "BACKEND_UNAVAILABLE"
            await after.open(opening("task-2"))
            await after.send(segment(), block(0), block(BLOCK))
            await after.acknowledged_up_to(2 * BLOCK)
            assert (await after.finish(end_at(2 * BLOCK))).state == Recording.STATE_SPOOLED
            await before.send(block(BLOCK))
            assert (await before.finish(end_at(2 * BLOCK))).state == Recording.STATE_SPOOLED
            for backend in ("objects", "spool", ""):
                await storage.health(backend, serving=True)
        no_crash(storage)
        storage.process.terminate()
        assert await storage.process.wait() == 0
    assert "is damaged" in await refused(data, tmp_path / "second.log")
    for file in data.glob("heimdall.sqlite3*"):
        file.rename(tmp_path / file.name)
    async with storage_process(data, tmp_path / "log") as storage:
        async with asyncio.timeout(20):
            while any((data / "spool").iterdir()):
                await storage.health("measurements", serving=True)
        for task_id in ("task-1", "task-2"):
            assert samples_of(await read(storage.stub, acquisition_id=task_id)) == sample_bytes(0, 2 * BLOCK)
