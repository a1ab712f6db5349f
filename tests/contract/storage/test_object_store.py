"""What every object store does."""

from __future__ import annotations

import asyncio
import random
from hashlib import sha512
from pathlib import Path

import aiohttp
import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc.objects import ObjectNotFoundError, ObjectStore
from storage_svc.objects.local import LocalObjects
from tests.checksums import checksums_of
from tests.contract.storage.conftest import PART_BYTES

KEY = "sessions/task-1/rx-1.sigmf-data"


async def test_small_objects_come_back_and_are_replaced(objects: ObjectStore) -> None:
    await objects.put_bytes(KEY, b"first")
    await objects.put_bytes(KEY, b"second")
    assert await objects.get_bytes(KEY) == b"second"
    assert await objects.size_bytes(KEY) == 6


async def test_file_becomes_the_object(objects: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    path = tmp_path / "samples"
    path.write_bytes(content)
    await objects.put_file(KEY, path, **checksums_of(path))
    assert await objects.size_bytes(KEY) == len(content)
    assert await objects.get_bytes(KEY) == content


async def test_repeated_put_of_a_file_changes_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "samples"
    path.write_bytes(b"abc")
    checksums = checksums_of(path)
    await objects.put_file(KEY, path, **checksums)
    await objects.put_file(KEY, path, **checksums)
    path.unlink(missing_ok=True)
    await objects.put_file(KEY, path, **checksums)
    assert await objects.get_bytes(KEY) == b"abc"


async def test_large_files_arrive_whole_and_at_once(objects: ObjectStore, tmp_path: Path) -> None:
    checksums = {}
    for number in range(6):
        path = tmp_path / f"samples-{number}"
        # Not a multiple of the size of a part, and no two parts alike.
        content = random.Random(number).randbytes(2 * PART_BYTES + 12_345 + number)
        path.write_bytes(content)
        checksums[path] = checksums_of(path)
    await asyncio.gather(*(objects.put_file(f"sessions/t/{path.name}", path, **checksums[path]) for path in checksums))
    for path in checksums:
        stored = await objects.get_bytes(f"sessions/t/{path.name}")
        assert sha512(stored).hexdigest() == checksums[path]["data_sha512"]


async def test_ranges(objects: ObjectStore) -> None:
    await objects.put_bytes(KEY, b"0123456789")
    assert await objects.read_range(KEY, 0, 4) == b"0123"
    assert await objects.read_range(KEY, 3, 4) == b"3456"
    assert await objects.read_range(KEY, 8, 4) == b"89"
    assert await objects.read_range(KEY, 10, 4) == b""
    assert await objects.read_range(KEY, 2, 0) == b""


async def test_what_is_not_there_is_not_found(objects: ObjectStore, tmp_path: Path) -> None:
    for missing in (
        objects.get_bytes(KEY),
        objects.size_bytes(KEY),
        objects.read_range(KEY, 0, 1),
        objects.read_range(KEY, 0, 0),
        objects.put_file(KEY, tmp_path / "none", data_sha512=sha512(b"").hexdigest(), stretches=[]),
    ):
        with pytest.raises(ObjectNotFoundError):
            await missing


async def test_objects_are_whole_while_they_are_replaced(objects: ObjectStore) -> None:
    versions = [bytes([number]) * 50_000 for number in range(8)]
    await objects.put_bytes(KEY, versions[0])

    async def read_all() -> None:
        for _ in range(30):
            assert await objects.get_bytes(KEY) in versions

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read_all())
        for version in versions:
            tasks.create_task(objects.put_bytes(KEY, version))


async def test_location_names_the_object(objects: ObjectStore) -> None:
    await objects.put_bytes(KEY, b"")
    assert objects.location(KEY).endswith(KEY)


async def test_ping_works_before_the_first_object(objects: ObjectStore) -> None:
    await objects.ping()


async def test_url_or_a_clear_no(objects: ObjectStore) -> None:
    await objects.put_bytes(KEY, b"content")
    if isinstance(objects, LocalObjects):
        with pytest.raises(HeimdallError, match="ReadRecording") as caught:
            await objects.url(KEY, 60)
        assert caught.value.reason == ErrorReason.ERROR_REASON_URL_UNSUPPORTED
        return
    url = await objects.url(KEY, 60)
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert await answer.read() == b"content"
