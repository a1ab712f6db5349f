"""Brings the database to the newest schema without starting the service: `python -m storage_svc.migrate`."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Final

import click

from heimdall.errors import HeimdallError
from heimdall.runtime.logs import configure_logs
from heimdall.runtime.settings import Settings, SettingsError, StorageSettings, load_settings
from storage_svc.measurements import sqlite_schema, timescale
from storage_svc.measurements.timescale_failures import DatabaseAddress

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
        HeimdallError: BACKEND_UNAVAILABLE if a served database can not be reached or migrated.
        SettingsError: If the settings of a served database can not be right.
    """
    if settings.storage.rows == "timescale":
        return await timescale.migrate(settings.timescale)
    make = partial(settings.storage.data_dir.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(make)
    return await sqlite_schema.migrate(database_path(settings.storage))


def _name_of(settings: Settings) -> str:
    """Returns what messages call the database."""
    if settings.storage.rows == "timescale":
        return str(DatabaseAddress(settings.timescale))
    return str(database_path(settings.storage))


@click.command(name="migrate")
@click.option("--config", type=click.Path(path_type=Path), help="The heimdall.toml to read.")
def main(config: Path | None) -> None:
    """Applies the migrations that the database lacks, and prints their names."""
    try:
        settings = load_settings(config)
        configure_logs(settings.log, "migrate")
        applied = asyncio.run(migrate(settings))
    except SettingsError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except (OSError, HeimdallError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    for name in applied:
        click.echo(name)
    click.echo(f"{_name_of(settings)} is at the newest schema", err=True)


if __name__ == "__main__":
    main()
