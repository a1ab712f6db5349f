"""The commands `heimdall recordings list|get`."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import aclosing
from pathlib import Path

import click

from heimdall.cli import text
from heimdall.cli.filters import filter_options, limit_option
from heimdall.cli.output import print_json, print_table, short_path
from heimdall.cli.session import CommandError, config_option, json_option, run_with_client
from heimdall.client import HeimdallClient
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.storage.v1.storage_pb2 import RecordFilter

_HEADINGS = ("start", "acquisition", "receiver", "state", "complete", "samples", "lost", "gaps", "bytes", "path")
_META_SUFFIX = ".sigmf-meta"
_DATA_SUFFIX = ".sigmf-data"


@click.group()
def recordings() -> None:
    """Lists recordings and copies them."""


@recordings.command("list")
@filter_options
@limit_option
@config_option
@json_option
def list_command(record_filter: RecordFilter, limit: int, config: Path | None, as_json: bool) -> None:
    """Lists recordings, newest first."""

    async def work(client: HeimdallClient) -> list[Recording]:
        return await _select(client, record_filter, limit)

    found = run_with_client(config, work)
    if as_json:
        for recording in found:
            print_json(recording)
    else:
        print_table(_HEADINGS, (_row(recording) for recording in found), right=("samples", "lost", "gaps", "bytes"))


@recordings.command("get")
@click.argument("acquisition_id")
@click.argument("receiver_id")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write the SigMF pair into. Default: the current one.",
)
@config_option
@json_option
def get_command(acquisition_id: str, receiver_id: str, output: Path, config: Path | None, as_json: bool) -> None:
    """Copies the SigMF pair of one recording out of a store on this machine, and checks it against its SHA-512."""
    record_filter = RecordFilter(acquisition_id=acquisition_id, receiver_ids=[receiver_id])

    async def work(client: HeimdallClient) -> list[Recording]:
        return await _select(client, record_filter, 1)

    found = run_with_client(config, work)
    if not found:
        raise CommandError(
            f"RECORDING_NOT_FOUND: acquisition {acquisition_id!r} has no recording of receiver {receiver_id!r}"
        )
    meta = _copy_pair(found[0], output)
    if as_json:
        print_json(found[0])
    else:
        click.echo(meta)


async def _select(client: HeimdallClient, record_filter: RecordFilter, limit: int) -> list[Recording]:
    found: list[Recording] = []
    async with aclosing(client.list_recordings(record_filter, page_size=min(limit, 1000))) as listed:
        async for recording in listed:
            found.append(recording)
            if len(found) == limit:
                break
    return found


def _copy_pair(recording: Recording, folder: Path) -> Path:
    """Copies data, then metadata, and returns the path of the metadata."""
    source = Path(recording.location)
    if recording.state != Recording.STATE_STORED or not source.is_file():
        raise CommandError(
            f"the recording is {text.enum_label(recording, 'state')} at {recording.location or 'no place yet'}, which "
            "is no file on this machine; StorageService.ReadRecording streams its samples from anywhere"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = shutil.copy(source.with_suffix(_DATA_SUFFIX), folder)
        with Path(data).open("rb") as samples:
            digest = hashlib.file_digest(samples, "sha512").hexdigest()
        if digest != recording.data_sha512:
            raise CommandError(f"CHECKSUM_MISMATCH: {data} has SHA-512 {digest}, stored was {recording.data_sha512}")
        return Path(shutil.copy(source, folder))
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error


def _row(recording: Recording) -> tuple[str, ...]:
    return (
        text.utc(recording.window_start_unix_ns),
        recording.acquisition_id,
        recording.receiver_id,
        text.enum_label(recording, "state"),
        "yes" if recording.complete else "no",
        f"{recording.sample_count}",
        f"{recording.lost_sample_count}",
        f"{recording.gap_count}",
        f"{recording.data_size_bytes}",
        short_path(recording.location) or text.ABSENT,
    )
