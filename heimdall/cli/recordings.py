"""The commands `heimdall recordings list|get|download`."""

from __future__ import annotations

from pathlib import Path

import click

from heimdall.cli import text
from heimdall.cli.filters import filter_options, first_of, limit_option
from heimdall.cli.output import print_json, print_table, short_path
from heimdall.cli.session import CommandError, config_option, json_option, read_settings, run_with_client
from heimdall.cli.status import ExitStatus
from heimdall.client import HeimdallClient
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import RecordFilter

_HEADINGS = ("start", "acquisition", "receiver", "state", "complete", "samples", "lost", "gaps", "bytes", "path")
_OF_ONE_RECORDING = (ErrorReason.ERROR_REASON_RECORDING_NOT_FOUND, ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH)
"""Reasons why one recording can not be had while others can."""


@click.group()
def recordings() -> None:
    """Lists recordings and downloads them."""


@recordings.command("list")
@filter_options
@limit_option
@config_option
@json_option
def list_command(record_filter: RecordFilter, limit: int, config: Path | None, as_json: bool) -> None:
    """Lists recordings, newest first."""

    async def work(client: HeimdallClient) -> list[Recording]:
        return await first_of(client.list_recordings(record_filter, page_size=min(limit, 1000)), limit)

    found = run_with_client(config, work)
    if as_json:
        for recording in found:
            print_json(recording)
    else:
        print_table(_HEADINGS, (_row(recording) for recording in found), right=("samples", "lost", "gaps", "bytes"))


_output_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write into. Default: the current one.",
)


@recordings.command("get")
@click.argument("acquisition_id")
@click.argument("receiver_id")
@_output_option
@config_option
@json_option
def get_command(acquisition_id: str, receiver_id: str, output: Path, config: Path | None, as_json: bool) -> None:
    """Downloads the SigMF pair of one recording, and checks it against its SHA-512.

    Out of a store that is a folder it is copied, on the machine that has the folder.
    """
    record_filter = RecordFilter(acquisition_id=acquisition_id, receiver_ids=[receiver_id])
    ca_file = read_settings(config).minio.ca_file

    async def work(client: HeimdallClient) -> tuple[Recording, Path]:
        found = await first_of(client.list_recordings(record_filter, page_size=1), 1)
        if not found:
            raise CommandError(
                f"RECORDING_NOT_FOUND: acquisition {acquisition_id!r} has no recording of receiver {receiver_id!r}"
            )
        return found[0], await client.download_recording(found[0], output, ca_file=ca_file)

    recording, meta = run_with_client(config, work)
    if as_json:
        print_json(recording)
    else:
        click.echo(meta)


@recordings.command("download")
@filter_options
@_output_option
@config_option
@json_option
def download_command(record_filter: RecordFilter, output: Path, config: Path | None, as_json: bool) -> ExitStatus:
    """Downloads the SigMF pairs of all recordings that match, each into a folder called as its acquisition.

    Pairs that are there already are left alone. Exit status 3 if some can not be had, 1 if none can.
    """
    ca_file = read_settings(config).minio.ca_file

    async def work(client: HeimdallClient) -> ExitStatus:
        had = missing = 0
        async for recording in client.list_recordings(record_filter):
            folder = output / recording.acquisition_id
            meta = folder / f"{recording.receiver_id}.sigmf-meta"
            try:
                if not meta.exists():
                    await client.download_recording(recording, folder, ca_file=ca_file)
            except HeimdallError as error:
                if error.reason not in _OF_ONE_RECORDING:
                    raise
                click.echo(f"{error.reason_name}: {error.message}", err=True)
                missing += 1
                continue
            had += 1
            if as_json:
                print_json(recording)
            else:
                click.echo(meta)
        if not missing:
            return ExitStatus.COMPLETE
        return ExitStatus.PARTIAL if had else ExitStatus.FAILED

    return run_with_client(config, work)


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
