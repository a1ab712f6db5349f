"""Opens the stores that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from heimdall.runtime.settings import Settings
from storage_svc.ids import BUCKET
from storage_svc.measurements import MeasurementStore
from storage_svc.measurements.row_spool import ROW_SPOOL, RowSpool
from storage_svc.measurements.spooled import SpooledMeasurements
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.measurements.timescale import TimescaleMeasurements
from storage_svc.migrate import database_path
from storage_svc.objects import ObjectStore
from storage_svc.objects.local import LocalObjects
from storage_svc.objects.minio import MinioObjects

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_objects(settings: Settings) -> AsyncIterator[ObjectStore]:
    """Opens the object store, and closes it in the end.

    Raises:
        HeimdallError: BACKEND_UNAVAILABLE if a directory can not be used; a served store may be away.
        SettingsError: If the settings of a served store can not be right.
    """
    objects: ObjectStore
    if settings.storage.objects == "minio":
        objects = MinioObjects(settings.minio)
    else:
        objects = LocalObjects(settings.storage.data_dir / BUCKET)
    await objects.start()
    try:
        yield objects
    finally:
        await objects.close()


@asynccontextmanager
async def open_rows(settings: Settings) -> AsyncIterator[MeasurementStore]:
    """Opens the database, and closes it in the end.

    Raises:
        OSError: If a file can not be used; a served database may be away, rows then wait for it.
        HeimdallError: BACKEND_UNAVAILABLE if a file can not be written.
        SettingsError: If the settings of a served database can not be right.
    """
    rows: MeasurementStore
    spool_path, spool_max_bytes = settings.storage.data_dir / ROW_SPOOL, settings.storage.rows_spool_max_bytes
    if settings.storage.rows == "timescale":
        served = TimescaleMeasurements(settings.timescale)
        try:
            spool = await RowSpool.open(spool_path, spool_max_bytes)
        except BaseException:
            await served.close()
            raise
        rows = SpooledMeasurements(served, spool)
    else:
        rows = await SqliteMeasurements.open(database_path(settings.storage))
    try:
        if settings.storage.rows == "sqlite":
            await rows.ping()
            if spool_path.exists():
                await _tell_left(await RowSpool.open(spool_path, spool_max_bytes))
        yield rows
    finally:
        await rows.close()


async def _tell_left(spool: RowSpool) -> None:
    """Logs that rows wait for a served database which the settings do not name any more."""
    if spool.waiting_count or spool.dead_letter_count:
        _log.warning("rows_left", waiting_count=spool.waiting_count, dead_letter_count=spool.dead_letter_count)
    await spool.close()
