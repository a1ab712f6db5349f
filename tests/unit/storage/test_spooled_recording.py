"""One recording in the event loop: acknowledgements, backpressure and failures of its disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.ids import RecordingKey
from storage_svc.spool import Progress, SpooledRecording, files
from storage_svc.spool.files import SpoolFiles
from storage_svc.spool.room import SpoolRoom
from tests.integration.storage.support import BLOCK, block, opening, sample_bytes, segment

KEY = RecordingKey("task-1", "rx-1")


class SlowFiles(SpoolFiles):
    """Files on a disk that writes only when it is told to, or fails."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: OSError | None = None

    def append(self, batch: object) -> None:
        self.begun.set()
        assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        super().append(batch)  # type: ignore[arg-type]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def slow(tmp_path: Path) -> SlowFiles:
    made = SlowFiles(tmp_path)
    made.write_open(1_700_000_000_000_000_000, opening())
    return made


def spooled(slow: SlowFiles, executor: ThreadPoolExecutor, sync_bytes: int = 1 << 20) -> SpooledRecording:
    return SpooledRecording(
        KEY,
        opening(),
        1_700_000_000_000_000_000,
        slow,
        progress=Progress(),
        writer_epoch=1,
        room=SpoolRoom(1 << 30),
        executor=executor,
        sync_bytes=sync_bytes,
        on_dirty=lambda recording: None,
    )


async def test_what_comes_during_a_write_is_not_durable_after_it(
    slow: SlowFiles, executor: ThreadPoolExecutor, tmp_path: Path
) -> None:
    recording = spooled(slow, executor)
    await recording.accept(segment())
    await recording.accept(block(0))
    commit = asyncio.create_task(recording.commit())
    await asyncio.to_thread(slow.begun.wait, 10)
    await recording.accept(block(BLOCK))
    assert recording.durable.next_index == 0
    slow.go_on.set()
    await commit
    assert recording.durable.next_index == BLOCK
    assert (tmp_path / "samples").read_bytes() == sample_bytes(0, BLOCK)
    await recording.close()
    assert recording.durable.next_index == 2 * BLOCK


async def test_writer_waits_for_a_disk_that_is_behind(slow: SlowFiles, executor: ThreadPoolExecutor) -> None:
    recording = spooled(slow, executor, sync_bytes=BLOCK * 4)
    await recording.accept(segment())
    blocked = asyncio.create_task(recording.accept(block(0)))
    await asyncio.to_thread(slow.begun.wait, 10)
    assert not blocked.done()
    slow.go_on.set()
    await blocked
    assert recording.durable.next_index == BLOCK
    await recording.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), ErrorReason.ERROR_REASON_SPOOL_FULL),
        (OSError(5, "Input/output error"), ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE),
    ],
)
async def test_failing_disk_is_told_and_recovered_from(
    slow: SlowFiles, executor: ThreadPoolExecutor, tmp_path: Path, error: OSError, reason: int
) -> None:
    recording = spooled(slow, executor)
    await recording.accept(segment())
    slow.error = error
    slow.go_on.set()
    for attempt in (recording.commit(), recording.accept(block(0))):
        with pytest.raises(HeimdallError) as caught:
            await attempt
        assert caught.value.reason == reason
    recovered = files.recover(tmp_path)
    assert recovered is not None
    assert recovered.files is not None
    assert recovered.progress.next_index == 0
    recovered.files.close()


async def test_cancelled_writer_does_not_stop_a_write(
    slow: SlowFiles, executor: ThreadPoolExecutor, tmp_path: Path
) -> None:
    recording = spooled(slow, executor)
    await recording.accept(segment())
    await recording.accept(block(0))
    commit = asyncio.create_task(recording.commit())
    await asyncio.to_thread(slow.begun.wait, 10)
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    slow.go_on.set()
    await recording.close()
    assert recording.durable.next_index == BLOCK
    assert (tmp_path / "samples").read_bytes() == sample_bytes(0, BLOCK)
