"""Page tokens, object keys, the folder lock, the schema of the database, the room of the spool."""

from __future__ import annotations

import base64
import sqlite3
from pathlib import Path

import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError, InvalidFieldsError
from heimdall.ids import is_id
from heimdall.runtime.settings import Settings, SettingsError, StorageSettings
from storage_svc.ids import RecordingKey
from storage_svc.lock import data_dir_lock
from storage_svc.measurements.sqlite_schema import DatabaseUnusableError, connect
from storage_svc.migrate import migrate
from storage_svc.objects.local import LocalObjects
from storage_svc.paging import decode_token, encode_token, page_size
from storage_svc.spool.room import SpoolRoom
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
    assert await migrate(settings) == ["0001_initial"]
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


def test_room_is_bounded_and_given_back() -> None:
    room = SpoolRoom(10_000_000)
    key = RecordingKey("task-1", "rx-1")
    room.take(key, 9_000_000)
    with pytest.raises(HeimdallError) as caught:
        room.take(RecordingKey("task-1", "rx-2"), 1_000_001)
    assert caught.value.reason == ErrorReason.ERROR_REASON_SPOOL_FULL
    assert room.is_full
    room.recount(key, 5)
    room.take(key, 9_999_995)
    room.release(key)
    assert not room.is_full
