"""A connection to PostgreSQL on which queries name their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from storage_svc.measurements.sql import Row

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    AnyConnection: TypeAlias = asyncpg.Connection[Any] | PoolConnectionProxy[Any]

_NAME: Final = re.compile(r"(?<![:\w]):([a-z]\w*)")


class TimescaleConnection:
    """A connection; its statements are prepared once and kept."""

    def __init__(self, connection: AnyConnection) -> None:
        """Takes a connection."""
        self._connection = connection

    async def fetch(self, query: str, values: Row) -> Sequence[Row]:
        """Returns the rows of a query."""
        text, names = _numbered(query)
        rows: Sequence[Row] = await self._connection.fetch(text, *(values[name] for name in names))
        return rows

    async def execute(self, query: str, values: Row) -> None:
        """Executes a statement."""
        text, names = _numbered(query)
        await self._connection.execute(text, *(values[name] for name in names))

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Begins a transaction; commits at the end, or rolls back if that raises."""
        transaction: AbstractAsyncContextManager[object] = self._connection.transaction()
        return transaction

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Adds rows to a table by COPY."""
        await self._connection.copy_records_to_table(table, columns=columns, records=rows)


@lru_cache(maxsize=256)
def _numbered(query: str) -> tuple[str, tuple[str, ...]]:
    """Returns a query with $1, $2 ... in place of :name, and the names in that order."""
    names = tuple(dict.fromkeys(_NAME.findall(query)))
    numbers = {name: place for place, name in enumerate(names, 1)}
    return _NAME.sub(lambda match: f"${numbers[match[1]]}", query), names
