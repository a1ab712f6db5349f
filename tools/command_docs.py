"""Writes docs/command-line.md to standard output, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from heimdall.cli.main import heimdall

_INTRODUCTION = """# Command line

Generated from `heimdall/cli` by `tools/command_docs.py`; do not edit.

Frequencies read `145.5MHz`, `7100kHz`, `1.2GHz`, `77500`; durations `5`, `5s`, `250ms`, `2m` or `2min`, `1h`, `7d`;
times RFC 3339, or `+10s` and `-1h` from now. With `--json` a command prints protobuf JSON on standard output, one
object a line. Progress, warnings and errors go to standard error; an error is one line that begins with `error:`.

| exit status | |
|---|---|
| 0 | complete |
| 1 | failed |
| 2 | wrong usage, configuration or request; nothing was done |
| 3 | partial: something is kept, and something is missing |"""


def page() -> Iterator[str]:
    """Yields the lines of the page."""
    yield _INTRODUCTION
    with click.Context(heimdall, info_name="heimdall") as context:
        for name in heimdall.list_commands(context):
            command = heimdall.get_command(context, name)
            if command is not None:
                yield from _command(command, click.Context(command, info_name=name, parent=context))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(inner, click.Context(inner, info_name=name, parent=context))
        return
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    yield from ("", f"## {context.command_path} {usage}".rstrip(), "", inspect.cleandoc(command.help or ""))
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield from ("", "| option | |", "|---|---|")
        yield from (f"| `{option}` | {text} |" for option, text in records)


def main() -> None:
    """Prints the page."""
    print("\n".join(page()))


if __name__ == "__main__":
    main()
