"""What can not be read back is kept beside the recordings, for a person to look at. Blocks: runs in threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from storage_svc import durable

_MARK: Final = ".unreadable"
"""Ends the name of a folder that is kept; no id has a dot, so it is never taken for a recording."""


class SpoolUnreadableError(Exception):
    """What is on disk of a recording can not be read back; the text says why, and where it is kept."""


def is_kept(folder: Path) -> bool:
    """Returns whether a folder holds what could not be read back."""
    return _MARK in folder.name


def set_aside(folder: Path) -> Path:
    """Renames the folder of a recording, so that its name is free again; durable when it returns.

    Args:
        folder: Folder of the recording.

    Returns:
        Where it is now.
    """
    place = _free_name(folder)
    folder.rename(place)
    durable.sync_folder(place.parent)
    return place


def keep_rest(folder: Path, good_sizes_bytes: Mapping[str, int]) -> Path:
    """Copies what lies behind the good part of some files; durable when it returns.

    Args:
        folder: Folder of the recording.
        good_sizes_bytes: Length of the good part by the name of the file.

    Returns:
        The folder that holds the copies, under the same names.
    """
    place = _free_name(folder)
    place.mkdir()
    for name, size_bytes in good_sizes_bytes.items():
        source = folder / name
        if not source.is_file():
            continue
        with source.open("rb") as whole, (place / name).open("xb") as rest:
            whole.seek(size_bytes)
            shutil.copyfileobj(whole, rest)
            rest.flush()
            os.fsync(rest.fileno())
    durable.sync_folder(place)
    durable.sync_folder(place.parent)
    return place


def size_bytes(folder: Path) -> int:
    """Returns the bytes of the files in a folder, as far as they can be listed."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


def _free_name(folder: Path) -> Path:
    place = folder.with_name(folder.name + _MARK)
    number = 1
    while place.exists():
        number += 1
        place = folder.with_name(f"{folder.name}{_MARK}-{number}")
    return place
