"""What only TimescaleDB does: chunks, compression, retention, the materialised aggregate, at intervals as asked for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from heimdall.common.v1.measurement_pb2 import Estimate, Measurement
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.measurements.timescale import TimescaleMeasurements
from tests.contract.storage.messages import EVERYTHING, SUMMARY, T0_UNIX_NS, WINDOW, measurement, recording
from tests.servers.rows import SERVED, RowServer, fresh_database, served

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS


@pytest.fixture(params=[name for name in SERVED if name != "postgres"])
def server(request: pytest.FixtureRequest) -> RowServer:
    return served(request, request.param)


@asynccontextmanager
async def opened(server: RowServer, **values: Any) -> AsyncIterator[TimescaleMeasurements]:
    """Opens a store on a fresh database that has its newest schema."""
    async with fresh_database(server, **values) as settings:
        store = TimescaleMeasurements(settings)
        await store.ping()
        yield store
        await store.close()


async def ask(store: TimescaleMeasurements, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in await store._fetch(query, {})]


async def execute(store: TimescaleMeasurements, statement: str) -> None:
    """Executes a statement that can not be part of a transaction."""
    async with store._connection() as connection:
        await connection._connection.execute(statement)


JOBS = """
    SELECT hypertable_name, proc_name, schedule_interval, config ->> 'compress_after', config ->> 'drop_after',
        config ->> 'start_offset', config ->> 'end_offset'
    FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL ORDER BY 1, 2
"""
NUMBERS = "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL"
CHUNK_LENGTH = "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'measurements'"


async def test_hypertables_and_their_intervals(server: RowServer) -> None:
    intervals = {"chunk_days": 2, "compress_after_days": 5, "retention_days": 20, "aggregate_interval_s": 900}
    async with opened(server, **intervals) as store:
        tables = await ask(store, "SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions")
        jobs = await ask(store, JOBS)
        live = await ask(
            store,
            "SELECT view_name, materialized_only, compression_enabled "
            "FROM timescaledb_information.continuous_aggregates",
        )
        segments = await ask(
            store,
            "SELECT hypertable_name, attname, segmentby_column_index FROM timescaledb_information.compression_settings "
            "ORDER BY 1, 3, orderby_column_index",
        )
    two_days = timedelta(days=2)
    assert {table: length for table, length in tables if not table.startswith("_")} == {
        "measurements": two_days,
        "measurement_windows": two_days,
    }
    assert live == [("measurements_hourly", False, False)]
    facts = {(table, procedure): facts for table, procedure, *facts in jobs}
    for table in ("measurements", "measurement_windows"):
        assert facts[table, "policy_compression"][1] == "5 days"
        assert facts[table, "policy_retention"][2] == "20 days"
    refresh = facts["measurements_hourly", "policy_refresh_continuous_aggregate"]
    assert (refresh[0], refresh[3:]) == (timedelta(minutes=15), ["19 days 23:00:00", "01:00:00"])
    assert len(facts) == 5
    assert [row[:2] for row in segments] == [
        ("measurement_windows", "task_id"),
        ("measurement_windows", "receiver_id"),
        ("measurement_windows", "time"),
        ("measurement_windows", "first_sample_index"),
        ("measurements", "receiver_id"),
        ("measurements", "time"),
        ("measurements", "task_id"),
    ]


async def test_intervals_follow_the_settings_at_the_next_start(server: RowServer) -> None:
    async with fresh_database(server) as settings:
        seen = []
        for values in (
            {"compress_after_days": 5.0, "retention_days": 20.0},
            {"compress_after_days": 5.0, "retention_days": 20.0},
            {"compress_after_days": 6.0, "retention_days": 0.0, "chunk_days": 0.5, "aggregate_interval_s": 60.0},
        ):
            store = TimescaleMeasurements(settings.model_copy(update=values))
            await store.ping()
            numbers = await ask(
                store, "SELECT job_id FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL"
            )
            chunks = (
                "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'measurements'"
            )
            seen.append((await ask(store, JOBS), sorted(numbers), await ask(store, chunks)))
            await store.close()
    assert seen[0] == seen[1]
    jobs, _, chunks_now = seen[2]
    facts = {(table, procedure): facts for table, procedure, *facts in jobs}
    assert facts["measurements", "policy_compression"][1] == "6 days"
    assert ("measurements", "policy_retention") not in facts
    refresh = facts["measurements_hourly", "policy_refresh_continuous_aggregate"]
    assert (refresh[0], refresh[3:]) == (timedelta(minutes=1), [None, "01:00:00"])
    assert chunks_now == [(timedelta(hours=12),)]


CHUNKS = """
    SELECT chunk.hypertable_name, chunk.is_compressed, catalog.status
    FROM timescaledb_information.chunks AS chunk
    JOIN _timescaledb_catalog.chunk AS catalog ON catalog.table_name = chunk.chunk_name
    WHERE chunk.hypertable_name IN ('measurements', 'measurement_windows') ORDER BY chunk.hypertable_name, range_start
"""
COMPRESS = "SELECT compress_chunk(chunk) FROM show_chunks('measurements') AS chunk"
COMPRESS_WINDOWS = "SELECT compress_chunk(chunk) FROM show_chunks('measurement_windows') AS chunk"


async def test_compressed_rows_are_read_and_late_ones_inserted_once(server: RowServer) -> None:
    def windows(tasks: range) -> list[Measurement]:
        return [
            measurement(f"t{task}", scope=WINDOW, first_sample_index=place, first_sample_unix_ns=T0_UNIX_NS + place)
            for task in tasks
            for place in range(3)
        ]

    summaries = [measurement(f"t{task}") for task in range(3)]
    async with opened(server) as store:
        await store.write_measurements(windows(range(3)) + summaries)
        await execute(store, COMPRESS)
        await execute(store, COMPRESS_WINDOWS)
        assert await ask(store, CHUNKS) == [("measurement_windows", True, 1), ("measurements", True, 1)]
        assert (await store.query_measurements(WINDOW, EVERYTHING, None, 100)) == sorted(
            windows(range(3)), key=lambda row: (row.first_sample_unix_ns, row.acquisition_id), reverse=True
        )
        assert (await store.write_measurements(windows(range(3)) + summaries)).inserted == 0
        assert (await store.write_measurements(windows(range(2, 4)))).inserted == 3
        assert (await store.write_measurements([measurement("t4")])).inserted == 1
        await store.put_recording(recording("t0"))
        (stored,) = await ask(store, "SELECT object_key FROM measurements WHERE task_id = 't0'")
        assert stored == ("sessions/t0/rx-1.sigmf-data",)
        counts = "SELECT (SELECT count(*) FROM measurements), (SELECT count(*) FROM measurement_windows)"
        assert await ask(store, counts) == [(4, 12)]


async def test_newer_rows_leave_compressed_chunks_as_they_are(server: RowServer) -> None:
    async with opened(server) as store:
        await store.write_measurements([measurement("old"), measurement("old", scope=WINDOW)])
        await execute(store, COMPRESS)
        await execute(store, COMPRESS_WINDOWS)
        later: dict[str, Any] = {"first_sample_unix_ns": T0_UNIX_NS + 8 * DAY_NS}
        for task in ("old", "new"):
            made = [measurement(task, **later), measurement(task, scope=WINDOW, **later)]
            assert (await store.write_measurements(made)).inserted == 2
        await store.put_recording(recording("old", window_start_unix_ns=T0_UNIX_NS + 8 * DAY_NS))
        assert await ask(store, CHUNKS) == [
            ("measurement_windows", True, 1),
            ("measurement_windows", False, 0),
            ("measurements", True, 1),
            ("measurements", False, 0),
        ]
        assert await ask(store, "SELECT task_id, state FROM measurements ORDER BY time, task_id") == [
            ("old", None),
            ("new", None),
            ("old", "STORED"),
        ]


def varied(task: str, hour: int, value: float) -> Measurement:
    made = measurement(task, f"rx-{hour % 2}", first_sample_unix_ns=T0_UNIX_NS + hour * HOUR_NS)
    for name in ("snr_db", "power_dbfs", "frequency_offset_hz"):
        getattr(made, name).CopyFrom(Estimate(value=value, validity=Estimate.Validity.VALIDITY_VALID))
    return made


async def test_aggregate_is_the_same_before_and_after_it_is_materialised(server: RowServer, tmp_path: Path) -> None:
    made = [varied(f"t{number}", number // 3, 0.37 * number**1.5) for number in range(30)]
    late = varied("late", 4, 99.0)
    embedded = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    async with opened(server) as store:
        await embedded.write_measurements(made)
        await store.write_measurements(made)
        for hours in (1, 3, 24):
            expected = await embedded.aggregate_measurements(EVERYTHING, hours, None, 100)
            assert_alike(await store.aggregate_measurements(EVERYTHING, hours, None, 100), expected)
        await execute(store, "CALL refresh_continuous_aggregate('measurements_hourly', NULL, NULL)")
        for hours in (1, 3, 24):
            expected = await embedded.aggregate_measurements(EVERYTHING, hours, None, 100)
            assert_alike(await store.aggregate_measurements(EVERYTHING, hours, None, 100), expected)
        # What is newer than the last refresh is summarised when asked, what is older at the next one.
        newer = varied("newer", 1000, 5.0)
        await store.write_measurements([newer, late])
        await embedded.write_measurements([newer])
        expected = await embedded.aggregate_measurements(EVERYTHING, 1, None, 100)
        assert_alike(await store.aggregate_measurements(EVERYTHING, 1, None, 100), expected)
        await execute(store, "CALL refresh_continuous_aggregate('measurements_hourly', NULL, NULL)")
        await embedded.write_measurements([late])
        expected = await embedded.aggregate_measurements(EVERYTHING, 1, None, 100)
        assert_alike(await store.aggregate_measurements(EVERYTHING, 1, None, 100), expected)
    await embedded.close()


def assert_alike(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert (one.bucket_start_time, one.receiver_id, one.measurement_count) == (
            other.bucket_start_time,
            other.receiver_id,
            other.measurement_count,
        )
        for name in ("snr_db", "power_dbfs", "frequency_offset_hz", "power_dbm"):
            numbers = [
                [getattr(quantity, part) for part in ("value_count", "mean", "standard_deviation", "min", "max")]
                for quantity in (getattr(one, name), getattr(other, name))
            ]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)


async def test_old_rows_are_deleted_and_what_they_were_summarised_to_is_kept(server: RowServer) -> None:
    async with opened(server, retention_days=20) as store:
        recent = measurement("recent", first_sample_unix_ns=time.time_ns() - HOUR_NS)
        await store.write_measurements([varied("old", 0, 7.0), recent])
        await execute(store, "CALL refresh_continuous_aggregate('measurements_hourly', NULL, NULL)")
        for (number,) in await ask(
            store, "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
        ):
            await execute(store, f"CALL run_job({number})")
        assert await store.query_measurements(SUMMARY, EVERYTHING, None, 10) == [recent]
        found = await store.aggregate_measurements(EVERYTHING, 1, None, 10)
        assert [one.measurement_count for one in found] == [1, 1]
        assert found[1].snr_db.mean == pytest.approx(7.0)
        (job,) = await ask(
            store,
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_refresh_continuous_aggregate'",
        )
        await execute(store, f"CALL run_job({job[0]})")
        assert len(await store.aggregate_measurements(EVERYTHING, 1, None, 10)) == 2
