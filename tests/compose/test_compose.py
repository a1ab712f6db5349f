"""The compose file as it comes up, records, is restarted and goes down. Run by `make test-compose`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from google.protobuf import json_format
from minio import Minio

from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.storage.v1.storage_pb2 import RecordFilter
from tests.compose.podman import Podman, podman
from tests.compose.stack import BUCKET, IMAGE, SERVICES, Stack, build_images, container, simulated_stations, stack
from tests.conftest import REPO_ROOT

# Images, containers and all waiting; a cold cache is filled by make before.
pytestmark = pytest.mark.timeout(900)

_MAX_IMAGE_BYTES: Final = 350_000_000
_RECEIVER_COUNT: Final = 7


@pytest.fixture(scope="module")
def engine() -> Iterator[Podman]:
    """Podman with the images of the compose file."""
    began = time.monotonic()
    with podman() as running:
        build_images(running)
        size = running.image_size_bytes(IMAGE)
        print(f"\nimages: {time.monotonic() - began:.0f} s, the image has {size / 1e6:.0f} MB")
        yield running
    print(f"\nall of it: {time.monotonic() - began:.0f} s")


@pytest.fixture(scope="module")
def compose(engine: Podman) -> Iterator[Stack]:
    """The compose file, up and healthy, with simulated receivers."""
    with simulated_stations(engine.folder / "simulator.log") as stations, stack(engine, stations) as running:
        began = time.monotonic()
        running.wait_until_healthy(*SERVICES)
        print(f"\nhealthy after {time.monotonic() - began:.0f} s")
        yield running


def test_image_is_small_and_has_no_compiler_and_no_root(engine: Podman) -> None:
    assert engine.image_size_bytes(IMAGE) <= _MAX_IMAGE_BYTES
    run = ("run", "--rm", "--network=none", IMAGE)
    assert engine.run(*run, "id", "-u").strip() == "10001"
    assert engine.run(*run, "sh", "-c", "command -v gcc cc clang tcc make pip setuptools || true").strip() == ""
    find = "find / -xdev -writable -not -path '/proc/*' -not -path '/dev*' 2>/dev/null || true"
    writable = set(engine.run(*run, "sh", "-c", find).split())
    assert writable == {"/run/lock", "/tmp", "/var/lib/heimdall", "/var/lock", "/var/tmp"}
    assert engine.run(*run).startswith("Usage: heimdall")


def test_secrets_are_asked_for(engine: Podman, tmp_path: Path) -> None:
    example = (REPO_ROOT / ".env.example").read_text()
    names = re.findall(r"^(\w+)=", example, re.MULTILINE)
    assert sorted(names) == ["MINIO_ROOT_PASSWORD", "MINIO_ROOT_USER", "POSTGRES_PASSWORD"]
    for missing in names:
        variables = tmp_path / f"without-{missing}.env"
        variables.write_text(re.sub(rf"^{missing}=.*$", "", example, flags=re.MULTILINE))
        words = ("podman-compose", "--env-file", variables, "--file", REPO_ROOT / "docker-compose.yml", "config")
        ended = engine.attempt(*words)
        assert ended.returncode != 0
        assert f"{missing}" in ended.stderr


def test_what_was_recorded_outlives_storage(compose: Stack) -> None:
    acquisition = _acquire(compose)
    acquisition_id = acquisition.acquisition_id
    assert len(acquisition.outcomes) == _RECEIVER_COUNT
    receivers = {outcome.receiver_id for outcome in acquisition.outcomes}
    rows = asyncio.run(_rows(compose, acquisition_id))
    assert sorted(row["receiver_id"] for row in rows) == sorted(receivers)
    assert all(row["state"] == "STORED" and row["sample_count"] > 0 and row["snr_db"] > 0 for row in rows)
    objects = _objects(compose, acquisition_id)
    names = {f"{receiver_id}{suffix}" for receiver_id in receivers for suffix in (".sigmf-data", ".sigmf-meta")}
    assert objects.keys() == {*names, "session.sigmf-collection"}

    before = compose.podman.run("inspect", "--format", "{{.State.StartedAt}}", container("storage"))
    compose.compose("restart", "storage")
    compose.wait_until_healthy(*SERVICES)
    assert compose.podman.run("inspect", "--format", "{{.State.StartedAt}}", container("storage")) != before

    recordings = asyncio.run(_read_back(compose, acquisition_id))
    assert recordings.keys() == receivers
    for receiver_id, (recording, digest) in recordings.items():
        data = objects[f"{receiver_id}.sigmf-data"]
        assert recording.state == Recording.STATE_STORED
        assert recording.complete
        assert recording.sample_count > 0
        assert digest == hashlib.sha512(data).hexdigest() == recording.data_sha512
        assert json.loads(objects[f"{receiver_id}.sigmf-meta"])["global"]["core:sha512"] == digest
    _assert_no_secret_shows(compose)


def _acquire(compose: Stack) -> Acquisition:
    ended = compose.heimdall("acquire", "145.5MHz", "--duration", "2s", "--json")
    assert ended.returncode == 0, f"{ended.stderr}{ended.stdout}{compose.logs(*SERVICES)}"
    return json_format.Parse(ended.stdout, Acquisition())


async def _rows(compose: Stack, acquisition_id: str) -> list[Any]:
    dsn = f"postgresql://heimdall_user@127.0.0.1:{compose.ports['timescaledb']}/heimdall"
    connection = await asyncpg.connect(dsn, password=compose.secrets["POSTGRES_PASSWORD"], ssl=False, timeout=10)
    try:
        rows: list[Any] = await connection.fetch(
            "SELECT * FROM measurements WHERE task_id = $1", acquisition_id, timeout=10
        )
        return rows
    finally:
        await connection.close()


def _objects(compose: Stack, acquisition_id: str) -> dict[str, bytes]:
    user, password = compose.secrets["MINIO_ROOT_USER"], compose.secrets["MINIO_ROOT_PASSWORD"]
    client = Minio(endpoint=f"127.0.0.1:{compose.ports['minio']}", access_key=user, secret_key=password, secure=False)
    prefix = f"sessions/{acquisition_id}/"
    found: dict[str, bytes] = {}
    for entry in client.list_objects(bucket_name=BUCKET, prefix=prefix):
        name = str(entry.object_name)
        answer = client.get_object(bucket_name=BUCKET, object_name=name)
        found[name.removeprefix(prefix)] = answer.read()
        answer.close()
        answer.release_conn()
    return found


async def _read_back(compose: Stack, acquisition_id: str) -> dict[str, tuple[Recording, str]]:
    """Returns every recording with the SHA-512 of the samples that ReadRecording streams."""
    found = {}
    async with HeimdallClient(compose.target("coordinator"), compose.target("storage")) as client:
        async for recording in client.list_recordings(RecordFilter(acquisition_id=acquisition_id)):
            digest = hashlib.sha512()
            async for event in client.read_recording(acquisition_id, recording.receiver_id):
                if event.HasField("block"):
                    digest.update(event.block.samples)
            found[recording.receiver_id] = (recording, digest.hexdigest())
    return found


def _assert_no_secret_shows(compose: Stack) -> None:
    logs = compose.logs(*SERVICES)
    image = compose.podman.run("image", "inspect", IMAGE) + compose.podman.run("history", "--no-trunc", IMAGE)
    for name in ("POSTGRES_PASSWORD", "MINIO_ROOT_PASSWORD"):
        assert compose.secrets[name] not in logs
        assert compose.secrets[name] not in image
