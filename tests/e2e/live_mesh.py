"""A whole mesh as a user starts it: real commands, real processes, real sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heimdall.local import SERVICE_NAMES, reserved_ports

COMMAND_TIMEOUT_S = 40.0


@dataclass(frozen=True)
class LiveMesh:
    """The environment in which commands find a mesh."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command and returns at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "heimdall.cli", *arguments],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def process_ids(self) -> dict[str, int]:
        """Returns the running processes that carry this environment, by the name of their module."""
        marker = f"HEIMDALL_CONFIG={self.environment['HEIMDALL_CONFIG']}".encode()
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if marker not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue  # it ended while we looked
            found[next((word for word in words if word.endswith("_svc")), " ".join(words[1:4]))] = int(entry.name)
        return found


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Returns whether a condition came true within a time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


@contextmanager
def mesh_on_free_ports(folder: Path, stations: dict[str, dict[str, object]]) -> Iterator[LiveMesh]:
    """Writes the files of a mesh, whose ports nobody else is given meanwhile; starts nothing."""
    with reserved_ports("127.0.0.1") as ports:
        yield _write_mesh(folder, stations, ports)


def _write_mesh(folder: Path, stations: dict[str, dict[str, object]], ports: Mapping[str, int]) -> LiveMesh:
    targets = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    sections = [f"[{name}]\nport = {ports[name]}\n" for name in SERVICE_NAMES]
    sections[1] += 'receivers_file = "receivers.toml"\nstate_file = "data/fetcher.sqlite3"\n'
    sections[3] += 'data_dir = "data"\n'
    (folder / "heimdall.toml").write_text(
        "[mesh]\n"
        f'coordinator_target = "{targets["coordinator"]}"\nfetcher_targets = ["{targets["fetcher"]}"]\n'
        f'dsp_target = "{targets["dsp"]}"\nstorage_target = "{targets["storage"]}"\n' + "".join(sections)
    )
    (folder / "receivers.toml").write_text(
        "".join(
            f'[[receiver]]\nreceiver_id = "{name}"\nname = "{name}"\ndriver = "kiwisdr"\n'
            f'url = "http://{station["host"]}:{station["port"]}"\nlatitude_deg = 45.0\nlongitude_deg = 7.6\n'
            "altitude_m = 300\nmin_frequency_hz = 10e3\nmax_frequency_hz = 30e6\n"
            for name, station in stations.items()
        )
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HEIMDALL_")}
    return LiveMesh(folder, environment | {"HEIMDALL_CONFIG": str(folder / "heimdall.toml")})


def read_until_serving(process: subprocess.Popen[str]) -> list[str]:
    """Returns what `heimdall up` prints until all services are SERVING."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in SERVICE_NAMES]
    assert all(lines), process.communicate(timeout=COMMAND_TIMEOUT_S)
    return lines
