"""The served database under many writers, at its limits, and away in every way."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Estimate
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import TimescaleSettings
from storage_svc.ids import RecordingKey
from storage_svc.measurements.timescale import TimescaleMeasurements, migrate
from tests.contract.storage.messages import EVERYTHING, SUMMARY, WINDOW, acquisition, measurement, recording
from tests.e2e.faults.bench import eventually
from tests.integration.storage.process import refused
from tests.servers.postgres import PostgresServer
from tests.servers.rows import fresh_database

UNAVAILABLE = ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE
MIGRATIONS = ["0001_initial"]
CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'heimdall-storage' AND datname = current_database()
"""


@pytest.fixture
async def settings(postgres: PostgresServer) -> AsyncIterator[TimescaleSettings]:
    async with fresh_database(postgres) as settings:
        yield settings


@pytest.fixture
async def store(settings: TimescaleSettings) -> AsyncIterator[TimescaleMeasurements]:
    store = TimescaleMeasurements(settings)
    yield store
    await store.close()


def windows(task: str, count: int, first: int = 0) -> list[Any]:
    return [measurement(task, scope=WINDOW, first_sample_index=first + place) for place in range(count)]


async def ask(store: TimescaleMeasurements, query: str) -> Any:
    """Returns the only value of a query."""
    (row,) = await store._fetch(query, {})
    return next(iter(row.values()))


@pytest.mark.parametrize("connection_count", [1, 4])
async def test_many_writers_share_few_connections(settings: TimescaleSettings, connection_count: int) -> None:
    store = TimescaleMeasurements(settings.model_copy(update={"max_connection_count": connection_count}))

    async def write(number: int) -> int:
        inserted = 0
        for place in range(5):
            inserted += (await store.write_measurements(windows(f"t{number}", 10, 10 * place))).inserted
            await store.put_recording(recording(f"t{number}"))
            await store.put_acquisition(acquisition(f"t{number}", place + 1), place)
            assert await store.get_recording(RecordingKey(f"t{number}", "rx-1")) is not None
        return inserted

    async with asyncio.timeout(40):
        assert await asyncio.gather(*(write(number) for number in range(20))) == [50] * 20
    assert await ask(store, "SELECT count(*) FROM measurement_windows WHERE state = 'STORED'") == 1000
    assert 1 <= await ask(store, CONNECTIONS) <= connection_count
    await store.close()


async def test_rows_of_many_writers_come_together(store: TimescaleMeasurements) -> None:
    await store.ping()
    for turn in range(4):
        await asyncio.gather(*(store.write_measurements(windows(f"t{number}", 20, turn * 20)) for number in range(50)))
    assert await ask(store, "SELECT count(*) FROM measurement_windows") == 4000
    # 4000 rows in batches of 1000; the first write of a turn may go alone.
    assert await ask(store, "SELECT count(DISTINCT CAST(xmin AS text)) FROM measurement_windows") <= 8


async def test_known_rows_are_looked_for_by_their_key_from_the_beginning(store: TimescaleMeasurements) -> None:
    # The database makes a plan for all values after five times, here with next to nothing in the table.
    for place in range(10):
        await store.write_measurements(windows("t", 1, place))
    turn_count, receiver_count = 10, 50
    for turn in range(turn_count):
        made = [row for number in range(receiver_count) for row in windows(f"t{number}", 10, 10 * turn)]
        await store.write_measurements(made)
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'measurement_windows_pkey'"

    async def most_went_by_key() -> bool:
        # While the table is small it does not matter how.
        return int(await ask(store, scans)) >= turn_count * receiver_count / 2

    await eventually(most_went_by_key)


async def test_of_two_services_one_changes_an_acquisition(settings: TimescaleSettings) -> None:
    stores = [TimescaleMeasurements(settings) for _ in range(2)]
    for store in stores:
        await store.ping()
    for turn in range(20):
        results = await asyncio.gather(
            *(
                store.put_acquisition(acquisition(revision=turn + 1, request_id=f"w{number}"), turn)
                for number, store in enumerate(stores)
            ),
            return_exceptions=True,
        )
        (conflict,) = [result for result in results if result is not False]
        assert isinstance(conflict, HeimdallError)
        assert conflict.metadata["stored_revision"] == str(turn + 1)
        winner = await stores[0].get_acquisition("task-1")
        assert winner is not None
        assert winner.request_id == f"w{results.index(False)}"
    for store in stores:
        await store.close()


async def test_of_two_services_one_inserts_a_row(postgres: PostgresServer, settings: TimescaleSettings) -> None:
    store = TimescaleMeasurements(settings)
    await store.write_measurements(windows("t", 5))
    other = await postgres.connect(settings.dsn.get_secret_value().rpartition("/")[2])
    try:
        await other.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM measurement_windows")
        await other.execute("DELETE FROM measurement_windows")
        transaction = other.transaction()
        await transaction.start()
        await other.execute("INSERT INTO measurement_windows SELECT * FROM kept WHERE first_sample_index = 3")
        writing = asyncio.create_task(store.write_measurements(windows("t", 5)))

        async def waits_for_the_other() -> bool:
            return bool(await ask(store, "SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await eventually(waits_for_the_other)
        await transaction.commit()
        assert (await writing).inserted == 4
        indices = await other.fetch("SELECT first_sample_index FROM measurement_windows ORDER BY 1")
        assert [row[0] for row in indices] == [0, 1, 2, 3, 4]
    finally:
        await other.close()
        await store.close()


async def test_lone_write_is_not_held_up(settings: TimescaleSettings) -> None:
    store = TimescaleMeasurements(settings.model_copy(update={"batch_interval_s": 10.0}))
    await store.ping()
    started_s = time.monotonic()
    for number in range(5):
        await store.write_measurements([measurement(f"t{number}")])
    assert time.monotonic() - started_s < 5
    await store.close()


async def test_row_that_is_refused_fails_alone(store: TimescaleMeasurements) -> None:
    await store.ping()
    bad = measurement("bad")
    bad.snr_db.CopyFrom(Estimate(reason="A\0B"))
    writes = [store.write_measurements([measurement(f"t{number}")]) for number in range(5)]
    writes.insert(2, store.write_measurements([bad]))
    results = await asyncio.gather(*writes, return_exceptions=True)
    refused = results.pop(2)
    assert isinstance(refused, HeimdallError)
    assert refused.reason == ErrorReason.ERROR_REASON_INVALID_FIELD
    assert [getattr(result, "inserted", result) for result in results] == [1] * 5
    assert len(await store.query_measurements(SUMMARY, EVERYTHING, None, 10)) == 5


async def test_server_killed_under_writers_loses_and_repeats_nothing(
    postgres: PostgresServer, store: TimescaleMeasurements
) -> None:
    await store.ping()
    inserted = list[int]()

    async def write(number: int) -> None:
        for place in range(30):
            while True:
                try:
                    inserted.append((await store.write_measurements(windows(f"t{number}", 5, 5 * place))).inserted)
                    break
                except HeimdallError as error:
                    if error.reason != UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.02)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(write(number))
        for _ in range(2):
            seen = len(inserted)
            while len(inserted) < seen + 20:  # noqa: ASYNC110 (until the writers are under way)
                await asyncio.sleep(0.005)
            await postgres.kill()
            await postgres.start()
    assert len(inserted) == 8 * 30
    assert await ask(store, "SELECT count(*) FROM measurement_windows") == 8 * 30 * 5
    # What was committed but not answered counts as there already.
    assert 8 * 29 * 5 <= sum(inserted) <= 8 * 30 * 5


async def test_store_is_made_before_its_database_can_be_reached(
    postgres: PostgresServer, settings: TimescaleSettings
) -> None:
    await postgres.stop()
    try:
        store = TimescaleMeasurements(settings)
        results = await asyncio.gather(*(store.ping() for _ in range(20)), return_exceptions=True)
        assert [getattr(result, "reason", result) for result in results] == [UNAVAILABLE] * 20
    finally:
        await postgres.start()
    await store.write_measurements([measurement()])
    assert await store.query_measurements(SUMMARY, EVERYTHING, None, 10) == [measurement()]
    await store.close()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"password": SecretStr("wrong-secret")}, "password authentication failed"),
        ({"database": "no_such_database"}, 'database "no_such_database" does not exist'),
        ({"host": "127.0.0.1:1"}, "Connect call failed"),
    ],
)
async def test_what_is_wrong_is_told_without_the_password(
    settings: TimescaleSettings, values: dict[str, Any], text: str
) -> None:
    dsn = settings.dsn.get_secret_value()
    head, _, database = dsn.rpartition("/")
    if "database" in values:
        values = {"dsn": SecretStr(f"{head}/{values['database']}")}
    if "host" in values:
        values = {"dsn": SecretStr(f"postgresql://heimdall_user@{values['host']}/{database}")}
    store = TimescaleMeasurements(settings.model_copy(update=values))
    secret = values.get("password", settings.password)
    assert secret is not None
    for attempt in (store.ping(), store.write_measurements([measurement()]), store.list_acquisitions([], None, 1)):
        with pytest.raises(HeimdallError, match=text) as caught:
            await attempt
        assert caught.value.reason == UNAVAILABLE
        assert caught.value.metadata["backend"] == "measurements"
        assert "127.0.0.1:" in caught.value.message
        assert "heimdall_user" in caught.value.message
        assert secret.get_secret_value() not in caught.value.message
    await store.close()


@pytest.mark.parametrize("password", ["Xq7/vKwZ", "Xq7@vKwZ", "Xq7\uff0fvKwZ"])
async def test_address_with_a_bare_character_in_its_password_is_refused_at_start(tmp_path: Path, password: str) -> None:
    variables = {
        "HEIMDALL_STORAGE_ROWS": "timescale",
        "HEIMDALL_TIMESCALE_DSN": f"postgresql://heimdall_user:{password}@127.0.0.1:1/heimdall",
    }
    line = await refused(tmp_path / "data", tmp_path / "log", variables)
    assert line.startswith("storage: timescale.dsn: ")
    assert "postgresql://user@host:5432/database" in line
    text = (tmp_path / "log").read_text()
    assert text == f"{line}\n"
    assert "Xq7" not in text
    assert "vKw" not in text


async def test_read_only_server_is_read_and_not_written(postgres: PostgresServer, store: TimescaleMeasurements) -> None:
    await store.write_measurements([measurement()])
    await postgres.set_read_only(True)
    try:
        for attempt in (store.ping(), store.write_measurements([measurement("t2")])):
            with pytest.raises(HeimdallError, match="read-only") as caught:
                await attempt
            assert caught.value.reason == UNAVAILABLE
        assert len(await store.query_measurements(SUMMARY, EVERYTHING, None, 10)) == 1
    finally:
        await postgres.set_read_only(False)
    await store.ping()
    assert await ask(store, "SELECT count(*) FROM pings") == 1


async def test_frozen_server_is_not_waited_for(postgres: PostgresServer, settings: TimescaleSettings) -> None:
    limits = {"connect_timeout_s": 0.5, "statement_timeout_s": 0.5, "max_connection_count": 2}
    store = TimescaleMeasurements(settings.model_copy(update=limits))
    await store.ping()
    postgres.freeze()
    try:
        async with asyncio.timeout(10):
            results = await asyncio.gather(
                *(store.write_measurements([measurement(f"t{number}")]) for number in range(10)),
                *(store.get_acquisition("t") for _ in range(10)),
                return_exceptions=True,
            )
    finally:
        postgres.thaw()
    assert [getattr(result, "reason", result) for result in results] == [UNAVAILABLE] * 20
    assert (await store.write_measurements([measurement("t99")])).inserted == 1
    await store.close()


async def test_slow_statements_are_given_up(settings: TimescaleSettings) -> None:
    store = TimescaleMeasurements(settings.model_copy(update={"statement_timeout_s": 0.3}))
    await store.ping()
    async with store._connection() as connection:
        await connection._connection.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); RETURN NEW; END';"
            "CREATE TRIGGER wait BEFORE INSERT ON measurements FOR EACH ROW EXECUTE FUNCTION wait()"
        )
    started_s = time.monotonic()
    with pytest.raises(HeimdallError) as caught:
        await store.write_measurements([measurement()])
    assert caught.value.reason == UNAVAILABLE
    assert time.monotonic() - started_s < 3
    await store.ping()
    await store.close()


async def test_plain_postgres_says_once_what_is_missing(settings: TimescaleSettings) -> None:
    store = TimescaleMeasurements(settings)
    with capture_logs() as logs:
        await asyncio.gather(*(store.get_acquisition("task-1") for _ in range(5)))
    await store.close()
    (line,) = [line for line in logs if line["log_level"] == "warning"]
    assert line["event"] == "timescaledb_missing"
    assert line["missing"] == "chunks, compression, retention, the materialised hourly aggregate"
    assert "does not have the extension" in line["reason"]


async def test_database_of_a_later_version_is_refused(
    settings: TimescaleSettings, store: TimescaleMeasurements
) -> None:
    assert await migrate(settings) == MIGRATIONS
    assert await migrate(settings) == []
    await store._fetch("INSERT INTO schema_migrations (number, name) VALUES (99, 'later')", {})
    other = TimescaleMeasurements(settings)
    with pytest.raises(HeimdallError, match="has schema 99"):
        await other.ping()
    await other.close()


async def test_of_many_who_migrate_at_once_one_does(settings: TimescaleSettings) -> None:
    applied = await asyncio.gather(*(migrate(settings) for _ in range(8)))
    assert sorted(applied) == [[]] * 7 + [MIGRATIONS]


def test_two_processes_migrate_at_once(postgres: PostgresServer) -> None:
    database = asyncio.run(postgres.create_database())
    command = [sys.executable, "-m", "storage_svc.migrate"]
    environment = os.environ | postgres.variables(database)
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(*process.communicate(timeout=50), process.returncode) for process in processes]
    asyncio.run(postgres.drop_database(database))
    assert [status for *_, status in ends] == [0, 0], ends
    assert sorted(out.splitlines() for out, *_ in ends) == [[], MIGRATIONS]
    for _, errors, _ in ends:
        assert errors.splitlines()[-1].startswith(f"database {database} at 127.0.0.1:")
        assert postgres.password not in errors


def test_migrate_says_what_is_wrong(postgres: PostgresServer) -> None:
    environment = os.environ | postgres.variables("no_such_database")
    command = [sys.executable, "-m", "storage_svc.migrate"]
    end = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert (end.returncode, end.stdout) == (1, "")
    assert 'database "no_such_database" does not exist' in end.stderr
