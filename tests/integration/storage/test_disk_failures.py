"""A disk that fails one recording while the service runs: the writer is told, and what is there is not thrown away."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heimdall.errors import HeimdallError
from storage_svc.spool.files import AcceptedEvent, SpoolFiles
from tests.integration.storage.support import (
    BLOCK,
    Writer,
    block,
    end_at,
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


class FailingDisk:
    """Fails every write to the spool while it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        append = SpoolFiles.append

        def failing(files: SpoolFiles, batch: Sequence[AcceptedEvent]) -> None:
            if self.number:
                raise OSError(self.number, os.strerror(self.number))
            append(files, batch)

        monkeypatch.setattr(SpoolFiles, "append", failing)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "SPOOL_FULL"), (errno.EDQUOT, "SPOOL_FULL"), (errno.EIO, "BACKEND_UNAVAILABLE")],
)
async def test_recording_goes_on_after_its_disk_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    disk = FailingDisk(monkeypatch)
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(segment(), block(0))
            await writer.acknowledged_up_to(BLOCK)
            disk.number = number
            await writer.send(block(BLOCK))
            assert (await writer.failure()).reason_name == reason
        assert samples_of(await read(stub)) == sample_bytes(0, BLOCK)
        disk.number = 0
        async with asyncio.timeout(20):
            while (refusal := await finish(stub)) is not None:
                # Until the free space is measured again, nobody tries in vain.
                assert refusal.reason_name == reason == "SPOOL_FULL"
        assert samples_of(await read(stub)) == sample_bytes(0, 2 * BLOCK)


async def finish(stub: StorageServiceAsyncStub) -> HeimdallError | None:
    """Goes on with the recording; returns why that is refused."""
    async with Writer(stub) as writer:
        assert await writer.open(opening(epoch=2)) == BLOCK
        await writer.send(block(BLOCK))
        try:
            await writer.acknowledged_up_to(2 * BLOCK)
        except HeimdallError as error:
            return error
        await writer.finish(end_at(2 * BLOCK))
    return None


async def test_recording_that_became_unreadable_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FailingDisk(monkeypatch)
    folder = tmp_path / "spool" / "task-1" / "rx-1"
    async with running_storage(storage_settings(tmp_path)) as stub:
        async with Writer(stub) as writer:
            await writer.open()
            await writer.send(segment(), block(0))
            await writer.acknowledged_up_to(BLOCK)
            disk.number = errno.EIO
            await writer.send(block(BLOCK))
            assert (await writer.failure()).reason_name == "BACKEND_UNAVAILABLE"
        disk.number = 0
        (folder / "journal").write_bytes(b"\xff" * 100)
        for epoch in (2, 3):
            async with Writer(stub) as writer:
                with pytest.raises(HeimdallError) as caught:
                    await writer.open(opening(epoch=epoch))
            assert caught.value.reason_name == "CHECKSUM_MISMATCH"
            assert str(folder.with_name("rx-1.unreadable")) in caught.value.message
        assert (folder.with_name("rx-1.unreadable") / "samples").read_bytes() == sample_bytes(0, BLOCK)
        await write(stub, [segment(), block(0)], end_at(BLOCK), opening("task-2"))
