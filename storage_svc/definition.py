"""What the storage service is made of, and how it comes up and goes down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from heimdall.errors import HeimdallError
from heimdall.runtime.server import ServerContext, ServiceDefinition
from heimdall.runtime.settings import Settings, SettingsError, StorageSettings
from heimdall.storage.v1 import storage_pb2
from heimdall.storage.v1.storage_pb2_grpc import add_StorageServiceServicer_to_server
from storage_svc.archive import Archive
from storage_svc.backends import watch_backends
from storage_svc.lock import data_dir_lock
from storage_svc.reading import Reader
from storage_svc.recordings import Recordings
from storage_svc.service import StorageService
from storage_svc.sigmf_collections import SigmfCollections
from storage_svc.spool import Spool
from storage_svc.stores import open_objects, open_rows

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
    async with AsyncExitStack() as stack:
        stack.enter_context(data_dir_lock(settings.data_dir))
        spool = Spool(
            settings.data_dir / "spool",
            sync_interval_s=settings.sync_interval_s,
            sync_bytes=settings.sync_bytes,
            max_bytes=settings.spool_max_bytes,
        )
        with _naming_the_folder(settings):
            rows = await stack.enter_async_context(open_rows(context.settings))
            stack.push_async_callback(spool.close)
            objects = await stack.enter_async_context(open_objects(context.settings))
            collections = SigmfCollections(settings.data_dir / "collections-due", objects, rows)
            await collections.start()
            archive = Archive(spool, objects, rows, collections)
            recordings = Recordings(spool, archive, rows, settings.resume_window_s)
            await recordings.start()
        stack.push_async_callback(recordings.close)
        reader = Reader(spool, recordings, objects, rows)
        servicer = StorageService(recordings, reader, collections, objects, rows, context.settings.mesh)
        add_StorageServiceServicer_to_server(servicer, context.server)
        pings = {"objects": archive.ping_objects, "measurements": rows.ping, "spool": spool.ping}
        async with (
            context.background(rows.watch(), "database_writer"),
            context.background(spool.commit_steadily(), "spool_commits"),
            context.background(recordings.finish_abandoned(), "abandoned_recordings"),
            context.background(collections.write_steadily(), "collections"),
            context.background(archive.settle_steadily(), "archive"),
            context.background(watch_backends(context.health, FULL_NAME, pings), "backend_health"),
        ):
            yield


@contextmanager
def _naming_the_folder(settings: StorageSettings) -> Iterator[None]:
    """Turns what keeps the service from starting into a text that says which setting names the place.

    Raises:
        SettingsError: If a file or a store can not be used.
    """
    try:
        yield
    except HeimdallError as error:
        raise SettingsError(f"storage.data_dir: {settings.data_dir}: {error.message}") from error
    except OSError as error:
        place = error.filename or settings.data_dir
        text = f"{place} can not be used: {error.strerror}" if error.strerror else str(error)
        raise SettingsError(f"storage.data_dir: {text}") from error
