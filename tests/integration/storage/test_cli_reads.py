"""The commands that read from storage, as processes against a real service."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import signal
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from heimdall.common.v1.iq_pb2 import TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement, MeasurementScope
from tests.e2e.faults.bench import until
from tests.e2e.faults.relay import Conduct, Relay
from tests.integration.storage.commands import Commands, commands_in

FIRST_UNIX_NS = 1_700_000_000_123_456_789
SUMMARY, WINDOW = MeasurementScope.MEASUREMENT_SCOPE_SUMMARY, MeasurementScope.MEASUREMENT_SCOPE_WINDOW


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    async with commands_in(tmp_path) as made:
        yield made


def measurement(place: int, scope: MeasurementScope.ValueType = SUMMARY, **values: Any) -> Measurement:
    made = Measurement(
        acquisition_id=f"task-{place}" if scope == SUMMARY else "task-0",
        receiver_id="rx-1",
        scope=scope,
        first_sample_index=place,
        first_sample_unix_ns=FIRST_UNIX_NS + place,
        sample_count=36_000,
        lost_sample_count=place,
        center_frequency_hz=145.5e6 + place,
        sample_rate_hz=12_000.25,
        time_source=TimeSource.TIME_SOURCE_GNSS,
    )
    for name, value in values.items():
        getattr(made, name).CopyFrom(value)
    return made


def valid(value: float, **values: Any) -> Estimate:
    return Estimate(value=value, validity=Estimate.VALIDITY_VALID, **values)


EXAMPLE = [
    measurement(
        0,
        snr_db=valid(1 / 3, sigma=0.1, method="quantile-0.25"),
        power_dbfs=valid(-40.25),
        frequency_offset_hz=valid(-12.5, sigma=0.003),
    ),
    measurement(
        1,
        snr_db=Estimate(value=-3.5, validity=Estimate.VALIDITY_UPPER_LIMIT, reason="BELOW_THRESHOLD"),
        power_dbm=Estimate(validity=Estimate.VALIDITY_ABSENT, reason='NO "CALIBRATION", none'),
    ),
]


def as_text(table: pa.Table) -> list[dict[str, str]]:
    """Returns the rows as CSV has them, by pyarrow's and Python's own conversions."""
    rows = []
    # A datetime of Python has no nanoseconds.
    place = table.column_names.index("time")
    for row in table.set_column(place, "time", table["time"].cast(pa.int64())).to_pylist():
        first_ns = row["first_sample_unix_ns"]
        assert row["time"] == first_ns
        row["time"] = f"{datetime.fromtimestamp(first_ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{first_ns % 10**9:09d}Z"
        rows.append({name: "" if value is None else str(value) for name, value in row.items()})
    return rows


async def test_every_format_has_the_same_rows_with_the_names_of_the_database(commands: Commands) -> None:
    await commands.store(*EXAMPLE, measurement(7, WINDOW))
    printed, arrow_path, parquet_path = await asyncio.gather(
        commands.run("measurements", "export"),
        commands.export("all.arrow", "--format", "arrow"),
        commands.export("all.parquet", "--format", "parquet"),
    )
    assert (printed.status, printed.err) == (0, "2 rows\n")
    newest, oldest = csv.DictReader(io.StringIO(printed.out))
    assert (
        oldest
        | {
            "time": "2023-11-14T22:13:20.123456789Z",
            "task_id": "task-0",
            "receiver_id": "rx-1",
            "first_sample_index": "0",
            "first_sample_unix_ns": "1700000000123456789",
            "frequency_hz": "145500000.0",
            "sample_rate_hz": "12000.25",
            "sample_count": "36000",
            "lost_sample_count": "0",
            "duration_s": "2.9999375013020564",
            "snr_db": "0.3333333333333333",
            "snr_db_validity": "VALID",
            "power_dbfs": "-40.25",
            "frequency_offset_hz": "-12.5",
            "frequency_offset_sigma_hz": "0.003",
            "power_dbm": "",
            "power_dbm_validity": "",
            "time_source": "GNSS",
        }
        == oldest
    )
    assert (newest["snr_db"], newest["snr_db_validity"]) == ("-3.5", "UPPER_LIMIT")
    assert (newest["power_dbm"], newest["power_dbm_validity"]) == ("", "ABSENT")
    assert json.loads(newest["estimate_details"]) == {
        "snr_db": {"validity": "UPPER_LIMIT", "reason": "BELOW_THRESHOLD"},
        "power_dbm": {"validity": "ABSENT", "reason": 'NO "CALIBRATION", none'},
    }
    for table in (feather.read_table(arrow_path), parquet.read_table(parquet_path)):
        assert table.column_names == list(newest)
        assert as_text(table) == [newest, oldest]
        types = {field.name: field.type for field in table.schema}
        assert types["time"] == pa.timestamp("ns", tz="UTC")
        assert types["first_sample_unix_ns"] == types["sample_count"] == pa.int64()
        assert types["frequency_hz"] == types["snr_db"] == types["power_dbm"] == pa.float64()
        assert types["task_id"] == types["estimate_details"] == types["snr_db_validity"] == pa.string()
        assert table["power_dbm"].null_count == 2
        assert table["snr_db"].null_count == 0
    names = {field.name for field in Measurement.DESCRIPTOR.fields if field.message_type == Estimate.DESCRIPTOR}
    assert names <= set(newest)


async def test_columns_and_values_are_those_of_the_database(commands: Commands) -> None:
    """Whoever reads the tables with SQL and whoever reads an export talk of the same numbers."""
    await commands.store(*EXAMPLE)
    printed = await commands.run("measurements", "export")
    database = sqlite3.connect(commands.folder / "storage" / "heimdall.sqlite3")
    database.row_factory = sqlite3.Row
    rows = [dict(row) for row in database.execute("SELECT * FROM measurements ORDER BY first_sample_unix_ns DESC")]
    database.close()
    exported = list(csv.DictReader(io.StringIO(printed.out)))
    shared = set(rows[0]) & set(exported[0])
    assert set(rows[0]) - shared == {"spectrum", "products", "object_key", "state"}
    assert all(name.endswith("_validity") for name in set(exported[0]) - shared)
    for row, line in zip(rows, exported, strict=True):
        assert {name: "" if row[name] is None else str(row[name]) for name in shared} == {
            name: line[name] for name in shared
        }


async def test_filters_and_windows_select_what_is_exported(commands: Commands) -> None:
    await commands.store(
        *(measurement(place) for place in range(5)), *(measurement(place, WINDOW) for place in range(3))
    )

    async def places(*arguments: str) -> list[int]:
        printed = await commands.run("measurements", "export", *arguments)
        return [int(row["first_sample_index"]) for row in csv.DictReader(io.StringIO(printed.out))]

    band, windows, recent, nothing = await asyncio.gather(
        places("--frequency", "145500002", "--tolerance", "1"),
        places("--windows"),
        places("--last", "30min"),
        commands.export("none.parquet", "--format", "parquet", "--last", "30min"),
    )
    assert (band, windows, recent) == ([3, 2, 1], [2, 1, 0], [])
    empty = parquet.read_table(nothing)
    assert empty.num_rows == 0
    assert empty.schema.field("time").type == pa.timestamp("ns", tz="UTC")


@pytest.mark.parametrize(("end", "table_format"), [("interrupted", "parquet"), ("cut off", "csv")])
async def test_an_export_that_ends_early_leaves_the_file_as_it_was(
    commands: Commands, end: str, table_format: str
) -> None:
    await commands.store(*(measurement(place, WINDOW) for place in range(2000)))
    path = commands.folder / "windows.out"
    path.write_text("of yesterday")
    async with Relay() as relay:
        relay.forward_to(commands.target)
        # There are hundreds of kilobytes.
        relay.conduct(down=Conduct(bytes_per_s=5000))
        process = await commands.start(
            *("measurements", "export", "--windows", "--format", table_format, "--output", path.name),
            target=relay.target,
        )
        try:
            await until(lambda: relay.open_count > 0 and any(commands.folder.glob(".windows.out.*.partial")))
            if end == "interrupted":
                process.send_signal(signal.SIGINT)
            else:
                relay.refuse()
                relay.reset()
            async with asyncio.timeout(20):
                _, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 1
    (line,) = err.decode().strip().splitlines()
    assert line.startswith("error: interrupted" if end == "interrupted" else "error: SERVICE_UNAVAILABLE: storage")
    assert path.read_text() == "of yesterday"
    assert {found.name for found in commands.folder.iterdir()} == {"storage", "windows.out"}


async def test_without_pyarrow_csv_works_and_the_others_say_what_to_install(commands: Commands) -> None:
    hidden = commands.folder / "hidden"
    hidden.mkdir()
    (hidden / "pyarrow.py").write_text("raise ImportError('not installed')\n")
    await commands.store(measurement(0))
    wanted = ("measurements", "export", "--output", "table", "--format")
    refused, fine = await asyncio.gather(
        commands.run(*wanted, "parquet", PYTHONPATH=str(hidden)),
        commands.run("measurements", "export", PYTHONPATH=str(hidden)),
    )
    assert refused.status == 1
    assert refused.err == (
        "error: parquet needs pyarrow, which is not installed; install it with pip install 'heimdall-radio[export]', "
        "or export csv\n"
    )
    assert {found.name for found in commands.folder.iterdir()} == {"storage", "hidden"}
    assert (fine.status, len(fine.out.splitlines())) == (0, 2)


async def test_the_word_list_may_be_left_out(commands: Commands) -> None:
    await commands.store(measurement(0), measurement(1))
    short, long = await asyncio.gather(
        commands.run("measurements", "--limit", "1", "--json"),
        commands.run("measurements", "list", "--limit", "1", "--json"),
    )
    assert short == long
    assert json.loads(short.out)["acquisitionId"] == "task-1"


async def test_aggregates_are_of_whole_buckets_and_say_so(commands: Commands) -> None:
    """Three measurements of 22:13 UTC and one two hours later; expected values are worked out by hand."""
    later_ns = FIRST_UNIX_NS + 2 * 3600 * 10**9
    example = [measurement(place, snr_db=valid(db)) for place, db in enumerate([10.0, 20.0])]
    example += [measurement(2, snr_db=Estimate(value=50.0, validity=Estimate.VALIDITY_UPPER_LIMIT)), measurement(3)]
    for made in example:
        made.center_frequency_hz = 145.5e6
    example[3].first_sample_unix_ns = later_ns
    await commands.store(*example)
    hours, day, table, refused = await asyncio.gather(
        commands.run("measurements", "aggregate", "--json"),
        commands.run(*("measurements", "aggregate", "--json", "--bucket", "1d", "--since", "2023-11-14T22:30:00Z")),
        commands.run("measurements", "aggregate", "--until", "2023-11-14T22:30:00Z"),
        commands.run("measurements", "aggregate", "--bucket", "90min"),
    )
    newest, oldest = (json.loads(line) for line in hours.out.splitlines())
    assert hours.err == ""
    assert (newest["bucketStartTime"], oldest["bucketStartTime"]) == ("2023-11-15T00:00:00Z", "2023-11-14T22:00:00Z")
    assert oldest["measurementCount"] == "3"
    assert (oldest["sampleCount"], oldest["lostSampleCount"]) == ("108000", "3")
    # The mean of the ratios 10 and 100 is 55.
    assert oldest["snrDb"]["mean"] == pytest.approx(10 * math.log10(55.0))
    assert (oldest["snrDb"]["valueCount"], oldest["snrDb"]["min"], oldest["snrDb"]["max"]) == ("2", 10.0, 20.0)

    # The day of the beginning is counted whole, so that no bucket is cut.
    counts = {found["bucketStartTime"]: found["measurementCount"] for found in map(json.loads, day.out.splitlines())}
    assert counts == {"2023-11-15T00:00:00Z": "1", "2023-11-14T00:00:00Z": "3"}
    assert day.err == "times widened to whole buckets: since 2023-11-14T00:00:00.000Z, until open\n"
    heading, row = table.out.splitlines()
    assert heading.split()[:4] == ["bucket", "receiver", "centre", "measurements"]
    assert row.startswith("2023-11-14T22:00:00.000Z")
    assert "17.4 (10.0..20.0)" in row
    assert "until 2023-11-14T23:00:00.000Z" in table.err
    assert refused.status == 2
    assert "bucket_duration: is 5400 s, must be whole hours" in refused.err
