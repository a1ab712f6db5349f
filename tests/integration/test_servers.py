"""The real servers that other tests use do what those tests take for granted."""

from __future__ import annotations

import io
from pathlib import Path

import asyncpg
import pytest
import urllib3

from tests.servers.minio import MinioServer, minio_server
from tests.servers.postgres import PostgresServer


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


async def test_postgres_keeps_rows_over_a_kill(postgres: PostgresServer) -> None:
    database = await postgres.create_database()
    connection = await postgres.connect(database)
    await connection.execute("CREATE TABLE kept (number integer)")
    await connection.execute("INSERT INTO kept VALUES (7)")
    # One that runs goes on.
    await postgres.start()
    assert await connection.fetchval("SELECT number FROM kept") == 7
    await postgres.kill()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetch("SELECT number FROM kept")
    connection.terminate()
    with pytest.raises(ConnectionRefusedError):
        await postgres.connect(database)
    await postgres.start()
    connection = await postgres.connect(database)
    assert await connection.fetchval("SELECT number FROM kept") == 7
    await connection.close()
    await postgres.drop_database(database)


async def test_postgres_that_stands_still_does_not_answer(postgres: PostgresServer) -> None:
    database = await postgres.create_database()
    connection = await postgres.connect(database)
    postgres.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncpg.connect(postgres.dsn(database), password=postgres.password, ssl=False, timeout=0.5)
    finally:
        postgres.thaw()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
    await postgres.drop_database(database)


async def test_postgres_refuses_writes_when_told_so_and_wrong_passwords_always(postgres: PostgresServer) -> None:
    database = await postgres.create_database()
    await postgres.set_read_only(True)
    connection = await postgres.connect(database)
    try:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TABLE refused (number integer)")
    finally:
        await connection.close()
        await postgres.set_read_only(False)
    connection = await postgres.connect(database)
    await connection.execute("CREATE TABLE taken (number integer)")
    await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.dsn(database), password="wrong", ssl=False)
    await postgres.drop_database(database)
