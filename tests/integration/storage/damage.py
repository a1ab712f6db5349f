"""Damages the database of storage as a failing disk may."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path


def damage_database(database: Path) -> None:
    """Overwrites the middle half of a database, whether it is in use or not; the first page stays."""
    connection = sqlite3.connect(database)
    # What is still in the write-ahead log would hide the damage.
    ((busy, _, _),) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert busy == 0
    size_bytes = database.stat().st_size
    first, end = size_bytes // 4, size_bytes * 3 // 4
    assert first > 4096
    with database.open("r+b") as file:
        file.seek(first)
        file.write(random.Random(20261125).randbytes(end - first))
