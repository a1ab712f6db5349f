from __future__ import annotations

import asyncio
import csv
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from heimdall import export
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement
from heimdall.export import TableFormat, export_measurements
from heimdall.whole_file import whole_file

BATCH = 100
COUNT = 2 * BATCH + 1


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "ROWS_AT_ONCE", BATCH)


async def many(count: int = COUNT) -> AsyncGenerator[Measurement, None]:
    for index in range(count):
        yield Measurement(first_sample_index=index, snr_db=Estimate(value=index / 7, validity=Estimate.VALIDITY_VALID))


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_rows_are_written_batch_by_batch(tmp_path: Path) -> None:
    path = tmp_path / "many"
    expected = pa.array(range(COUNT), pa.int64())
    assert await export_measurements(many(), path, TableFormat.PARQUET) == COUNT
    with parquet.ParquetFile(path) as stored:
        groups = [stored.metadata.row_group(number).num_rows for number in range(stored.num_row_groups)]
        assert groups == [BATCH, BATCH, 1]
        assert stored.read()["first_sample_index"].combine_chunks() == expected
    assert await export_measurements(many(), path, TableFormat.ARROW) == COUNT
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        assert reader.num_record_batches == 3
        assert reader.read_all()["first_sample_index"].combine_chunks() == expected
    assert await export_measurements(many(), path) == COUNT
    with path.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [int(row["first_sample_index"]) for row in rows] == expected.to_pylist()
    assert [float(row["snr_db"]) for row in rows] == [index / 7 for index in range(COUNT)]


async def test_an_export_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    read = asyncio.Event()

    async def endless() -> AsyncGenerator[Measurement, None]:
        async for measurement in many():
            yield measurement
        read.set()
        await asyncio.Event().wait()

    exporting = asyncio.create_task(export_measurements(endless(), tmp_path / "table", TableFormat.ARROW))
    await read.wait()
    (scratch,) = names_in(tmp_path)
    assert scratch.startswith(".table.")
    assert (tmp_path / scratch).stat().st_size > 0, "what was read is not kept in memory"
    exporting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert names_in(tmp_path) == []


async def test_a_file_is_replaced_only_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    async def write(*, failure: Exception | None) -> None:
        async with whole_file(path) as writer:
            await writer.run(lambda: writer.file.write(b"new"))
            if failure is not None:
                raise failure

    with pytest.raises(ValueError, match="half way"):
        await write(failure=ValueError("half way"))
    assert path.read_bytes() == b"old"
    await write(failure=None)
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]
    with pytest.raises(FileNotFoundError):
        async with whole_file(tmp_path / "missing" / "file"):
            pytest.fail("there is no such folder")


@pytest.mark.parametrize("table_format", [TableFormat.CSV, TableFormat.PARQUET])
async def test_a_full_disk_is_told_and_leaves_nothing(table_format: TableFormat, tmp_path: Path) -> None:
    """A limit on the size of files fails writes as a full disk does."""
    target = str(tmp_path / "table")
    code = f"""
import asyncio, resource, signal
from pathlib import Path
from heimdall.export import TableFormat, export_measurements
from tests.unit.test_export import many
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
try:
    asyncio.run(export_measurements(many(10_001), Path({target!r}), TableFormat({table_format.value!r})))
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)  # coverage writes a file at the end
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "File too large" in err.decode().splitlines()[-1]
    assert names_in(tmp_path) == []
