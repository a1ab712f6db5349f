"""Reads the .sql files: numbered migrations and named queries, each statement below a line that describes it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

_MIGRATION: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_QUERY: Final = re.compile(r"^-- name: (\w+)\n((?:.|\n)*?)(?=^-- name: |\Z)", re.MULTILINE)


@dataclass(frozen=True)
class Migration:
    """One step of the schema."""

    number: int
    """Place in the order, from 1."""
    name: str
    """File name without number and ending."""
    script: str
    """The statements."""


def load_migrations(dialect: str) -> list[Migration]:
    """Returns the migrations of a database in order.

    Args:
        dialect: Folder of the database, such as sqlite.
    """
    found = []
    for entry in resources.files("storage_svc").joinpath("sql", dialect).iterdir():
        if match := _MIGRATION.fullmatch(entry.name):
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def load_queries(dialect: str) -> dict[str, str]:
    """Returns the queries of a database by name, from its queries.sql."""
    text = resources.files("storage_svc").joinpath("sql", dialect, "queries.sql").read_text(encoding="utf-8")
    return {match[1]: match[2].strip() for match in _QUERY.finditer(text)}
