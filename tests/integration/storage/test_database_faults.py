"""A real database that fails under a real storage service: no row is lost, none comes twice, and everybody is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.iq_pb2 import TimeSource
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.storage.v1 import storage_pb2 as pb
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from tests.e2e.faults.disk import MIB, mounted_tmpfs
from tests.integration.storage.process import StorageProcess, storage_process
from tests.integration.storage.support import (
    BLOCK,
    Writer,
    block,
    end_at,
    opening,
    read,
    sample_bytes,
    samples_of,
    segment,
    write,
)
from tests.servers.postgres import USER, PostgresServer

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

WINDOW = MeasurementScope.MEASUREMENT_SCOPE_WINDOW
T0_UNIX_NS = 1_700_000_000_000_000_000

_NOTE_ORDER = """
CREATE TABLE arrivals (place bigserial, task_id text, first_sample_index bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO arrivals (task_id, first_sample_index) VALUES (NEW.task_id, NEW.first_sample_index);
    RETURN NEW;
END $$;
CREATE TRIGGER note AFTER INSERT ON measurement_windows FOR EACH ROW EXECUTE FUNCTION note();
"""
_SLOW = """
CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep({0});
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER slow BEFORE INSERT ON measurement_windows FOR EACH STATEMENT EXECUTE FUNCTION slow();
CREATE OR REPLACE TRIGGER slow BEFORE INSERT ON acquisitions FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""

_SLOW_ROWS = """
CREATE FUNCTION slow_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep({0});
    RETURN NEW;
END $$;
CREATE TRIGGER slow_row BEFORE INSERT ON measurement_windows FOR EACH ROW EXECUTE FUNCTION slow_row();
"""


class Caller:
    """Writes windows with rising indices, and knows which of them were acknowledged."""

    def __init__(self, storage: StorageProcess, task_id: str = "rows") -> None:
        # Without the service config: a refusal is seen, not repeated.
        self._stub: StorageServiceAsyncStub = StorageServiceStub(storage.plain)
        self._task_id = task_id
        self._indices = count()
        self.acknowledged: list[int] = []

    def on(self, storage: StorageProcess) -> None:
        """Goes on with a service that was started again."""
        self._stub = StorageServiceStub(storage.plain)

    async def write(self, row_count: int = 3) -> tuple[int, int]:
        """Writes windows; returns how many were new and how many wait."""
        rows = [self._window(next(self._indices)) for _ in range(row_count)]
        answer = await answer_of(
            self._stub.WriteMeasurements(pb.WriteMeasurementsRequest(measurements=rows), timeout=9)
        )
        self.acknowledged += [row.first_sample_index for row in rows]
        return answer.inserted_count, answer.waiting_count

    async def put(self, revision: int, expected: int, task_id: str = "acquired") -> bool:
        """Puts an acquisition; returns whether it waits."""
        acquisition = Acquisition(acquisition_id=task_id, revision=revision, state=Acquisition.STATE_ACCEPTED)
        acquisition.create_time.FromNanoseconds(T0_UNIX_NS)
        request = pb.PutAcquisitionRequest(acquisition=acquisition, expected_revision=expected)
        waiting: bool = (await answer_of(self._stub.PutAcquisition(request, timeout=9))).waiting
        return waiting

    async def revision(self, task_id: str = "acquired") -> int:
        request = pb.GetAcquisitionRequest(acquisition_id=task_id)
        revision: int = (await answer_of(self._stub.GetAcquisition(request, timeout=9))).acquisition.revision
        return revision

    async def read(self) -> list[int]:
        """Returns the indices of all windows."""
        request = pb.QueryMeasurementsRequest(scope=WINDOW, filter=pb.RecordFilter(acquisition_id=self._task_id))
        answers = await answer_of(collected(self._stub.QueryMeasurements(request, timeout=9)))
        return sorted(row.first_sample_index for answer in answers for row in answer.measurements)

    async def lists(self) -> None:
        """Asks for each list."""
        await answer_of(self._stub.ListRecordings(pb.ListRecordingsRequest(), timeout=9))
        await answer_of(self._stub.ListAcquisitions(pb.ListAcquisitionsRequest(), timeout=9))

    def _window(self, index: int) -> Measurement:
        return Measurement(
            acquisition_id=self._task_id,
            receiver_id="rx-1",
            scope=WINDOW,
            first_sample_index=index,
            first_sample_unix_ns=T0_UNIX_NS + index,
            sample_count=1,
            center_frequency_hz=77_500.0,
            sample_rate_hz=12_000.0,
            time_source=TimeSource.TIME_SOURCE_GNSS,
        )


async def answer_of(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "storage") from error


async def collected(call: AsyncIterable[Any]) -> list[Any]:
    return [answer async for answer in call]


async def refusal_of(call: Awaitable[Any]) -> HeimdallError:
    with pytest.raises(HeimdallError) as caught:
        await call
    return caught.value


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[str]:
    name = await postgres.create_database()
    yield name
    # In case that the test failed while it was down.
    await postgres.start()
    await postgres.drop_database(name)


@asynccontextmanager
async def storage_on(
    postgres: PostgresServer, database: str, tmp_path: Path, data_dir: Path | None = None, **variables: str
) -> AsyncIterator[StorageProcess]:
    variables = {
        **postgres.variables(database),
        "HEIMDALL_TIMESCALE_CONNECT_TIMEOUT_S": "2",
        "HEIMDALL_TIMESCALE_STATEMENT_TIMEOUT_S": "3",
        **variables,
    }
    async with storage_process(data_dir or tmp_path / "data", tmp_path / "log", variables) as storage:
        yield storage


async def note_order(storage: StorageProcess, postgres: PostgresServer, database: str) -> None:
    """Lets the database, once it has its tables, note in which order windows arrive."""
    await storage.health("measurements", serving=True)
    rights = (
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {USER}"
    )
    await postgres.administer(_NOTE_ORDER, rights, database=database)


async def rows_of(postgres: PostgresServer, database: str, query: str) -> list[tuple[Any, ...]]:
    connection = await postgres.connect(database)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def check_all_there(postgres: PostgresServer, database: str, caller: Caller) -> None:
    """Every acknowledged row is there, once; in the order of the acknowledgements, as the database noted it."""
    query = "SELECT first_sample_index FROM measurement_windows WHERE task_id = 'rows' ORDER BY 1"
    assert [row[0] for row in await rows_of(postgres, database, query)] == caller.acknowledged
    arrived = await rows_of(postgres, database, "SELECT first_sample_index FROM arrivals ORDER BY place")
    assert [row[0] for row in arrived] == caller.acknowledged
    assert await caller.read() == caller.acknowledged


async def check_told(storage: StorageProcess, caller: Caller) -> None:
    """While rows wait: reads are refused with a time to wait, health says so, the service itself is SERVING."""
    error = await refusal_of(caller.read())
    assert (error.reason_name, error.code, error.retry_delay_s) == (
        "BACKEND_UNAVAILABLE",
        grpc.StatusCode.UNAVAILABLE,
        2,
    )
    await storage.health("measurements", serving=False)
    await storage.health("", serving=True)


async def dead_letters(folder: Path, *arguments: str) -> str:
    """Runs heimdall dead-letters beside the service and returns what it prints."""
    command = [sys.executable, "-m", "heimdall.cli", "dead-letters", *arguments]
    environment = {**os.environ, "HEIMDALL_STORAGE_DATA_DIR": str(folder)}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


async def test_killed_and_started_again(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    async with storage_on(postgres, database, tmp_path) as storage:
        await note_order(storage, postgres, database)
        caller = Caller(storage)
        assert await caller.write(3) == (3, 0)
        assert await caller.put(1, 0) is False
        await postgres.kill()
        assert await caller.write(3) == (0, 3)
        assert await caller.put(2, 1) is True
        # What waits is what counts: for the next revision, and for whoever reads it.
        assert (await refusal_of(caller.put(3, 1))).reason_name == "REVISION_CONFLICT"
        assert await caller.revision() == 2
        # This one can not be right, but nobody can know that yet.
        assert await caller.put(9, 5, "wrong") is True
        stored = await write(storage.stub, [segment(), block(0)], end_at(BLOCK))
        assert stored.state == Recording.STATE_STORED
        assert samples_of(await read(storage.stub)) == sample_bytes(0, BLOCK)
        await check_told(storage, caller)
        assert (await refusal_of(caller.lists())).reason_name == "BACKEND_UNAVAILABLE"
        await storage.kill()
    async with storage_on(postgres, database, tmp_path) as storage:
        # It starts although the database refuses connections.
        caller.on(storage)
        assert await caller.write(3) == (0, 3)
        assert await caller.revision() == 2
        await check_told(storage, caller)
        await postgres.start()
        await storage.health("measurements", serving=True)
        await check_all_there(postgres, database, caller)
        assert await caller.revision() == 2
        await caller.lists()
        recorded = await rows_of(postgres, database, "SELECT task_id, receiver_id, state FROM recordings")
        assert recorded == [("task-1", "rx-1", "STORED")]
        assert await caller.write(1) == (1, 0)
        letter = json.loads(await dead_letters(tmp_path / "data", "list", "--json"))
        assert (letter["acquisitionId"], letter["reason"]) == ("wrong", "REVISION_CONFLICT")
        # On top of what it expects it is taken when it is fed again.
        assert await caller.put(5, 0, "wrong") is False
        await dead_letters(tmp_path / "data", "retry", str(letter["number"]))
        async with asyncio.timeout(10):
            while await caller.revision("wrong") != 9:  # noqa: ASYNC110 (nothing announces it here)
                await asyncio.sleep(0.05)
    for event in ("rows_waiting", "rows_replayed", "dead_letter", "dead_letters"):
        assert f"event={event} " in storage.log


async def test_slow_database_is_waited_for_and_one_that_is_too_slow_is_away(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    async with storage_on(postgres, database, tmp_path) as storage:
        caller = Caller(storage)
        await note_order(storage, postgres, database)
        await postgres.administer(_SLOW.format(2), database=database)
        assert await caller.write() == (3, 0)
        await postgres.administer(_SLOW.format(30), database=database)
        written, waiting = await asyncio.gather(caller.write(), caller.put(1, 0))
        assert (written, waiting) == ((0, 3), True)
        assert await caller.write() == (0, 3)
        await check_told(storage, caller)
        await postgres.administer(_SLOW.format(0), database=database)
        await storage.health("measurements", serving=True)
        await check_all_there(postgres, database, caller)
        assert await caller.revision() == 1
        # One that stands still does not even end the statement.
        postgres.freeze()
        try:
            # Nor does anybody wait for it who brings samples.
            stored = await write(storage.stub, [segment(), block(0)], end_at(BLOCK))
            assert stored.state == Recording.STATE_STORED
            assert await caller.write() == (0, 3)
            assert await caller.write() == (0, 3)
            await check_told(storage, caller)
        finally:
            postgres.thaw()
        await storage.health("measurements", serving=True)
        await check_all_there(postgres, database, caller)


async def test_runs_that_take_longer_than_a_statement_may_are_fed_in_smaller_ones(
    postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    async with storage_on(postgres, database, tmp_path, HEIMDALL_TIMESCALE_STATEMENT_TIMEOUT_S="1") as storage:
        caller = Caller(storage)
        await note_order(storage, postgres, database)
        # A quarter of them is in time, whether they came in one request or in many.
        await postgres.administer(_SLOW_ROWS.format(0.005), database=database)
        assert await caller.write(300) == (0, 300)
        for _ in range(20):
            assert await caller.write(10) == (0, 10)
        await check_told(storage, caller)
        await storage.health("measurements", serving=True, timeout_s=60)
        await check_all_there(postgres, database, caller)
        assert len(caller.acknowledged) == 500
    # The server and the client count to the same limit; either may come first.
    assert "statement timeout" in storage.log or "no answer in time" in storage.log
    assert "dead_letter" not in storage.log


async def test_read_only_and_wrong_password(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    async with storage_on(postgres, database, tmp_path) as storage:
        await note_order(storage, postgres, database)
        caller = Caller(storage)
        await postgres.set_read_only(True)
        try:
            assert await caller.write() == (0, 3)
            await check_told(storage, caller)
        finally:
            await postgres.set_read_only(False)
        await storage.health("measurements", serving=True)
        await check_all_there(postgres, database, caller)
        kick = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        await postgres.administer(f"ALTER ROLE {USER} PASSWORD 'another'", kick)
        try:
            await storage.health("measurements", serving=False)
            assert await caller.write() == (0, 3)
            await check_told(storage, caller)
            assert "password authentication failed" in storage.log
            assert postgres.password not in storage.log
        finally:
            await postgres.administer(f"ALTER ROLE {USER} PASSWORD '{postgres.password}'")
        await storage.health("measurements", serving=True)
        await check_all_there(postgres, database, caller)


async def test_no_room_for_rows_that_wait(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    with mounted_tmpfs(tmp_path / "disk", 64 * MIB) as disk:
        limit = {"HEIMDALL_STORAGE_ROWS_SPOOL_MAX_BYTES": str(512 * 1024)}
        async with storage_on(postgres, database, tmp_path, disk.folder / "data", **limit) as storage:
            await note_order(storage, postgres, database)
            caller = Caller(storage)
            assert await caller.write() == (3, 0)
            await postgres.stop()
            assert await caller.write() == (0, 3)
            disk.fill()
            await check_no_room(storage, caller, "stay free")
            disk.make_room()
            await storage.health("spool", serving=True)
            full = None
            while full is None:
                try:
                    assert await caller.write(500) == (0, 500)
                except HeimdallError as error:
                    full = error
            assert full.metadata["limit_bytes"] == str(512 * 1024)
            await check_no_room(storage, caller, "storage.rows_spool_max_bytes", row_count=500)
            # Samples have their own bound; they are accepted, and finished when their row has room.
            async with Writer(storage.stub) as writer:
                await writer.open(opening("samples"))
                await writer.send(segment(), block(0))
                await writer.acknowledged_up_to(BLOCK)
                await writer.finish(end_at(BLOCK))
            await postgres.start()
            await storage.health("measurements", serving=True, timeout_s=30)
            assert len(caller.acknowledged) > 1000
            await check_all_there(postgres, database, caller)
            assert (await caller.write())[1] == 0


async def check_no_room(storage: StorageProcess, caller: Caller, why: str, row_count: int = 3) -> None:
    error = await refusal_of(caller.write(row_count))
    assert (error.reason_name, error.code, error.retry_delay_s) == ("SPOOL_FULL", grpc.StatusCode.UNAVAILABLE, 10)
    assert why in error.message
    await check_told(storage, caller)
