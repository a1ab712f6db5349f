"""The spool read back from files that crashes, full disks and bad sectors may leave."""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
from pathlib import Path

import google_crc32c
import pytest

from heimdall.common.v1.iq_pb2 import Heartbeat, IqEvent
from heimdall.common.v1.recording_pb2 import Recording
from storage_svc.contents import read_journal
from storage_svc.spool import SpoolUnreadableError, files, journal
from storage_svc.spool.files import AcceptedEvent, SpoolFiles
from storage_svc.spool.journal import RecordKind
from tests.integration.storage.support import BLOCK, block, gap, opening, sample_bytes, segment


def accepted(event: IqEvent) -> AcceptedEvent:
    samples = event.block.samples
    if samples:
        event.block.ClearField("samples")
    return AcceptedEvent(event, samples)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording of three blocks with a gap, as a killed process leaves it."""
    made = tmp_path / "task-1" / "rx-1"
    made.mkdir(parents=True)
    created = files.create(made, 1_700_000_000_000_000_000, opening(epoch=3))
    created.append([accepted(segment()), accepted(block(0))])
    created.append([accepted(gap(BLOCK, 10)), accepted(block(BLOCK + 10))])
    created.write_open(1_700_000_000_000_000_001, opening(epoch=5))
    created.append([accepted(block(2 * BLOCK + 10))])
    created.close()
    return made


def recovered(folder: Path) -> files.RecoveredSpool:
    found = files.recover(folder)
    assert found is not None
    if found.files is not None:
        found.files.close()
    return found


def test_whole_recording_comes_back(folder: Path) -> None:
    found = recovered(folder)
    assert found.progress.next_index == 3 * BLOCK + 10
    assert (found.progress.sample_count, found.progress.lost_sample_count) == (3 * BLOCK, 10)
    assert found.writer_epoch == 5
    assert found.opening == opening(epoch=3)
    assert found.open_unix_ns == 1_700_000_000_000_000_000
    assert found.dropped_size_bytes == 0
    expected = sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 10, 2 * BLOCK)
    assert found.files is not None
    assert found.files.sha512.hexdigest() == hashlib.sha512(expected).hexdigest()


def test_an_opening_of_another_recording_is_damage(folder: Path) -> None:
    other = opening(epoch=7)
    other.receiver.receiver_id = "rx-2"
    found = recovered(folder)
    journal_path = folder / "journal"
    before = journal_path.read_bytes()
    journal_path.write_bytes(before + journal.encode_open(1_700_000_000_000_000_002, other.SerializeToString()))
    again = recovered(folder)
    assert (again.writer_epoch, again.progress.next_index) == (5, found.progress.next_index)
    assert again.kept_aside is not None
    assert journal_path.read_bytes() == before
    journal_path.write_bytes(before + journal.encode_open(1_700_000_000_000_000_002, other.SerializeToString()))
    with pytest.raises(ValueError, match="its opening is of 'rx-1', and a later one of 'rx-2'"):
        read_journal(journal_path)


def test_an_opening_of_no_recording_is_unreadable(tmp_path: Path) -> None:
    nameless = opening()
    nameless.receiver.receiver_id = ""
    folder = tmp_path / "rx"
    folder.mkdir()
    (folder / "journal").write_bytes(journal.encode_open(1_700_000_000_000_000_000, nameless.SerializeToString()))
    with pytest.raises(SpoolUnreadableError, match="opens '' in 'task-1', which can not be stored"):
        files.recover(folder)


def test_missing_samples_take_their_records_with_them(folder: Path) -> None:
    samples = folder / "samples"
    samples.write_bytes(samples.read_bytes()[:-1])
    found = recovered(folder)
    assert found.progress.next_index == 2 * BLOCK + 10
    assert samples.stat().st_size == 2 * BLOCK * 4
    again = recovered(folder)
    assert again.progress.next_index == 2 * BLOCK + 10
    assert again.dropped_size_bytes == 0


def test_samples_that_no_record_vouches_for_are_cut_off(folder: Path) -> None:
    samples = folder / "samples"
    samples.write_bytes(samples.read_bytes() + b"later")
    found = recovered(folder)
    assert found.dropped_size_bytes == 5
    assert samples.stat().st_size == 3 * BLOCK * 4


def rest_of(found: files.RecoveredSpool, name: str) -> bytes:
    assert found.kept_aside is not None
    assert found.kept_aside.name.startswith("rx-1.unreadable")
    return (found.kept_aside / name).read_bytes()


def test_changed_sample_ends_the_good_part_and_the_rest_is_kept(folder: Path) -> None:
    content = bytearray((folder / "samples").read_bytes())
    content[BLOCK * 4] ^= 0x80
    (folder / "samples").write_bytes(content)
    whole = (folder / "journal").read_bytes()
    found = recovered(folder)
    assert found.progress.next_index == BLOCK + 10
    assert rest_of(found, "samples") == content[BLOCK * 4 :]
    assert whole == (folder / "journal").read_bytes() + rest_of(found, "journal")
    assert recovered(folder).kept_aside is None


def test_changed_record_ends_the_good_part_and_the_rest_is_kept(folder: Path) -> None:
    content = bytearray((folder / "journal").read_bytes())
    records = list(journal.read_records(bytes(content)))
    content[records[4].end_offset - 1] ^= 1
    (folder / "journal").write_bytes(content)
    found = recovered(folder)
    assert found.progress.next_index == BLOCK + 10
    assert rest_of(found, "journal") == content[records[3].end_offset :]
    assert rest_of(found, "samples") == sample_bytes(BLOCK + 10, 2 * BLOCK)


def test_writing_goes_on_after_recovery(folder: Path) -> None:
    (folder / "journal").write_bytes((folder / "journal").read_bytes() + b"torn")
    found = files.recover(folder)
    assert found is not None
    assert isinstance(found.files, SpoolFiles)
    assert found.kept_aside is None
    found.files.append([accepted(block(3 * BLOCK + 10))])
    found.files.close()
    assert recovered(folder).progress.next_index == 4 * BLOCK + 10


def opening_record() -> bytes:
    return journal.encode_open(1_700_000_000_000_000_000, opening().SerializeToString())


@pytest.mark.parametrize("content", [b"", bytes(20), opening_record()[:-1], opening_record()[:5]])
def test_recording_that_was_never_opened_is_removed(tmp_path: Path, content: bytes) -> None:
    made = tmp_path / "task-1" / "rx-1"
    made.mkdir(parents=True)
    (made / "journal").write_bytes(content)
    (made / "samples").touch()
    assert files.recover(made) is None
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "samples"),
    [
        (bytes(20), b"a"),
        (opening_record()[:-1] + b"?", b""),
        (journal.encode_event(0, segment().SerializeToString()), b""),
        (journal.encode_open(1, b"\xff\xff"), b""),
        (opening_record() + journal.encode_finish(b"\xff\xff", b""), b""),
    ],
)
def test_what_can_not_be_read_is_left_as_it_is(tmp_path: Path, content: bytes, samples: bytes) -> None:
    made = tmp_path / "task-1" / "rx-1"
    made.mkdir(parents=True)
    (made / "journal").write_bytes(content)
    (made / "samples").write_bytes(samples)
    with pytest.raises(SpoolUnreadableError):
        files.recover(made)
    assert ((made / "journal").read_bytes(), (made / "samples").read_bytes()) == (content, samples)


def test_random_damage_never_stops_recovery_and_never_invents_or_loses_samples(folder: Path) -> None:
    """Every outcome is a prefix of what was written; what no crash explains is kept, byte by byte."""
    whole = sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 10, 2 * BLOCK)
    good = {name: (folder / name).read_bytes() for name in ("journal", "samples")}
    rng = random.Random(20261123)
    kept_count = unreadable_count = 0
    for _ in range(300):
        folder.mkdir(exist_ok=True)
        left = {}
        for name, content in good.items():
            damaged = bytearray(content[: rng.choice([len(content), rng.randrange(len(content))])])
            for _ in range(rng.randrange(3)):
                if damaged:
                    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(damaged)
            left[name] = bytes(damaged)
        try:
            found = files.recover(folder)
        except SpoolUnreadableError:
            assert {name: (folder / name).read_bytes() for name in left} == left
            unreadable_count += 1
            continue
        if found is None:
            assert not left["samples"]
            continue
        assert found.files is not None
        found.files.close()
        kept = (folder / "samples").read_bytes()
        assert whole.startswith(kept)
        assert len(kept) == found.progress.data_size_bytes
        if found.kept_aside is not None:
            kept_count += 1
            for name, content in left.items():
                assert (folder / name).read_bytes() + rest_of(found, name) == content
            shutil.rmtree(found.kept_aside)
    assert kept_count > 50
    assert unreadable_count > 10


def finish_of(receiver_id: str) -> bytes:
    recording = Recording(acquisition_id="task-1", receiver_id=receiver_id, sample_count=3 * BLOCK)
    return journal.encode_finish(recording.SerializeToString(), b"")


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (journal.encode_finish(b"\xff\xff", b""), "holds what is no message"),
        (journal.encode_finish(b"", b"\xff\xff"), "holds what is no message"),
        (journal.encode(RecordKind.FINISH, struct.pack("<I", 9) + b"abc"), "states a Recording of 9 bytes and has 3"),
        (finish_of("rx-2"), "opens rx-1 in task-1 and finishes rx-2 in task-1"),
    ],
)
def test_finish_that_nobody_writes_leaves_all_as_it_is(folder: Path, record: bytes, text: str) -> None:
    """Its checksum holds, so it is no crash, and cutting it off would open a finished recording again."""
    whole = (folder / "journal").read_bytes() + record
    (folder / "journal").write_bytes(whole)
    with pytest.raises(SpoolUnreadableError, match=text):
        files.recover(folder)
    assert (folder / "journal").read_bytes() == whole


@pytest.mark.parametrize(
    "record",
    [
        journal.encode_event(0, b"\xff\xff"),
        journal.encode_event(0, IqEvent(heartbeat=Heartbeat()).SerializeToString()),
        journal.encode_event(0, segment(first_sample_index=5).SerializeToString()),
        journal.encode_event(
            google_crc32c.value(sample_bytes(3 * BLOCK + 10, 3)), block(3 * BLOCK + 10, 3).SerializeToString()
        ),
    ],
)
def test_event_that_nobody_writes_is_cut_off_and_kept(folder: Path, record: bytes) -> None:
    """Its checksum holds, and still it can not be what a writer was acknowledged."""
    whole = (folder / "journal").read_bytes()
    (folder / "journal").write_bytes(whole + record)
    samples = folder / "samples"
    samples.write_bytes(samples.read_bytes() + sample_bytes(3 * BLOCK + 10, 3))
    found = recovered(folder)
    assert found.progress.next_index == 3 * BLOCK + 10
    assert found.dropped_size_bytes == len(record) + 12
    assert (folder / "journal").read_bytes() == whole
    assert rest_of(found, "journal") == record


def test_finished_recording_stays_finished_whatever_follows(folder: Path) -> None:
    whole = (
        (folder / "journal").read_bytes() + finish_of("rx-1") + journal.encode_event(0, gap(0, 1).SerializeToString())
    )
    (folder / "journal").write_bytes(whole)
    found = recovered(folder)
    assert found.files is None
    assert found.finished is not None
    assert found.finished.sample_count == 3 * BLOCK
    assert (folder / "journal").read_bytes() == whole


def test_journal_of_a_recording_that_can_not_be_is_refused(folder: Path) -> None:
    whole = (folder / "journal").read_bytes()
    assert len(read_journal(folder / "journal").events) == 5
    (folder / "journal").write_bytes(whole + journal.encode_event(0, b"\xff\xff"))
    with pytest.raises(ValueError, match="a record holds no message of its kind"):
        read_journal(folder / "journal")
    (folder / "journal").write_bytes(whole + journal.encode_event(0, gap(0, 1).SerializeToString()))
    with pytest.raises(ValueError, match=r"at sample 9010: event.gap.first_lost_index: is 0, must be 9010"):
        read_journal(folder / "journal")
