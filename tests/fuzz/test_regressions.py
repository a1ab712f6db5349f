"""The found cases again, and a short search with fixed random numbers; `make fuzz` runs the long one."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from fetcher_svc.inventory import parse_receivers
from fetcher_svc.receivers.kiwisdr_status import to_probe
from fetcher_svc.receivers.kiwisdr_wire import parse_frame, parse_message, parse_status
from simulator.kiwi_wav import parse_kiwi_wav
from simulator.replay import date_frames
from storage_svc.sigmf import parse_meta
from storage_svc.spool.journal import RecordKind, read_records
from tests.fuzz.catalog import TARGETS, cases
from tests.fuzz.targets.spool import unpack

INPUT_COUNT = 500
"""Changed inputs a target, kept to a few seconds together."""

_CASES = [(name, path) for name in TARGETS for path in cases(name)]


def run(name: str, data: bytes) -> None:
    """Feeds one input; says which one it was if it breaks the target, also by hanging until the test's time is over."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            TARGETS[name].run(data)
    except BaseException as error:
        error.add_note(f"input of {name}, {len(data)} bytes: {data[:2000]!r}")
        raise


@pytest.mark.parametrize(("name", "path"), _CASES, ids=[f"{name}-{path.name}" for name, path in _CASES])
def test_found_case_breaks_nothing_any_more(name: str, path: Path) -> None:
    run(name, path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_break_nothing(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(f"{name} 20261125")
    known = [*target.seeds(), *(path.read_bytes() for path in cases(name))]
    for data in known:
        assert len(data) <= target.max_bytes
        run(name, data)
    for _ in range(INPUT_COUNT):
        data = rng.choice(known)
        for _ in range(rng.randint(1, 3)):
            data = target.mutate(data, rng)[: target.max_bytes]
        run(name, data)


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("kiwi-frame", parse_frame),
        ("kiwi-message", parse_message),
        ("kiwi-status", lambda data: to_probe(parse_status(data.decode()), 0.1)),
        ("kiwi-wav", lambda data: date_frames(parse_kiwi_wav(data, Path("recording.wav")))),
        ("sigmf-meta", parse_meta),
    ],
)
def test_every_seed_gets_through_its_parser(name: str, parse: Callable[[bytes], object]) -> None:
    """Inputs that are refused at the door find nothing behind it."""
    for data in TARGETS[name].seeds():
        parse(data)


def test_seeds_of_files_with_several_entries_get_through_too() -> None:
    receivers, problems = parse_receivers(TARGETS["receivers-toml"].seeds()[1], Path("receivers.toml"))
    assert ([receiver.receiver_id for receiver in receivers], problems) == (["aquila-di-giaveno"], [])
    kinds = [record.kind for record in read_records(unpack(TARGETS["spool"].seeds()[2])[0])]
    assert kinds == [RecordKind.OPEN, *[RecordKind.EVENT] * 7, RecordKind.FINISH]
