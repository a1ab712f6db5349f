"""What the databases that speak SQL have in common: one set of queries by name, one writer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

import structlog
from google.protobuf.message import DecodeError

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import MeasurementAggregate
from storage_svc.ids import RecordingKey
from storage_svc.measurements.base import Cursor, RowFilter, WriteCounts, revision_conflict
from storage_svc.measurements.rows import (
    acquisition_row,
    acquisition_state_name,
    aggregate_from_row,
    measurement_from_row,
    recording_row,
)
from storage_svc.measurements.writer import GroupWriter, unavailable

T = TypeVar("T")
Row: TypeAlias = Mapping[str, Any]

_log = structlog.get_logger(__name__)

_NEWEST_UNIX_NS: Final = (1 << 63) - 1


class SqlConnection(Protocol):
    """A connection in a transaction. Queries name their values as :name; what a query does not name is left out."""

    async def fetch(self, query: str, values: Row) -> Sequence[Row]:
        """Returns the rows of a query."""

    async def execute(self, query: str, values: Row) -> None:
        """Executes a statement."""


C = TypeVar("C", bound=SqlConnection)


class SqlMeasurements(ABC, Generic[C]):
    """A database of measurements, apart from what connects to it and how many measurements are inserted at once."""

    CONDITIONS: ClassVar[Mapping[str, str]]
    """What each part of a filter says; {time} is the column that holds the time in ns since 1970."""

    def __init__(self, queries: Mapping[str, str], writer: GroupWriter[C]) -> None:
        """Takes the queries by name, and the writer."""
        self._queries = queries
        self._writer = writer

    @abstractmethod
    async def _fetch(self, query: str, values: Row) -> Sequence[Row]:
        """Returns the rows of a query outside a transaction; raises HeimdallError BACKEND_UNAVAILABLE."""

    @abstractmethod
    async def write_measurements(self, measurements: Sequence[Measurement]) -> WriteCounts:
        """Stores measurements; returns how many were new."""

    @staticmethod
    @abstractmethod
    def time(unix_ns: int) -> object:
        """Returns a time in ns since 1970 as the columns called time hold it."""

    @abstractmethod
    async def _ping(self, connection: C, pings: Sequence[None]) -> Sequence[None]:
        """Writes without changing anything."""

    async def watch(self) -> None:
        """Returns when the database was closed.

        Raises:
            Exception: What its writer crashed with: nothing is written any more.
        """
        await self._writer.watch()

    async def query_measurements(
        self, scope: MeasurementScope.ValueType, selected: RowFilter, after: Cursor | None, limit: int
    ) -> list[Measurement]:
        """Returns measurements, newest first."""
        is_summary = scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
        name = "select_summary" if is_summary else "select_window"
        after = after or (_NEWEST_UNIX_NS, "", "", 0)
        rows = await self._select(name, "first_sample_unix_ns", _filter_values(selected), after, limit)
        return _decode(rows, lambda row: measurement_from_row(row, scope))

    async def aggregate_measurements(
        self, selected: RowFilter, bucket_hours: int, after: Cursor | None, limit: int
    ) -> list[MeasurementAggregate]:
        """Summarises measurement summaries by bucket, receiver and centre frequency, newest bucket first."""
        values = _filter_values(selected) | {"bucket_hours": bucket_hours}
        after = after or (_NEWEST_UNIX_NS, "", 0.0)
        rows = await self._select("aggregate_summary", "first_sample_unix_ns", values, after, limit)
        return _decode(rows, aggregate_from_row)

    async def put_recording(self, recording: Recording) -> None:
        """Makes or replaces the row of a recording, and tells its measurements; what is stored stays."""
        await self._writer.run(self._put_recordings, recording)

    async def get_recording(self, key: RecordingKey) -> Recording | None:
        """Returns a recording; None if there is none."""
        rows = await self._fetch(self._queries["get_recording"], key._asdict())
        return next(iter(_decode(rows, lambda row: Recording.FromString(row["message"]))), None)

    async def list_recordings(self, selected: RowFilter, after: Cursor | None, limit: int) -> list[Recording]:
        """Returns recordings, newest window first."""
        after = after or (_NEWEST_UNIX_NS, "", "")
        rows = await self._select("select_recording", "window_start_unix_ns", _filter_values(selected), after, limit)
        return _decode(rows, lambda row: Recording.FromString(row["message"]))

    async def put_acquisition(self, acquisition: Acquisition, expected_revision: int) -> bool:
        """Makes or replaces an acquisition that is still at the expected revision; never waits."""
        await self._writer.run(self._put_acquisitions, (acquisition, expected_revision))
        return False

    async def get_acquisition(self, acquisition_id: str) -> Acquisition | None:
        """Returns an acquisition; None if there is none."""
        rows = await self._fetch(self._queries["get_acquisition"], {"task_id": acquisition_id})
        return next(iter(_decode(rows, lambda row: Acquisition.FromString(row["message"]))), None)

    async def list_acquisitions(
        self, states: Sequence[Acquisition.State.ValueType], after: Cursor | None, limit: int
    ) -> list[Acquisition]:
        """Returns acquisitions in any of these states, newest first."""
        values = {"states": [acquisition_state_name(state) for state in states]} if states else {}
        after = after or (_NEWEST_UNIX_NS, "")
        rows = await self._select("select_acquisition", "create_unix_ns", values, after, limit)
        return _decode(rows, lambda row: Acquisition.FromString(row["message"]))

    async def ping(self) -> None:
        """Writes, durably: a transaction that changes nothing would succeed on a full disk."""
        await self._writer.run(self._ping, None)

    async def _put_recordings(self, connection: C, recordings: Sequence[Recording]) -> Sequence[None]:
        for recording in recordings:
            row = recording_row(recording, self.time)
            if not await connection.fetch(self._queries["put_recording"], row):
                _log.error(
                    "recording_row_kept",
                    task_id=recording.acquisition_id,
                    receiver_id=recording.receiver_id,
                    refused_state=row["state"],
                )
            elif recording.state != Recording.State.STATE_WRITING:
                await connection.execute(self._queries["mark_summary"], row)
                await connection.execute(self._queries["mark_window"], row)
        return [None] * len(recordings)

    async def _put_acquisitions(
        self, connection: C, acquisitions: Sequence[tuple[Acquisition, int]]
    ) -> Sequence[HeimdallError | None]:
        return [await self._put_acquisition(connection, *entry) for entry in acquisitions]

    async def _put_acquisition(
        self, connection: C, acquisition: Acquisition, expected_revision: int
    ) -> HeimdallError | None:
        row = acquisition_row(acquisition, self.time)
        stored = await connection.fetch(self._queries["get_acquisition"], row)
        if stored and stored[0]["message"] == row["message"]:
            return None
        try:
            (revision,) = _decode(stored, lambda row: Acquisition.FromString(row["message"]).revision) or (0,)
        except HeimdallError as damaged:
            return damaged
        if revision == expected_revision:
            put = await connection.fetch(self._queries["put_acquisition"], row | {"expected_revision": revision})
            if put:
                return None
            # Another service was faster.
            (stored_now,) = await connection.fetch(self._queries["get_acquisition"], row)
            revision = Acquisition.FromString(stored_now["message"]).revision
        return revision_conflict(acquisition.acquisition_id, revision, expected_revision)

    async def _select(
        self, name: str, time_column: str, values: dict[str, Any], after: Cursor, limit: int
    ) -> Sequence[Row]:
        conditions = "".join(
            f"\n    AND {self.CONDITIONS[key].format(time=time_column)}" for key in values if key in self.CONDITIONS
        )
        cursor = {f"after_{place}": value for place, value in enumerate(after)}
        query = self._queries[name].replace("{conditions}", conditions)
        return await self._fetch(query, {**values, **cursor, "limit": limit})


def _filter_values(selected: RowFilter) -> dict[str, Any]:
    """Returns the parts of a filter that are set, as values to bind."""
    values: dict[str, Any] = {
        name: getattr(selected, name)
        for name in ("start_unix_ns", "end_unix_ns", "min_frequency_hz", "max_frequency_hz", "task_id")
        if getattr(selected, name) is not None
    }
    if selected.receiver_ids:
        values["receiver_ids"] = list(selected.receiver_ids)
    return values


def _decode(rows: Iterable[Row], decode: Callable[[Row], T]) -> list[T]:
    """Returns what rows say.

    Raises:
        HeimdallError: BACKEND_UNAVAILABLE if one of them does not say anything that makes sense.
    """
    try:
        return [decode(row) for row in rows]
    except (DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.exception("row_damaged")
        raise unavailable(f"one of the rows is damaged: {error}", "read") from error
