"""File systems of a test's own, that it can fill up, make read-only and take away."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1024 * 1024


@dataclass(frozen=True)
class Disk:
    """A mounted file system."""

    folder: Path
    """Where it is mounted."""

    @property
    def free_bytes(self) -> int:
        """Bytes that are left."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Takes the room with a ballast file, but for some bytes."""
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            while (size := min(self.free_bytes - leave_bytes, MIB)) > 0:
                try:
                    ballast.write(bytes(size))
                except OSError:
                    # What the file system needs for itself was counted as free.
                    if leave_bytes or size <= 4096:
                        return
                    os.truncate(ballast.name, ballast.tell())

    def make_room(self) -> None:
        """Removes the ballast."""
        (self.folder / "ballast").unlink()

    def remount(self, option: str) -> None:
        """Mounts it again as ro or rw; no file may be open for writing."""
        _run("mount", "-o", f"remount,{option}", str(self.folder))

    def forbid_writing(self, *, but: str = "") -> None:
        """Makes every file and folder immutable, also for whoever has it open.

        Args:
            but: Name of a file that is left as it is.
        """
        paths = [str(path) for path in self.folder.rglob("*") if path.name != but]
        _run("chattr", "+i", str(self.folder), *paths)

    def allow_writing(self) -> None:
        """Ends forbid_writing."""
        _run("chattr", "-R", "-i", str(self.folder))


@contextmanager
def mounted_tmpfs(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """Mounts a file system in memory."""
    folder.mkdir()
    _if_permitted("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))
    try:
        yield Disk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def mounted_ext4(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """Mounts a file of its own as an ext4 file system, with no blocks kept back for root."""
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    folder.mkdir()
    _if_permitted("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
    _if_permitted("mount", "-o", "loop", str(image), str(folder))
    disk = Disk(folder)
    try:
        yield disk
    finally:
        disk.allow_writing()
        _run("umount", "--lazy", str(folder))


def _if_permitted(*command: str) -> None:
    """Runs a command, or skips the test where that is not possible or permitted; in CI it has to be."""
    try:
        _run(*command)
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI") == "true":
            raise
        detail = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        pytest.skip(f"needs a file system of its own, and {command[0]} does not work here: {detail}")


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program) or f"/usr/sbin/{program}"
    subprocess.run([path, *arguments], check=True, capture_output=True, text=True)
