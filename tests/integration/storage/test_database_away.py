"""A database that fails while the service runs: samples are accepted, rows are not, and nothing is overwritten."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import grpc
import pytest

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc.ids import RecordingKey
from storage_svc.measurements import RowFilter
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.measurements.sqlite_writer import SqliteWriter
from storage_svc.sql_files import load_migrations
from tests.integration.storage.damage import damage_database
from tests.integration.storage.support import (
    BLOCK,
    Writer,
    block,
    end_at,
    opening,
    running_storage,
    segment,
    storage_settings,
    write,
)

UNAVAILABLE = ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE


async def fill(rows: SqliteMeasurements) -> None:
    """Makes the database large enough to have a middle."""
    for number in range(200):
        acquisition = Acquisition(acquisition_id=f"task-{number}", state=Acquisition.STATE_ACCEPTED, revision=1)
        await rows.put_acquisition(acquisition, 0)


async def test_recordings_are_written_while_the_database_is_damaged(tmp_path: Path) -> None:
    database = tmp_path / "heimdall.sqlite3"
    async with running_storage(storage_settings(tmp_path)) as stub:
        stored = await write(stub, [segment(), block(0)], end_at(BLOCK))
        assert stored.state == Recording.State.STATE_STORED
        other = await SqliteMeasurements.open(database)
        await fill(other)
        await other.close()
        await asyncio.to_thread(damage_database, database)
        spooled = await write(stub, [segment(), block(0)], end_at(BLOCK), opening("task-2"))
        assert spooled.state == Recording.State.STATE_SPOOLED
        # One that is complete in the object store is not begun anew only because nobody can say so.
        async with Writer(stub) as writer:
            with pytest.raises(HeimdallError) as caught:
                await writer.open(opening(epoch=2))
        assert (caught.value.reason, caught.value.code) == (UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)


async def test_damage_is_remembered(tmp_path: Path) -> None:
    rows = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    await fill(rows)
    await rows.put_recording(Recording(acquisition_id="task-1", receiver_id="rx-1"))
    await asyncio.to_thread(damage_database, tmp_path / "rows.sqlite3")
    await rows.ping()
    with pytest.raises(HeimdallError, match=r"rows\.sqlite3 is damaged .* restore a backup"):
        await rows.list_acquisitions([], None, 1000)
    for use in (rows.ping(), rows.list_recordings(RowFilter(), None, 10), rows.write_measurements([])):
        with pytest.raises(HeimdallError) as caught:
            await use
        assert caught.value.reason == UNAVAILABLE
    await rows.close()


async def test_row_that_makes_no_sense_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    rows = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    for receiver_id in ("rx-1", "rx-2"):
        await rows.put_recording(Recording(acquisition_id="task-1", receiver_id=receiver_id))
    database = sqlite3.connect(tmp_path / "rows.sqlite3")
    database.execute("UPDATE recordings SET message = X'ffff' WHERE receiver_id = 'rx-1'")
    database.commit()
    database.close()
    with pytest.raises(HeimdallError, match="one of the rows is damaged") as caught:
        await rows.get_recording(RecordingKey("task-1", "rx-1"))
    assert caught.value.reason == UNAVAILABLE
    assert (await rows.get_recording(RecordingKey("task-1", "rx-2"))) is not None
    await rows.ping()
    await rows.close()


async def test_ping_really_writes_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite3"
    rows = await SqliteMeasurements.open(path)
    log = path.with_name("rows.sqlite3-wal")

    def look() -> tuple[int, list[tuple[int]]]:
        database = sqlite3.connect(path)
        version = list(database.execute("PRAGMA user_version"))
        database.close()
        return log.stat().st_size, version

    try:
        size_bytes, version = look()
        await rows.ping()
        grown_bytes, version_after = look()
    finally:
        await rows.close()
    assert grown_bytes - size_bytes >= 4096
    assert version_after == version == [(len(load_migrations("sqlite")),)]


async def test_crashed_writer_is_told_and_nobody_waits_for_it(tmp_path: Path) -> None:
    rows = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    watching = asyncio.create_task(rows.watch())
    assert isinstance(rows._writer, SqliteWriter)
    await rows._writer._connection.close()
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*(rows.ping() for _ in range(3)), return_exceptions=True)
        assert [getattr(outcome, "reason", outcome) for outcome in outcomes] == [UNAVAILABLE] * 3
        with pytest.raises(ValueError, match="no active connection"):
            await watching
        with pytest.raises(HeimdallError, match="it is closed"):
            await rows.ping()
        await rows._reader.close()


async def test_closed_writer_is_no_failure(tmp_path: Path) -> None:
    rows = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    watching = asyncio.create_task(rows.watch())
    await rows.ping()
    await rows.close()
    async with asyncio.timeout(10):
        await watching
