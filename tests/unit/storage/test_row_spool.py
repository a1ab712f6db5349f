"""The queue of rows that wait for the database: order, bound, and what survives a kill and a full disk."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.measurements import row_spool
from storage_svc.measurements.row_spool import ROW_SPOOL, DeadLetter, Entry, Kind, RowSpool
from storage_svc.measurements.sqlite_schema import DatabaseUnusableError
from tests.e2e.faults.disk import MIB, mounted_tmpfs

FULL = ErrorReason.ERROR_REASON_SPOOL_FULL
ROOM = 1 << 30


@asynccontextmanager
async def opened(folder: Path, max_bytes: int = ROOM) -> AsyncIterator[RowSpool]:
    spool = await RowSpool.open(folder / ROW_SPOOL, max_bytes)
    try:
        yield spool
    finally:
        await spool.close()


def measurements(number: int, *, size_bytes: int = 8, rows: int = 1, task_id: str = "task-1") -> Entry:
    return Entry(Kind.MEASUREMENTS, task_id, "rx-1", rows, number.to_bytes(8, "big").ljust(size_bytes, b"."), number)


def recording(message: bytes, receiver_id: str = "rx-1") -> Entry:
    return Entry(Kind.RECORDING, "task-1", receiver_id, 1, message, 7)


async def drained(spool: RowSpool) -> list[int]:
    """Removes everything and returns the numbers in the messages."""
    numbers = []
    while found := await spool.oldest(1000, ROOM):
        numbers += [int.from_bytes(entry.message[:8], "big") for _, entry in found]
        await spool.remove([number for number, _ in found], [])
    return numbers


async def filled(spool: RowSpool, size_bytes: int, *, number: int | None = None) -> tuple[int, HeimdallError]:
    """Appends entries, of numbers from 0 on, until one is refused; returns how many were accepted, and why not more."""
    accepted = 0
    while True:
        try:
            await spool.append([measurements(accepted if number is None else number, size_bytes=size_bytes)])
        except HeimdallError as error:
            return accepted, error
        accepted += 1


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def never(_: bytes) -> bool:
    raise AssertionError("nothing waited")


async def test_what_came_first_leaves_first_and_survives_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for first in (0, 3):
            await spool.append([measurements(number) for number in range(first, first + 3)])
        assert spool.waiting_count == 6
    async with opened(tmp_path) as spool:
        assert spool.waiting_count == 6
        (first_found, *_) = await spool.oldest(1, ROOM)
        assert first_found.entry == measurements(0)
        assert await drained(spool) == list(range(6))
        assert spool.waiting_count == 0
    async with opened(tmp_path) as spool:
        assert await spool.oldest(10, ROOM) == []


async def test_measurements_come_together_and_states_one_by_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.append([measurements(number, rows=400) for number in range(4)])
        await spool.append_state(recording(b"first"), never)
        await spool.append_state(recording(b"second", "rx-2"), never)
        await spool.append([measurements(4, size_bytes=3000), measurements(5, size_bytes=3000)])
        assert spool.waiting_count == 4 * 400 + 2 + 2
        sizes = []
        while found := await spool.oldest(1000, 5000):
            sizes.append([(entry.kind.value, entry.row_count) for _, entry in found])
            await spool.remove([number for number, _ in found], [])
    batch = ("measurements", 400)
    assert sizes == [
        [batch, batch],
        [batch, batch],
        [("recording", 1)],
        [("recording", 1)],
        [("measurements", 1)],
        [("measurements", 1)],
    ]


async def test_newest_state_is_found_and_decides_about_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.append_state(recording(b"first"), never)
        await spool.append_state(recording(b"other", "rx-2"), never)
        seen = list[bytes]()

        def look(answer: bool) -> Callable[[bytes], bool]:
            def is_next(newest: bytes) -> bool:
                seen.append(newest)
                return answer

            return is_next

        await spool.append_state(recording(b"second"), look(True))
        await spool.append_state(recording(b"third"), look(False))
        assert seen == [b"first", b"second"]
        assert await spool.newest(Kind.RECORDING, "task-1", "rx-1") == b"second"
        assert await spool.newest(Kind.RECORDING, "task-1", "rx-2") == b"other"
        assert await spool.newest(Kind.ACQUISITION, "task-1", "rx-1") is None
        assert spool.waiting_count == 3
        assert [await spool.holds(kind, None) for kind in Kind] == [False, True, False]
        assert [await spool.holds(Kind.RECORDING, task) for task in ("task-1", "task-2")] == [True, False]


async def test_bound_is_kept_on_disk_and_what_was_accepted_stays(tmp_path: Path) -> None:
    limit_bytes = 2 * MIB
    async with opened(tmp_path, limit_bytes) as spool:
        accepted, refusal = await filled(spool, 30_000)
        assert (refusal.reason, refusal.retry_delay_s) == (FULL, 10)
        assert "of at most 2097152 bytes: 30000 more do not fit" in refusal.message
        assert "storage.rows_spool_max_bytes" in refusal.message
        # Several are accepted together or not at all.
        with pytest.raises(HeimdallError):
            await spool.append([measurements(accepted + number, size_bytes=9_000) for number in range(4)])
        assert spool.waiting_count == accepted
        assert accepted > 50
    assert (tmp_path / ROW_SPOOL).stat().st_size <= limit_bytes + 64 * 1024
    async with opened(tmp_path, limit_bytes) as spool:
        assert await drained(spool) == list(range(accepted))
        await spool.append([measurements(7, size_bytes=30_000)])
        assert await drained(spool) == [7]


async def test_room_of_many_rows_is_given_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        for number in range(20):
            await spool.append([measurements(number, size_bytes=MIB)])
        await drained(spool)
        assert bytes_in(tmp_path) > 20 * MIB
        await spool.give_back()
        assert bytes_in(tmp_path) < MIB


async def test_refused_rows_are_kept_apart_and_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.append([measurements(1), measurements(2)])
        found = await spool.oldest(10, ROOM)
        letter = DeadLetter(**vars(found[0].entry), refused_unix_ns=9, reason="REVISION_CONFLICT", detail="why")
        await spool.remove([found[0].number], [letter])
        assert (spool.waiting_count, spool.dead_letter_count) == (1, 1)
        assert await drained(spool) == [2]
    async with opened(tmp_path) as spool:
        assert (spool.waiting_count, spool.dead_letter_count) == (0, 1)
    row = sqlite3.connect(tmp_path / ROW_SPOOL).execute("SELECT * FROM dead_letters").fetchone()
    assert row == (1, 1, 9, "measurements", "task-1", "rx-1", 1, (1).to_bytes(8, "big"), "REVISION_CONFLICT", "why")


async def test_what_another_process_changes_is_seen_after_a_refresh(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        other = sqlite3.connect(tmp_path / ROW_SPOOL)
        other.execute("INSERT INTO waiting VALUES (NULL, 1, 'recording', 'task-1', 'rx-1', 1, X'00')")
        other.commit()
        assert spool.waiting_count == 0
        await spool.refresh()
        assert spool.waiting_count == 1
        other.execute("DELETE FROM waiting")
        other.commit()
        await spool.refresh()
        assert spool.waiting_count == 0


async def test_concurrent_appends_are_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await asyncio.gather(*(spool.append([measurements(number)]) for number in range(60)))
        assert spool.waiting_count == 60
        assert sorted(await drained(spool)) == list(range(60))


async def test_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ROW_SPOOL).write_bytes(b"no database at all" * 1000)
    with pytest.raises(DatabaseUnusableError, match=ROW_SPOOL):
        await RowSpool.open(tmp_path / ROW_SPOOL, ROOM)


_APPEND_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from storage_svc.measurements.row_spool import Entry, Kind, RowSpool

async def main():
    spool = await RowSpool.open(Path(sys.argv[1]), 1 << 30)
    number = spool.waiting_count
    while True:
        message = number.to_bytes(8, "big").ljust(5000, b".")
        await spool.append([Entry(Kind.MEASUREMENTS, "task-1", "rx-1", 1, message, number)])
        print(number, file=sys.stderr, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_kill_in_mid_append_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    path = tmp_path / ROW_SPOOL
    accepted = 0
    for after in (1, 40, 110):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _APPEND_FOR_EVER,
            str(path),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stderr is not None
        try:
            for _ in range(after):
                accepted = int(await child.stderr.readline())
        finally:
            child.send_signal(signal.SIGKILL)
            rest = (await child.stderr.read()).split()
            await child.wait()
        accepted = int(rest[-1]) if rest else accepted
    async with opened(tmp_path) as spool:
        waiting = spool.waiting_count
        # One more may have been written whose answer nobody saw.
        assert accepted + 1 <= waiting <= accepted + 2
        assert await drained(spool) == list(range(waiting))


async def test_full_disk_refuses_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted_tmpfs(tmp_path / "disk", 24 * MIB) as disk:
        async with opened(disk.folder) as spool:
            accepted, refusal = await filled(spool, 100_000)
            assert refusal.reason == FULL
            assert "4194304 stay free" in refusal.message
            # Somebody else takes the reserve too, and it happens while we look away.
            disk.fill()
            monkeypatch.setattr(row_spool, "RESERVE_BYTES", -ROOM)
            late, refusal = await filled(spool, 500_000, number=0)
            assert refusal.reason == FULL
            assert "database or disk is full" in refusal.message
            monkeypatch.undo()
            disk.make_room()
            assert await drained(spool) == [*range(accepted), *[0] * late]


async def test_other_failures_of_the_file_say_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as spool:

        async def failing(*_: Any) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(RowSpool, "_put", failing)
        with pytest.raises(HeimdallError, match=rf"{ROW_SPOOL}, could not write: disk I/O error") as caught:
            await spool.append([measurements(1)])
        assert caught.value.reason == ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
