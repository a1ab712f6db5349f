"""Rows that wait on disk for a database that is away, oldest first, and those that it refused."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import aiosqlite
from google.protobuf.message import DecodeError

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Measurement
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import WriteMeasurementsRequest
from storage_svc.measurements.sqlite_failures import SqliteFailures, is_damage, primary_code
from storage_svc.measurements.sqlite_schema import connect, migrate
from storage_svc.measurements.sqlite_writer import SqliteWriter
from storage_svc.sql_files import load_queries

T = TypeVar("T")

ROW_SPOOL: Final = "rows-spool.sqlite3"
"""The file, in the data folder."""

RESERVE_BYTES: Final = 4 * 1024 * 1024
"""Free space that rows may not take: without it those that the database has could not be removed."""

DIALECT: Final = "row_spool"
"""Folder of its migrations and queries."""

_COLUMNS: Final = ("task_id", "receiver_id", "row_count", "message", "accepted_unix_ns")
_GIVE_BACK_PAGES: Final = 1024
"""Empty pages that are worth giving back to the file system."""


class Kind(StrEnum):
    """What an entry holds."""

    MEASUREMENTS = "measurements"
    """A WriteMeasurementsRequest; all are of one acquisition, and the receiver is empty if there are several."""
    RECORDING = "recording"
    """A Recording."""
    ACQUISITION = "acquisition"
    """A PutAcquisitionRequest; the receiver is empty."""


@dataclass(frozen=True)
class Entry:
    """Rows that were accepted together."""

    kind: Kind
    """What the message is."""
    task_id: str
    """The acquisition that they belong to."""
    receiver_id: str
    """The receiver that they belong to; empty if it is none, or not one."""
    row_count: int
    """Number of rows."""
    message: bytes
    """The rows, serialised."""
    accepted_unix_ns: int
    """When they were accepted, in ns since 1970."""


@dataclass(frozen=True)
class DeadLetter(Entry):
    """Rows that the database refused."""

    refused_unix_ns: int
    """When they were refused, in ns since 1970."""
    reason: str
    """Reason of the refusal, such as REVISION_CONFLICT."""
    detail: str
    """The refusal as a sentence."""


def measurement_entries(measurements: Iterable[Measurement]) -> list[Entry]:
    """Returns measurements as entries, one for each acquisition."""
    by_task: dict[str, WriteMeasurementsRequest] = {}
    for measurement in measurements:
        request = by_task.setdefault(measurement.acquisition_id, WriteMeasurementsRequest())
        request.measurements.append(measurement)
    return [_measurement_entry(request, time.time_ns()) for request in by_task.values()]


def _measurement_entry(request: WriteMeasurementsRequest, accepted_unix_ns: int) -> Entry:
    receivers = {measurement.receiver_id for measurement in request.measurements}
    return Entry(
        Kind.MEASUREMENTS,
        request.measurements[0].acquisition_id,
        receivers.pop() if len(receivers) == 1 else "",
        len(request.measurements),
        request.SerializeToString(),
        accepted_unix_ns,
    )


def parts_of(entry: Entry, max_rows: int, max_bytes: int) -> list[Entry]:
    """Returns the rows of an entry as entries of at most so many rows and bytes; a larger row is alone in one."""
    if entry.row_count == 1:
        return [entry]
    try:
        request = WriteMeasurementsRequest.FromString(entry.message)
    except DecodeError:
        # It is refused as a whole.
        return [entry]
    requests: list[WriteMeasurementsRequest] = []
    size_bytes = 0
    for row in request.measurements:
        size_bytes += row.ByteSize()
        if not requests or len(requests[-1].measurements) == max_rows or size_bytes > max_bytes:
            requests.append(WriteMeasurementsRequest())
            size_bytes = row.ByteSize()
        requests[-1].measurements.append(row)
    return [_measurement_entry(part, entry.accepted_unix_ns) for part in requests]


def dead_letter(entry: Entry, refusal: HeimdallError) -> DeadLetter:
    """Returns an entry that the database refuses now."""
    return DeadLetter(**vars(entry), refused_unix_ns=time.time_ns(), reason=refusal.reason_name, detail=refusal.message)


class Waiting(NamedTuple):
    """An entry and its place."""

    number: int
    """Its place: later ones have higher numbers."""
    entry: Entry
    """The rows."""


class _Totals(NamedTuple):
    waiting_count: int
    dead_letter_count: int


class _Failures(SqliteFailures):
    """Says that no room is SPOOL_FULL, and which file it is that failed."""

    def meaning(self, error: sqlite3.Error, what: str) -> HeimdallError:
        if is_damage(error):
            return super().meaning(error, what)
        full = primary_code(error) == sqlite3.SQLITE_FULL
        return HeimdallError(
            ErrorReason.ERROR_REASON_SPOOL_FULL if full else ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
            f"the file of rows that wait for the database, {self.path}, could not {what}: {error}",
            metadata={"backend": "measurements"},
        )


class RowSpool:
    """A bounded queue in a SQLite file. What a method has changed is durable when it returns."""

    def __init__(
        self, path: Path, max_bytes: int, reader: aiosqlite.Connection, writer: SqliteWriter, failures: SqliteFailures
    ) -> None:
        """Takes two connections to a file of the newest schema; `open` makes them."""
        self._path = path
        self._max_bytes = max_bytes
        self._reader = reader
        self._writer = writer
        self._failures = failures
        self._queries = load_queries(DIALECT)
        self._totals = _Totals(0, 0)
        self._look_number = self._newest_look = 0

    @classmethod
    async def open(cls, path: Path, max_bytes: int) -> RowSpool:
        """Opens the file, making it if it is missing.

        Args:
            path: The file.
            max_bytes: Most bytes that rows may take in it; the write-ahead log beside it takes a few MiB more.

        Raises:
            DatabaseUnusableError: If the file is damaged, or of a later version.
        """
        await migrate(path, DIALECT)
        failures = _Failures(path)
        reader = await connect(path)
        try:
            connection = await connect(path)
            # Otherwise what is removed is overwritten with zeros, which takes the room that a full disk lacks.
            await connection.execute("PRAGMA secure_delete = OFF")
            writer = SqliteWriter(connection, failures)
        except BaseException:
            await reader.close()
            raise
        spool = cls(path, max_bytes, reader, writer, failures)
        await spool.refresh()
        return spool

    @property
    def waiting_count(self) -> int:
        """Number of rows that wait."""
        return self._totals.waiting_count

    @property
    def dead_letter_count(self) -> int:
        """Number of dead letters."""
        return self._totals.dead_letter_count

    async def refresh(self) -> None:
        """Counts again, because the command line may have retried or dropped dead letters."""

        async def look(connection: aiosqlite.Connection) -> None:
            return None

        await self._change(look)

    async def append(self, entries: Sequence[Entry]) -> None:
        """Puts rows behind all that wait, all of them or none.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE.
        """

        async def put(connection: aiosqlite.Connection) -> None:
            await self._put(connection, entries)

        await self._check_disk(sum(len(entry.message) for entry in entries))
        await self._change(put)

    async def append_state(self, entry: Entry, is_next: Callable[[bytes], bool]) -> None:
        """Puts the state of a recording or an acquisition behind all that waits.

        Args:
            entry: The state.
            is_next: Is given the newest state that waits, if there is one, and says whether this one comes after it or
                is the same; raises HeimdallError to refuse it.

        Raises:
            HeimdallError: What is_next raised, SPOOL_FULL or BACKEND_UNAVAILABLE.
        """
        key = {"kind": entry.kind, "task_id": entry.task_id, "receiver_id": entry.receiver_id}

        async def put(connection: aiosqlite.Connection) -> None:
            for row in await connection.execute_fetchall(self._queries["newest"], key):
                if not is_next(row["message"]):
                    return
            await self._put(connection, [entry])

        await self._check_disk(len(entry.message))
        await self._change(put)

    async def newest(self, kind: Kind, task_id: str, receiver_id: str) -> bytes | None:
        """Returns the newest state that waits of a recording or an acquisition; None if there is none."""
        key = {"kind": kind, "task_id": task_id, "receiver_id": receiver_id}
        rows = await self._fetch("newest", key)
        return bytes(rows[0]["message"]) if rows else None

    async def holds(self, kind: Kind, task_id: str | None) -> bool:
        """Returns whether rows of a kind wait, of one acquisition or of any."""
        if task_id is None:
            return bool(await self._fetch("any_of_kind", {"kind": kind}))
        return bool(await self._fetch("any_of_task", {"kind": kind, "task_id": task_id}))

    async def oldest(self, max_rows: int, max_bytes: int) -> list[Waiting]:
        """Returns the entry that waits longest; if it holds measurements, also those right behind it that do.

        Args:
            max_rows: Most rows of several entries.
            max_bytes: Most bytes of several entries.
        """
        last = rows = size_bytes = 0
        for row in await self._fetch("oldest", {"limit": max_rows}):
            rows += row["row_count"]
            size_bytes += row["size_bytes"]
            if last and (row["kind"] != Kind.MEASUREMENTS or rows > max_rows or size_bytes > max_bytes):
                break
            last = row["number"]
            if row["kind"] != Kind.MEASUREMENTS:
                break
        return [
            Waiting(row["number"], Entry(Kind(row["kind"]), **{name: row[name] for name in _COLUMNS}))
            for row in await self._fetch("up_to", {"last": last})
        ]

    async def remove(self, numbers: Sequence[int], dead_letters: Sequence[DeadLetter]) -> None:
        """Removes entries, and keeps what was refused of them as dead letters, in one.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE.
        """

        async def move(connection: aiosqlite.Connection) -> None:
            await connection.executemany(self._queries["remove"], [{"number": number} for number in numbers])
            await connection.executemany(self._queries["bury"], [asdict(letter) for letter in dead_letters])

        await self._change(move)

    async def give_back(self) -> None:
        """Gives the room of removed rows back to the file system, if it is much.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE.
        """
        if await _number(self._reader, "freelist_count") < _GIVE_BACK_PAGES:
            return
        connection = await connect(self._path)
        try:
            await connection.execute("VACUUM")
            # Until then it is the write-ahead log that is short.
            await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self._failures.meaning(error, "be shortened") from error
        finally:
            await connection.close()

    async def close(self) -> None:
        """Finishes what is being written and closes the file."""
        await self._writer.close()
        await self._reader.close()

    async def _change(self, work: Callable[[aiosqlite.Connection], Awaitable[None]]) -> None:
        """Runs a piece of writing, and takes note of the totals after it once it is durable."""

        async def run(connection: aiosqlite.Connection) -> tuple[int, _Totals]:
            await work(connection)
            self._look_number += 1
            look = self._look_number
            (row,) = await connection.execute_fetchall(self._queries["totals"])
            return look, _Totals(*row)

        look, totals = await self._writer.change(run)
        if look > self._newest_look:
            self._newest_look, self._totals = look, totals

    async def _put(self, connection: aiosqlite.Connection, entries: Sequence[Entry]) -> None:
        size_bytes = sum(len(entry.message) for entry in entries)
        pages = await _number(connection, "page_count") - await _number(connection, "freelist_count")
        used_bytes = pages * await _number(connection, "page_size")
        if used_bytes + size_bytes > self._max_bytes:
            dead = self._totals.dead_letter_count
            text = f", {dead} dead letters among them (heimdall dead-letters)" if dead else ""
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SPOOL_FULL,
                f"the database is away, and the rows that wait for it take {used_bytes} of at most {self._max_bytes} "
                f"bytes{text}: {size_bytes} more do not fit; repeat when the database is back, or raise "
                "storage.rows_spool_max_bytes",
                metadata={"used_bytes": used_bytes, "limit_bytes": self._max_bytes, "dead_letter_count": dead},
            )
        await connection.executemany(self._queries["append"], [asdict(entry) for entry in entries])

    async def _check_disk(self, size_bytes: int) -> None:
        """Refuses what would take the last room on the file system."""
        status = await asyncio.to_thread(os.statvfs, self._path.parent)
        free_bytes = status.f_bavail * status.f_frsize
        if free_bytes - size_bytes < RESERVE_BYTES:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SPOOL_FULL,
                f"the database is away, and the file system of the rows that wait for it has {free_bytes} bytes left: "
                f"{size_bytes} more do not fit, {RESERVE_BYTES} stay free; make room in storage.data_dir",
                metadata={"free_bytes": free_bytes, "reserve_bytes": RESERVE_BYTES},
            )

    async def _fetch(self, name: str, values: Mapping[str, object]) -> list[sqlite3.Row]:
        self._failures.refuse_if_damaged()
        try:
            return list(await self._reader.execute_fetchall(self._queries[name], dict(values)))
        except sqlite3.Error as error:
            raise self._failures.meaning(error, "be read") from error


async def _number(connection: aiosqlite.Connection, pragma: str) -> int:
    (row,) = await connection.execute_fetchall(f"PRAGMA {pragma}")
    return int(row[0])
