"""Every backend that the contract holds for; a later backend adds its factory here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage_svc.measurements import MeasurementStore
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.objects import ObjectStore
from storage_svc.objects.local import LocalObjects


@pytest.fixture(params=["local"])
async def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    assert request.param == "local"
    return LocalObjects(tmp_path / "bucket")


@pytest.fixture(params=["sqlite"])
async def rows(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MeasurementStore]:
    assert request.param == "sqlite"
    store = await SqliteMeasurements.open(tmp_path / "rows.sqlite3")
    yield store
    await store.close()
