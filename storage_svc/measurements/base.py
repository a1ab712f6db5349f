"""What the service needs of a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import MeasurementAggregate
from storage_svc.ids import RecordingKey

Cursor: TypeAlias = tuple[int | float | str, ...]
"""Sort key of the last row of a page; the next page begins after it, whatever was inserted meanwhile."""


@dataclass(frozen=True)
class RowFilter:
    """Selects measurements or recordings; every part that is set must hold."""

    start_unix_ns: int | None = None
    """Only what begins at or after this, in ns since 1970."""
    end_unix_ns: int | None = None
    """Only what begins before this, in ns since 1970."""
    min_frequency_hz: float | None = None
    """Only centre frequencies at or above this, in Hz."""
    max_frequency_hz: float | None = None
    """Only centre frequencies at or below this, in Hz."""
    receiver_ids: tuple[str, ...] = ()
    """Only these receivers; empty for all."""
    task_id: str | None = None
    """Only this acquisition."""


def measurement_cursor(measurement: Measurement) -> Cursor:
    """Returns where a page that ends with this measurement ended."""
    return (
        measurement.first_sample_unix_ns,
        measurement.acquisition_id,
        measurement.receiver_id,
        measurement.first_sample_index,
    )


def recording_cursor(recording: Recording) -> Cursor:
    """Returns where a page that ends with this recording ended."""
    return (recording.window_start_unix_ns, recording.acquisition_id, recording.receiver_id)


def acquisition_cursor(acquisition: Acquisition) -> Cursor:
    """Returns where a page that ends with this acquisition ended."""
    return (acquisition.create_time.ToNanoseconds(), acquisition.acquisition_id)


def aggregate_cursor(aggregate: MeasurementAggregate) -> Cursor:
    """Returns where a page that ends with this aggregate ended."""
    return (aggregate.bucket_start_time.seconds, aggregate.receiver_id, aggregate.center_frequency_hz)


class WriteCounts(NamedTuple):
    """What became of measurements that were written; the rest was there already."""

    inserted: int
    """Number of measurements that were new."""
    waiting: int = 0
    """Number of measurements that wait on disk for the database."""


def revision_conflict(acquisition_id: str, stored: int, expected: int) -> HeimdallError:
    """Returns the failure of a writer who expects another revision of an acquisition than is stored, 0 for none."""
    is_now = f"is stored at revision {stored}" if stored else "is not stored yet"
    return HeimdallError(
        ErrorReason.ERROR_REASON_REVISION_CONFLICT,
        f"acquisition {acquisition_id} {is_now}, the writer expects revision {expected}; read it and decide again",
        metadata={"acquisition_id": acquisition_id, "stored_revision": stored, "expected_revision": expected},
    )


class MeasurementStore(Protocol):
    """Keeps the rows. What a method has written is durable when it returns; a repeated write changes nothing.

    Every method raises HeimdallError BACKEND_UNAVAILABLE if the database can not be reached, read or written.
    """

    async def watch(self) -> None:
        """Does what has to go on in the background; returns when the store was closed.

        Raises:
            Exception: What a part of it crashed with: nothing is written any more.
        """

    async def write_measurements(self, measurements: Sequence[Measurement]) -> WriteCounts:
        """Stores measurements; the first of the same acquisition, receiver, scope and first index wins.

        Returns:
            How many were new, and how many wait for the database.
        """

    async def query_measurements(
        self, scope: MeasurementScope.ValueType, selected: RowFilter, after: Cursor | None, limit: int
    ) -> list[Measurement]:
        """Returns measurements, newest first.

        Args:
            scope: Summaries or windows.
            selected: What to return.
            after: Cursor of the last measurement of the page before; None for the first page.
            limit: Most measurements to return.
        """

    async def put_recording(self, recording: Recording) -> None:
        """Makes or replaces the row of a recording.

        One that is STORED with samples gives way only to one with the same samples, and if it is complete, only to one
        that is complete too.
        """

    async def get_recording(self, key: RecordingKey) -> Recording | None:
        """Returns a recording; None if there is none."""

    async def list_recordings(self, selected: RowFilter, after: Cursor | None, limit: int) -> list[Recording]:
        """Returns recordings, newest window first; arguments as in `query_measurements`."""

    async def aggregate_measurements(
        self, selected: RowFilter, bucket_hours: int, after: Cursor | None, limit: int
    ) -> list[MeasurementAggregate]:
        """Summarises measurement summaries by bucket, receiver and centre frequency, newest bucket first.

        Args:
            selected: What to summarise: times are full hours, the acquisition is not set.
            bucket_hours: Length of a bucket in hours; buckets begin at multiples of it since 1970.
            after: Cursor of the last aggregate of the page before; None for the first page.
            limit: Most aggregates to return.
        """

    async def put_acquisition(self, acquisition: Acquisition, expected_revision: int) -> bool:
        """Makes or replaces an acquisition that is still at the expected revision; 0 if it must be new.

        A repeat of what is stored already is accepted.

        Returns:
            Whether it waits for the database.

        Raises:
            HeimdallError: REVISION_CONFLICT, with the stored revision in its metadata.
        """

    async def get_acquisition(self, acquisition_id: str) -> Acquisition | None:
        """Returns an acquisition; None if there is none."""

    async def list_acquisitions(
        self, states: Sequence[Acquisition.State.ValueType], after: Cursor | None, limit: int
    ) -> list[Acquisition]:
        """Returns acquisitions in any of these states (all if empty), newest first."""

    async def ping(self) -> None:
        """Returns if the database can be read and written now."""

    async def close(self) -> None:
        """Finishes what is being written and disconnects."""
