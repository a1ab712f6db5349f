"""Storage processes that are killed: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1 import storage_pb2 as pb
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from storage_svc.spool.journal import encode_finish
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

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(folder: Path, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "HEIMDALL_STORAGE_PORT": str(port),
        "HEIMDALL_STORAGE_DATA_DIR": str(folder),
        "HEIMDALL_STORAGE_SYNC_INTERVAL_S": "0.02",
        "HEIMDALL_MESH_DRAIN_NOTICE_S": "0",
    }


@asynccontextmanager
async def storage_process(
    folder: Path,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, StorageServiceAsyncStub]]:
    """Runs a storage process on a port of its own: gRPC backs off from an address that just refused it."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "storage_svc", env=environment(folder, port), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            while b"service_started" not in (line := await process.stderr.readline()):
                assert line, "the process ended before it started"
        drain = asyncio.create_task(process.stderr.read())
        try:
            async with open_channel("storage", f"127.0.0.1:{port}") as channel:
                yield process, StorageServiceStub(channel)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await drain
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_killed_in_mid_write_resumes_where_it_acknowledged(tmp_path: Path) -> None:
    async with storage_process(tmp_path) as (process, stub), Writer(stub) as writer:
        await writer.open(opening(epoch=1))
        await writer.send(segment(), block(0), gap(BLOCK, 100))
        for number in range(1, 12):
            await writer.send(block(number * BLOCK + 100))
            if number == 6:
                await writer.acknowledged_up_to(3 * BLOCK)
        process.send_signal(signal.SIGKILL)
        with pytest.raises((HeimdallError, grpc.aio.AioRpcError)):
            await writer.acknowledged_up_to(1 << 40)
        acknowledged = writer.acknowledged[-1]
    async with storage_process(tmp_path) as (_, stub), Writer(stub) as writer:
        resumed = await writer.open(opening(epoch=2))
        assert resumed >= acknowledged >= 3 * BLOCK
        assert (resumed - 100) % BLOCK == 0
        await writer.send(segment(), *(block(first) for first in range(resumed, 12 * BLOCK + 100, BLOCK)))
        recording = await writer.finish(end_at(12 * BLOCK + 100))
        assert recording.complete
        expected = sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 100, 11 * BLOCK)
        assert samples_of(await read(stub)) == expected
        assert recording.data_size_bytes == len(expected)


@pytest.mark.parametrize("torn", ["journal", "samples", "both", "flipped"])
async def test_torn_tail_is_cut_off(tmp_path: Path, torn: str) -> None:
    async with storage_process(tmp_path) as (process, stub), Writer(stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0), block(BLOCK))
        await writer.acknowledged_up_to(2 * BLOCK)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    tear(tmp_path / "spool" / "task-1" / "rx-1", torn)
    expected = BLOCK if torn == "flipped" else 2 * BLOCK
    async with storage_process(tmp_path) as (_, stub), Writer(stub) as writer:
        assert await writer.open(opening(epoch=2)) == expected
        await writer.send(block(expected))
        await writer.finish(end_at(expected + BLOCK))
        assert samples_of(await read(stub)) == sample_bytes(0, expected + BLOCK)


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
    async with storage_process(tmp_path) as (_, stub), Writer(stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        opened = (tmp_path / "spool" / "task-1" / "rx-1" / "journal").read_bytes()
        recording = await writer.finish(end_at(BLOCK))
    undo_settling(tmp_path, recording, opened)
    async with storage_process(tmp_path) as (_, stub):
        async with asyncio.timeout(10):
            while (tmp_path / "spool" / "task-1").exists():
                await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)
        (listed,) = (await stub.ListRecordings(pb.ListRecordingsRequest(), timeout=5)).recordings
        assert listed == recording
        assert samples_of(await read(stub)) == sample_bytes(0, BLOCK)


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
    async with storage_process(tmp_path) as (process, stub), Writer(stub) as writer:
        await writer.open()
        await writer.send(segment(), block(0))
        await writer.acknowledged_up_to(BLOCK)
        process.send_signal(signal.SIGTERM)
        await writer.send(block(BLOCK))
        recording = await writer.finish(end_at(2 * BLOCK))
        assert recording.state == Recording.State.STATE_STORED
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def refused(folder: Path) -> str:
    """Starts a service that must not start and returns what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "storage_svc", env=environment(folder, 0), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        _, text = await process.communicate()
    assert process.returncode == 2
    assert b"Traceback" not in text
    return text.decode()


async def test_second_service_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with storage_process(tmp_path):
        assert f"{tmp_path} is in use by another storage service" in await refused(tmp_path)


async def test_corrupt_database_is_refused(tmp_path: Path) -> None:
    database = tmp_path / "heimdall.sqlite3"
    database.write_bytes(b"this is no database at all, but it is long enough to be taken for one" * 20)
    assert str(database) in await refused(tmp_path)


async def test_unusable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "storage.data_dir" in await refused(tmp_path / "file" / "data")
