"""One storage service a data folder: a lock that the operating system frees with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heimdall.runtime.settings import SettingsError
from storage_svc import durable


@contextmanager
def data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Makes the folder and holds it alone. Blocks for file operations only.

    Args:
        data_dir: Folder of spool, objects and database.

    Raises:
        SettingsError: If the folder can not be made or written, has no room, or another storage service uses it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(data_dir, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"storage.data_dir: {data_dir} is in use by another storage service; stop it or name another folder"
            ) from error
        try:
            # The lock may be there from an earlier run.
            durable.probe(data_dir)
        except OSError as error:
            raise _unwritable(data_dir, error) from error
        yield
    finally:
        os.close(descriptor)


def _unwritable(data_dir: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"storage.data_dir: {data_dir} can not be written: {error.strerror}; make it writable for this user and let it "
        "have room, or name another folder"
    )
