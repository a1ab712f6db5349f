"""The two files of one spooled recording. Everything here blocks and runs in the spool's threads."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c
from google.protobuf.message import DecodeError

from heimdall.common.v1.iq_pb2 import End, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.ids import ID_PATTERN, is_id
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc import durable
from storage_svc.spool import aside, journal
from storage_svc.spool.aside import SpoolUnreadableError
from storage_svc.spool.journal import RecordKind
from storage_svc.spool.progress import MAX_BLOCK_BYTES, Progress

SAMPLES_NAME: Final = "samples"
JOURNAL_NAME: Final = "journal"


@dataclass(frozen=True)
class AcceptedEvent:
    """An event on its way to the disk."""

    event: IqEvent
    """The event; a block without its samples."""
    samples: bytes
    """Samples of the block; empty for other events."""


class SpoolFiles:
    """Appends to the samples and the journal of one recording. One caller at a time."""

    def __init__(self, folder: Path, samples_size_bytes: int = 0, journal_size_bytes: int = 0) -> None:
        """Opens the files, making them if they are missing.

        Args:
            folder: Folder of the recording; exists.
            samples_size_bytes: Where the next samples go.
            journal_size_bytes: Where the next record goes.
        """
        self.folder = folder
        self.samples_size_bytes = samples_size_bytes
        self.journal_size_bytes = journal_size_bytes
        self.sha512 = hashlib.sha512()
        self._samples = os.open(folder / SAMPLES_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._journal = os.open(folder / JOURNAL_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            os.close(self._samples)
            raise

    @property
    def size_bytes(self) -> int:
        """Bytes that the recording takes on disk."""
        return self.samples_size_bytes + self.journal_size_bytes

    def write_open(self, open_unix_ns: int, message: WriteRecordingRequest.Open) -> None:
        """Records that a writer opened the recording; durable when it returns."""
        self._append_journal(journal.encode_open(open_unix_ns, message.SerializeToString()))
        durable.sync_folder(self.folder)

    def append(self, batch: Sequence[AcceptedEvent]) -> None:
        """Appends events, the samples before the records that vouch for them; durable when it returns."""
        self._append_journal(self._append_samples(batch))

    def finish(self, batch: Sequence[AcceptedEvent], conclude: Callable[[str], tuple[Recording, End]]) -> Recording:
        """Appends the last events and closes the journal; durable when it returns.

        Args:
            batch: The last events.
            conclude: Returns the finished recording and its end, given the SHA-512 of all samples in hexadecimal.

        Returns:
            The finished recording.
        """
        records = self._append_samples(batch)
        recording, end = conclude(self.sha512.hexdigest())
        finish = journal.encode_finish(recording.SerializeToString(), end.SerializeToString())
        self._append_journal(records + finish)
        return recording

    def close(self) -> None:
        """Closes the files."""
        os.close(self._samples)
        os.close(self._journal)

    def truncate(self) -> None:
        """Cuts off what lies behind the current sizes, and makes that durable."""
        for descriptor, size in (
            (self._samples, self.samples_size_bytes),
            (self._journal, self.journal_size_bytes),
        ):
            os.ftruncate(descriptor, size)
            os.fdatasync(descriptor)

    def read_samples(self, size_bytes: int) -> bytes:
        """Returns the samples that follow those read so far; fewer where the file ends."""
        parts, offset = [], self.samples_size_bytes
        while size_bytes:
            part = os.pread(self._samples, size_bytes, offset)
            if not part:
                break
            parts.append(part)
            size_bytes, offset = size_bytes - len(part), offset + len(part)
        return b"".join(parts)

    def _append_samples(self, batch: Sequence[AcceptedEvent]) -> bytes:
        """Makes the samples durable and returns the records that vouch for them."""
        samples = b"".join(accepted.samples for accepted in batch)
        if samples:
            durable.write_at(self._samples, samples, self.samples_size_bytes)
            os.fdatasync(self._samples)
            self.samples_size_bytes += len(samples)
            self.sha512.update(samples)
        return b"".join(
            journal.encode_event(google_crc32c.value(accepted.samples), accepted.event.SerializeToString())
            for accepted in batch
        )

    def _append_journal(self, content: bytes) -> None:
        durable.write_at(self._journal, content, self.journal_size_bytes)
        os.fdatasync(self._journal)
        self.journal_size_bytes += len(content)


@dataclass
class RecoveredSpool:
    """What a folder of the spool holds after a restart."""

    files: SpoolFiles | None
    """Files to go on with; None if the recording is finished."""
    opening: WriteRecordingRequest.Open
    """What the first writer opened it with."""
    open_unix_ns: int
    """When the first writer opened it, in ns since 1970."""
    writer_epoch: int
    """The highest epoch seen."""
    progress: Progress
    """How far it is."""
    finished: Recording | None
    """The recording, if its journal is closed."""
    size_bytes: int
    """Bytes that it takes on disk."""
    dropped_size_bytes: int
    """Bytes cut off because they were torn, corrupt or not vouched for."""
    kept_aside: Path | None = None
    """Where a copy of them is; None if a crash in mid-write explains them, so that nothing acknowledged was in them."""


def create(folder: Path, open_unix_ns: int, opening: WriteRecordingRequest.Open) -> SpoolFiles:
    """Makes the files of a new recording in a folder that exists; durable when it returns."""
    files = SpoolFiles(folder)
    try:
        files.write_open(open_unix_ns, opening)
    except OSError:
        files.close()
        raise
    return files


def recover(folder: Path) -> RecoveredSpool | None:
    """Reads back a recording after a crash and cuts off what its journal does not vouch for.

    What is cut off although no crash explains it, such as a record that has changed, is copied aside first.

    Args:
        folder: Folder of the recording.

    Returns:
        What it holds; None, and the folder removed, if its opening was never completed and no sample came.

    Raises:
        SpoolUnreadableError: If not even its opening is readable, or its end is not.
        OSError: If the disk fails.
    """
    path = folder / JOURNAL_NAME
    content = path.read_bytes() if path.is_file() else b""
    samples_path = folder / SAMPLES_NAME
    samples_size_bytes = samples_path.stat().st_size if samples_path.is_file() else 0
    records = list(journal.read_records(content))
    if not records and not samples_size_bytes and journal.is_torn(content):
        shutil.rmtree(folder)
        return None
    if not records or records[0].kind is not RecordKind.OPEN:
        raise SpoolUnreadableError("its journal does not begin with a readable opening")
    recovered = _begin(records, len(content) + samples_size_bytes)
    if recovered.finished is not None:
        return recovered
    recovered.files = files = SpoolFiles(folder, journal_size_bytes=records[0].end_offset)
    try:
        is_damaged = not journal.is_torn(content[records[-1].end_offset :])
        for record in records[1:]:
            if not _take(record, recovered, files):
                is_damaged = True
                break
            files.journal_size_bytes = record.end_offset
        recovered.dropped_size_bytes = recovered.size_bytes - files.size_bytes
        recovered.size_bytes = files.size_bytes
        if is_damaged:
            good = {SAMPLES_NAME: files.samples_size_bytes, JOURNAL_NAME: files.journal_size_bytes}
            recovered.kept_aside = aside.keep_rest(folder, good)
        files.truncate()
    except OSError:
        files.close()
        raise
    return recovered


def _begin(records: Sequence[journal.JournalRecord], size_bytes: int) -> RecoveredSpool:
    """Returns what the first record says, and the last if it closes the journal.

    Raises:
        SpoolUnreadableError: If one of them is no message, whatever its checksum says, or they contradict each other.
    """
    try:
        open_unix_ns, message = journal.decode_open(records[0].payload)
        opening = WriteRecordingRequest.Open.FromString(message)
        if not (is_id(opening.acquisition_id) and is_id(opening.receiver.receiver_id)):
            named = f"{opening.receiver.receiver_id!r} in {opening.acquisition_id!r}"
            raise ValueError(f"it opens {named}, which can not be stored; ids match {ID_PATTERN}")
        finished = None
        if records[-1].kind is RecordKind.FINISH:
            # The samples are vouched for by the SHA-512 in the recording, and may be in the object store already.
            finished = _read_finish(records[-1], opening)
    except DecodeError as error:
        raise SpoolUnreadableError(f"its journal holds what is no message: {error}") from error
    except ValueError as error:
        raise SpoolUnreadableError(f"its journal contradicts itself: {error}") from error
    return RecoveredSpool(None, opening, open_unix_ns, opening.writer_epoch, Progress(), finished, size_bytes, 0)


def _read_finish(record: journal.JournalRecord, opening: WriteRecordingRequest.Open) -> Recording:
    """Returns the finished recording.

    Raises:
        DecodeError: If the recording or its end is no message.
        ValueError: If the record is too short for them, or finishes another recording than was opened.
    """
    message, end = journal.decode_finish(record.payload)
    recording = Recording.FromString(message)
    End.FromString(end)
    finished = recording.receiver_id, recording.acquisition_id
    opened = _names(opening)
    if finished != opened:
        raise ValueError(f"it opens {' in '.join(opened)} and finishes {' in '.join(finished)}")
    return recording


def _names(opening: WriteRecordingRequest.Open) -> tuple[str, str]:
    """Returns which receiver of which acquisition an opening is for."""
    return opening.receiver.receiver_id, opening.acquisition_id


def _take(record: journal.JournalRecord, recovered: RecoveredSpool, files: SpoolFiles) -> bool:
    """Takes in one record after the first; False if it, or the samples it vouches for, can not be trusted."""
    try:
        if record.kind is RecordKind.OPEN:
            later = WriteRecordingRequest.Open.FromString(journal.decode_open(record.payload)[1])
            if _names(later) != _names(recovered.opening):
                return False
            recovered.writer_epoch = max(recovered.writer_epoch, later.writer_epoch)
            return True
        crc32c, message = journal.decode_event(record.payload)
        event = IqEvent.FromString(message)
        size_bytes = event.block.sample_count * recovered.progress.sample_bytes
        samples = files.read_samples(min(size_bytes, MAX_BLOCK_BYTES)) if size_bytes > 0 else b""
        recovered.progress.check_stored(event, len(samples), recovered.opening.receiver.receiver_id)
    except (DecodeError, HeimdallError):
        # The checksum holds and the content contradicts what came before it.
        return False
    if google_crc32c.value(samples) != crc32c:
        return False
    recovered.progress.apply(event)
    files.samples_size_bytes += len(samples)
    files.sha512.update(samples)
    return True
