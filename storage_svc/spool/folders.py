"""The folders of the spool: one an acquisition, in it one a recording. Everything here blocks and runs in threads."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from heimdall.ids import is_id
from storage_svc import durable
from storage_svc.ids import RecordingKey
from storage_svc.spool import aside
from storage_svc.spool.files import SAMPLES_NAME


class SpoolFolders:
    """Makes, finds and removes the folders of recordings."""

    def __init__(self, root: Path) -> None:
        """Takes the folder of the whole spool; `make_root` makes it."""
        self._root = root
        # Removing the last recording takes the acquisition's folder with it, which must not meet a new recording there.
        self._lock = threading.Lock()

    def path(self, key: RecordingKey) -> Path:
        """Returns the folder of a recording."""
        return self._root / key.task_id / key.receiver_id

    def make_root(self) -> None:
        """Makes the folder of the spool, durably; removes the folders in it that a kill left empty."""
        durable.make_folder(self._root)
        for task in self._root.iterdir():
            if task.is_dir():
                self.remove_empty(task)

    def make(self, key: RecordingKey) -> Path:
        """Makes the folder of a recording, durably."""
        with self._lock:
            durable.make_folder(self.path(key))
        return self.path(key)

    def remove(self, key: RecordingKey) -> None:
        """Removes a recording, and the folder of its acquisition with the last one.

        The journal goes after the samples: as long as anything is there, it says what that is.
        """
        path = self.path(key)
        with self._lock:
            (path / SAMPLES_NAME).unlink(missing_ok=True)
            shutil.rmtree(path)
        self.remove_empty(path.parent)

    def remove_empty(self, task: Path) -> None:
        """Removes the folder of an acquisition if it is there and no recording is left in it."""
        with self._lock:
            if task.is_dir() and not any(task.iterdir()):
                task.rmdir()

    def set_aside(self, key: RecordingKey) -> Path:
        """Renames the folder of a recording that can not be read back; returns where it is now."""
        with self._lock:
            return aside.set_aside(self.path(key))

    def kept_aside(self) -> dict[RecordingKey, int]:
        """Returns the folders of what could not be read back, under the names that they have, with their bytes."""
        return {
            RecordingKey(task.name, folder.name): aside.size_bytes(folder)
            for task in self._root.iterdir()
            if task.is_dir()
            for folder in task.iterdir()
            if aside.is_kept(folder)
        }

    def probe(self) -> int:
        """Writes a small file; returns the bytes that the file system has left for this user."""
        durable.probe(self._root)
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def keys(self) -> list[RecordingKey]:
        """Returns the recordings that have a folder, in order."""
        return sorted(
            RecordingKey(task.name, receiver.name)
            for task in self._root.iterdir()
            if task.is_dir() and is_id(task.name)
            for receiver in task.iterdir()
            if receiver.is_dir() and is_id(receiver.name)
        )
