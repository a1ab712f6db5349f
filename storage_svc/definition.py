"""What the storage service is made of, and how it comes up and goes down."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

from heimdall.errors import HeimdallError
from heimdall.runtime.server import ServerContext, ServiceDefinition
from heimdall.runtime.settings import Settings, SettingsError
from heimdall.storage.v1 import storage_pb2
from heimdall.storage.v1.storage_pb2_grpc import add_StorageServiceServicer_to_server
from storage_svc.archive import Archive
from storage_svc.backends import watch_backends
from storage_svc.ids import BUCKET
from storage_svc.lock import data_dir_lock
from storage_svc.measurements.sqlite import SqliteMeasurements
from storage_svc.migrate import database_path
from storage_svc.objects.local import LocalObjects
from storage_svc.reading import Reader
from storage_svc.recordings import Recordings
from storage_svc.service import StorageService
from storage_svc.spool import Spool

_log = structlog.get_logger(__name__)

FULL_NAME = storage_pb2.DESCRIPTOR.services_by_name["StorageService"].full_name


def define(settings: Settings) -> ServiceDefinition:
    """Returns the definition of the storage service."""
    return ServiceDefinition(
        name="storage",
        full_name=FULL_NAME,
        port=settings.storage.port,
        max_stream_count=settings.storage.max_stream_count,
        setup=_setup,
    )


@asynccontextmanager
async def _setup(context: ServerContext) -> AsyncIterator[None]:
    settings = context.settings.storage
    with data_dir_lock(settings.data_dir):
        rows = await SqliteMeasurements.open(database_path(settings))
        spool = Spool(
            settings.data_dir / "spool",
            sync_interval_s=settings.sync_interval_s,
            sync_bytes=settings.sync_bytes,
            max_bytes=settings.spool_max_bytes,
        )
        try:
            objects = LocalObjects(settings.data_dir / BUCKET)
            archive = Archive(spool, objects, rows)
            recordings = Recordings(spool, archive, rows, settings.resume_window_s)
            try:
                await objects.ping()
            except HeimdallError as error:
                raise SettingsError(f"storage.data_dir: {settings.data_dir}: {error.message}") from error
            await recordings.start()
            reader = Reader(spool, recordings, objects, rows)
            servicer = StorageService(recordings, reader, archive, objects, rows, context.settings.mesh)
            add_StorageServiceServicer_to_server(servicer, context.server)
            try:
                async with _running(
                    spool.commit_steadily(),
                    recordings.finish_abandoned(),
                    archive.retry_steadily(),
                    watch_backends(
                        context.health, FULL_NAME, {"objects": objects.ping, "measurements": rows.ping}, spool
                    ),
                ):
                    yield
            finally:
                await recordings.close()
        finally:
            await spool.close()
            await rows.close()


@asynccontextmanager
async def _running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs endless background work and ends it on the way out."""
    tasks = [asyncio.create_task(work, context=contextvars.Context()) for work in works]
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("background_work_crashed", work=str(task.get_coro()), exc_info=task.exception())
