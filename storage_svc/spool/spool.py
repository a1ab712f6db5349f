"""The spool: every recording that is not in the object store yet, on this machine's disk."""

from __future__ import annotations

import asyncio
import errno
import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import structlog

from heimdall.common.v1.recording_pb2 import Recording
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc.ids import RecordingKey
from storage_svc.spool import files
from storage_svc.spool.aside import SpoolUnreadableError
from storage_svc.spool.folders import SpoolFolders
from storage_svc.spool.progress import Progress
from storage_svc.spool.recording import Batch, SpooledRecording, write_batches
from storage_svc.spool.room import NO_ROOM, SpoolRoom, disk_failure

P = ParamSpec("P")
T = TypeVar("T")

_log = structlog.get_logger(__name__)

_COMMIT_TOGETHER: Final = 8
"""Most recordings that one thread makes durable one after the other."""

_THREAD_COUNT: Final = 4
"""Threads for disk work: they mostly wait for the disk, and one slow sync does not hold up the others."""

_NOT_ITS_FAULT: Final = (*NO_ROOM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Failures that say nothing about the recording that is read back, and would meet every other one too."""


@dataclass(frozen=True)
class FoundRecordings:
    """What `Spool.start` found, besides the recordings that are open now."""

    finished: list[Recording]
    """Finished recordings that are still here."""
    unreadable: Mapping[RecordingKey, str]
    """Why the others can not be read back, and where their files are."""


class Spool:
    """Makes, recovers and removes spooled recordings, and commits all of them at a steady pace."""

    def __init__(self, root: Path, *, sync_interval_s: float, sync_bytes: int, max_bytes: int) -> None:
        """Prepares an empty spool; `start` reads what is on disk.

        Args:
            root: Folder of the spool.
            sync_interval_s: Longest time that an accepted event waits to be made durable.
            sync_bytes: Most bytes of one recording that wait to be made durable.
            max_bytes: Most bytes on disk.
        """
        self.room = SpoolRoom(max_bytes)
        self._folders = SpoolFolders(root)
        self._sync_interval_s = sync_interval_s
        self._sync_bytes = sync_bytes
        self._executor = ThreadPoolExecutor(_THREAD_COUNT, thread_name_prefix="spool")
        self._open: dict[RecordingKey, SpooledRecording] = {}
        self._dirty: set[SpooledRecording] = set()
        self._any_dirty = asyncio.Event()

    async def start(self) -> FoundRecordings:
        """Recovers everything on disk. A recording that can not be read back is set aside and holds up no other.

        Raises:
            OSError: If the folder can not be made, read or written.
        """
        await self._run(self._folders.make_root)
        self.room.measured(await self._run(self._folders.probe))
        keys = await self._run(self._folders.keys)
        found = await asyncio.gather(*(self._load_found(key) for key in keys), return_exceptions=True)
        for outcome in found:
            if isinstance(outcome, BaseException):
                raise outcome
        await self._count_kept_aside()
        return FoundRecordings(
            [outcome for outcome in found if isinstance(outcome, Recording)],
            {key: outcome for key, outcome in zip(keys, found, strict=True) if isinstance(outcome, str)},
        )

    async def load(self, key: RecordingKey) -> SpooledRecording | Recording | None:
        """Reads one recording back from disk.

        Args:
            key: The recording; not open, or failed and then replaced.

        Returns:
            The recording to go on with, or the finished recording, or None if there is nothing.

        Raises:
            SpoolUnreadableError: If it can not be read back; its files were set aside and its name is free.
            OSError: If the disk fails.
        """
        try:
            recovered = await self._run(self._recover, key)
        except SpoolUnreadableError as error:
            raise SpoolUnreadableError(await self.set_aside(key, str(error))) from error
        if recovered is None:
            self.room.release(key)
            return None
        if recovered.dropped_size_bytes:
            _log.warning(
                "spool_truncated",
                task_id=key.task_id,
                receiver_id=key.receiver_id,
                dropped_size_bytes=recovered.dropped_size_bytes,
                kept_aside="" if recovered.kept_aside is None else str(recovered.kept_aside),
            )
            await self._count_kept_aside()
        self.room.recount(key, recovered.size_bytes)
        if recovered.files is None:
            return recovered.finished
        return self._adopt(
            key, recovered.opening, recovered.open_unix_ns, recovered.files, recovered.progress, recovered.writer_epoch
        )

    async def ping(self) -> None:
        """Looks whether the spool can be written, and how much room its file system has.

        Raises:
            HeimdallError: SPOOL_FULL if a full block finds no room, BACKEND_UNAVAILABLE.
        """
        try:
            # Not by the threads of the spool: they may all wait for a slow disk.
            free_bytes = await asyncio.to_thread(self._folders.probe)
        except OSError as error:
            self.room.failed(error)
            raise disk_failure(error, "write to the spool") from error
        self.room.measured(free_bytes)
        self.room.check()

    async def create(self, key: RecordingKey, opening: WriteRecordingRequest.Open) -> SpooledRecording:
        """Makes a new recording; its opening is durable when it returns.

        Raises:
            HeimdallError: SPOOL_FULL or BACKEND_UNAVAILABLE.
        """
        self.room.take(key, opening.ByteSize())
        open_unix_ns = time.time_ns()
        try:
            created = await self._run(self._create, key, open_unix_ns, opening)
        except OSError as error:
            self.room.release(key)
            self.room.failed(error)
            raise disk_failure(error, "make the spool files") from error
        return self._adopt(key, opening, open_unix_ns, created, Progress(), opening.writer_epoch)

    def get(self, key: RecordingKey) -> SpooledRecording | None:
        """Returns a recording that is open."""
        return self._open.get(key)

    def all_open(self) -> list[SpooledRecording]:
        """Returns every recording that is open."""
        return list(self._open.values())

    def forget(self, key: RecordingKey) -> None:
        """Drops a recording from memory, because it is finished or is not on disk any more; what is on disk stays."""
        recording = self._open.pop(key, None)
        if recording is not None:
            self._dirty.discard(recording)

    async def remove(self, key: RecordingKey) -> None:
        """Removes the files of a finished recording.

        Raises:
            OSError: If the disk fails.
        """
        await self._run(self._folders.remove, key)
        self.room.release(key)

    async def set_aside(self, key: RecordingKey, why: str) -> str:
        """Moves away a recording that can not be read back, for a person to look at; its name is free then.

        Args:
            key: The recording; not open.
            why: What is wrong with it.

        Returns:
            Why, and where its files are.

        Raises:
            OSError: If what is kept can not be counted.
        """
        place = self._folders.path(key)
        try:
            place = await self._run(self._folders.set_aside, key)
            self.room.release(key)
        except OSError as error:
            why = f"{why}; and it could not be moved: {error.strerror}"
        _log.error("spool_unreadable", task_id=key.task_id, receiver_id=key.receiver_id, why=why, kept_in=str(place))
        await self._count_kept_aside()
        return f"{why}; its files are in {place}"

    def samples_path(self, key: RecordingKey) -> Path:
        """Returns where the samples of a spooled recording are."""
        return self._folders.path(key) / files.SAMPLES_NAME

    def journal_path(self, key: RecordingKey) -> Path:
        """Returns where the journal of a spooled recording is."""
        return self._folders.path(key) / files.JOURNAL_NAME

    async def commit_steadily(self) -> None:
        """Makes accepted events durable every sync interval, for ever."""
        while True:
            await self._any_dirty.wait()
            await asyncio.sleep(self._sync_interval_s)
            self._any_dirty.clear()
            dirty, self._dirty = list(self._dirty), set()
            chunks = [dirty[place : place + _COMMIT_TOGETHER] for place in range(0, len(dirty), _COMMIT_TOGETHER)]
            commits = [asyncio.create_task(self._commit_together(chunk)) for chunk in chunks]
            # What a thread has begun it ends, and its outcome is noted, even if the service stops meanwhile.
            await asyncio.shield(asyncio.gather(*commits))

    async def _commit_together(self, recordings: list[SpooledRecording]) -> None:
        """Commits several recordings in one thread: waking a thread costs more than a small write.

        A failure is kept by its recording and told to its writer.
        """
        async with AsyncExitStack() as stack:
            taken: list[tuple[SpooledRecording, Batch]] = []
            for recording in recordings:
                if recording.lock.locked():
                    self._mark_dirty(recording)
                    continue
                await stack.enter_async_context(recording.lock)
                batch = None if recording.is_closed else recording.take_pending()
                if batch is not None:
                    taken.append((recording, batch))
            outcomes = await self._run(write_batches, [batch for _, batch in taken]) if taken else []
            for (recording, batch), outcome in zip(taken, outcomes, strict=True):
                recording.written(batch, outcome)

    async def close(self) -> None:
        """Makes durable what was accepted, closes all files and ends the threads."""
        results = await asyncio.gather(*(recording.close() for recording in self.all_open()), return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                _log.warning("spool_close_failed", error=str(failure))
        self._open.clear()
        await asyncio.to_thread(self._executor.shutdown)

    def _create(self, key: RecordingKey, open_unix_ns: int, opening: WriteRecordingRequest.Open) -> files.SpoolFiles:
        return files.create(self._folders.make(key), open_unix_ns, opening)

    def _recover(self, key: RecordingKey) -> files.RecoveredSpool | None:
        folder = self._folders.path(key)
        recovered = files.recover(folder) if folder.is_dir() else None
        if recovered is None:
            self._folders.remove_empty(folder.parent)
        else:
            named = RecordingKey(recovered.opening.acquisition_id, recovered.opening.receiver.receiver_id)
            if named != key:
                if recovered.files is not None:
                    recovered.files.close()
                raise SpoolUnreadableError(f"its journal is that of {named.receiver_id} in {named.task_id}")
        return recovered

    async def _load_found(self, key: RecordingKey) -> SpooledRecording | Recording | str | None:
        """Loads a recording at start; returns why it can not be read back if that is its own fault."""
        try:
            return await self.load(key)
        except SpoolUnreadableError as error:
            return str(error)
        except OSError as error:
            if error.errno in _NOT_ITS_FAULT:
                raise
            return await self.set_aside(key, error.strerror or type(error).__name__)

    async def _count_kept_aside(self) -> None:
        """Counts what is kept aside as part of the spool; whoever removes it makes room at the next count."""
        for name, size_bytes in (await self._run(self._folders.kept_aside)).items():
            self.room.recount(name, size_bytes)

    def _adopt(
        self,
        key: RecordingKey,
        opening: WriteRecordingRequest.Open,
        open_unix_ns: int,
        opened: files.SpoolFiles,
        progress: Progress,
        writer_epoch: int,
    ) -> SpooledRecording:
        recording = SpooledRecording(
            key,
            opening,
            open_unix_ns,
            opened,
            progress=progress,
            writer_epoch=writer_epoch,
            room=self.room,
            executor=self._executor,
            sync_bytes=self._sync_bytes,
            on_dirty=self._mark_dirty,
        )
        self._open[key] = recording
        return recording

    def _mark_dirty(self, recording: SpooledRecording) -> None:
        self._dirty.add(recording)
        self._any_dirty.set()

    async def _run(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        call = functools.partial(work, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)
