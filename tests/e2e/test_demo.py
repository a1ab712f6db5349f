from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf import json_format
from sigmf import SigMFCollection, sigmffile
from sigmf.error import SigMFFileError

from heimdall.common.v1.acquisition_pb2 import Acquisition

_STATIONS = [
    "aquila-di-giaveno", "montanaro", "torino", "coazze", "passo-dei-giovi", "genova", "milano-baggio"
]  # fmt: skip


def _demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEIMDALL_")}
    return subprocess.run(
        [sys.executable, "-m", "heimdall.cli", "demo", "--data-dir", str(folder), *arguments],
        env=environment,
        cwd=folder.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def _processes_of(folder: Path) -> list[str]:
    """Returns the command lines of processes that were told to keep their data in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if str(folder).encode() in text:
                found.append((entry / "cmdline").read_text())
    return found


def test_the_demo_records_from_seven_receivers_and_leaves_only_files(tmp_path: Path, repo_root: Path) -> None:
    folder = tmp_path / "kept"
    scenario = tomllib.loads((repo_root / "config" / "demo.toml").read_text())
    rates_hz = {station["id"]: station["sample_rate_hz"] for station in scenario["station"]}
    ran = _demo(folder, "--duration", "2s")
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    rows = {line[0]: line for line in lines if line and line[0] in _STATIONS}
    assert list(rows) == _STATIONS
    for name, row in rows.items():
        assert row[1] == "SUCCEEDED"
        # Exact: the window's edges lie anywhere between two samples of the station's true clock.
        assert abs(int(row[2]) - 2 * rates_hz[name]) < 1
        assert row[3] == "0"
        assert "GNSS" in row
        assert (tmp_path / row[-1]).is_file()
    assert ran.stdout.splitlines()[-1].startswith("kept in kept; wall time ")
    assert (folder / "fetcher.sqlite3").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"], "something was left beside the folder"
    assert _processes_of(folder) == []


def test_what_the_demo_leaves_is_valid_sigmf(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    ran = _demo(folder, "--duration", "1s", "--json")
    assert ran.returncode == 0, ran.stderr
    acquisition = json_format.Parse(ran.stdout, Acquisition())
    metas = [Path(outcome.recording.location) for outcome in acquisition.outcomes]
    assert [meta.name for meta in metas] == [f"{station}.sigmf-meta" for station in _STATIONS]
    validated = subprocess.run(
        [sys.executable, "-m", "sigmf.validate", *metas], capture_output=True, text=True, timeout=50, check=False
    )
    assert validated.returncode == 0, validated.stderr
    (path,) = folder.rglob("session.sigmf-collection")
    # Read as it is stored: one that is built from the files would hash them anew and agree with anything.
    collection = sigmffile.fromfile(path)
    assert isinstance(collection, SigMFCollection)
    assert sorted(collection.get_stream_names()) == sorted(_STATIONS)
    collection.verify_stream_hashes()
    with metas[3].open("ab") as changed:
        changed.write(b" ")
    with pytest.raises(SigMFFileError):
        collection.verify_stream_hashes()


def test_the_demo_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "logs").mkdir(parents=True)
    ran = _demo(folder)
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {folder} holds something already")


@pytest.mark.parametrize("duration", ["0", "5 fortnights"])
def test_the_demo_refuses_a_wrong_duration(tmp_path: Path, duration: str) -> None:
    ran = _demo(tmp_path / "kept", "--duration", duration)
    assert ran.returncode == 2
    assert not (tmp_path / "kept").exists()
