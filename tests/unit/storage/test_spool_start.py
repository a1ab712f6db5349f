"""The whole spool read back at start: what is unreadable is set aside and holds up nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.ids import RecordingKey
from storage_svc.spool import Spool, files
from storage_svc.spool.files import RecoveredSpool
from tests.integration.storage.support import BLOCK, block, opening, sample_bytes, segment
from tests.unit.storage.test_recovery import accepted

GOOD, BAD = RecordingKey("task-1", "rx-1"), RecordingKey("task-1", "rx-2")
MIB = 1024 * 1024


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    made = Spool(tmp_path / "spool", sync_interval_s=0.01, sync_bytes=MIB, max_bytes=64 * MIB)
    yield made
    await made.close()


def write(root: Path, key: RecordingKey, named: RecordingKey | None = None) -> Path:
    """Leaves a recording of one block, as a killed process does."""
    folder = root / "spool" / key.task_id / key.receiver_id
    folder.mkdir(parents=True)
    task_id, receiver_id = named or key
    created = files.create(folder, 1_700_000_000_000_000_000, opening(task_id, receiver_id))
    created.append([accepted(segment(receiver_id)), accepted(block(0))])
    created.close()
    return folder


async def test_unreadable_recording_is_set_aside_and_the_others_are_open(tmp_path: Path, spool: Spool) -> None:
    write(tmp_path, GOOD)
    folder = write(tmp_path, BAD)
    (folder / "journal").write_bytes(b"\xff" * 100)
    found = await spool.start()
    assert found.finished == []
    assert list(found.unreadable) == [BAD]
    kept = folder.with_name("rx-2.unreadable")
    assert str(kept) in found.unreadable[BAD]
    assert (kept / "samples").read_bytes() == sample_bytes(0, BLOCK)
    assert (kept / "journal").read_bytes() == b"\xff" * 100
    assert [recording.key for recording in spool.all_open()] == [GOOD]
    assert await spool.load(BAD) is None


async def test_a_second_unreadable_recording_of_the_name_keeps_the_first(tmp_path: Path, spool: Spool) -> None:
    for _ in range(2):
        (write(tmp_path, BAD) / "journal").write_bytes(b"\xff" * 100)
        await spool.start()
    names = sorted(path.name for path in (tmp_path / "spool" / "task-1").iterdir())
    assert names == ["rx-2.unreadable", "rx-2.unreadable-2"]


async def test_recording_under_the_name_of_another_is_set_aside(tmp_path: Path, spool: Spool) -> None:
    write(tmp_path, BAD, named=GOOD)
    found = await spool.start()
    assert "its journal is that of rx-1 in task-1" in found.unreadable[BAD]
    assert spool.all_open() == []


@pytest.mark.parametrize(
    ("number", "is_refused"), [(errno.EIO, False), (errno.EACCES, False), (errno.EROFS, True), (errno.ENOSPC, True)]
)
async def test_failure_of_the_disk_is_told_from_that_of_a_recording(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int, is_refused: bool
) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, BAD)
    recover = files.recover

    def fail_for_one(folder: Path) -> RecoveredSpool | None:
        if folder.name == BAD.receiver_id:
            raise OSError(number, os.strerror(number))
        return recover(folder)

    monkeypatch.setattr(files, "recover", fail_for_one)
    if is_refused:
        with pytest.raises(OSError, match=os.strerror(number)):
            await spool.start()
        assert (tmp_path / "spool" / "task-1" / "rx-2").is_dir()
    else:
        assert list((await spool.start()).unreadable) == [BAD]
        assert [recording.key for recording in spool.all_open()] == [GOOD]


async def test_folders_that_a_kill_left_empty_are_removed(tmp_path: Path, spool: Spool) -> None:
    (tmp_path / "spool" / "task-1").mkdir(parents=True)
    (tmp_path / "spool" / "task-2" / "rx-1").mkdir(parents=True)
    await spool.start()
    assert not any((tmp_path / "spool").iterdir())


async def test_what_is_kept_aside_counts(tmp_path: Path) -> None:
    for number in range(5):
        folder = write(tmp_path, RecordingKey("task-1", f"rx-{number}"))
        (folder / "journal").write_bytes(b"\xff" * 100)
    size_bytes = 5 * (BLOCK * 4 + 100)
    small = Spool(tmp_path / "spool", sync_interval_s=0.01, sync_bytes=MIB, max_bytes=size_bytes + MIB - 1)
    try:
        await small.start()
        with pytest.raises(HeimdallError) as caught:
            await small.ping()
        assert caught.value.reason == ErrorReason.ERROR_REASON_SPOOL_FULL
        assert caught.value.metadata["used_bytes"] == str(size_bytes)
    finally:
        await small.close()


async def test_removing_a_recording_leaves_its_journal_to_the_last(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, GOOD)
    await spool.start()
    monkeypatch.setattr("shutil.rmtree", kill)
    with pytest.raises(InterruptedError):
        await spool.remove(GOOD)
    assert [path.name for path in folder.iterdir()] == ["journal"]


def kill(folder: Path) -> None:
    raise InterruptedError("the process was killed here")


async def test_spool_that_can_not_be_written_says_so(tmp_path: Path, spool: Spool) -> None:
    await spool.start()
    await spool.ping()
    (tmp_path / "spool").rmdir()
    with pytest.raises(HeimdallError) as caught:
        await spool.ping()
    assert caught.value.reason == ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
