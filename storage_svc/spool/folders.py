"""The folders of the spool: one an acquisition, in it one a recording. Everything here blocks and runs in threads."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from heimdall.ids import is_id
from storage_svc import durable
from storage_svc.ids import RecordingKey


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
        """Makes the folder of the spool, durably."""
        durable.make_folder(self._root)

    def make(self, key: RecordingKey) -> Path:
        """Makes the folder of a recording, durably."""
        with self._lock:
            durable.make_folder(self.path(key))
        return self.path(key)

    def remove(self, key: RecordingKey) -> None:
        """Removes a recording, and the folder of its acquisition with the last one."""
        path = self.path(key)
        with self._lock:
            shutil.rmtree(path)
            if not any(path.parent.iterdir()):
                path.parent.rmdir()

    def keys(self) -> list[RecordingKey]:
        """Returns the recordings that have a folder, in order."""
        return sorted(
            RecordingKey(task.name, receiver.name)
            for task in self._root.iterdir()
            if task.is_dir() and is_id(task.name)
            for receiver in task.iterdir()
            if receiver.is_dir() and is_id(receiver.name)
        )
