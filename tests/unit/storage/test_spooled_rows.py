"""Rows while the database is away: accepted, waiting, replayed in order and once; dead letters; what can be read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import TimeSource
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import WriteMeasurementsRequest
from storage_svc.ids import RecordingKey
from storage_svc.measurements import RowFilter, WriteCounts, spooled
from storage_svc.measurements.row_spool import ROW_SPOOL, RowSpool
from storage_svc.measurements.spooled import SpooledMeasurements
from storage_svc.measurements.sqlite import SqliteMeasurements

SUMMARY = MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
WINDOW = MeasurementScope.MEASUREMENT_SCOPE_WINDOW
AWAY = ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
CONFLICT = ErrorReason.ERROR_REASON_REVISION_CONFLICT
EVERYTHING = RowFilter()
KEY = RecordingKey("task-1", "rx-1")


class Switched:
    """A real database behind a switch, which notes every write that it takes."""

    def __init__(self, rows: SqliteMeasurements) -> None:
        self._rows = rows
        self.answering = asyncio.Event()
        self.answering.set()
        self.refusing: Callable[[Any], Exception | None] = lambda _: None
        """Returns what the database says to a write, if it does not take it."""
        self.taken: list[Any] = []
        self.asked_count = 0

    @property
    def is_away(self) -> bool:
        return self.refusing("anything") is not None

    @is_away.setter
    def is_away(self, away: bool) -> None:
        failure = HeimdallError(AWAY, "connection refused")
        self.refusing = (lambda _: failure) if away else (lambda _: None)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._rows, name)
        if name in ("close", "watch"):
            return method

        async def call(*arguments: Any) -> Any:
            self.asked_count += 1
            await self.answering.wait()
            failure = self.refusing(arguments[0] if arguments else None)
            if failure is not None:
                raise failure
            answer = await method(*arguments)
            if name.startswith(("put_", "write_")):
                self.taken.append(arguments[0])
            return answer

        return call


@asynccontextmanager
async def rows_in(
    folder: Path, *, watching: bool = True, max_bytes: int = 1 << 30
) -> AsyncIterator[tuple[SpooledMeasurements, Switched]]:
    inner: Any = Switched(await SqliteMeasurements.open(folder / "rows.sqlite3"))
    rows = SpooledMeasurements(inner, await RowSpool.open(folder / ROW_SPOOL, max_bytes))
    watch = asyncio.create_task(rows.watch()) if watching else None
    try:
        yield rows, inner
    finally:
        inner.answering.set()
        await rows.close()
        if watch is not None:
            async with asyncio.timeout(10):
                await watch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(spooled, "_LONGEST_PAUSE_S", 0.02)


def window(index: int, *, task: str = "task-1", **values: Any) -> Measurement:
    return Measurement(
        acquisition_id=task,
        receiver_id="rx-1",
        scope=WINDOW,
        first_sample_index=index,
        first_sample_unix_ns=1_700_000_000_000_000_000 + index,
        sample_count=1,
        sample_rate_hz=12_000.0,
        time_source=TimeSource.TIME_SOURCE_GNSS,
        **values,
    )


def recording(state: Recording.State.ValueType, **values: Any) -> Recording:
    return Recording(acquisition_id="task-1", receiver_id="rx-1", state=state, window_start_unix_ns=7, **values)


def acquisition(revision: int, task: str = "task-1", **values: Any) -> Acquisition:
    return Acquisition(acquisition_id=task, revision=revision, state=Acquisition.STATE_ACCEPTED, **values)


async def up(rows: SpooledMeasurements) -> None:
    """Waits until the database can be used and has everything."""
    async with asyncio.timeout(10):
        while True:
            try:
                await rows.ping()
            except HeimdallError:
                await asyncio.sleep(0.005)
            else:
                return


async def indices(rows: SpooledMeasurements) -> list[int]:
    found = await rows.query_measurements(WINDOW, EVERYTHING, None, 1000)
    return sorted(measurement.first_sample_index for measurement in found)


async def refusal_of(call: Any) -> HeimdallError:
    with pytest.raises(HeimdallError) as caught:
        await call
    return caught.value


async def test_nothing_waits_while_the_database_is_there(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        assert await rows.write_measurements([window(0), window(1)]) == WriteCounts(2, 0)
        assert await rows.write_measurements([window(1), window(2)]) == WriteCounts(1, 0)
        assert await rows.put_acquisition(acquisition(1), 0) is False
        await rows.put_recording(recording(Recording.STATE_WRITING))
        assert await indices(rows) == [0, 1, 2]
        assert len(inner.taken) == 4


async def test_rows_wait_and_follow_in_order_and_once(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        assert await rows.write_measurements([window(0), window(1)]) == WriteCounts(0, 2)
        await rows.put_recording(recording(Recording.STATE_WRITING))
        assert await rows.put_acquisition(acquisition(1), 0) is True
        await rows.put_recording(recording(Recording.STATE_STORED))
        assert await rows.put_acquisition(acquisition(2), 1) is True
        assert await rows.write_measurements([window(1), window(2)]) == WriteCounts(0, 2)
        inner.is_away = False
        await up(rows)
        assert inner.taken == [
            [window(0), window(1)],
            recording(Recording.STATE_WRITING),
            acquisition(1),
            recording(Recording.STATE_STORED),
            acquisition(2),
            [window(1), window(2)],
        ]
        assert await indices(rows) == [0, 1, 2]
        assert await rows.get_acquisition("task-1") == acquisition(2)
        assert await rows.write_measurements([window(3)]) == WriteCounts(1, 0)


async def test_rows_that_could_not_be_removed_are_fed_again_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, failures = RowSpool.remove, 3

    async def failing(spool: RowSpool, *arguments: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise HeimdallError(ErrorReason.ERROR_REASON_SPOOL_FULL, "the disk is full")
        await remove(spool, *arguments)

    monkeypatch.setattr(RowSpool, "remove", failing)
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        await rows.put_acquisition(acquisition(1), 0)
        await rows.write_measurements([window(0), window(1)])
        inner.is_away = False
        await up(rows)
        assert inner.taken == [acquisition(1)] * 4 + [[window(0), window(1)]]
        assert rows._spool.dead_letter_count == 0
        assert await indices(rows) == [0, 1]


async def test_rows_of_before_a_restart_go_before_those_after_it(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        await rows.write_measurements([window(0)])
    async with rows_in(tmp_path, watching=False) as (rows, inner):
        # The database is back; but something waits.
        assert await rows.write_measurements([window(1)]) == WriteCounts(0, 1)
        assert inner.taken == []
    async with rows_in(tmp_path) as (rows, inner):
        await up(rows)
        assert inner.taken == [[window(0), window(1)]]


async def test_measurements_of_several_acquisitions_wait_for_each(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        mixed = [window(0), window(0, task="task-2"), window(1)]
        assert await rows.write_measurements(mixed) == WriteCounts(0, 3)
        for task_id in ("task-1", "task-2"):
            refused = await refusal_of(rows.query_measurements(WINDOW, RowFilter(task_id=task_id), None, 10))
            assert refused.metadata["waiting_count"] == "3"
        inner.is_away = False
        await up(rows)
        assert await indices(rows) == [0, 0, 1]


async def test_reads_that_would_lack_rows_are_refused_with_their_number(tmp_path: Path) -> None:
    async with rows_in(tmp_path, watching=False) as (rows, inner):
        await rows.write_measurements([window(0, task="task-2")])
        await rows.put_acquisition(acquisition(1, "task-2"), 0)
        await rows.put_recording(recording(Recording.STATE_WRITING))
        inner.is_away = True
        await rows.write_measurements([window(0), window(1)])
        inner.is_away = False
        refused = await refusal_of(rows.query_measurements(WINDOW, EVERYTHING, None, 10))
        assert (refused.reason, refused.metadata["waiting_count"]) == (AWAY, "2")
        assert refused.retry_delay_s == 2
        for read in (
            rows.query_measurements(WINDOW, RowFilter(task_id="task-1"), None, 10),
            rows.aggregate_measurements(EVERYTHING, 1, None, 10),
            rows.ping(),
        ):
            assert (await refusal_of(read)).metadata["waiting_count"] == "2"
        # These lack nothing.
        assert len(await rows.query_measurements(WINDOW, RowFilter(task_id="task-2"), None, 10)) == 1
        assert len(await rows.list_recordings(EVERYTHING, None, 10)) == 1
        assert len(await rows.list_acquisitions([], None, 10)) == 1
        await rows.put_recording(recording(Recording.STATE_STORED))
        await rows.put_acquisition(acquisition(1), 0)
        assert (await refusal_of(rows.list_recordings(EVERYTHING, None, 10))).reason == AWAY
        assert (await refusal_of(rows.list_acquisitions([], None, 10))).reason == AWAY


async def test_what_was_put_last_is_what_is_read(tmp_path: Path) -> None:
    async with rows_in(tmp_path, watching=False) as (rows, inner):
        await rows.put_recording(recording(Recording.STATE_WRITING))
        await rows.put_acquisition(acquisition(1), 0)
        await rows.put_acquisition(acquisition(1, "task-2"), 0)
        inner.is_away = True
        await rows.put_recording(recording(Recording.STATE_SPOOLED))
        await rows.put_recording(recording(Recording.STATE_STORED))
        await rows.put_acquisition(acquisition(2), 1)
        assert await rows.get_recording(KEY) == recording(Recording.STATE_STORED)
        assert await rows.get_acquisition("task-1") == acquisition(2)
        assert (await refusal_of(rows.get_acquisition("task-2"))).message == "connection refused"
        inner.is_away = False
        assert await rows.get_acquisition("task-2") == acquisition(1, "task-2")
        assert await rows.get_recording(RecordingKey("task-1", "rx-2")) is None


async def test_revision_is_checked_against_what_waits(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        assert await rows.put_acquisition(acquisition(3), 0) is True
        # A repeat changes nothing, whatever revision it expects.
        for expected in (0, 3, 5):
            assert await rows.put_acquisition(acquisition(3), expected) is True
        refused = await refusal_of(rows.put_acquisition(acquisition(4), 2))
        assert (refused.reason, refused.metadata["stored_revision"]) == (CONFLICT, "3")
        assert await rows.put_acquisition(acquisition(4), 3) is True
        inner.is_away = False
        await up(rows)
        assert inner.taken == [acquisition(3), acquisition(4)]


async def test_recording_that_is_put_again_and_again_waits_once(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        for _ in range(5):
            await rows.put_recording(recording(Recording.STATE_STORED))
        assert (await refusal_of(rows.list_recordings(EVERYTHING, None, 1))).metadata["waiting_count"] == "1"
        inner.is_away = False
        await up(rows)
        assert inner.taken == [recording(Recording.STATE_STORED)]


async def test_what_the_database_refuses_holds_up_nothing(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with rows_in(tmp_path) as (rows, inner):
            await rows.put_acquisition(acquisition(5), 0)
            inner.is_away = True
            before_unix_ns = time.time_ns()
            await rows.write_measurements([window(number) for number in range(4)])
            after_unix_ns = time.time_ns()
            await rows.put_acquisition(acquisition(2), 1)
            await rows.put_recording(recording(Recording.STATE_STORED))

            def bad(value: Any) -> Exception | None:
                rows = value if isinstance(value, list) else []
                return LookupError("no such column") if any(row.first_sample_index == 2 for row in rows) else None

            inner.refusing = bad
            await up(rows)
            assert await indices(rows) == [0, 1, 3]
            assert await rows.get_recording(KEY) == recording(Recording.STATE_STORED)
            assert await rows.get_acquisition("task-1") == acquisition(5)
    file = sqlite3.connect(tmp_path / ROW_SPOOL)
    query = "SELECT kind, receiver_id, row_count, reason, detail, message FROM dead_letters ORDER BY number"
    (kind, *facts, message), (*conflict, detail, _) = file.execute(query)
    ((accepted_unix_ns, refused_unix_ns), _) = file.execute(
        "SELECT accepted_unix_ns, refused_unix_ns FROM dead_letters ORDER BY number"
    )
    file.close()
    assert (kind, *facts) == ("measurements", "rx-1", 1, "INTERNAL", "LookupError: no such column")
    assert list(WriteMeasurementsRequest.FromString(message).measurements) == [window(2)]
    # Taken out alone, it was still accepted with the others.
    assert before_unix_ns <= accepted_unix_ns <= after_unix_ns < refused_unix_ns
    assert conflict == ["acquisition", "", 1, "REVISION_CONFLICT"]
    assert "is stored at revision 5" in detail
    told = [line for line in logs if line["event"].startswith("dead_letter")]
    assert [(line["event"], line.get("reason"), line.get("count")) for line in told] == [
        ("dead_letter", "INTERNAL", None),
        ("dead_letters", None, 1),
        ("dead_letter", "REVISION_CONFLICT", None),
        ("dead_letters", None, 2),
    ]


def too_slow(value: Any, most_rows: int) -> Exception | None:
    """What a database says that can not take so many rows within its timeout."""
    is_large = isinstance(value, list) and len(value) > most_rows
    return HeimdallError(AWAY, "canceling statement due to statement timeout") if is_large else None


async def test_runs_that_take_too_long_are_halved_until_the_database_takes_them(tmp_path: Path) -> None:
    states = [Recording.STATE_WRITING, Recording.STATE_SPOOLED, Recording.STATE_STORED]
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        expected: list[Any] = []
        for turn, state in enumerate(states):
            windows = [window(index) for index in range(turn * 60, (turn + 1) * 60)]
            # One of many rows, and many of one.
            await rows.write_measurements(windows[:40])
            for row in windows[40:]:
                await rows.write_measurements([row])
            await rows.put_recording(recording(state))
            expected += [*windows, recording(state)]
        inner.refusing = lambda value: too_slow(value, 7)
        await up(rows)
        assert await indices(rows) == list(range(180))
        assert await rows.get_recording(KEY) == recording(states[-1])
        assert max(len(value) for value in inner.taken if isinstance(value, list)) == 7
        # An entry that fails in the middle is repeated; nothing goes before what waited longer.
        arrived: list[Any] = []
        for value in inner.taken:
            arrived += [row for row in (value if isinstance(value, list) else [value]) if row not in arrived]
        assert arrived == expected
        assert rows._spool.dead_letter_count == 0


async def test_runs_grow_again_while_the_database_takes_them(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        await rows.write_measurements([window(0, task=f"task-{number}") for number in range(10_000)])
        asked_count = inner.asked_count
        async with asyncio.timeout(10):
            while inner.asked_count < asked_count + 12:  # noqa: ASYNC110 (nothing announces it here)
                await asyncio.sleep(0.005)
        inner.is_away = False
        await up(rows)
    sizes = [len(value) for value in inner.taken]
    assert sizes[:36] == [size for size in (1, 3, 7, 15, 31, 62, 125, 250, 500) for _ in range(4)]
    assert sizes[36:] == [1000] * 6 + [24]


async def test_entry_of_more_rows_than_a_run_is_fed_in_parts(tmp_path: Path) -> None:
    async with rows_in(tmp_path, watching=False) as (rows, inner):
        inner.is_away = True
        await rows.write_measurements([window(index) for index in range(2500)])
    async with rows_in(tmp_path) as (rows, inner):
        await up(rows)
        assert [len(value) for value in inner.taken] == [1000, 1000, 500]
        assert [row.first_sample_index for value in inner.taken for row in value] == list(range(2500))


async def test_rows_of_many_bytes_are_fed_in_fewer(tmp_path: Path) -> None:
    large = [window(index) for index in range(20)]
    for row in large:
        row.spectrum.power_dbfs_per_hz.extend([1.0] * 16_000)
    most_bytes, failure = 4 * large[1].ByteSize(), HeimdallError(AWAY, "no answer in time")
    refused_count = 0

    def slow_line(value: Any) -> Exception | None:
        nonlocal refused_count
        is_large = isinstance(value, list) and sum(row.ByteSize() for row in value) > most_bytes
        refused_count += is_large
        return failure if is_large else None

    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        await rows.write_measurements(large)
        inner.refusing = slow_line
        await up(rows)
        assert await indices(rows) == list(range(20))
    # 4 MiB are the first run; a sixteenth of that holds four of them.
    assert refused_count <= 4
    assert max(len(value) for value in inner.taken) >= 3


async def test_entry_of_which_a_part_was_taken_waits_whole(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        await rows.write_measurements([window(index) for index in range(10)])
        goes_away = False

        def fails(value: Any) -> Exception | None:
            nonlocal goes_away
            held = [row.first_sample_index for row in value] if isinstance(value, list) else []
            if 2 in held and len(held) <= 3:
                return LookupError("no such column")
            goes_away |= 6 in held and len(held) <= 3
            return HeimdallError(AWAY, "connection refused") if goes_away else too_slow(value, 3)

        inner.refusing = fails
        async with asyncio.timeout(10):
            while not goes_away:  # noqa: ASYNC110 (nothing announces it here)
                await asyncio.sleep(0.005)
        assert await inner._rows.query_measurements(WINDOW, EVERYTHING, None, 100) != []
        assert (rows._spool.waiting_count, rows._spool.dead_letter_count) == (10, 0)
    async with rows_in(tmp_path) as (rows, inner):
        inner.refusing = lambda value: (
            LookupError("no such column")
            if isinstance(value, list) and any(row.first_sample_index == 2 for row in value)
            else too_slow(value, 3)
        )
        await up(rows)
        assert await indices(rows) == [0, 1, 3, 4, 5, 6, 7, 8, 9]
        assert (rows._spool.waiting_count, rows._spool.dead_letter_count) == (0, 1)


async def test_what_the_command_line_retries_is_replayed(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        file = sqlite3.connect(tmp_path / ROW_SPOOL)
        message = recording(Recording.STATE_STORED).SerializeToString()
        file.execute("INSERT INTO waiting VALUES (NULL, 1, 'recording', 'task-1', 'rx-1', 1, ?)", [message])
        file.commit()
        file.close()
        with pytest.raises(HeimdallError, match="1 rows wait"):
            await rows.ping()
        await up(rows)
        assert inner.taken == [recording(Recording.STATE_STORED)]


async def test_repeat_of_what_the_database_has_already_is_no_dead_letter(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        # They were stored, and the answer was lost.
        await rows._inner.put_acquisition(acquisition(1), 0)
        await rows._inner.write_measurements([window(0)])
        inner.is_away = True
        await rows.put_acquisition(acquisition(1), 0)
        await rows.write_measurements([window(0), window(1)])
        inner.is_away = False
        await up(rows)
        assert rows._spool.dead_letter_count == 0
        assert await indices(rows) == [0, 1]


async def test_hanging_database_counts_as_away_and_its_late_answer_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "_WRITE_PATIENCE_S", 0.05)
    async with rows_in(tmp_path) as (rows, inner):
        inner.answering.clear()
        async with asyncio.timeout(10):
            assert await rows.put_acquisition(acquisition(1), 0) is True
            assert await rows.put_acquisition(acquisition(2), 1) is True
            assert await rows.write_measurements([window(0)]) == WriteCounts(0, 1)
        inner.answering.set()
        await up(rows)
        # The first came late by itself, before the replay repeated it.
        assert inner.taken == [acquisition(1), acquisition(1), acquisition(2), [window(0)]]
        assert rows._spool.dead_letter_count == 0


async def test_look_for_one_row_does_not_hang_with_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "_LOOK_UP_PATIENCE_S", 0.05)
    async with rows_in(tmp_path) as (rows, inner):
        inner.answering.clear()
        async with asyncio.timeout(10):
            for look in (rows.get_recording(KEY), rows.get_acquisition("task-1")):
                refused = await refusal_of(look)
                assert (refused.reason, refused.message) == (AWAY, "the database gave no answer within 0.05 s")
        inner.answering.set()
        assert await rows.get_recording(KEY) is None


async def test_replay_waits_for_what_was_written_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "_WRITE_PATIENCE_S", 0.05)
    async with rows_in(tmp_path) as (rows, inner):
        inner.answering.clear()
        await rows.put_recording(recording(Recording.STATE_WRITING))
        # The database works again, but that one write still hangs in it.
        inner.answering, hanging = asyncio.Event(), inner.answering
        inner.answering.set()
        await rows.put_recording(recording(Recording.STATE_STORED))
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await up(rows)
        finally:
            hanging.set()
        await up(rows)
        assert inner.taken[-1] == recording(Recording.STATE_STORED)
        assert await rows.get_recording(KEY) == recording(Recording.STATE_STORED)


async def test_state_is_not_stored_while_the_one_before_it_may_still_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "_WRITE_PATIENCE_S", 0.2)
    async with rows_in(tmp_path) as (rows, inner):
        inner.answering.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rows.put_recording(recording(Recording.STATE_WRITING)))
            while not inner.asked_count:  # noqa: ASYNC110 (the task group has no deadline of its own; pytest has)
                await asyncio.sleep(0)
            # The database works again, but that first write still hangs in it.
            inner.answering, hanging = asyncio.Event(), inner.answering
            inner.answering.set()
            tasks.create_task(rows.put_recording(recording(Recording.STATE_STORED)))
        hanging.set()
        await up(rows)
        assert await rows.get_recording(KEY) == recording(Recording.STATE_STORED)


async def test_caller_that_does_not_wait_for_a_hanging_database_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooled, "_WRITE_PATIENCE_S", 0.2)
    async with rows_in(tmp_path) as (rows, inner):
        inner.answering.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await rows.write_measurements([window(0)])
        async with asyncio.timeout(10):
            while not rows._spool.waiting_count:  # noqa: ASYNC110 (nothing announces it here)
                await asyncio.sleep(0.005)
            assert await rows.write_measurements([window(1)]) == WriteCounts(0, 1)
        inner.answering.set()
        await up(rows)
        assert await indices(rows) == [0, 1]


async def test_full_spool_refuses_writes_until_the_database_is_back(tmp_path: Path) -> None:
    async with rows_in(tmp_path, max_bytes=256 * 1024) as (rows, inner):
        inner.is_away = True
        accepted, refusal = 0, None
        while refusal is None:
            try:
                await rows.write_measurements([window(accepted + number) for number in range(100)])
                accepted += 100
            except HeimdallError as error:
                refusal = error
        assert (refusal.reason, refusal.retry_delay_s) == (ErrorReason.ERROR_REASON_SPOOL_FULL, 10)
        assert accepted >= 1000
        inner.is_away = False
        await up(rows)
        for first in range(0, accepted, 1000):
            selected = RowFilter(start_unix_ns=window(first).first_sample_unix_ns)
            found = await rows.query_measurements(WINDOW, selected, None, accepted)
            assert len(found) == accepted - first
        assert await rows.write_measurements([window(accepted)]) == WriteCounts(1, 0)


async def test_room_of_what_was_replayed_is_given_back(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        inner.is_away = True
        for index in range(90):
            large = window(index)
            large.spectrum.power_dbfs_per_hz.extend([float(index)] * 16_000)
            await rows.write_measurements([large])
        inner.is_away = False
        await up(rows)
        assert await indices(rows) == list(range(90))
        async with asyncio.timeout(10):
            while (tmp_path / ROW_SPOOL).stat().st_size > 1024 * 1024:  # noqa: ASYNC110 (nothing announces it here)
                await asyncio.sleep(0.01)


async def test_refusal_of_a_database_that_is_there_goes_to_the_caller(tmp_path: Path) -> None:
    async with rows_in(tmp_path) as (rows, inner):
        await rows.put_acquisition(acquisition(5), 0)
        assert (await refusal_of(rows.put_acquisition(acquisition(7), 6))).reason == CONFLICT
        inner.refusing = lambda _: LookupError("a fault of ours")
        with pytest.raises(LookupError):
            await rows.write_measurements([window(0)])
        inner.is_away = False
        await rows.ping()


async def test_number_that_waits_is_logged_when_it_begins_and_ends(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with rows_in(tmp_path) as (rows, inner):
            inner.is_away = True
            for number in range(20):
                await rows.write_measurements([window(number)])
            inner.is_away = False
            await up(rows)
    lines = [line for line in logs if line["event"].startswith("rows_")]
    assert [line["event"] for line in lines] == ["rows_waiting", "rows_replayed"]
    assert lines[0]["cause"] == "connection refused"
    assert [line["count"] for line in lines] == [1, 20]


async def test_crash_of_the_database_writer_is_told(tmp_path: Path) -> None:
    inner: Any = Switched(await SqliteMeasurements.open(tmp_path / "rows.sqlite3"))
    rows = SpooledMeasurements(inner, await RowSpool.open(tmp_path / ROW_SPOOL, 1 << 30))
    watch = asyncio.create_task(rows.watch())
    await asyncio.sleep(0)
    await inner._rows._writer._connection.close()
    assert await rows.write_measurements([window(0)]) == WriteCounts(0, 1)
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="no active connection"):
            await watch
    await rows._spool.close()
    await inner._rows._reader.close()
