"""What every command prints: protobuf JSON or tables on standard output, everything else on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 10_000
"""Columns where there is no terminal: nothing is cut or folded for a reader that is a program."""


def print_json(message: Message) -> None:
    """Prints a message as one line of protobuf JSON, zeros included: a count that is not there might be unknown.

    Args:
        message: The message.
    """
    click.echo(MessageToJson(message, indent=None, ensure_ascii=False, always_print_fields_with_no_presence=True))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Prints a table: as wide as it needs to be, folded only at the edge of a terminal.

    Args:
        headings: Heading of each column.
        rows: Cells of each row, one for each heading.
        right: Headings of the columns that are set flush right.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    standard_output().print(table)


def standard_output() -> Console:
    """Returns standard output as rich sees it."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


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
