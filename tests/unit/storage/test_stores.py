"""What is said when the stores are opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from heimdall.runtime.settings import Settings, StorageSettings
from storage_svc.measurements.row_spool import ROW_SPOOL, Entry, Kind, RowSpool
from storage_svc.stores import open_rows


@pytest.mark.parametrize("row_count", [0, 3])
async def test_rows_that_wait_for_a_database_that_is_not_used_any_more_are_told(tmp_path: Path, row_count: int) -> None:
    spool = await RowSpool.open(tmp_path / ROW_SPOOL, 2**20)
    if row_count:
        await spool.append([Entry(Kind.MEASUREMENTS, "task-1", "rx-1", row_count, b"rows", accepted_unix_ns=1)])
    await spool.close()
    with capture_logs() as logs:
        async with open_rows(Settings(storage=StorageSettings(data_dir=tmp_path, rows="sqlite"))):
            pass
    told = [(log["waiting_count"], log["dead_letter_count"]) for log in logs if log["event"] == "rows_left"]
    assert told == ([(row_count, 0)] if row_count else [])
    assert (tmp_path / ROW_SPOOL).exists()
