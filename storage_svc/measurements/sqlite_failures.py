"""What a failing SQLite file means to callers; a damaged one is not used any more."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import structlog

from heimdall.errors import HeimdallError
from storage_svc.measurements.writer import unavailable

_log = structlog.get_logger(__name__)

_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY_CODE: Final = 0xFF
"""SQLite puts details of a failure above the lowest byte of its code."""

ADVICE: Final = (
    "restore a backup, or move it away together with its -wal and -shm files: storage then begins an empty one"
)
"""What to do with a damaged file."""


class SqliteFailures:
    """Turns failures into what callers get, and remembers damage: a damaged file gives wrong rows, and grows worse."""

    def __init__(self, path: Path) -> None:
        """Takes the path of the file, for its name."""
        self.path = path
        self._damage: HeimdallError | None = None

    def refuse_if_damaged(self) -> None:
        """Refuses every use of a file that was found to be damaged.

        Raises:
            HeimdallError: BACKEND_UNAVAILABLE.
        """
        if self._damage is not None:
            raise self._damage

    def meaning(self, error: sqlite3.Error, what: str) -> HeimdallError:
        """Returns what a failure means to the caller.

        Args:
            error: The failure.
            what: What the database could not do, such as "write".
        """
        if not is_damage(error):
            return unavailable(error, what)
        if self._damage is None:
            _log.error("database_damaged", path=str(self.path), error=str(error))
            self._damage = unavailable(f"{self.path} is damaged ({error}); stop the service and {ADVICE}", "be used")
        return self._damage


def primary_code(error: sqlite3.Error) -> int:
    """Returns the code of a failure, such as SQLITE_FULL, without its details."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY_CODE


def is_damage(error: sqlite3.Error) -> bool:
    """Returns whether a failure says that the file is damaged."""
    return primary_code(error) in _DAMAGE
