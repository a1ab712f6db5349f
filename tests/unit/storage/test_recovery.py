"""The spool read back from files that crashes, full disks and bad sectors may leave."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from heimdall.common.v1.iq_pb2 import IqEvent
from storage_svc.spool import files
from storage_svc.spool.files import AcceptedEvent, SpoolFiles
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


def test_changed_sample_ends_the_good_part(folder: Path) -> None:
    content = bytearray((folder / "samples").read_bytes())
    content[BLOCK * 4] ^= 0x80
    (folder / "samples").write_bytes(content)
    assert recovered(folder).progress.next_index == BLOCK + 10


def test_writing_goes_on_after_recovery(folder: Path) -> None:
    (folder / "journal").write_bytes((folder / "journal").read_bytes() + b"torn")
    found = files.recover(folder)
    assert found is not None
    assert isinstance(found.files, SpoolFiles)
    found.files.append([accepted(block(3 * BLOCK + 10))])
    found.files.close()
    assert recovered(folder).progress.next_index == 4 * BLOCK + 10


def test_folder_without_an_opening_is_removed(tmp_path: Path) -> None:
    made = tmp_path / "task-1" / "rx-1"
    made.mkdir(parents=True)
    (made / "journal").write_bytes(b"\0" * 20)
    assert files.recover(made) is None
    assert not made.exists()


def test_random_damage_never_stops_recovery_and_never_invents_samples(folder: Path) -> None:
    """Every outcome is a prefix of what was written."""
    whole = sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 10, 2 * BLOCK)
    good = {name: (folder / name).read_bytes() for name in ("journal", "samples")}
    rng = random.Random(20261123)
    for _ in range(300):
        for name, content in good.items():
            damaged = bytearray(content[: rng.choice([len(content), rng.randrange(len(content))])])
            for _ in range(rng.randrange(3)):
                if damaged:
                    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(damaged)
        found = files.recover(folder)
        if found is None:
            folder.mkdir(parents=True)
            continue
        assert found.files is not None
        found.files.close()
        kept = (folder / "samples").read_bytes()
        assert whole.startswith(kept)
        assert len(kept) == found.progress.data_size_bytes
