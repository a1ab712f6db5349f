"""Vitals: each count follows what the process takes, and they are logged only when asked for."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import structlog

from heimdall.runtime import vitals
from heimdall.runtime.vitals import logged_vitals, read_vitals

_MIB = 2**20
_WAIT_S = 10.0


async def test_three_tasks_are_counted_until_they_end() -> None:
    before = read_vitals().task_count
    end = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(end.wait())
        assert read_vitals().task_count == before + 3
        end.set()
    assert read_vitals().task_count == before


async def test_two_sockets_are_two_open_files() -> None:
    before = read_vitals().open_file_count
    assert before is not None
    with socket.socket(), socket.socket():
        assert read_vitals().open_file_count == before + 2
    assert read_vitals().open_file_count == before


async def test_a_thread_is_counted_until_it_ends() -> None:
    before = read_vitals().thread_count
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(_WAIT_S,))
    thread.start()
    try:
        assert read_vitals().thread_count == before + 1
    finally:
        end.set()
        thread.join()


async def test_memory_that_is_held_is_resident() -> None:
    before = read_vitals().resident_bytes
    held = b"x" * (64 * _MIB)
    # The kernel brings its count up to date in steps of some hundred kB.
    assert 62 * _MIB < read_vitals().resident_bytes - before < 68 * _MIB
    assert len(held) == 64 * _MIB


async def test_they_are_logged_at_once_and_at_every_interval() -> None:
    async with _logged(0.01) as lines:
        async with asyncio.timeout(_WAIT_S):
            while len(lines) < 3:  # noqa: ASYNC110 (nothing announces a line)
                await asyncio.sleep(0.01)
        expected = read_vitals()
    for line in lines:
        assert set(line) == {
            "event",
            "log_level",
            "resident_bytes",
            "open_file_count",
            "thread_count",
            "task_count",
        }
        assert (line["event"], line["log_level"]) == ("vitals", "info")
        assert line["task_count"] == expected.task_count
        assert line["resident_bytes"] == pytest.approx(expected.resident_bytes, rel=0.1)


async def test_an_interval_of_zero_logs_nothing() -> None:
    async with _logged(0) as lines:
        # The first line comes at once, so it would be there after a turn of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
    assert lines == []


async def test_what_can_not_be_read_for_once_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [OSError(24, "Too many open files"), psutil.AccessDenied(pid=1)]

    def read() -> vitals.Vitals:
        if failures:
            raise failures.pop(0)
        return read_vitals()

    monkeypatch.setattr(vitals, "read_vitals", read)
    async with _logged(0.01) as lines, asyncio.timeout(_WAIT_S):
        while len(lines) < 3:  # noqa: ASYNC110 (nothing announces a line)
            await asyncio.sleep(0.01)
    assert [line["event"] for line in lines[:3]] == ["vitals_unreadable", "vitals_unreadable", "vitals"]
    assert (lines[0]["log_level"], lines[0]["message"]) == ("warning", "[Errno 24] Too many open files")


@asynccontextmanager
async def _logged(interval_s: float) -> AsyncIterator[list[Any]]:
    """Logs vitals while the context lasts, and checks that nothing of it stays behind."""
    before = asyncio.all_tasks()
    with structlog.testing.capture_logs() as lines:
        async with logged_vitals(interval_s):
            yield lines
    assert asyncio.all_tasks() == before
