"""Storage killed while it finishes a recording, at twenty moments from the first write to the last."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from pathlib import Path

import grpc

from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from tests.e2e.faults.bench import until
from tests.e2e.faults.table import Group, fault_case
from tests.integration.storage.process import StorageProcess, storage_process
from tests.integration.storage.support import BLOCK, Writer, block, end_at, opening, sample_bytes, segment

KILL_COUNT = 20
BLOCK_COUNT = 20
END = BLOCK_COUNT * BLOCK


async def write_all(writer: Writer, task_id: str, epoch: int) -> None:
    """Sends what storage does not have of the recording."""
    first = await writer.open(opening(task_id, epoch=epoch))
    assert first in (0, *range(BLOCK, END + 1, BLOCK))
    if first < END:
        await writer.send(segment(), *(block(index, seed=task_id) for index in range(first, END, BLOCK)))


async def finish(storage: StorageProcess, task_id: str, epoch: int) -> Recording:
    async with Writer(storage.stub) as writer:
        await write_all(writer, task_id, epoch)
        return await writer.finish(end_at(END))


async def time_to_finish(storage: StorageProcess, task_id: str) -> float:
    """Finishes a recording of which everything is acknowledged; returns how long that took in s."""
    async with Writer(storage.stub) as writer:
        await write_all(writer, task_id, 1)
        await writer.acknowledged_up_to(END)
        began_s = time.monotonic()
        await writer.finish(end_at(END))
        return time.monotonic() - began_s


async def finish_killed(storage: StorageProcess, task_id: str, after_s: float) -> None:
    """Finishes a recording of which everything is acknowledged, and kills storage so long after asking for it."""
    async with Writer(storage.stub) as writer:
        await write_all(writer, task_id, 1)
        await writer.acknowledged_up_to(END)
        asyncio.get_running_loop().call_later(after_s, storage.process.kill)
        try:
            recording = await writer.finish(end_at(END))
            assert recording.state in (Recording.STATE_SPOOLED, Recording.STATE_STORED)
        except (HeimdallError, grpc.aio.AioRpcError):
            pass
        await storage.process.wait()


async def check_whole(data: Path, recording: Recording) -> None:
    await until(lambda: not (data / "spool" / recording.acquisition_id).exists())
    expected = sample_bytes(0, END, recording.acquisition_id)
    assert recording.complete
    assert (recording.sample_count, recording.lost_sample_count) == (END, 0)
    assert recording.data_sha512 == hashlib.sha512(expected).hexdigest()
    session = data / "heimdall-raw-iq" / "sessions" / recording.acquisition_id
    assert sorted(path.name for path in session.iterdir()) == ["rx-1.sigmf-data", "rx-1.sigmf-meta"]
    assert (session / "rx-1.sigmf-data").read_bytes() == expected


def states(data: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(data / "heimdall.sqlite3")
    try:
        return list(connection.execute("SELECT task_id, state FROM recordings ORDER BY task_id"))
    finally:
        connection.close()


@fault_case(
    Group.DISK,
    fault="storage is killed while it finishes a recording, at twenty moments",
    sees="the repeated finish answers with the recording",
    stored="every recording once: its bytes, its metadata, one row in state STORED; the spool is empty",
)
async def test_storage_killed_while_it_finishes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with storage_process(data, tmp_path / "log") as storage:
        took_s = await time_to_finish(storage, "task-00")
    names = [f"task-{number:02d}" for number in range(1, KILL_COUNT + 1)]
    unfinished = list[str]()
    for number, name in enumerate(names):
        async with storage_process(data, tmp_path / "log") as storage:
            if number:
                await check_whole(data, await finish(storage, names[number - 1], 2))
            await finish_killed(storage, name, took_s * number / KILL_COUNT)
        if (data / "spool" / name).exists():
            unfinished.append(name)
    # Else nothing was interrupted, and the test says nothing.
    assert unfinished
    async with storage_process(data, tmp_path / "log") as storage:
        await check_whole(data, await finish(storage, names[-1], 2))
        assert "Traceback" not in storage.log
    assert states(data) == [(name, "STORED") for name in ("task-00", *names)]
    assert not list((data / "spool").iterdir())
    assert not list(data.glob("heimdall-raw-iq/.partial/*"))
