"""The real servers that other tests use do what those tests take for granted."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import urllib3

from tests.servers.minio import MinioServer, minio_server


async def test_minio_keeps_objects_over_a_kill(minio: MinioServer) -> None:
    client = minio.client()
    client.make_bucket("kept-bucket")
    client.put_object("kept-bucket", "a/b", io.BytesIO(b"content"), 7)
    await minio.kill()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        client.stat_object("kept-bucket", "a/b")
    await minio.start()
    assert client.stat_object("kept-bucket", "a/b").size == 7


async def test_minio_that_stands_still_does_not_answer(minio: MinioServer) -> None:
    client = minio.client(timeout_s=1.0)
    minio.freeze()
    try:
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            client.bucket_exists("no-such-bucket")
    finally:
        minio.thaw()
    assert not client.bucket_exists("no-such-bucket")


async def test_minio_speaks_tls(tmp_path: Path) -> None:
    async with minio_server(tmp_path, tls=True) as server:
        assert server.endpoint.startswith("https://")
        assert not server.client().bucket_exists("no-such-bucket")
        server.ca_file = None
        with pytest.raises(urllib3.exceptions.SSLError, match="certificate verify failed"):
            server.client().bucket_exists("no-such-bucket")
