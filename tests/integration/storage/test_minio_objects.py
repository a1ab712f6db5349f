"""MinIO as an object store: what goes wrong with it, and what the caller is told."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import MinioSettings, SettingsError
from storage_svc.objects import ObjectNotFoundError, Stretch
from storage_svc.objects.minio import MinioObjects
from storage_svc.objects.upload import CheckedFile
from tests.checksums import Checksums, checksums_of
from tests.e2e.faults.bench import until
from tests.servers.minio import MinioServer, minio_server

KEY = "sessions/task-1/rx-1.sigmf-data"
PART_BYTES = 5 * 1024**2
MIB = 1024**2


@asynccontextmanager
async def objects_of(server: MinioServer, bucket: str, **settings: Any) -> AsyncIterator[MinioObjects]:
    objects = MinioObjects(server.settings(part_bytes=PART_BYTES, **settings), bucket)
    try:
        yield objects
    finally:
        await objects.close()


def spool_file(folder: Path, size_bytes: int, name: str = "samples") -> tuple[Path, Checksums]:
    """Makes a file of random bytes; returns it and its checksums."""
    path = folder / name
    source = random.Random(size_bytes)
    with path.open("wb") as file:
        for first in range(0, size_bytes, MIB):
            file.write(source.randbytes(min(MIB, size_bytes - first)))
    return path, checksums_of(path)


async def told(use: Awaitable[Any]) -> str:
    """Returns the text of the BACKEND_UNAVAILABLE that a use fails with."""
    with pytest.raises(HeimdallError) as caught:
        await use
    assert caught.value.reason == ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
    assert caught.value.metadata["backend"] == "objects"
    return caught.value.message


def names_in(server: MinioServer, bucket: str) -> list[str | None]:
    return [found.object_name for found in server.client().list_objects(bucket, recursive=True)]


def unfinished_uploads(server: MinioServer, bucket: str) -> int:
    """Returns the number of uploads of KEY that nobody ended; MinIO tells only those of one object."""
    return len(server.client()._list_multipart_uploads(bucket, prefix=KEY).uploads)


@pytest.mark.parametrize(
    ("size_bytes", "damage"),
    [
        (0, "longer"),
        *((size_bytes, how) for size_bytes in (1000, 3 * PART_BYTES + 77) for how in ("flipped", "cut", "longer")),
    ],
)
async def test_damaged_file_becomes_no_object(minio: MinioServer, tmp_path: Path, size_bytes: int, damage: str) -> None:
    path, checksums = spool_file(tmp_path, size_bytes)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[size_bytes // 3] ^= 1
    path.write_bytes({"flipped": content, "cut": content[:-1], "longer": content + b"x"}[damage])
    first = size_bytes // 3 // 777_777 * 777_777
    told_of = {
        "flipped": f"bytes {first} to {min(first + 777_777, size_bytes)} have the CRC32C [0-9a-f]{{8}}, must have",
        "cut": f"it has {size_bytes - 1} bytes, must have {size_bytes}",
        "longer": f"it has {size_bytes + 1} bytes, must have {size_bytes}",
    }
    bucket = f"damaged-{size_bytes}-{damage}"
    threads = all_threads()
    async with objects_of(minio, bucket) as objects:
        await objects.ping()
        with pytest.raises(HeimdallError, match=told_of[damage]) as caught:
            await objects.put_file(KEY, path, **checksums)
        assert caught.value.reason == ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH
        assert names_in(minio, bucket) == []
        assert unfinished_uploads(minio, bucket) == 0
        await until(lambda: all_threads() <= threads + 2)
        spool_file(tmp_path, size_bytes)
        await objects.put_file(KEY, path, **checksums)
        assert await objects.size_bytes(KEY) == size_bytes


async def test_object_that_is_there_is_not_sent_again(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, PART_BYTES + 5)
    async with objects_of(minio, "sent-once") as objects:
        await objects.put_file(KEY, path, **checksums)
        first = minio.client().stat_object("sent-once", KEY)
        # Reading it would fail: it is another file now.
        path.write_bytes(b"changed")
        await objects.put_file(KEY, path, **checksums)
        assert minio.client().stat_object("sent-once", KEY).last_modified == first.last_modified
        # An object with other content is replaced.
        path.write_bytes(b"other")
        await objects.put_file(KEY, path, **checksums_of(path))
        assert await objects.get_bytes(KEY) == b"other"


async def test_url_gives_the_bytes_to_anybody_for_a_while(minio: MinioServer) -> None:
    async with objects_of(minio, "with-urls") as objects, aiohttp.ClientSession() as session:
        await objects.put_bytes(KEY, b"content of the object")
        url = await objects.url(KEY, 1.5)
        async with session.get(url) as answer:
            assert (answer.status, await answer.read()) == (200, b"content of the object")
        async with session.get(url.partition("?")[0]) as answer:
            assert answer.status == 403
        assert minio.secret_key not in url
        assert "X-Amz-Expires=2&" in url


async def test_bucket_that_goes_while_it_is_written_to_is_trouble_and_no_missing_object(
    minio: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = minio.client()
    async with objects_of(minio, "goes-away") as objects:
        put = objects._put

        def put_and_lose(key: str, content: bytes) -> None:
            put(key, content)
            client.remove_object("goes-away", key)
            client.remove_bucket("goes-away")

        monkeypatch.setattr(objects, "_put", put_and_lose)
        with pytest.raises(HeimdallError) as caught:
            await objects.ping()
        assert caught.value.reason == ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE


async def test_url_has_the_address_of_those_who_download(minio: MinioServer) -> None:
    public = "http://store.example:9000"
    async with objects_of(minio, "with-urls", public_endpoint=public) as objects, aiohttp.ClientSession() as session:
        await objects.put_bytes(KEY, b"content of the object")
        url = await objects.url(KEY, 60)
        assert url.startswith(f"{public}/with-urls/{KEY}?")
        # As through a proxy of that name: the signature covers the host.
        here = url.replace(public, minio.endpoint)
        async with session.get(here, headers={"Host": "store.example:9000"}) as answer:
            assert (answer.status, await answer.read()) == (200, b"content of the object")
        async with session.get(here) as answer:
            assert answer.status == 403


async def test_bucket_is_made_where_the_settings_say_and_again_if_it_is_removed(minio: MinioServer) -> None:
    client = minio.client()
    async with objects_of(minio, "made-again") as objects:
        for _ in range(2):
            await objects.ping()
            assert names_in(minio, "made-again") == []
            assert client.get_bucket_versioning("made-again").status is None
            client.remove_bucket("made-again")
            with pytest.raises(ObjectNotFoundError):
                await objects.get_bytes(KEY)
        await asyncio.gather(*(objects.put_bytes(f"sessions/t/{number}", b"x") for number in range(8)))
        assert len(names_in(minio, "made-again")) == 8


async def test_bucket_that_is_missing_is_made_for_a_large_file(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 2 * PART_BYTES)
    async with objects_of(minio, "made-for-a-file") as objects:
        await objects.put_file(KEY, path, **checksums)
        assert hashlib.sha512(await objects.get_bytes(KEY)).hexdigest() == checksums["data_sha512"]


async def test_tls_with_an_authority_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "minio").mkdir()
    path, checksums = spool_file(tmp_path, 2 * PART_BYTES)
    async with minio_server(tmp_path / "minio", tls=True) as server:
        async with objects_of(server, "over-tls") as objects:
            await objects.ping()
            await objects.put_file(KEY, path, **checksums)
            assert (await objects.url(KEY, 60)).startswith("https://")
        async with objects_of(server, "over-tls", ca_file=None) as objects:
            text = await told(objects.ping())
        assert "certificate verify failed" in text
        assert "minio.ca_file" in text
        plain = server.endpoint.replace("https", "http")
        async with objects_of(server, "over-tls", endpoint=plain) as objects:
            await told(objects.ping())


@pytest.mark.parametrize(
    ("wrong", "code"), [({"secret_key": "wrong"}, "SignatureDoesNotMatch"), ({"access_key": "nobody"}, "InvalidAccess")]
)
async def test_wrong_credentials_are_told_and_not_shown(minio: MinioServer, wrong: dict[str, str], code: str) -> None:
    async with objects_of(minio, "refused", **wrong) as objects:
        for text in await asyncio.gather(
            told(objects.ping()), told(objects.put_bytes(KEY, b"x")), told(objects.get_bytes(KEY))
        ):
            assert "it refuses minio.access_key or minio.secret_key" in text
            assert code in text
            assert minio.secret_key not in text


async def test_store_that_is_away_is_told_at_once(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 2 * PART_BYTES)
    async with objects_of(minio, "away") as objects:
        await objects.put_bytes(KEY, b"x")
        await minio.kill()
        try:
            for text in await asyncio.gather(
                told(objects.ping()),
                told(objects.get_bytes(KEY)),
                told(objects.put_bytes(KEY, b"x")),
                told(objects.size_bytes(KEY)),
                told(objects.put_file(KEY, path, **checksums)),
            ):
                assert "Connection refused" in text
            # It needs no store, as the service can not know whether the store is there when the URL is used.
            assert KEY in await objects.url(KEY, 60)
        finally:
            await minio.start()
        assert await objects.get_bytes(KEY) == b"x"


async def test_store_that_stands_still_is_told_in_time_and_given_up_in_time(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 4 * PART_BYTES)
    async with objects_of(minio, "frozen", timeout_s=1.0) as objects:
        await objects.ping()
        minio.freeze()
        try:
            assert "no answer within 1 s" in await told(objects.get_bytes(KEY))
            upload = asyncio.create_task(objects.put_file(KEY, path, **checksums))
            await until(lambda: upload_threads() > 0)
            started_s = time.monotonic()
            upload.cancel()
            await asyncio.wait({upload})
            await objects.close()
            assert time.monotonic() - started_s < 6
            await until(lambda: upload_threads() == 0)
        finally:
            minio.thaw()
    assert names_in(minio, "frozen") == []


def upload_threads() -> int:
    return sum(thread.name.startswith("upload") for thread in threading.enumerate())


def all_threads() -> int:
    """Returns the number of threads but for those of the event loop, which stay."""
    return sum(not thread.name.startswith("asyncio") for thread in threading.enumerate())


async def test_upload_that_is_cancelled_leaves_nothing(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 40 * PART_BYTES)
    threads = all_threads()
    async with objects_of(minio, "cancelled", upload_count=1) as objects:
        await objects.ping()
        upload = asyncio.create_task(objects.put_file(KEY, path, **checksums))
        await until(lambda: unfinished_uploads(minio, "cancelled") == 1)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        # The one thread for uploads is free again.
        small, small_checksums = spool_file(tmp_path, 10, "small")
        await objects.put_file("sessions/t/small", small, **small_checksums)
        assert names_in(minio, "cancelled") == ["sessions/t/small"]
        assert unfinished_uploads(minio, "cancelled") == 0
    await until(lambda: all_threads() <= threads)


async def test_closing_gives_up_what_is_under_way(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 40 * PART_BYTES)
    async with objects_of(minio, "closed") as objects:
        await objects.ping()
        upload = asyncio.create_task(objects.put_file(KEY, path, **checksums))
        await until(lambda: unfinished_uploads(minio, "closed") == 1)
        await objects.close()
        assert unfinished_uploads(minio, "closed") == 0
        assert names_in(minio, "closed") == []
        assert "given up" in await told(upload)


async def test_memory_stays_within_a_few_parts(minio: MinioServer, tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 256 * MIB)
    process = psutil.Process()
    async with objects_of(minio, "large") as objects:
        await objects.ping()
        before_bytes = process.memory_info().rss
        upload = asyncio.create_task(objects.put_file(KEY, path, **checksums))
        most_bytes = before_bytes
        while not upload.done():
            most_bytes = max(most_bytes, process.memory_info().rss)
            await asyncio.sleep(0.01)
        await upload
        assert minio.client().stat_object("large", KEY).size == 256 * MIB
    # One part is read, two are sent, and one waits to be.
    assert most_bytes - before_bytes < 6 * PART_BYTES


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "minio.access_key: is missing"),
        ({"access_key": "a"}, "minio.secret_key: is missing"),
        ({"access_key": "a", "secret_key": "b", "ca_file": "/no/such/file"}, "minio.ca_file: /no/such/file"),
        ({"access_key": "a", "secret_key": "b", "endpoint": "http://-.-:x"}, "minio.endpoint: 'http://-.-:x'"),
        (
            {"access_key": "a", "secret_key": "b", "public_endpoint": "http://-.-:x"},
            "minio.public_endpoint: 'http://-.-:x'",
        ),
    ],
)
def test_settings_that_can_not_be_right_are_refused(values: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        MinioObjects(MinioSettings.model_validate(values))
    assert text in str(caught.value)


async def test_credentials_may_be_in_files(minio: MinioServer, tmp_path: Path) -> None:
    (tmp_path / "user").write_text(f"{minio.access_key}\n")
    (tmp_path / "password").write_text(minio.secret_key)
    settings = MinioSettings(
        endpoint=minio.endpoint, access_key_file=tmp_path / "user", secret_key_file=tmp_path / "password"
    )
    objects = MinioObjects(settings, "from-files")
    await objects.ping()
    await objects.close()


@asynccontextmanager
async def pretender(answer: Callable[[str], bytes]) -> AsyncIterator[MinioObjects]:
    """Runs a server that answers as it is told to, given the first line of a request; yields a client of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next((line for line in head.split("\r\n") if line.lower().startswith("content-length:")), ":0")
        await reader.readexactly(int(length.split(":")[1]))
        writer.write(answer(head.partition("\r\n")[0]).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"endpoint": f"http://127.0.0.1:{port}", "access_key": "a", "secret_key": "b", "timeout_s": 5}
    objects = MinioObjects(MinioSettings.model_validate(settings))
    async with server:
        yield objects
        await objects.close()


async def test_answers_of_what_is_no_object_store_are_told() -> None:
    answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<h1>\xff"
    async with pretender(lambda _: answer) as objects:
        assert "could not write to bucket heimdall-raw-iq" in await told(objects.ping())
    answer = b"HTTP/1.1 400 Bad\r\nContent-Type: application/xml\r\nContent-Length: 5\r\n\r\n<h1>x"
    async with pretender(lambda _: answer) as objects:
        assert "minio.endpoint does not answer as an object store does" in await told(objects.ping())


async def test_store_that_has_less_than_it_took_is_told(tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 1000)
    was_put = False

    def answer(line: str) -> bytes:
        nonlocal was_put
        if line.startswith("HEAD") and not was_put:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        was_put = True
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (999 if line.startswith("HEAD") else 0)

    async with pretender(answer) as objects:
        text = await told(objects.put_file(KEY, path, **checksums))
    assert "took 1000 bytes" in text
    assert "has 999" in text


def test_file_is_not_read_on_for_a_store_that_refuses_it(tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 1000)
    with path.open("rb") as file:
        checked = CheckedFile(file, checksums["stretches"], threading.Event())
        assert checked.read(400) == path.read_bytes()[:400]
        checked.refused = True
        assert checked.read(400) == bytes(400)
        assert file.tell() == 400
    assert checked.failure is None


def test_checksum_is_crc32c(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    path.write_bytes(b"123456789" * 2)
    # The check value that catalogues of CRCs give for CRC-32C.
    for crc32c, is_right in ((0xE3069283, True), (0xCBF43926, False)):
        with path.open("rb") as file:
            checked = CheckedFile(file, [Stretch(9, 0xE3069283), Stretch(9, crc32c)], threading.Event())
            # In reads that end inside of a stretch, at its end, and in the next one.
            assert [checked.read(size_bytes) for size_bytes in (4, 5, 3)] == [b"1234", b"56789", b"123"]
            assert checked.read(6) == (b"456789" if is_right else bytes(6))
            assert (checked.failure is None) == is_right


def test_file_that_is_cut_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path, checksums = spool_file(tmp_path, 100_000)
    with path.open("r+b") as file, path.open("rb") as reader:
        checked = CheckedFile(reader, checksums["stretches"], threading.Event())
        assert len(checked.read(40_000)) == 40_000
        file.truncate(70_000)
        assert checked.read(60_000) == bytes(60_000)
    assert checked.failure is not None
    assert "it ended after 70000 bytes while it was read" in checked.failure.message
