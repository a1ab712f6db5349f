"""What every command prints: protobuf JSON or tables on standard output, everything else on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console


def print_json(message: Message) -> None:
    """Prints a message as one line of protobuf JSON, zeros included: a count that is not there might be unknown.

    Args:
        message: The message.
    """
    click.echo(MessageToJson(message, indent=None, ensure_ascii=False, always_print_fields_with_no_presence=True))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Prints a table as wide as it needs to be: a row stays one line that can be copied, even if a terminal wraps it.

    Args:
        headings: Heading of each column.
        rows: Cells of each row, one for each heading.
        right: Headings of the columns that are set flush right.
    """
    lines = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            " " * (width - cell_len(cell)) + cell if heading in right else cell + " " * (width - cell_len(cell))
            for heading, width, cell in zip(headings, widths, line, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def standard_error() -> Console:
    """Returns standard error as rich sees it."""
    return Console(stderr=True, highlight=False)


def short_path(location: str) -> str:
    """Returns a path relative to the current folder if it lies in it; anything else unchanged.

    Args:
        location: A path or URL.
    """
    path = Path(location)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else location
