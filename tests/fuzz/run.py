"""Feeds every target with a million inputs, guided by coverage, and says what broke.

Each target has a process of its own, started again if an input kills it or hangs. Inputs that were worth keeping stay
in build/fuzz/<target>/corpus for the next run; those that broke something are written to build/fuzz/<target>/.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

REPO_ROOT: Final = Path(__file__).resolve().parents[2]
OUTPUT: Final = REPO_ROOT / "build" / "fuzz"
HANG_S: Final = 30
"""Time that one input may take, by the clock: a busy machine must not look like a hang."""
RSS_LIMIT_MB: Final = 1024
"""Memory that one target may take."""
MAX_RESTARTS: Final = 20

_TALLY: Final = struct.Struct("<QQI")
"""What a process tells through a file, so that it is known even after the worst end: inputs, crashes, and the length of
the current input, which follows."""
_TALLY_BYTES: Final = 65536
_CODE: Final = ("fetcher_svc", "storage_svc", "simulator", "heimdall", "tomllib", "google.protobuf.json_format")
"""Code whose coverage guides the search."""


def fuzz_all(names: Sequence[str], runs: int, seed: int) -> int:
    """Runs targets one after the other; returns the exit status, 1 if any input broke one."""
    broken = 0
    for name in names:
        started = time.monotonic()
        inputs, crashes = _fuzz_one(name, runs, seed)
        print(f"{name} inputs={inputs} seconds={time.monotonic() - started:.0f} crashes={crashes}", flush=True)
        if crashes:
            print(f"{name}: what broke and the inputs are in {OUTPUT / name}", file=sys.stderr)
        broken += crashes
    return 1 if broken else 0


def _fuzz_one(name: str, runs: int, seed: int) -> tuple[int, int]:
    """Returns how many inputs a target got, and in how many ways they broke it."""
    folder = OUTPUT / name
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    tally_path = folder / "tally"
    tally_path.write_bytes(bytes(_TALLY_BYTES))
    (folder / "log").unlink(missing_ok=True)
    memory = Path("/dev/shm")
    deaths = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as scratch:
        inputs = crashes = 0
        while inputs < runs and deaths <= MAX_RESTARTS:
            command = [sys.executable, "-m", "tests.fuzz.run", "--child", f"--runs={runs - inputs}"]
            with open(folder / "log", "ab") as log:
                child = subprocess.run(
                    [*command, f"--seed={seed + deaths}", name],
                    cwd=REPO_ROOT,
                    env={**os.environ, "TMPDIR": scratch},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            tally = tally_path.read_bytes()
            inputs, crashes, length = _TALLY.unpack_from(tally)
            if not child.returncode:
                break
            deaths += 1
            path = folder / f"death-{deaths}"
            path.write_bytes(tally[_TALLY.size : _TALLY.size + length])
            print(f"{name}: ended with status {child.returncode} at {path}; see {folder / 'log'}", file=sys.stderr)
    return inputs, crashes + deaths


def _fuzz_here(name: str, runs: int, seed: int) -> None:
    """Runs one target in this process and ends it."""
    import atheris

    with atheris.instrument_imports(include=list(_CODE), enable_loader_override=False):
        from tests.fuzz.catalog import TARGETS, cases

    warnings.simplefilter("error")
    target = TARGETS[name]
    folder = OUTPUT / name
    corpus = folder / "corpus"
    for content in (*target.seeds(), *(path.read_bytes() for path in cases(name))):
        (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
    tally = mmap.mmap(os.open(folder / "tally", os.O_RDWR), _TALLY_BYTES)
    inputs, crashes, _ = _TALLY.unpack_from(tally)
    known: set[tuple[object, ...]] = set()

    def test_one(data: bytes) -> None:
        nonlocal inputs, crashes
        inputs += 1
        _TALLY.pack_into(tally, 0, inputs, crashes, len(data))
        tally[_TALLY.size : _TALLY.size + len(data)] = data
        try:
            target.run(data)
        except Exception as error:  # noqa: BLE001  # whatever escapes a target is what this looks for
            place = _place(error)
            if place in known:
                return
            known.add(place)
            crashes += 1
            _TALLY.pack_into(tally, 0, inputs, crashes, len(data))
            path = folder / f"{type(error).__name__}-{hashlib.sha1(data).hexdigest()[:12]}"
            path.write_bytes(data)
            traceback.print_exc()
            print(f"the input is in {path}", flush=True)

    def mutate(data: bytes, max_size: int, mutation_seed: int) -> bytes:
        rng = random.Random(mutation_seed)
        changed = target.mutate(data, rng) if rng.random() < 0.7 else atheris.Mutate(data, len(data) or max_size)
        return bytes(changed[:max_size])

    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={target.max_bytes}",
        f"-timeout={HANG_S}",
        f"-rss_limit_mb={RSS_LIMIT_MB}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test_one, custom_mutator=mutate)
    atheris.Fuzz()


def _place(error: BaseException) -> tuple[object, ...]:
    """Returns what tells one fault from another: its type and the innermost three places in the code."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return (type(error), *((frame.filename, frame.lineno) for frame in frames))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1, help="where the random numbers begin, 1 or more")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help="targets to run; default: all")
    arguments = parser.parse_args()
    if arguments.child:
        _fuzz_here(arguments.targets[0], arguments.runs, arguments.seed)
        return
    from tests.fuzz.catalog import TARGETS

    unknown = sorted(set(arguments.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    sys.exit(fuzz_all(arguments.targets or list(TARGETS), arguments.runs, arguments.seed))


if __name__ == "__main__":
    main()
