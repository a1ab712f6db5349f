"""SigMF pairs for those who are not storage: from a folder on this machine and from the URLs of the real MinIO."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import socket
import ssl
import struct
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmf
from aiohttp import web
from aiohttp.test_utils import TestServer

from heimdall import download
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.ids import BUCKET
from tests.e2e.faults.bench import eventually
from tests.integration.storage.commands import Commands, commands_in
from tests.integration.storage.support import BLOCK, Writer, block, end_at, gap, opening, sample_bytes, segment, write
from tests.servers.certificates import make_certificate
from tests.servers.minio import MinioServer, minio_server


@pytest.fixture(params=["directory", "minio"])
def server(request: pytest.FixtureRequest) -> MinioServer | None:
    """Where the objects of a test are; None for a folder."""
    return request.getfixturevalue("minio") if request.param == "minio" else None


@pytest.fixture
async def commands(server: MinioServer | None, tmp_path: Path) -> AsyncIterator[Commands]:
    async with commands_in(tmp_path, None if server is None else server.settings()) as made:
        yield made


async def record(commands: Commands, task_id: str, receiver_id: str = "rx-1", **values: Any) -> Recording:
    """Writes a block, a gap and another block, and waits until the object store has them."""
    events = [segment(receiver_id, **values), block(0), gap(BLOCK, 100), block(BLOCK + 100)]
    await write(commands.stub, events, end_at(2 * BLOCK + 100), opening(task_id, receiver_id))
    request = pb.ListRecordingsRequest(filter=pb.RecordFilter(acquisition_id=task_id, receiver_ids=[receiver_id]))
    found = Recording()

    async def is_stored() -> bool:
        found.CopyFrom((await commands.stub.ListRecordings(request, timeout=5)).recordings[0])
        return found.state == Recording.STATE_STORED

    await eventually(is_stored)
    return found


SAMPLES = sample_bytes(0, BLOCK) + sample_bytes(BLOCK + 100, BLOCK)


def unique(tmp_path: Path) -> str:
    """Tests share the server and the bucket."""
    return f"task-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"


async def test_a_pair_is_downloaded_whole_and_readable(commands: Commands, tmp_path: Path) -> None:
    task_id = unique(tmp_path)
    await record(commands, task_id)
    printed = await commands.run("recordings", "get", task_id, "rx-1", "--output", "out/deep")
    assert (printed.status, printed.out, printed.err) == (0, "out/deep/rx-1.sigmf-meta\n", "")
    folder = tmp_path / "out" / "deep"
    assert sorted(path.name for path in folder.iterdir()) == ["rx-1.sigmf-data", "rx-1.sigmf-meta"]
    assert (folder / "rx-1.sigmf-data").read_bytes() == SAMPLES
    recording = sigmf.fromfile(str(folder / "rx-1.sigmf-meta"))
    recording.validate()
    expected = np.frombuffer(SAMPLES, "<i2").astype(np.float32).view(np.complex64) / 32768
    np.testing.assert_array_equal(recording.read_samples(), expected)
    assert recording.calculate_hash() == hashlib.sha512(SAMPLES).hexdigest()
    # Others of the group may read it, as umask says, not only its owner.
    assert (folder / "rx-1.sigmf-data").stat().st_mode & 0o777 == (folder.stat().st_mode & 0o666)


async def test_a_damaged_object_leaves_nothing_behind(
    commands: Commands, server: MinioServer | None, tmp_path: Path
) -> None:
    task_id = unique(tmp_path)
    recording = await record(commands, task_id)
    damaged = SAMPLES[:-1] + bytes([SAMPLES[-1] ^ 1])
    if server is None:
        Path(recording.location).with_suffix(".sigmf-data").write_bytes(damaged)
    else:
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        await asyncio.to_thread(server.client().fput_object, BUCKET, recording.data_object_key, str(path))
    printed = await commands.run("recordings", "get", task_id, "rx-1", "--output", "out")
    assert printed.status == 1
    assert printed.err.startswith(f"error: CHECKSUM_MISMATCH: the samples of rx-1 in {task_id} have SHA-512 ")
    assert recording.data_sha512 in printed.err
    assert list((tmp_path / "out").iterdir()) == []


async def test_all_that_match_are_downloaded_once(commands: Commands, tmp_path: Path) -> None:
    task_id = unique(tmp_path)
    for receiver_id, frequency_hz in (("rx-1", 77_400.0), ("rx-2", 77_500.0), ("rx-3", 77_600.0), ("rx-4", 77_601.0)):
        await record(commands, task_id, receiver_id, center_frequency_hz=frequency_hz)
    download = ("recordings", "download", "--output", "iq")
    first = await commands.run(*download, "--frequency", "77.5kHz", "--tolerance", "100Hz")
    names = [f"iq/{task_id}/rx-{number}.sigmf-meta" for number in (3, 2, 1)]
    assert (first.status, first.out.splitlines(), first.err) == (0, names, "")
    metas = [tmp_path / name for name in names]
    assert [json.loads(meta.read_text())["captures"][0]["core:frequency"] for meta in metas] == [77.6e3, 77.5e3, 77.4e3]
    before = [meta.with_suffix(".sigmf-data").stat().st_mtime_ns for meta in metas]
    metas[0].unlink()

    # One that is still being written can not be had; the others can.
    async with Writer(commands.stub) as writer:
        await writer.open(opening(task_id, "rx-9"))
        await writer.send(segment("rx-9"), block(0))
        await writer.acknowledged_up_to(BLOCK)
        receivers = [word for number in (1, 2, 3, 9) for word in ("--receiver", f"rx-{number}")]
        again = await commands.run(*download, *receivers)
        only = await commands.run(*download, "--receiver", "rx-9")
        await writer.finish(end_at(BLOCK))
    assert (again.status, again.out.splitlines()) == (3, names)
    reason = f"RECORDING_NOT_FOUND: no recording of receiver rx-9 in acquisition {task_id} can be read: "
    assert again.err == f"{reason}it is not in the object store, its state is STATE_WRITING\n"
    after = [meta.with_suffix(".sigmf-data").stat().st_mtime_ns for meta in metas]
    assert [new > old for new, old in zip(after, before, strict=True)] == [True, False, False]
    assert (only.status, only.out, only.err) == (1, "", again.err)


async def test_a_recording_without_samples_has_no_pair(tmp_path: Path) -> None:
    async with commands_in(tmp_path) as commands:
        await write(commands.stub, [segment(), gap(0, 100)], end_at(100))
        printed = await commands.run("recordings", "get", "task-1", "rx-1")
    assert printed.status == 1
    assert printed.err == (
        "error: RECORDING_NOT_FOUND: the recording of rx-1 in task-1 holds no samples, so there is no SigMF pair\n"
    )


async def test_a_folder_of_another_machine_is_told_with_the_ways_there_are(tmp_path: Path) -> None:
    async with commands_in(tmp_path) as commands:
        recording = await record(commands, "task-1")
        bucket = tmp_path / "storage" / BUCKET
        bucket.rename(tmp_path / "elsewhere")
        printed = await commands.run("recordings", "get", "task-1", "rx-1")
        (tmp_path / "elsewhere").rename(bucket)
    assert printed.status == 1
    assert printed.err == (
        f"error: URL_UNSUPPORTED: the object store is a folder, and {recording.location} is not on this machine; run "
        "this where it is, or read the samples through the storage service with HeimdallClient.read_samples\n"
    )


async def test_a_store_that_does_not_give_it_is_named_without_the_signature(minio: MinioServer, tmp_path: Path) -> None:
    task_id = unique(tmp_path)
    async with commands_in(tmp_path, minio.settings()) as commands:
        recording = await record(commands, task_id)
        where = f"{minio.endpoint}/{BUCKET}"
        await asyncio.to_thread(minio.client().remove_object, BUCKET, recording.data_object_key)
        gone = await commands.run("recordings", "get", task_id, "rx-1", "--output", "out")
        await minio.kill()
        try:
            away = await commands.run("recordings", "get", task_id, "rx-1", "--output", "out")
        finally:
            await minio.start()
    gone_text = f"the object store, {where}/{recording.data_object_key}, answered 404 Not Found"
    assert gone.err == f"error: BACKEND_UNAVAILABLE: {gone_text}\n"
    away_text = f"the object store, {where}/{recording.meta_object_key}, could not be read: "
    assert away.err.startswith(f"error: BACKEND_UNAVAILABLE: {away_text}")
    assert "HeimdallClient.read_samples goes through the storage service instead" in away.err
    assert "X-Amz" not in away.err
    assert (gone.status, away.status) == (1, 1)
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_store_with_an_authority_of_its_own_is_trusted_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    async with minio_server(tmp_path / "server", tls=True) as server, commands_in(tmp_path, server.settings()) as made:
        await record(made, "task-1")
        variables = {"HEIMDALL_MINIO_CA_FILE": str(server.ca_file)}
        refused, fine = await asyncio.gather(
            made.run("recordings", "get", "task-1", "rx-1", "--output", "refused"),
            made.run("recordings", "get", "task-1", "rx-1", "--output", "fine", **variables),
        )
    assert refused.status == 1
    assert "certificate verify failed" in refused.err
    assert fine.status == 0, fine.err
    assert (tmp_path / "fine" / "rx-1.sigmf-data").read_bytes() == SAMPLES


DESCRIBED = Recording(acquisition_id="task-1", receiver_id="rx-1", data_sha512=hashlib.sha512(SAMPLES).hexdigest())
SIGNATURE = "5f1d7c0a9be3"
SIGNED = f"X-Amz-Credential=someone&X-Amz-Signature={SIGNATURE}"
RESET, SILENCE = "reset", "silence"


async def test_samples_may_take_longer_than_the_urls_can_be_used(tmp_path: Path) -> None:
    asked, half_sent, may_go_on = [], asyncio.Event(), asyncio.Event()

    async def meta(request: web.Request) -> web.Response:
        asked.append("meta")
        assert request.query["X-Amz-Signature"] == SIGNATURE
        return web.Response(status=403) if half_sent.is_set() else web.Response(body=b"{}")

    async def data(request: web.Request) -> web.StreamResponse:
        asked.append("data")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(SAMPLES[: len(SAMPLES) // 2])
        half_sent.set()
        await may_go_on.wait()
        await response.write(SAMPLES[len(SAMPLES) // 2 :])
        return response

    app = web.Application()
    app.add_routes([web.get("/meta", meta), web.get("/data", data)])
    async with TestServer(app) as server, asyncio.timeout(20):
        root = str(server.make_url("")).rstrip("/")
        urls = pb.GetRecordingUrlResponse(data_url=f"{root}/data?{SIGNED}", meta_url=f"{root}/meta?{SIGNED}")
        downloading = asyncio.create_task(download.download_pair(DESCRIBED, urls, tmp_path / "out", None))
        await half_sent.wait()
        # Neither is to be seen while one is missing.
        assert all(path.name.startswith(".") for path in (tmp_path / "out").iterdir())
        may_go_on.set()
        assert await downloading == tmp_path / "out" / "rx-1.sigmf-meta"
    assert asked == ["meta", "data"]
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found == {"rx-1.sigmf-meta": b"{}", "rx-1.sigmf-data": SAMPLES}


@asynccontextmanager
async def answering(answer: str) -> AsyncIterator[str]:
    """Answers whatever is asked with the same bytes, {target} being what was asked for; gives the server's address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if answer == RESET:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif answer == SILENCE:
            await reader.read()
        else:
            writer.write(answer.replace("{target}", request.split()[1].decode()).encode("latin-1"))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def redirect(location: str) -> str:
    return f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "answered 403 Forbidden"),
        ("HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n{target}", "answered 404 Not Found"),
        (redirect("{target}"), "could not be read: TooManyRedirects;"),
        (redirect("http://[bad{target}"), "could not be read: InvalidUrlRedirectClientError;"),
        (redirect("http:////{target}"), "could not be read: "),
        (redirect("ftp://127.0.0.1{target}"), "could not be read: NonHttpUrlRedirectClientError;"),
        (redirect("http://127.0.0.1:1{target}"), "could not be read: Cannot connect to host 127.0.0.1:1 "),
        (redirect(f"http://{'a' * 70}.invalid{{target}}"), "could not be read: UnicodeError;"),
        ("HTTP/1.1 200 OK\r\n{target}\r\n\r\n", "could not be read: ClientResponseError;"),
        ("HTTP/1.1 200 OK\r\nLocation: {target}\r\n", "could not be read: ServerDisconnectedError;"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{target}", "could not be read: ClientPayloadError;"),
        (RESET, "could not be read: Connection reset by peer;"),
        (SILENCE, "did not answer in time"),
    ],
)
async def test_no_error_shows_the_signature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answer: str, what: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(download, "_IDLE_TIMEOUT_S", 0.5)
    async with answering(answer) as root:
        url = f"{root}/object?{SIGNED}"
        urls = pb.GetRecordingUrlResponse(data_url=url, meta_url=url)
        await check_refused(tmp_path, urls, f"the object store, {root}/object, {what}")
    assert SIGNATURE not in caplog.text


async def test_broken_encryption_is_not_called_a_failure_of_this_machine(tmp_path: Path) -> None:
    authority = await asyncio.to_thread(make_certificate, tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "public.crt", tmp_path / "private.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Past the encryption, as something between that answers for the store does.
        os.write(writer.get_extra_info("socket").fileno(), b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        where = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/object"
        urls = pb.GetRecordingUrlResponse(data_url=f"{where}?{SIGNED}", meta_url=f"{where}?{SIGNED}")
        text = f"the object store, {where}, could not be read: ClientOSError;"
        await check_refused(tmp_path, urls, text, ca_file=authority)


async def test_url_that_is_none_is_not_shown_whole(tmp_path: Path) -> None:
    url = f"http://[::1/object?{SIGNED}"
    urls = pb.GetRecordingUrlResponse(data_url=url, meta_url=url)
    await check_refused(
        tmp_path, urls, "the object store, http://[::1/object, could not be read: InvalidUrlClientError;"
    )


async def check_refused(
    tmp_path: Path, urls: pb.GetRecordingUrlResponse, text: str, *, ca_file: Path | None = None
) -> None:
    with pytest.raises(HeimdallError) as caught:
        await download.download_pair(DESCRIBED, urls, tmp_path / "out", ca_file)
    error = caught.value
    assert error.reason_name == "BACKEND_UNAVAILABLE"
    assert error.message.startswith(text)
    shown = [str(error), repr(error), str(error.metadata), "".join(traceback.format_exception(error))]
    assert [part for part in ("X-Amz", SIGNATURE) for text in shown if part in text] == []
    assert (error.__cause__, error.__context__) == (None, None)
    assert list((tmp_path / "out").iterdir()) == []


async def test_metadata_do_not_appear_without_the_samples(tmp_path: Path) -> None:
    (tmp_path / "rx-1.sigmf-data").write_bytes(SAMPLES)
    (tmp_path / "rx-1.sigmf-meta").write_bytes(b"{}")
    recording = Recording(location=str(tmp_path / "rx-1.sigmf-meta"))
    recording.MergeFrom(DESCRIBED)
    # Nothing can be given a name that a folder has.
    (tmp_path / "out" / "rx-1.sigmf-data").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        await download.copy_pair(recording, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rx-1.sigmf-data"]
