"""Writes the collection of an acquisition that is over: at once where the stores allow it, else when they are back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import structlog

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc import durable, sigmf
from storage_svc.ids import collection_object_key
from storage_svc.measurements import MeasurementStore, RowFilter
from storage_svc.measurements.base import recording_cursor
from storage_svc.objects import ObjectNotFoundError, ObjectStore
from storage_svc.spool.room import disk_failure

_log = structlog.get_logger(__name__)

TERMINAL_STATES: Final = frozenset(
    {
        Acquisition.State.STATE_SUCCEEDED,
        Acquisition.State.STATE_PARTIALLY_SUCCEEDED,
        Acquisition.State.STATE_FAILED,
        Acquisition.State.STATE_CANCELLED,
    }
)
"""States after which an acquisition never changes."""

_PATIENCE_S: Final = 3.0
"""How long a caller waits for a collection before it is left for later."""
_RETRY_INTERVAL_S: Final = 5.0
_PAGE_SIZE: Final = 500


class SigmfCollections:
    """Writes collections one after the other. What is left for later is remembered in a folder: a file for each."""

    def __init__(self, folder: Path, objects: ObjectStore, rows: MeasurementStore) -> None:
        """Takes the stores; `start`, then `write_steadily` has to run.

        Args:
            folder: Where is remembered what is left for later.
            objects: Where collections and the metadata of recordings are.
            rows: What says which recordings there are, and which acquisitions are over.
        """
        self._folder = folder
        self._objects = objects
        self._rows = rows
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._any_asked = asyncio.Event()
        self._due: set[str] = set()
        self._files = asyncio.Lock()
        self._ended = False

    async def start(self) -> None:
        """Finds what was left for later by an earlier run.

        Raises:
            OSError: If the folder can not be used.
        """
        self._due = await asyncio.to_thread(_names_in, self._folder)

    async def complete(self, acquisition_id: str) -> None:
        """Brings the collection up to date if the acquisition is over; does it later if a store is away.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE if not even that it is due can be kept.
        """
        if not self._ended:
            attempt = self._asked.setdefault(acquisition_id, asyncio.get_running_loop().create_future())
            self._any_asked.set()
            done, _ = await asyncio.wait({attempt}, timeout=_PATIENCE_S)
            if done and attempt.result():
                return
        async with self._files:
            try:
                await asyncio.to_thread(_make_file, self._folder / acquisition_id)
            except OSError as error:
                raise disk_failure(error, "keep that a collection is due") from error
            self._due.add(acquisition_id)
        self._any_asked.set()

    async def write_steadily(self) -> None:
        """Writes collections, for ever."""
        now_s = asyncio.get_running_loop().time
        retry_s = now_s()
        try:
            while True:
                if self._due and now_s() >= retry_s:
                    for acquisition_id in sorted(self._due):
                        await self._write(acquisition_id)
                    retry_s = now_s() + _RETRY_INTERVAL_S
                try:
                    async with asyncio.timeout_at(retry_s if self._due else None):
                        await self._any_asked.wait()
                except TimeoutError:
                    continue
                self._any_asked.clear()
                while self._asked:
                    acquisition_id = next(iter(self._asked))
                    # Whoever asks from now on may know of a recording that this round does not see.
                    attempt = self._asked.pop(acquisition_id)
                    attempt.set_result(await self._write(acquisition_id))
        finally:
            self._ended = True
            for attempt in self._asked.values():
                attempt.set_result(False)

    async def _write(self, acquisition_id: str) -> bool:
        """Writes one collection if its acquisition is over; returns False if that has to be done later."""
        try:
            acquisition = await self._rows.get_acquisition(acquisition_id)
            if acquisition is not None and acquisition.state in TERMINAL_STATES:
                metas = [meta async for meta in self._stored_metas(acquisition_id)]
                if metas:
                    description = f"Recordings of acquisition {acquisition_id}"
                    content = sigmf.build_collection(acquisition_id, description, sorted(metas))
                    await self._objects.put_bytes(collection_object_key(acquisition_id), content)
        except HeimdallError as error:
            _log.warning("collection_waits", task_id=acquisition_id, reason=error.reason_name, message=error.message)
            return False
        except Exception:  # noqa: BLE001  # the outermost boundary: one damaged recording holds up no other collection
            _log.exception("collection_not_written", task_id=acquisition_id)
        async with self._files:
            # Whoever has asked meanwhile may know of a recording that this round did not see.
            if acquisition_id in self._due and acquisition_id not in self._asked:
                self._due.discard(acquisition_id)
                # If it comes back, it is written once more.
                await asyncio.to_thread((self._folder / acquisition_id).unlink, missing_ok=True)
        return True

    async def _stored_metas(self, acquisition_id: str) -> AsyncIterator[tuple[str, bytes]]:
        """Yields receiver and metadata of each recording that is in the store."""
        after = None
        while True:
            page = await self._rows.list_recordings(RowFilter(task_id=acquisition_id), after, _PAGE_SIZE)
            for recording in page:
                if recording.state == Recording.State.STATE_STORED and recording.meta_object_key:
                    try:
                        yield recording.receiver_id, await self._objects.get_bytes(recording.meta_object_key)
                    except ObjectNotFoundError:
                        _log.warning("object_missing", object_key=recording.meta_object_key)
            if len(page) < _PAGE_SIZE:
                return
            after = recording_cursor(page[-1])


def _names_in(folder: Path) -> set[str]:
    durable.make_folder(folder)
    return {path.name for path in folder.iterdir()}


def _make_file(path: Path) -> None:
    path.touch()
    durable.sync_folder(path.parent)
