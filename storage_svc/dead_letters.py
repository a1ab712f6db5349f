"""Shows, retries and drops what the database refused: `python -m storage_svc.dead_letters`, beside a service or not."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from heimdall.cli import text
from heimdall.cli.output import print_table
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.runtime.settings import SettingsError, load_settings
from heimdall.storage.v1.storage_pb2 import PutAcquisitionRequest, WriteMeasurementsRequest
from heimdall.timing import utc_text
from storage_svc.measurements.row_spool import DIALECT, ROW_SPOOL, Kind
from storage_svc.sql_files import load_migrations, load_queries

_BUSY_TIMEOUT_S: Final = 5.0
_MESSAGES: Final[dict[Kind, type[Message]]] = {
    Kind.MEASUREMENTS: WriteMeasurementsRequest,
    Kind.RECORDING: Recording,
    Kind.ACQUISITION: PutAcquisitionRequest,
}
_HEADINGS: Final = ("number", "refused", "rows", "kind", "acquisition", "receiver", "reason", "detail")

_config_option = click.option("--config", type=click.Path(path_type=Path), help="The heimdall.toml to read.")
_numbers_argument = click.argument("numbers", type=int, nargs=-1)
_all_option = click.option("--all", "every", is_flag=True, help="All of them.")


@click.group()
def main() -> None:
    """Shows, retries and drops dead letters."""


@main.command("list")
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def list_command(config: Path | None, as_json: bool) -> None:
    """Lists dead letters, the oldest first."""
    with _opened(config) as file:
        if file is None:
            return
        letters = file.execute(load_queries(DIALECT)["dead_letters"])
        if as_json:
            for letter in letters:
                click.echo(json.dumps(_as_json(letter), ensure_ascii=False))
        else:
            print_table(_HEADINGS, (_as_line(letter) for letter in letters), right=("number", "rows"))


@main.command("retry")
@_numbers_argument
@_all_option
@_config_option
def retry_command(numbers: tuple[int, ...], every: bool, config: Path | None) -> None:
    """Puts dead letters behind the rows that wait."""
    count = _remove(numbers, every, config, ("retry", "drop"))
    click.echo(f"dead letters that wait for the database again: {count}")


@main.command("drop")
@_numbers_argument
@_all_option
@_config_option
def drop_command(numbers: tuple[int, ...], every: bool, config: Path | None) -> None:
    """Deletes dead letters."""
    count = _remove(numbers, every, config, ("drop",))
    click.echo(f"dropped dead letters: {count}")


def _remove(numbers: tuple[int, ...], every: bool, config: Path | None, queries: tuple[str, ...]) -> int:
    """Runs queries on dead letters, on all that are named or on none, and returns how many there were."""
    by_name = load_queries(DIALECT)
    with _opened(config) as file:
        if file is not None:
            file.execute("BEGIN IMMEDIATE")
        found = set() if file is None else {row["number"] for row in file.execute(by_name["dead_letter_numbers"])}
        chosen = sorted(found if every else set(numbers))
        if missing := [str(number) for number in chosen if number not in found]:
            _fail(f"there is no dead letter {', '.join(missing)}; nothing was changed")
        if file is not None:
            for name in queries:
                file.executemany(by_name[name], [{"number": number} for number in chosen])
            file.execute("COMMIT")
    return len(chosen)


@contextmanager
def _opened(config: Path | None) -> Iterator[sqlite3.Connection | None]:
    """Opens the file that a storage service may be using; None if there is none. Every failure ends the command."""
    try:
        path = load_settings(config).storage.data_dir / ROW_SPOOL
    except SettingsError as error:
        _fail(str(error), status=2)
    if not path.exists():
        click.echo(f"there are no dead letters: {path} does not exist", err=True)
        yield None
        return
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        ) as file:
            file.row_factory = sqlite3.Row
            version = file.execute("PRAGMA user_version").fetchone()[0]
            if version != len(load_migrations(DIALECT)):
                _fail(f"{path}: has schema {version}; run the version of heimdall that the storage service runs")
            yield file
    except sqlite3.Error as error:
        _fail(f"{path}: {error}")


def _as_line(letter: sqlite3.Row) -> tuple[str, ...]:
    return (
        str(letter["number"]),
        text.utc(letter["refused_unix_ns"]),
        str(letter["row_count"]),
        letter["kind"],
        letter["task_id"],
        letter["receiver_id"] or text.ABSENT,
        letter["reason"],
        letter["detail"],
    )


def _as_json(letter: sqlite3.Row) -> dict[str, Any]:
    """Returns all there is; the rows are missing if they can not be read."""
    entry = {
        "number": letter["number"],
        "acceptTime": utc_text(letter["accepted_unix_ns"]),
        "refuseTime": utc_text(letter["refused_unix_ns"]),
        "kind": letter["kind"],
        "acquisitionId": letter["task_id"],
        "receiverId": letter["receiver_id"],
        "rowCount": letter["row_count"],
        "reason": letter["reason"],
        "detail": letter["detail"],
    }
    try:
        message = _MESSAGES[Kind(letter["kind"])]()
        message.ParseFromString(letter["message"])
    except DecodeError:
        return entry
    return {**entry, "message": MessageToDict(message)}


def _fail(why: str, status: int = 1) -> NoReturn:
    click.echo(f"error: {why}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
