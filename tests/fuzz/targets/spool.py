"""The spool's recovery. An input is the length of the journal (uint32), the journal, and the samples."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import random
import shutil
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from heimdall.common.v1.iq_pb2 import End, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc.contents import read_journal
from storage_svc.ids import RecordingKey
from storage_svc.spool import SAMPLE_BYTES, SpooledRecording, SpoolUnreadableError, files, journal
from storage_svc.spool.journal import RecordKind
from storage_svc.spool.room import SpoolRoom
from tests.fuzz.mutation import change_message, havoc
from tests.fuzz.target import Target
from tests.fuzz.targets import recordings
from tests.fuzz.targets.sigmf_meta import check_contents

_LENGTH: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<IIB")
_MAX_BYTES: Final = 8192
_KEY: Final = RecordingKey(recordings.TASK_ID, recordings.RECEIVER_ID)


def pack(journal_content: bytes, samples: bytes) -> bytes:
    """Returns the input for two files."""
    return _LENGTH.pack(len(journal_content)) + journal_content + samples


def unpack(data: bytes) -> tuple[bytes, bytes]:
    """Returns the two files that an input stands for."""
    length = int.from_bytes(data[: _LENGTH.size], "little")
    rest = data[_LENGTH.size :]
    return rest[:length], rest[length:]


@functools.cache
def _folder() -> Path:
    """The folder of this process, in memory where the system has such a place; it goes with the process."""
    memory = Path("/dev/shm")
    in_memory = "TMPDIR" not in os.environ and memory.is_dir()
    root = tempfile.mkdtemp(prefix="fuzz-spool-", dir=memory if in_memory else None)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Path(root) / "recording"


@functools.cache
def _idle_executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def fuzz_spool(data: bytes) -> None:
    """Two files: unreadable and left alone, or a prefix of both that stays the same when it is recovered again."""
    journal_content, samples = unpack(data)
    folder = _folder()
    folder.mkdir(exist_ok=True)
    (folder / files.JOURNAL_NAME).write_bytes(journal_content)
    (folder / files.SAMPLES_NAME).write_bytes(samples)
    try:
        found = files.recover(folder)
    except SpoolUnreadableError as error:
        assert str(error)
        assert _content(folder) == (journal_content, samples)
        return
    if found is None:
        assert not folder.exists()
        assert not samples
        return
    if found.files is None:
        _check_finished(folder, found, data)
    else:
        found.files.close()
        _check_unfinished(folder, found, journal_content, samples)


def _content(folder: Path) -> tuple[bytes, bytes]:
    """Returns the journal and the samples in a folder."""
    return (folder / files.JOURNAL_NAME).read_bytes(), (folder / files.SAMPLES_NAME).read_bytes()


def _check_finished(folder: Path, found: files.RecoveredSpool, data: bytes) -> None:
    assert found.finished is not None
    assert found.size_bytes == len(data) - _LENGTH.size
    assert found.dropped_size_bytes == 0
    opened = found.opening.acquisition_id, found.opening.receiver.receiver_id
    assert (found.finished.acquisition_id, found.finished.receiver_id) == opened
    again = files.recover(folder)
    assert again is not None
    assert again.finished is not None
    assert again.finished.SerializeToString() == found.finished.SerializeToString()
    try:
        contents = read_journal(folder / files.JOURNAL_NAME)
    except ValueError as error:
        assert str(error)
        return
    assert contents.end is not None
    check_contents(contents)


def _check_unfinished(folder: Path, found: files.RecoveredSpool, journal_content: bytes, samples: bytes) -> None:
    assert found.files is not None
    kept_journal, kept_samples = _content(folder)
    assert journal_content.startswith(kept_journal)
    assert samples.startswith(kept_samples)
    _check_checksums(kept_journal, kept_samples)
    if found.kept_aside is not None:
        rest_of_journal, rest_of_samples = _content(found.kept_aside)
        assert (kept_journal + rest_of_journal, kept_samples + rest_of_samples) == (journal_content, samples)
        shutil.rmtree(found.kept_aside)
    progress = found.progress
    assert progress.data_size_bytes == len(kept_samples) == found.files.samples_size_bytes
    assert len(kept_journal) == found.files.journal_size_bytes
    assert found.size_bytes == len(kept_journal) + len(kept_samples)
    assert found.dropped_size_bytes == len(journal_content) + len(samples) - found.size_bytes
    assert progress.next_index == progress.sample_count + progress.lost_sample_count
    assert found.files.sha512.digest() == hashlib.sha512(kept_samples).digest()
    again = files.recover(folder)
    assert again is not None
    assert again.files is not None
    again.files.close()
    assert again.dropped_size_bytes == 0
    assert again.kept_aside is None
    assert (again.size_bytes, again.writer_epoch) == (found.size_bytes, found.writer_epoch)
    assert again.progress.next_index == progress.next_index
    contents = read_journal(folder / files.JOURNAL_NAME)
    assert sum(event.block.sample_count for event in contents.events) == progress.sample_count
    assert sum(event.gap.lost_sample_count for event in contents.events) == progress.lost_sample_count
    check_contents(contents, _snapshot(found, found.files))


def _check_checksums(kept_journal: bytes, kept_samples: bytes) -> None:
    """Every record and every block's samples have the checksum that is documented."""
    place, offset, sample_bytes = 0, 0, 0
    while place < len(kept_journal):
        length, crc32c, kind = _HEADER.unpack_from(kept_journal, place)
        place += _HEADER.size + length
        payload = kept_journal[place - length : place]
        assert recordings.crc32c(bytes((kind,)) + payload) == crc32c
        if kind != RecordKind.EVENT:
            continue
        event = IqEvent.FromString(payload[_LENGTH.size :])
        if event.HasField("segment"):
            sample_bytes = SAMPLE_BYTES[event.segment.sample_format]
        end = offset + event.block.sample_count * sample_bytes
        assert recordings.crc32c(kept_samples[offset:end]) == _LENGTH.unpack_from(payload)[0]
        offset = end
    assert (place, offset) == (len(kept_journal), len(kept_samples))


def _snapshot(found: files.RecoveredSpool, opened: files.SpoolFiles) -> Recording:
    """Returns the facts of a recovered recording as the service has them."""
    return SpooledRecording(
        _KEY,
        found.opening,
        found.open_unix_ns,
        opened,
        progress=found.progress,
        writer_epoch=found.writer_epoch,
        room=SpoolRoom(1),
        executor=_idle_executor(),
        sync_bytes=1,
        on_dirty=lambda recording: None,
    ).snapshot()


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes records and mends their checksums, mostly; the rest is damage as a disk makes it."""
    journal_content, samples = unpack(data)
    choice = rng.random()
    if choice < 0.1:
        return havoc(data, rng)
    if choice < 0.2:
        return pack(havoc(journal_content, rng), samples)[:_MAX_BYTES]
    if choice < 0.25:
        return pack(journal_content, havoc(samples, rng))[:_MAX_BYTES]
    records = _records(journal_content)
    for _ in range(rng.randint(1, 3)):
        _change_records(records, rng)
    if rng.random() < 0.8:
        samples = _mend(records, samples)
    return pack(b"".join(journal.encode(kind, payload) for kind, payload in records), samples)[:_MAX_BYTES]


def _records(content: bytes) -> list[tuple[Any, bytes]]:
    return [(record.kind, record.payload) for record in journal.read_records(content)] or _written(recordings.events())


def _change_records(records: list[tuple[Any, bytes]], rng: random.Random) -> None:
    if not records:
        records.append((RecordKind.OPEN, bytes(8)))
    place = rng.randrange(len(records))
    kind, payload = records[place]
    match rng.randrange(10):
        case 0:
            del records[place]
        case 1:
            records.insert(rng.randint(0, len(records)), records[place])
        case 2:
            other = rng.randrange(len(records))
            records[place], records[other] = records[other], records[place]
        case 3:
            records[place] = rng.choice((*RecordKind, 0, 4, 255)), payload
        case 4:
            records[place] = kind, havoc(payload, rng)
        case 5:
            records.insert(place + 1, rng.choice(_written(recordings.events(), finish=True)))
        case _:
            records[place] = kind, _change_payload(kind, payload, rng)


def _change_payload(kind: Any, payload: bytes, rng: random.Random) -> bytes:
    try:
        if kind == RecordKind.OPEN:
            opening = WriteRecordingRequest.Open.FromString(payload[8:])
            change_message(opening, rng)
            return payload[:8] + opening.SerializeToString()
        if kind == RecordKind.EVENT:
            event = IqEvent.FromString(payload[4:])
            change_message(event, rng)
            return payload[:4] + event.SerializeToString()
        parts = journal.decode_finish(payload)
        recording, end = Recording.FromString(parts[0]), End.FromString(parts[1])
        change_message(rng.choice((recording, end)), rng)
        return journal.encode_finish(recording.SerializeToString(), end.SerializeToString())[9:]
    except (DecodeError, ValueError, struct.error):
        return havoc(payload, rng)


def _mend(records: list[tuple[Any, bytes]], samples: bytes) -> bytes:
    """Gives each block as many samples as it says, and each record their checksum."""
    made, offset, sample_bytes = bytearray(), 0, 0
    for place, (kind, payload) in enumerate(records):
        if kind != RecordKind.EVENT:
            continue
        try:
            event = IqEvent.FromString(payload[4:])
        except DecodeError:
            continue
        if event.HasField("segment"):
            sample_bytes = SAMPLE_BYTES.get(event.segment.sample_format, 0)
        size_bytes = min(max(0, event.block.sample_count * sample_bytes), _MAX_BYTES)
        part = samples[offset : offset + size_bytes].ljust(size_bytes, b"\x55")
        offset += size_bytes
        made += part
        records[place] = kind, _LENGTH.pack(recordings.crc32c(part)) + payload[4:]
    return bytes(made) + samples[offset : offset + 16]


def _written(events: list[IqEvent], *, finish: bool = False) -> list[tuple[Any, bytes]]:
    """Returns the records of a recording as kind and payload."""
    records: list[tuple[Any, bytes]] = [
        (RecordKind.OPEN, struct.pack("<q", recordings.START_NS) + recordings.opening().SerializeToString())
    ]
    for event in events:
        crc32c = recordings.crc32c(recordings.samples_of(event))
        records.append((RecordKind.EVENT, _LENGTH.pack(crc32c) + event.SerializeToString()))
    if finish:
        recording = Recording(acquisition_id=recordings.TASK_ID, receiver_id=recordings.RECEIVER_ID, complete=True)
        closing = journal.encode_finish(recording.SerializeToString(), recordings.end().SerializeToString())
        records.append((RecordKind.FINISH, closing[9:]))
    return records


def _seeds() -> list[bytes]:
    events = recordings.events()
    samples = b"".join(map(recordings.samples_of, events))
    whole = [journal.encode(kind, payload) for kind, payload in _written(events)]
    again = (RecordKind.OPEN, struct.pack("<q", recordings.START_NS) + recordings.opening(2).SerializeToString())
    resumed = [*whole[:4], journal.encode(*again), *whole[4:]]
    finished = [journal.encode(kind, payload) for kind, payload in _written(events, finish=True)]
    return [
        pack(b"".join(whole), samples),
        pack(b"".join(resumed), samples),
        pack(b"".join(finished), samples),
        pack(b"".join(whole)[:-3], samples[:-5]),
    ]


TARGETS: Final = (Target("spool", fuzz_spool, _seeds, max_bytes=_MAX_BYTES, mutate=_mutate),)
