"""`heimdall dead-letters`: shows, retries and drops what the database refused, beside a storage service or not."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from heimdall.common.v1.recording_pb2 import Recording
from storage_svc.dead_letters import main
from storage_svc.measurements.row_spool import ROW_SPOOL, DeadLetter, Kind, RowSpool

RECORDING = Recording(acquisition_id="task-1", receiver_id="rx-1", sample_count=5)
REFUSED_UNIX_NS = 1_700_000_000_123_000_000


def letter(kind: Kind, receiver_id: str, message: bytes, detail: str) -> DeadLetter:
    return DeadLetter(kind, "task-1", receiver_id, 1, message, REFUSED_UNIX_NS - 10**9, REFUSED_UNIX_NS, "WHY", detail)


@pytest.fixture
async def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RowSpool]:
    monkeypatch.setenv("HEIMDALL_STORAGE_DATA_DIR", str(tmp_path))
    spool = await RowSpool.open(tmp_path / ROW_SPOOL, 1 << 30)
    good = letter(Kind.RECORDING, "rx-1", RECORDING.SerializeToString(), "it does not fit")
    await spool.remove([], [good, letter(Kind.ACQUISITION, "", b"\xff\xff", "nor does this")])
    await spool.close()
    spool = await RowSpool.open(tmp_path / ROW_SPOOL, 1 << 30)
    yield spool
    await spool.close()


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


async def test_list_shows_each_on_a_line(spool: RowSpool) -> None:
    shown = await run("list")
    lines = [line.split(maxsplit=7) for line in shown.output.splitlines()]
    assert lines == [
        ["number", "refused", "rows", "kind", "acquisition", "receiver", "reason", "detail"],
        ["1", "2023-11-14T22:13:20.123Z", "1", "recording", "task-1", "rx-1", "WHY", "it does not fit"],
        ["2", "2023-11-14T22:13:20.123Z", "1", "acquisition", "task-1", "-", "WHY", "nor does this"],
    ]


async def test_list_as_json_has_the_rows(spool: RowSpool) -> None:
    first, second = (json.loads(line) for line in (await run("list", "--json")).output.splitlines())
    assert first == {
        "number": 1,
        "acceptTime": "2023-11-14T22:13:19.123000000Z",
        "refuseTime": "2023-11-14T22:13:20.123000000Z",
        "kind": "recording",
        "acquisitionId": "task-1",
        "receiverId": "rx-1",
        "rowCount": 1,
        "reason": "WHY",
        "detail": "it does not fit",
        "message": {"acquisitionId": "task-1", "receiverId": "rx-1", "sampleCount": "5"},
    }
    assert "message" not in second


async def test_retried_ones_wait_again_and_a_running_service_sees_it(spool: RowSpool) -> None:
    assert (spool.waiting_count, spool.dead_letter_count) == (0, 2)
    done = await run("retry", "1")
    assert (done.exit_code, done.output) == (0, "dead letters that wait for the database again: 1\n")
    await spool.refresh()
    assert (spool.waiting_count, spool.dead_letter_count) == (1, 1)
    (found,) = await spool.oldest(10, 1 << 30)
    assert (found.entry.kind, found.entry.receiver_id) == (Kind.RECORDING, "rx-1")
    assert Recording.FromString(found.entry.message) == RECORDING
    assert found.entry.accepted_unix_ns == REFUSED_UNIX_NS - 10**9


async def test_dropped_ones_are_gone(spool: RowSpool) -> None:
    done = await run("drop", "--all")
    assert (done.exit_code, done.output) == (0, "dropped dead letters: 2\n")
    await spool.refresh()
    assert (spool.waiting_count, spool.dead_letter_count) == (0, 0)


@pytest.mark.parametrize("command", ["retry", "drop"])
async def test_of_one_that_is_not_there_nothing_is_changed(spool: RowSpool, command: str) -> None:
    refused = await run(command, "1", "7", "8")
    assert (refused.exit_code, refused.output) == (1, "error: there is no dead letter 7, 8; nothing was changed\n")
    await spool.refresh()
    assert (spool.waiting_count, spool.dead_letter_count) == (0, 2)


async def test_file_of_another_version_is_left_alone(spool: RowSpool, tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / ROW_SPOOL)
    file.execute("PRAGMA user_version = 9")
    file.close()
    refused = await run("drop", "--all")
    assert refused.exit_code == 1
    assert "has schema 9; run the version of heimdall that the storage service runs" in refused.output


async def test_without_a_file_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEIMDALL_STORAGE_DATA_DIR", str(tmp_path))
    shown = await run("list")
    assert (shown.exit_code, shown.output) == (0, f"there are no dead letters: {tmp_path / ROW_SPOOL} does not exist\n")
    assert not (tmp_path / ROW_SPOOL).exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["list"], 0, "it does not fit"),
        (["retry"], 2, "name the NUMBERs that heimdall dead-letters list shows, or --all"),
        (["drop", "1", "--all"], 2, "name the NUMBERs"),
        (["drop", "2"], 0, "dropped dead letters: 1"),
    ],
)
async def test_command_line(spool: RowSpool, arguments: list[str], status: int, said: str) -> None:
    command = [sys.executable, "-m", "heimdall.cli", "dead-letters", *arguments]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert ended.returncode == status
    assert said in ended.stdout + ended.stderr
