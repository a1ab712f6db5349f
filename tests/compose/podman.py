"""Podman with everything that it keeps in one folder, which is gone in the end."""

from __future__ import annotations

import os
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conftest import REPO_ROOT

_CONFIGURATION: Final = REPO_ROOT / "deploy" / "test"
_NEEDED_BYTES: Final = 6 * 1024**3
"""Room for the images, of which every container gets a copy where overlays do not work."""
_END_TIMEOUT_S: Final = 20.0

_REGISTRY_FILES: Final = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
"""How this machine reaches package registries; a build finds them in the same places, and no image keeps them."""


@dataclass(frozen=True)
class Podman:
    """Runs podman and podman-compose on a folder of their own."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str | Path, timeout_s: float = 120.0) -> str:
        """Runs a podman command that has to succeed; returns what it printed."""
        ended = self.attempt("podman", *command, timeout_s=timeout_s)
        assert ended.returncode == 0, f"podman {' '.join(map(str, command))}: {ended.stderr}{ended.stdout}"
        return ended.stdout

    def attempt(self, *command: str | Path, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a command that may fail."""
        return subprocess.run(
            command,
            env=dict(self.environment),
            cwd=REPO_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def build(self, tag: str, context: Path, file: Path) -> None:
        """Builds an image, with pip and apt as they work on this machine."""
        mounts = [f"--volume={path}:{path}:ro" for path in _REGISTRY_FILES if path.is_file()]
        options = ("--network=host", "--isolation=chroot", "--layers=false", "--pull=never", *mounts)
        self.run("build", *options, "--tag", tag, "--file", file, context, timeout_s=600)

    def image_size_bytes(self, name: str) -> int:
        """Returns the size of an image, all layers included."""
        return int(self.run("image", "inspect", "--format", "{{.Size}}", name))


@contextmanager
def podman() -> Iterator[Podman]:
    """Gives a podman without images; removes all that was done with it, and fails if something stays."""
    folder = Path(tempfile.mkdtemp(prefix="heimdall-compose-"))
    free = shutil.disk_usage(folder).free
    assert free > _NEEDED_BYTES, f"{folder} has {free / 1e9:.1f} GB left; the test needs {_NEEDED_BYTES / 1e9:.1f}"
    for name in ("tmp", "networks", "scratch"):
        (folder / name).mkdir()
    values = {"folder": folder, "driver": "overlay" if _can_overlay(folder / "scratch") else "vfs"}
    for name in ("containers.conf", "storage.conf"):
        text = (_CONFIGURATION / name).read_text()
        (folder / name).write_text(string.Template(text).substitute(values))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEIMDALL_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "TMPDIR": str(folder / "scratch"),
    }
    running = Podman(folder, environment)
    # Who ends the test, as a CI does at its limit, leaves no containers either.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield running
        containers = running.run("ps", "--all", "--quiet").split()
        assert not containers, f"containers were left: {containers}"
    finally:
        running.attempt("podman", "rm", "--all", "--force", "--volumes", "--time=0")
        left = _end_processes_of(folder)
        _unmount_below(folder)
        shutil.rmtree(folder)
        signal.signal(signal.SIGTERM, before)
    assert not left, f"processes were left: {left}"


def _can_overlay(folder: Path) -> bool:
    """Returns whether folders can be laid over each other here, which saves the copies of every image."""
    folders = {name: folder / name for name in ("lower", "upper", "work", "merged")}
    for path in folders.values():
        path.mkdir()
    options = f"lowerdir={folders['lower']},upperdir={folders['upper']},workdir={folders['work']}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(folders["merged"])]
    possible = subprocess.run(command, capture_output=True).returncode == 0
    if possible:
        subprocess.run(["umount", folders["merged"]], check=True)
    return possible


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if Path(m).is_relative_to(folder)), reverse=True):
        subprocess.run(["umount", mount], check=True)


def _end_processes_of(folder: Path) -> dict[int, str]:
    """Waits until no process uses the folder; ends and returns what is left, such as a build that was broken off."""
    end = time.monotonic() + _END_TIMEOUT_S
    while (found := _processes_of(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _processes_of(folder: Path) -> dict[int, str]:
    """Returns the command lines of processes that name the folder or live in it, such as the monitors of containers."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):  # it ended while we looked
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in words or (entry / "root").readlink().is_relative_to(folder):
                    found[int(entry.name)] = words
    return found
