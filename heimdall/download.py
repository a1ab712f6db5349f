"""SigMF pairs of stored recordings, fetched into a folder and checked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import GetRecordingUrlResponse
from heimdall.whole_file import FileWriter, whole_file

DATA_SUFFIX: Final = ".sigmf-data"
META_SUFFIX: Final = ".sigmf-meta"

_CHUNK_BYTES: Final = 1024 * 1024
_CONNECT_TIMEOUT_S: Final = 10.0
_IDLE_TIMEOUT_S: Final = 30.0


async def download_pair(
    recording: Recording, urls: GetRecordingUrlResponse, folder: Path, ca_file: Path | None
) -> Path:
    """Downloads a pair from an object store.

    Args:
        recording: The recording.
        urls: Where its objects are.
        folder: Where to put the pair; made if it is missing.
        ca_file: PEM file of certificates to trust; None for the system's.

    Returns:
        The path of the metadata. It appears last, and only with the samples that belong to it.

    Raises:
        HeimdallError: BACKEND_UNAVAILABLE if the store does not give them, CHECKSUM_MISMATCH. No text of it, nor of
            what caused it, shows the queries of the URLs.
        OSError: If a file can not be written.
    """
    trusted = True if ca_file is None else await asyncio.to_thread(partial(ssl.create_default_context, cafile=ca_file))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_IDLE_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=trusted)) as session,
        aclosing(_object_chunks(session, urls.data_url)) as data,
        aclosing(_object_chunks(session, urls.meta_url)) as meta,
    ):
        return await _save_pair(recording, data, meta, folder)


async def copy_pair(recording: Recording, folder: Path) -> Path:
    """Copies a pair out of a folder on this machine; otherwise as download_pair.

    Raises:
        HeimdallError: URL_UNSUPPORTED if the folder is not on this machine, CHECKSUM_MISMATCH.
        OSError: If a file can not be read or written.
    """
    source = Path(recording.location)
    if not await asyncio.to_thread(source.is_file):
        raise HeimdallError(
            ErrorReason.ERROR_REASON_URL_UNSUPPORTED,
            f"the object store is a folder, and {source} is not on this machine; run this where it is, or read the "
            "samples through the storage service with HeimdallClient.read_samples",
            metadata={"location": recording.location},
        )
    async with (
        aclosing(_file_chunks(source.with_suffix(DATA_SUFFIX))) as data,
        aclosing(_file_chunks(source)) as meta,
    ):
        return await _save_pair(recording, data, meta, folder)


async def _save_pair(
    recording: Recording, data: AsyncIterable[bytes], meta: AsyncIterable[bytes], folder: Path
) -> Path:
    await asyncio.to_thread(partial(folder.mkdir, parents=True, exist_ok=True))
    path = folder / f"{recording.receiver_id}{META_SUFFIX}"
    async with whole_file(path) as meta_file, whole_file(path.with_suffix(DATA_SUFFIX)) as data_file:
        # First, because the samples may take longer than the URL can be used.
        await _write(meta_file, meta)
        digest = await _write(data_file, data)
        if digest != recording.data_sha512:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH,
                f"the samples of {recording.receiver_id} in {recording.acquisition_id} have SHA-512 {digest}, stored "
                f"was {recording.data_sha512}",
                metadata={"sha512": digest, "expected_sha512": recording.data_sha512},
            )
    return path


async def _write(writer: FileWriter, chunks: AsyncIterable[bytes]) -> str:
    """Writes chunks and returns their SHA-512 in hexadecimal."""
    checksum = hashlib.sha512()

    def take(chunk: bytes) -> None:
        checksum.update(chunk)
        writer.file.write(chunk)

    async for chunk in chunks:
        await writer.run(partial(take, chunk))
    return checksum.hexdigest()


async def _file_chunks(path: Path) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


async def _object_chunks(session: aiohttp.ClientSession, url: str) -> AsyncGenerator[bytes, None]:
    # The query holds the signature, which lets whoever reads it download too.
    where = url.partition("?")[0]
    try:
        async with session.get(url) as response:
            if response.status != 200:
                raise _unavailable(where, f"answered {response.status} {response.reason}")
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                yield chunk
        return
    except TimeoutError:
        failure = "did not answer in time"
    except (aiohttp.ClientError, UnicodeError) as error:
        # The latter is a host of a redirect that is no name.
        failure = (
            f"could not be read: {_cause(error)}; HeimdallClient.read_samples goes through the storage service instead"
        )
    # Not in the blocks above: the error there, which may quote the signature, would be shown along with this one.
    raise _unavailable(where, failure)


def _cause(error: aiohttp.ClientError | UnicodeError) -> str:
    """Returns what went wrong, without the addresses and answers that other errors quote: they may hold a signature."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    # A failure of TLS has a number too, which is none of the operating system's, and a text of its own.
    if isinstance(error, OSError) and error.errno is not None and error.strerror == os.strerror(error.errno):
        return error.strerror
    return type(error).__name__


def _unavailable(where: str, what: str) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, f"the object store, {where}, {what}", metadata={"url": where}
    )
