"""What every object store does."""

from __future__ import annotations

import asyncio
from hashlib import sha512
from pathlib import Path

import pytest

from storage_svc.objects import ObjectNotFoundError, ObjectStore

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
    await objects.put_file(KEY, path, data_sha512=sha512(path.read_bytes()).hexdigest())
    assert not path.exists()
    assert await objects.size_bytes(KEY) == len(content)
    assert await objects.get_bytes(KEY) == content


async def test_repeated_put_of_a_file_changes_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "samples"
    path.write_bytes(b"abc")
    checksum = sha512(b"abc").hexdigest()
    await objects.put_file(KEY, path, data_sha512=checksum)
    await objects.put_file(KEY, path, data_sha512=checksum)
    path.unlink(missing_ok=True)
    await objects.put_file(KEY, path, data_sha512=checksum)
    assert await objects.get_bytes(KEY) == b"abc"


async def test_ranges(objects: ObjectStore) -> None:
    await objects.put_bytes(KEY, b"0123456789")
    assert await objects.read_range(KEY, 0, 4) == b"0123"
    assert await objects.read_range(KEY, 3, 4) == b"3456"
    assert await objects.read_range(KEY, 8, 4) == b"89"
    assert await objects.read_range(KEY, 10, 4) == b""


async def test_what_is_not_there_is_not_found(objects: ObjectStore, tmp_path: Path) -> None:
    for missing in (
        objects.get_bytes(KEY),
        objects.size_bytes(KEY),
        objects.read_range(KEY, 0, 1),
        objects.put_file(KEY, tmp_path / "none", data_sha512=sha512(b"").hexdigest()),
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
