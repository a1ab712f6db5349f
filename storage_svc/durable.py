"""File operations that are durable when they return. All of them block and run in threads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

_PROBE_BYTES: Final = 4096
"""A page: less might find room in one that is there already."""


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing, durably."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        child.mkdir(exist_ok=True)
        sync_folder(child.parent)


def probe(folder: Path) -> None:
    """Writes a small file that nobody sees, to know whether the folder can be written and has room.

    Raises:
        OSError: If it can not, or has not.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        write_at(file.fileno(), bytes(_PROBE_BYTES), 0)


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Writes all of the content at a position; not durable until the file is synced."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def replace_file(path: Path, content: bytes, partial: Path) -> None:
    """Writes a file so that it is there whole or not at all, replacing one of the same name.

    Args:
        path: The file.
        content: What it holds afterwards.
        partial: Where it is written before it is whole: a name of its own, on the same file system.
    """
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_at(descriptor, content, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
    except OSError:
        # A disk that is full must not stay so because of what was not even finished.
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Returns a part of a file; shorter than asked for where the file ends."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
