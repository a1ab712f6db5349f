"""Page tokens, object keys, the folder lock, the schema of the database, the room of the spool."""

from __future__ import annotations

import base64
import errno
import os
import sqlite3
from pathlib import Path

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError, InvalidFieldsError
from heimdall.ids import is_id
from heimdall.runtime.settings import Settings, SettingsError, StorageSettings
from storage_svc import durable
from storage_svc.ids import RecordingKey
from storage_svc.lock import data_dir_lock
from storage_svc.measurements import sqlite_schema
from storage_svc.measurements.sqlite_schema import DatabaseUnusableError, connect
from storage_svc.migrate import migrate
from storage_svc.objects.local import LocalObjects
from storage_svc.paging import decode_token, encode_token, page_size
from storage_svc.spool.room import RESERVE_BYTES, SpoolRoom
from storage_svc.sql_files import load_migrations, load_queries


def test_page_token_comes_back() -> None:
    cursor = (1_700_000_000_123_456_789, "task-1", "rx-1")
    assert decode_token(encode_token(cursor), (int, str, str)) == cursor
    assert decode_token("", (int, str)) is None


@pytest.mark.parametrize(
    "token",
    ["x", "%%%", "bnVsbA==", encode_token((1,)), encode_token(("a", 1)), encode_token((1 << 70, "a")), "e30=", "é"],
)
def test_bad_page_token_names_its_field(token: str) -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        decode_token(token, (int, str))
    assert caught.value.violations[0].field == "page_token"


def test_token_with_a_boolean_is_bad() -> None:
    with pytest.raises(InvalidFieldsError):
        decode_token(base64.urlsafe_b64encode(b'[true,"a"]').decode(), (int, str))


@pytest.mark.parametrize(("value", "expected"), [(0, 100), (1, 1), (1000, 1000)])
def test_page_size(value: int, expected: int) -> None:
    assert page_size(value) == expected


@pytest.mark.parametrize("value", [-1, 1001])
def test_bad_page_size(value: int) -> None:
    with pytest.raises(InvalidFieldsError):
        page_size(value)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "A", "-a", "a" * 64, "a\n", "a b", "ä", "a\0"])
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize("text", ["a", "0", "a-", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "a" * 63])
def test_what_is_an_id(text: str) -> None:
    assert is_id(text)


def test_keys_in_the_bucket() -> None:
    key = RecordingKey("task-1", "rx-1")
    assert key.data_object_key == "sessions/task-1/rx-1.sigmf-data"
    assert key.meta_object_key == "sessions/task-1/rx-1.sigmf-meta"


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/.", "a/\0"])
async def test_no_key_leaves_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="would leave"):
        await LocalObjects(tmp_path).put_bytes(key, b"")


def test_folder_has_one_owner(tmp_path: Path) -> None:
    second = data_dir_lock(tmp_path / "new")
    with data_dir_lock(tmp_path / "new"), pytest.raises(SettingsError, match="in use by another"):
        second.__enter__()
    with data_dir_lock(tmp_path / "new"):
        pass


async def test_migrations_are_applied_once(tmp_path: Path) -> None:
    settings = Settings(storage=StorageSettings(data_dir=tmp_path / "new"))
    assert await migrate(settings) == ["0001_initial", "0002_more_numbers", "0003_analysis"]
    assert await migrate(settings) == []


async def test_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    settings = Settings(storage=StorageSettings(data_dir=tmp_path))
    await migrate(settings)
    database = sqlite3.connect(tmp_path / "heimdall.sqlite3")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(DatabaseUnusableError, match="has schema 99"):
        await migrate(settings)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heimdall.sqlite3"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(DatabaseUnusableError, match="not a database"):
        await connect(path)


async def test_commits_wait_for_the_disk(tmp_path: Path) -> None:
    connection = await connect(tmp_path / "rows.sqlite3")
    try:
        facts = [list(await connection.execute_fetchall(f"PRAGMA {name}")) for name in ("synchronous", "journal_mode")]
    finally:
        await connection.close()
    assert [fact[0][0] for fact in facts] == [2, "wal"]


def test_every_statement_has_a_description() -> None:
    for migration in load_migrations("sqlite"):
        statements = migration.script.strip().split(";\n")
        assert all(statement.strip().startswith("-- ") for statement in statements if statement.strip())
    assert all(query.startswith("-- ") for query in load_queries("sqlite").values())


def is_full(room: SpoolRoom) -> bool:
    """Returns whether a full block finds no room."""
    try:
        room.check()
    except HeimdallError as error:
        return error.reason == ErrorReason.ERROR_REASON_SPOOL_FULL
    return False


def test_room_is_bounded_and_given_back() -> None:
    room = SpoolRoom(10_000_000)
    key = RecordingKey("task-1", "rx-1")
    room.take(key, 9_000_000)
    with pytest.raises(HeimdallError) as caught:
        room.take(RecordingKey("task-1", "rx-2"), 1_000_001)
    assert caught.value.reason == ErrorReason.ERROR_REASON_SPOOL_FULL
    assert is_full(room)
    room.recount(key, 5)
    room.take(key, 9_999_995)
    room.release(key)
    assert not is_full(room)


def test_room_ends_where_the_reserve_of_the_file_system_begins() -> None:
    room = SpoolRoom(10_000_000_000)
    key = RecordingKey("task-1", "rx-1")
    assert not is_full(room)
    room.measured(RESERVE_BYTES + 2_000_000)
    room.take(key, 1_000_000)
    assert is_full(room)
    with pytest.raises(HeimdallError) as caught:
        room.take(key, 1_000_001)
    assert caught.value.reason == ErrorReason.ERROR_REASON_SPOOL_FULL
    assert caught.value.metadata == {
        "free_bytes": str(RESERVE_BYTES + 1_000_000),
        "reserve_bytes": str(RESERVE_BYTES),
    }
    room.take(key, 1_000_000)
    room.measured(RESERVE_BYTES + 2_000_000)
    assert not is_full(room)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_write_that_found_no_room_closes_the_spool_until_the_next_measurement(number: int) -> None:
    room = SpoolRoom(10_000_000_000)
    room.failed(OSError(errno.EIO, "Input/output error"))
    assert not is_full(room)
    room.failed(OSError(number, "full"))
    assert is_full(room)
    room.measured(10_000_000_000)
    assert not is_full(room)


async def test_damaged_database_is_refused(tmp_path: Path) -> None:
    settings = Settings(storage=StorageSettings(data_dir=tmp_path))
    await migrate(settings)
    path = tmp_path / "heimdall.sqlite3"
    content = bytearray(path.read_bytes())
    # The page size is at offset 16 of every SQLite file; the second page is an index or a table of the schema.
    size = int.from_bytes(content[16:18], "big")
    content[size : 2 * size] = b"\xa5" * size
    path.write_bytes(content)
    with pytest.raises(DatabaseUnusableError, match=r"is damaged: .*restore a backup, or move it away"):
        await migrate(settings)


async def test_damage_in_the_windows_of_a_large_database_is_left_to_their_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(storage=StorageSettings(data_dir=tmp_path))
    await migrate(settings)
    path = tmp_path / "heimdall.sqlite3"
    database = sqlite3.connect(path)
    roots = dict(database.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
    database.close()
    whole = path.read_bytes()
    size = int.from_bytes(whole[16:18], "big")
    for table, is_refused in (("measurement_windows", False), ("acquisitions", True)):
        damaged = bytearray(whole)
        damaged[(roots[table] - 1) * size : roots[table] * size] = b"\xa5" * size
        path.write_bytes(damaged)
        with pytest.raises(DatabaseUnusableError, match="is damaged"):
            await migrate(settings)
        with monkeypatch.context() as changed:
            changed.setattr(sqlite_schema, "_CHECK_BYTES", len(whole) - 1)
            if is_refused:
                with pytest.raises(DatabaseUnusableError, match="is damaged"):
                    await migrate(settings)
            else:
                assert await migrate(settings) == []


async def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    await objects.put_bytes("sessions/a", b"whole")
    (tmp_path / ".partial" / "123").write_bytes(b"half")
    await objects.start()
    assert os.listdir(tmp_path) == ["sessions"]
    assert await objects.get_bytes("sessions/a") == b"whole"


def test_object_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="directory"):
        durable.replace_file(tmp_path / "target", b"content", tmp_path / "partial")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
