"""Brings the database to the newest schema without starting the service."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

from heimdall.runtime.settings import Settings, StorageSettings
from storage_svc.measurements import sqlite_schema

_DATABASE_NAME: Final = "heimdall.sqlite3"


def database_path(settings: StorageSettings) -> Path:
    """Returns the file of the embedded database."""
    return settings.data_dir / _DATABASE_NAME


async def migrate(settings: Settings) -> list[str]:
    """Applies the migrations that the database lacks.

    Args:
        settings: All settings.

    Returns:
        Names of the applied migrations in order; empty if there was nothing to do.

    Raises:
        OSError: If the folder or the database can not be used; the text names it.
    """
    make = partial(settings.storage.data_dir.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(make)
    return await sqlite_schema.migrate(database_path(settings.storage))
