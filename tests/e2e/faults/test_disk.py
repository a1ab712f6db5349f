"""The disk of storage is full or read-only. It is a file system of the test's own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import grpc
import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1 import storage_pb2 as pb
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, describe, fault_bench, problems, station, until
from tests.e2e.faults.disk import MIB, Disk, mounted_ext4, mounted_tmpfs
from tests.e2e.faults.storage_bench import finish_from, no_crash, put_acquisition, refusal, write_until_refused
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import check_recording
from tests.integration.mesh import state_names
from tests.integration.storage.process import refused, storage_process
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

DISK_BYTES = 96 * MIB
BACKENDS = ("objects", "measurements", "spool")
NAMES = ("rx-1", "rx-2", "rx-3")
BEFORE = 30_000
"""Samples, 2.5 s, that are stored before the disk fills up."""

Mount = Callable[[Path, int], AbstractContextManager[Disk]]


@fault_case(
    Group.DISK,
    fault="the file system of storage is full, and later has room again",
    sees="SPOOL_FULL for samples, BACKEND_UNAVAILABLE for rows, both UNAVAILABLE with the time to wait; the health of "
    "spool, measurements and objects is NOT_SERVING until there is room",
    stored="what was acknowledged, readable all the time; the recording goes on from there and is complete",
)
@pytest.mark.parametrize("mount", [mounted_tmpfs, mounted_ext4])
async def test_disk_full(tmp_path: Path, mount: Mount) -> None:
    with mount(tmp_path / "disk", DISK_BYTES) as disk:
        async with storage_process(disk.folder / "data", tmp_path / "log") as storage:
            for backend in BACKENDS:
                await storage.health(backend, serving=True)
            async with Writer(storage.stub) as writer:
                await writer.open(opening(epoch=1))
                await writer.send(segment(), *(block(number * BLOCK) for number in range(5)))
                await writer.acknowledged_up_to(5 * BLOCK)
                disk.fill()
                await writer.send(block(5 * BLOCK))
                failure = await writer.failure()
            acknowledged = writer.acknowledged[-1]
            assert (failure.reason_name, failure.code) == ("SPOOL_FULL", grpc.StatusCode.UNAVAILABLE)
            assert failure.retry_delay_s == 10
            for backend in BACKENDS:
                await storage.health(backend, serving=False)
            await storage.health("", serving=True)
            for message in (opening(epoch=2), opening("task-2")):
                assert (await refusal(storage, message)).reason_name == "SPOOL_FULL"
            no_row = await put_acquisition(storage, "task-1")
            assert no_row is not None
            assert (no_row.reason_name, no_row.code) == ("BACKEND_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
            assert no_row.retry_delay_s == 2
            assert acknowledged == 5 * BLOCK
            assert samples_of(await read(storage.stub)) == sample_bytes(0, acknowledged)
            disk.make_room()
            for backend in BACKENDS:
                await storage.health(backend, serving=True)
            assert await put_acquisition(storage, "task-1") is None
            await finish_from(storage, acknowledged, 8)
            no_crash(storage)


@fault_case(
    Group.DISK,
    fault="the file system of storage has only the last 16 MiB left",
    sees="SPOOL_FULL for samples; finishing, rows and reads go on, and the health of measurements stays SERVING",
    stored="what was acknowledged, finished and in the object store",
)
async def test_disk_nearly_full(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", DISK_BYTES) as disk:
        async with storage_process(disk.folder / "data", tmp_path / "log") as storage:
            async with Writer(storage.stub) as writer:
                await writer.open(opening(epoch=1))
                await writer.send(segment(), block(0))
                await writer.acknowledged_up_to(BLOCK)
                disk.fill(leave_bytes=10 * MIB)
                await storage.health("spool", serving=False)
                await writer.send(block(BLOCK))
                failure = await writer.failure()
            assert failure.reason_name == "SPOOL_FULL"
            assert 0 < int(failure.metadata["free_bytes"]) <= 10 * MIB
            for backend in ("objects", "measurements"):
                await storage.health(backend, serving=True)
            await finish_from(storage, BLOCK, 1)
            assert await put_acquisition(storage, "task-1") is None
            no_crash(storage)


@fault_case(
    Group.DISK,
    fault="the spool reaches storage.spool_max_bytes, and recordings leave it later",
    sees="SPOOL_FULL (UNAVAILABLE, repeat after 10 s) for samples; the health of the spool is NOT_SERVING until then",
    stored="what was acknowledged; the refused recording goes on and is complete",
)
async def test_spool_at_its_bound(tmp_path: Path) -> None:
    limits = {"HEIMDALL_STORAGE_SPOOL_MAX_BYTES": str(3 * MIB)}
    async with storage_process(tmp_path / "data", tmp_path / "log", limits) as storage:
        await storage.health("spool", serving=True)
        count = 2 * MIB // (BLOCK * 4)
        async with Writer(storage.stub) as leaving, Writer(storage.stub) as refused_one:
            await leaving.open(opening("task-2"))
            await leaving.send(segment(), *(block(number * BLOCK) for number in range(count)))
            await leaving.acknowledged_up_to(count * BLOCK)
            await storage.health("spool", serving=False)
            await refused_one.open(opening(epoch=1))
            await refused_one.send(segment())
            failure = await write_until_refused(refused_one, 0)
            assert (failure.reason_name, failure.retry_delay_s) == ("SPOOL_FULL", 10)
            assert int(failure.metadata["limit_bytes"]) == 3 * MIB
            assert int(failure.metadata["used_bytes"]) <= 3 * MIB
            acknowledged = refused_one.acknowledged[-1]
            await leaving.finish(end_at(count * BLOCK))
        await storage.health("spool", serving=True)
        await finish_from(storage, acknowledged, count)
        no_crash(storage)


@fault_case(
    Group.DISK,
    fault="the folder of storage is read-only when it starts, or has no room",
    sees="storage ends with status 2 and one line that names storage.data_dir, the folder and the cause",
    stored="nothing new; what was there before is there again once the folder can be written",
)
async def test_folder_unusable_at_start(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", DISK_BYTES) as disk:
        data = disk.folder / "data"
        disk.remount("ro")
        line = await refused(data, tmp_path / "log")
        assert line.startswith(f"storage: storage.data_dir: {data} can not be written: Read-only file system")
        disk.remount("rw")
        async with storage_process(data, tmp_path / "log") as storage, Writer(storage.stub) as writer:
            await writer.open(opening(epoch=1))
            await writer.send(segment(), block(0))
            await writer.acknowledged_up_to(BLOCK)
            await storage.kill()
        disk.remount("ro")
        line = await refused(data, tmp_path / "log")
        assert line.startswith(f"storage: storage.data_dir: {data} can not be written: Read-only file system")
        disk.remount("rw")
        disk.fill()
        line = await refused(data, tmp_path / "log")
        assert line.startswith(f"storage: storage.data_dir: {data} can not be written: No space left on device")
        disk.make_room()
        async with storage_process(data, tmp_path / "log") as storage:
            await finish_from(storage, BLOCK, 3)


@fault_case(
    Group.DISK,
    fault="the folder of storage becomes read-only under a running recording, and writable again",
    sees="BACKEND_UNAVAILABLE (UNAVAILABLE) for samples, rows and new recordings; the health of spool, measurements "
    "and objects is NOT_SERVING until it can be written",
    stored="what was acknowledged, readable all the time; the recording goes on from there and is complete",
)
async def test_folder_becomes_read_only(tmp_path: Path) -> None:
    with mounted_ext4(tmp_path / "disk", DISK_BYTES) as disk:
        async with storage_process(disk.folder / "data", tmp_path / "log") as storage:
            async with Writer(storage.stub) as writer:
                await writer.open(opening(epoch=1))
                await writer.send(segment(), block(0))
                await writer.acknowledged_up_to(BLOCK)
                disk.forbid_writing(but="heimdall.sqlite3-shm")
                await writer.send(block(BLOCK))
                failure = await writer.failure()
            assert (failure.reason_name, failure.code) == ("BACKEND_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
            for backend in BACKENDS:
                await storage.health(backend, serving=False)
            for message in (opening(epoch=2), opening("task-2")):
                assert (await refusal(storage, message)).reason_name == "BACKEND_UNAVAILABLE"
            no_row = await put_acquisition(storage, "task-1")
            assert no_row is not None
            assert no_row.reason_name == "BACKEND_UNAVAILABLE"
            assert samples_of(await read(storage.stub)) == sample_bytes(0, BLOCK)
            disk.allow_writing()
            for backend in BACKENDS:
                await storage.health(backend, serving=True)
            assert await put_acquisition(storage, "task-1") is None
            await finish_from(storage, BLOCK, 3)
            no_crash(storage)


@fault_case(
    Group.DISK,
    fault="the file system of storage gives up, for files that are mapped into memory too",
    sees="the kernel ends storage with SIGBUS, and its log says where; started again it refuses, naming "
    "storage.data_dir and the cause, until the folder can be written",
    stored="what was acknowledged; the recording goes on from there and is complete",
)
async def test_file_system_gives_up(tmp_path: Path) -> None:
    with mounted_ext4(tmp_path / "disk", DISK_BYTES) as disk:
        data = disk.folder / "data"
        async with storage_process(data, tmp_path / "log") as storage, Writer(storage.stub) as writer:
            await writer.open(opening(epoch=1))
            await writer.send(segment(), block(0))
            await writer.acknowledged_up_to(BLOCK)
            disk.forbid_writing()
            async with asyncio.timeout(20):
                assert await storage.process.wait() == -signal.SIGBUS
            assert "Fatal Python error: Bus error" in storage.log
        line = await refused(data, tmp_path / "second.log")
        assert line.startswith(f"storage: storage.data_dir: {data} can not be written: Operation not permitted")
        disk.allow_writing()
        async with storage_process(data, tmp_path / "log") as storage:
            await finish_from(storage, BLOCK, 3)


@fault_case(
    Group.DISK,
    fault="the disk of storage is full for some seconds of an acquisition",
    sees="SUCCEEDED: the coordinator holds what was not acknowledged and goes on when storage has room",
    stored="every recording, complete",
)
async def test_disk_full_for_a_while(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "data", DISK_BYTES) as disk:
        async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
            acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 15.0, NAMES))
            await bench.stored(acquisition_id, BEFORE)
            disk.fill()
            for name in NAMES:
                told = f"receiver_id={name} reason=SPOOL_FULL"
                await until(lambda told=told: told in bench.log("coordinator"))  # type: ignore[misc]
            disk.make_room()
            final = await bench.ended(acquisition_id)
            assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 3), describe(final)
            for name in NAMES:
                sent = bench.simulator.stations[name].sent
                recording = await check_recording(bench.client, sent, acquisition_id, name)
                assert (recording.sample_count, recording.gaps) == (15 * SAMPLE_RATE_HZ, [])


@fault_case(
    Group.DISK,
    fault="the disk of storage fills up during an acquisition and stays full until it is over",
    sees="PARTIALLY_SUCCEEDED by the deadline; the first problem of each outcome is SPOOL_FULL",
    stored="what was acknowledged before, readable, as recordings marked incomplete; the state of the acquisition as "
    "soon as there is room",
)
async def test_disk_stays_full(tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "data", DISK_BYTES) as disk:
        variables = {"HEIMDALL_STORAGE_RESUME_WINDOW_S": "15"}
        async with fault_bench(tmp_path, [station(name) for name in NAMES], variables=variables) as bench:
            acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 10.0, NAMES))
            before = await bench.stored(acquisition_id, BEFORE)
            disk.fill()
            final = await bench.ended(acquisition_id, timeout_s=90)
            assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
            assert final.end_time.ToNanoseconds() <= final.deadline_time.ToNanoseconds()
            for then, outcome in zip(before.outcomes, final.outcomes, strict=True):
                assert problems(outcome)[0] == "SPOOL_FULL"
                assert outcome.stored_sample_count >= then.stored_sample_count
            disk.make_room()
            await until(lambda: not any((tmp_path / "data" / "spool").iterdir()), timeout_s=30)
            for outcome in final.outcomes:
                sent = bench.simulator.stations[outcome.receiver_id].sent
                recording = await check_recording(bench.client, sent, acquisition_id, outcome.receiver_id)
                assert recording.sample_count == outcome.stored_sample_count
                assert recording.incomplete_reason == ErrorReason.ERROR_REASON_WRITER_LOST
            async with open_channel("storage", bench.mesh.targets["storage"]) as channel, asyncio.timeout(30):
                wanted = pb.GetAcquisitionRequest(acquisition_id=acquisition_id)
                while (await StorageServiceStub(channel).GetAcquisition(wanted, timeout=10)).acquisition != final:
                    continue
