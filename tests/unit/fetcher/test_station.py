"""What a fetcher knows of a station across restarts, whatever the host clock does; the file it is kept in is real."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fetcher_svc.memory import open_memory
from fetcher_svc.state_file import APPLICATION_ID
from fetcher_svc.station import Station
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import SettingsError
from tests.clock import SetClock

R = ErrorReason
URL = "http://kiwi.example.org:8073"
HOUR_S = 3600
DAY_S = 86_400


async def ignore(writable: bool) -> None:
    pass


@asynccontextmanager
async def running(path: Path, ahead_s: float = 0.0, limit: int = 120) -> AsyncIterator[tuple[Station, SetClock]]:
    """One life of a fetcher, as far as this station is concerned."""
    clock = SetClock(ahead_s)
    async with open_memory(path, clock, ignore) as memory:
        writing = asyncio.create_task(memory.write_steadily())
        try:
            yield Station(URL, limit, memory, clock), clock
        finally:
            writing.cancel()
            await asyncio.wait({writing})


async def refuse(station: Station, reason: R.ValueType, text: str = "no") -> None:
    assert station.try_begin(station)
    await station.failed(station, HeimdallError(reason, text, metadata={"message": "it said so"}))


def remaining_s(station: Station) -> float:
    hold = station.find_hold("torino")
    return 0.0 if hold is None or hold.retry_delay_s is None else hold.retry_delay_s


async def test_what_a_station_said_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.sqlite3"
    async with running(path) as (station, _):
        await refuse(station, R.ERROR_REASON_UPSTREAM_KICKED, "the owner ended the connection; 🙂")
    async with running(path, 600) as (station, _):
        hold = station.find_hold("torino")
        assert hold is not None
        assert hold.metadata["cause"] == "UPSTREAM_KICKED"
        assert 1170 <= remaining_s(station) <= 1230
        assert station.last_error is not None
        assert station.last_error.message == "the owner ended the connection; 🙂"
        assert station.last_error.metadata == {"message": "it said so"}
        assert not station.try_begin(station)


async def test_success_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with running(path) as (station, _):
        await refuse(station, R.ERROR_REASON_UPSTREAM_BUSY)
    async with running(path, 20) as (station, _):
        assert station.try_begin(station)
        station.succeeded(station)
    async with running(path, 21) as (station, _):
        assert station.last_error is None
        assert not station.is_on_trial


async def test_a_clock_that_was_set_back_makes_no_rest_longer(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with running(path) as (station, _):
        await refuse(station, R.ERROR_REASON_UPSTREAM_KICKED)
    async with running(path, -10 * DAY_S) as (station, _):
        assert 1770 <= remaining_s(station) <= 1830


async def test_a_clock_step_frees_no_station_and_keeps_none_longer(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    for step_s in (+25 * HOUR_S, -2 * HOUR_S):
        path.unlink(missing_ok=True)
        async with running(path) as (station, clock):
            await refuse(station, R.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT)
            clock.step(step_s)
            assert DAY_S - 60 <= remaining_s(station) <= DAY_S + 30
            # What is in the files now is what is left if it were killed now.
            copy = tmp_path / f"killed{step_s}.sqlite3"
            async with asyncio.timeout(20):
                while not _mentions(path, copy, clock):  # noqa: ASYNC110 (nothing tells when a file has changed)
                    await asyncio.sleep(0.05)
        async with running(copy, step_s) as (station, _):
            assert DAY_S - 60 <= remaining_s(station) <= DAY_S + 30


def _mentions(path: Path, copy: Path, clock: SetClock) -> bool:
    """Returns whether a copy of the files as they are holds a rest of a day from now on by this clock."""
    for ending in ("", "-wal"):
        shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
    with sqlite3.connect(copy) as connection:
        rows = connection.execute("SELECT rest_end_unix_ns FROM stations").fetchall()
    connection.close()
    return bool(rows) and abs(rows[0][0] - clock.unix_ns() - DAY_S * 10**9) < 60 * 10**9


async def test_connects_are_counted_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    for life in range(3):
        async with running(path, life * 600, limit=3) as (station, _):
            assert station.try_begin(station)
            await station.count_connect("torino")
            station.succeeded(station)
    async with running(path, 59 * 60, limit=3) as (station, _):
        assert not station.try_begin(station)
        hold = station.find_hold("torino")
        assert hold is not None
        assert (hold.metadata["connect_count"], hold.metadata["limit"]) == ("3", "3")
        assert hold.metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
        assert remaining_s(station) == pytest.approx(60, abs=30)
        with pytest.raises(HeimdallError, match="3 connects within the last hour"):
            await station.count_connect("torino")
    # A clock that was set back makes no connect younger than now.
    async with running(path, -DAY_S, limit=3) as (station, _):
        assert remaining_s(station) == pytest.approx(HOUR_S, abs=1)
    async with running(path, 61 * 60, limit=3) as (station, _):
        assert station.try_begin(station)


async def test_one_connect_decides_after_a_rest(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with running(path) as (station, _):
        await refuse(station, R.ERROR_REASON_UPSTREAM_BUSY)
    async with running(path, 20) as (station, _):
        assert station.is_on_trial
        first, second = "first", "second"
        assert station.try_begin(first)
        assert not station.try_begin(second)
        assert station.find_hold("torino") is None
        # One that is given up decides nothing; the next may try.
        station.leave(first)
        assert station.try_begin(second)
        station.succeeded(second)
        assert station.try_begin(first)


async def test_a_second_fetcher_is_refused_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    async with running(path):
        with pytest.raises(SettingsError, match=r"fetcher\.state_file: .*state\.sqlite3 is in use by another fetcher"):
            async with running(path):
                pass
    async with running(path):
        pass


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()


def _later(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("CREATE TABLE stations (url TEXT)")
    connection.close()


def _truncated(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("CREATE TABLE stations (url TEXT)")
        connection.executemany("INSERT INTO stations VALUES (?)", [("x" * 1000,)] * 100)
    connection.close()
    path.write_bytes(path.read_bytes()[:20_000])


def _other_content(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("CREATE TABLE stations (url, rest_end_unix_ns, rest_length_ns, rest_count, error, connects)")
        connection.execute("INSERT INTO stations VALUES ('a', 1, 1, 1, x'ffff', '[]')")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.write_bytes(b"these are notes, no database\n" * 100), "move it away and start again"),
        (lambda path: path.mkdir(), "name a file that this user may write"),
        (_foreign, "belongs to another program; name another file"),
        (_later, "has schema 2, this version of heimdall knows up to 1"),
        (_truncated, "move it away and start again"),
        (_other_content, "move it away and start again"),
    ],
    ids=["no-database", "folder", "foreign", "later", "truncated", "other-content"],
)
async def test_a_file_that_can_not_be_used_is_refused_with_what_to_do(
    tmp_path: Path, spoil: object, expected: str
) -> None:
    path = tmp_path / "state.sqlite3"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(SettingsError) as caught:
        async with running(path):
            pass
    assert str(caught.value).startswith(f"fetcher.state_file: {path} ")
    assert expected in str(caught.value)
    # One with our own mark may be repaired by SQLite as it is opened; others are left as they are.
    assert before is None or spoil is _other_content or path.read_bytes() == before
