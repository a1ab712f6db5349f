"""Measures storage on MinIO and PostgreSQL, both real and on this machine, beside what bounds them in the same run.

Printed in one run:
- rows/s of the store beside a raw COPY of the same rows into a table with the same columns and keys;
- bytes/s from a spooled file to the object beside a raw multipart put of the same file by the same client library;
- bytes/s from WriteRecording to the stored object, beside the same raw put;
- how each of them grows from 1 to 64 writers at once;
- the memory of a storage process that takes one large recording, and ten acquisitions of seven receivers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import numpy as np
import psutil
from minio import Minio

from benchmarks.bench_pipeline import ACQUISITION_COUNT, RECEIVER_COUNT, run_one, running_mesh, spec_of
from heimdall.common.v1.iq_pb2 import Block, IqEvent
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.runtime.settings import TimescaleSettings
from heimdall.storage.v1 import storage_pb2 as pb
from storage_svc.ids import BUCKET
from storage_svc.measurements import MeasurementStore
from storage_svc.measurements.timescale import TimescaleMeasurements
from storage_svc.objects import ObjectStore
from storage_svc.objects.minio import MinioObjects
from tests.checksums import Checksums, checksums_of
from tests.integration.storage.process import storage_process
from tests.integration.storage.support import WINDOW_START_UNIX_NS, end_at, opening, segment
from tests.servers.minio import MinioServer, minio_server
from tests.servers.postgres import PostgresServer, postgres_server

if TYPE_CHECKING:
    from heimdall.storage.v1.storage_pb2_grpc import StorageServiceAsyncStub

BATCH_ROWS: Final = 1000
ROW_BATCHES: Final = 64
FILE_BYTES: Final = 256 * 1024**2
SMALL_FILE_BYTES: Final = 8 * 1024**2
WRITER_COUNTS: Final = (1, 4, 16, 64)
MIN_ROWS_OVER_COPY: Final = 0.5
MIN_BYTES_OVER_PUT: Final = 0.8
MIB: Final = 1024**2

_BLOCK_SAMPLES: Final = 65_536
_SAMPLE_BYTES: Final = 4
_RATE_HZ: Final = 4.0 * _BLOCK_SAMPLES
_TIMEOUT_S: Final = 900.0
_SAMPLING_S: Final = 0.05


def result(name: str, ratio: float, budget: float) -> None:
    """Prints one line for scripts."""
    print(f"RESULT {name} ratio={ratio:.3f} budget={budget:g} {'ok' if ratio >= budget else 'short'}", flush=True)


async def timed_s(work: Callable[[], Awaitable[object]]) -> float:
    """Returns how long a piece of work takes, in s."""
    started_s = time.monotonic()
    await work()
    return time.monotonic() - started_s


# Rows


def batch(number: int) -> list[Measurement]:
    """Returns windows of a second as DSP makes them, each of a key of its own."""
    rng = random.Random(number)
    names = ("power_dbfs", "noise_dbfs_per_hz", "snr_db", "snr_bandwidth_hz", "frequency_offset_hz", "kurtosis")
    made = []
    for place in range(BATCH_ROWS):
        measurement = Measurement(
            acquisition_id=f"task-{number}",
            receiver_id=f"rx-{place % 70}",
            scope=MeasurementScope.MEASUREMENT_SCOPE_WINDOW,
            first_sample_index=12_000 * (place // 70),
            first_sample_unix_ns=WINDOW_START_UNIX_NS + number * 1_000_000 + (place // 70) * 1_000_000_000,
            sample_count=12_000,
            center_frequency_hz=7.1e6,
            sample_rate_hz=12_000.0,
        )
        for name in names:
            value = Estimate(value=rng.gauss(0, 1), sigma=0.1, validity=Estimate.VALIDITY_VALID, method="mean-square")
            getattr(measurement, name).CopyFrom(value)
        made.append(measurement)
    return made


async def write_shares(rows: MeasurementStore, shares: Sequence[Sequence[list[Measurement]]]) -> None:
    """Writes batches, the shares at the same time and each in order."""

    async def write(share: Sequence[list[Measurement]]) -> None:
        for measurements in share:
            await rows.write_measurements(measurements)

    await asyncio.gather(*(write(share) for share in shares))


def keep_from_collector() -> None:
    """Lets the garbage collector not walk through what a benchmark holds, and a service does not."""
    gc.collect()
    gc.freeze()


async def stored_rows(
    connection: asyncpg.Connection[Any], task_ids: Sequence[str]
) -> tuple[list[list[tuple[Any, ...]]], list[str]]:
    """Returns the windows of some acquisitions as COPY takes them, a batch for each, and the names of the columns."""
    query = "SELECT * FROM measurement_windows WHERE task_id = $1"
    batches = [await connection.fetch(query, task_id) for task_id in task_ids]
    return [[tuple(row.values()) for row in stored] for stored in batches], list(batches[0][0].keys())


async def copy_all(connection: asyncpg.Connection[Any], copies: Sequence[Any], names: Sequence[str]) -> None:
    """Copies batches of rows into a table that no store looks at."""
    for copied in copies:
        await connection.copy_records_to_table("raw", records=copied, columns=names)


async def measure_rows(postgres: PostgresServer, rounds: int) -> None:
    """Prints rows/s of the store and of COPY."""
    database = await postgres.create_database()
    settings = TimescaleSettings.model_validate(
        {"dsn": postgres.dsn(database), "password": postgres.password, "batch_row_count": BATCH_ROWS}
    )
    rows = TimescaleMeasurements(settings)
    watching = asyncio.create_task(rows.watch())
    connection = await postgres.connect(database)
    try:
        await rows.write_measurements(batch(-1))
        await connection.execute("CREATE TABLE raw (LIKE measurement_windows INCLUDING ALL)")
        ratios = []
        for number in range(rounds):
            batches = [batch(number * ROW_BATCHES + place) for place in range(ROW_BATCHES)]
            keep_from_collector()
            own_s = await timed_s(partial(write_shares, rows, [batches]))
            copies, names = await stored_rows(connection, [measurements[0].acquisition_id for measurements in batches])
            keep_from_collector()
            raw_s = await timed_s(partial(copy_all, connection, copies, names))
            await connection.execute("TRUNCATE raw, measurement_windows")
            count = ROW_BATCHES * BATCH_ROWS
            print(f"rows: COPY {count / raw_s:,.0f} rows/s, store {count / own_s:,.0f} rows/s", flush=True)
            ratios.append(raw_s / own_s)
        result("storage_rows_over_copy", statistics.median(ratios), MIN_ROWS_OVER_COPY)
        for writers in WRITER_COUNTS:
            first = 1_000_000 + writers * 1000
            shares = [[batch(first + n) for n in range(writer, ROW_BATCHES, writers)] for writer in range(writers)]
            spent_s = await timed_s(partial(write_shares, rows, shares))
            print(f"rows, {writers} writers: {ROW_BATCHES * BATCH_ROWS / spent_s:,.0f} rows/s", flush=True)
    finally:
        await connection.close()
        await rows.close()
        await watching
        await postgres.drop_database(database)


# Objects


def put_raw(client: Minio, key: str, path: Path, part_bytes: int) -> None:
    """Puts a file as the client library does it by itself."""
    client.fput_object(BUCKET, key, str(path), part_size=part_bytes)


async def measure_objects(minio: MinioServer, folder: Path, rounds: int) -> float:
    """Prints bytes/s from file to object; returns those of the raw put of a large file."""
    settings = minio.settings(upload_count=4)
    objects = MinioObjects(settings)
    client = minio.client(timeout_s=60.0)
    await objects.ping()
    path = folder / "samples"
    content = np.random.default_rng(1).bytes(FILE_BYTES)
    path.write_bytes(content)
    checksums = checksums_of(path)
    raws_s, owns_s = [], []
    try:
        for number in range(rounds):
            raw_key, key = f"bench/raw-{number}", f"bench/own-{number}"
            put = partial(asyncio.to_thread, put_raw, client, raw_key, path, settings.part_bytes)
            raws_s.append(await timed_s(put))
            owns_s.append(await timed_s(partial(objects.put_file, key, path, **checksums)))
            print(
                f"objects: raw put {FILE_BYTES / raws_s[-1] / 1e6:.0f} MB/s, "
                f"spool to object {FILE_BYTES / owns_s[-1] / 1e6:.0f} MB/s",
                flush=True,
            )
            await asyncio.to_thread(remove, client, [raw_key, key])
        result("storage_spool_to_object_over_raw_put", sum(raws_s) / sum(owns_s), MIN_BYTES_OVER_PUT)
        small = folder / "small"
        small.write_bytes(content[:SMALL_FILE_BYTES])
        small_checksums = checksums_of(small)
        for writers in WRITER_COUNTS:
            shares = [[f"bench/{writers}-{n}" for n in range(w, max(WRITER_COUNTS), writers)] for w in range(writers)]
            spent_s = await timed_s(partial(put_shares, objects, shares, small, small_checksums))
            rate = max(WRITER_COUNTS) * SMALL_FILE_BYTES / spent_s / 1e6
            print(f"objects, {writers} writers of {SMALL_FILE_BYTES // MIB} MiB: {rate:.0f} MB/s", flush=True)
    finally:
        await objects.close()
    return FILE_BYTES * rounds / sum(raws_s)


async def put_shares(objects: ObjectStore, shares: Sequence[Sequence[str]], path: Path, checksums: Checksums) -> None:
    """Puts a file under many keys, the shares at the same time and each in order."""

    async def put(share: Sequence[str]) -> None:
        for key in share:
            await objects.put_file(key, path, **checksums)

    await asyncio.gather(*(put(share) for share in shares))


def remove(client: Minio, keys: Sequence[str]) -> None:
    """Removes objects."""
    for key in keys:
        client.remove_object(BUCKET, key)


# Recordings


async def record(stub: StorageServiceAsyncStub, task_id: str, receiver_id: str, size_bytes: int, data: bytes) -> None:
    """Writes a recording as a coordinator does, and waits until it is in the object store."""
    call = stub.WriteRecording(timeout=_TIMEOUT_S)
    await call.write(pb.WriteRecordingRequest(open=opening(task_id, receiver_id)))
    await call.write(pb.WriteRecordingRequest(event=segment(receiver_id, sample_rate_hz=_RATE_HZ)))
    recording = asyncio.create_task(_last_answer(call))
    block_count = size_bytes // (_BLOCK_SAMPLES * _SAMPLE_BYTES)
    for number in range(block_count):
        block = Block(
            first_sample_index=number * _BLOCK_SAMPLES,
            first_sample_unix_ns=WINDOW_START_UNIX_NS + number * 250_000_000,
            sample_count=_BLOCK_SAMPLES,
            samples=data,
        )
        await call.write(pb.WriteRecordingRequest(event=IqEvent(block=block)))
    keep = pb.WriteRecordingRequest.Finish.DISPOSITION_KEEP
    finish = pb.WriteRecordingRequest.Finish(disposition=keep, end=end_at(block_count * _BLOCK_SAMPLES))
    await call.write(pb.WriteRecordingRequest(finish=finish))
    finished = await recording
    if finished.data_size_bytes != size_bytes:
        raise SystemExit(f"a recording was not finished, so nothing was measured: {finished}")
    # The answer to a large one comes before it is uploaded.
    selected = pb.ListRecordingsRequest(filter=pb.RecordFilter(acquisition_id=task_id, receiver_ids=[receiver_id]))
    async with asyncio.timeout(_TIMEOUT_S):
        while True:
            (listed,) = (await stub.ListRecordings(selected)).recordings
            if listed.state == Recording.STATE_STORED:
                return
            await asyncio.sleep(_SAMPLING_S)


async def record_many(stub: StorageServiceAsyncStub, writers: int, data: bytes) -> None:
    """Writes recordings at the same time, FILE_BYTES in all."""
    sizes = [FILE_BYTES // writers] * writers
    await asyncio.gather(*(record(stub, f"many-{writers}", f"rx-{n}", size, data) for n, size in enumerate(sizes)))


async def _last_answer(call: Any) -> Recording:
    last = Recording()
    async for answer in call:
        if answer.HasField("recording"):
            last = answer.recording
    return last


@asynccontextmanager
async def peak_memory(pid: int) -> AsyncIterator[list[int]]:
    """Notes the resident memory of a process again and again, in bytes."""
    process = psutil.Process(pid)
    noted = [process.memory_info().rss]

    async def note() -> None:
        while True:
            await asyncio.sleep(_SAMPLING_S)
            noted.append(process.memory_info().rss)

    task = asyncio.create_task(note())
    try:
        yield noted
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def print_memory(what: str, noted: Sequence[int]) -> None:
    """Prints how far the memory of storage rose."""
    print(f"{what}: storage resident {noted[0] / MIB:.0f} MiB before, at most {max(noted) / MIB:.0f} MiB", flush=True)


async def measure_recordings(
    minio: MinioServer, postgres: PostgresServer, folder: Path, raw_bytes_per_s: float, large_bytes: int, rounds: int
) -> None:
    """Prints bytes/s from WriteRecording to the stored object, and the memory of the process."""
    database = await postgres.create_database()
    data = random.Random(2).randbytes(_BLOCK_SAMPLES * _SAMPLE_BYTES)
    variables = {**minio.variables, **postgres.variables(database)}
    async with storage_process(folder / "data", folder / "storage.log", variables) as storage:
        rates = []
        for number in range(rounds):
            spent_s = await timed_s(partial(record, storage.stub, f"whole-{number}", "rx-1", FILE_BYTES, data))
            rates.append(FILE_BYTES / spent_s)
            print(f"recordings: {rates[-1] / 1e6:.0f} MB/s from WriteRecording to the object", flush=True)
        ratio = statistics.median(rates) / raw_bytes_per_s
        print(f"REPORT storage_write_to_object_over_raw_put ratio={ratio:.3f}", flush=True)
        for writers in WRITER_COUNTS:
            spent_s = await timed_s(partial(record_many, storage.stub, writers, data))
            print(f"recordings, {writers} writers: {FILE_BYTES / spent_s / 1e6:.0f} MB/s", flush=True)
        async with peak_memory(storage.process.pid) as noted:
            spent_s = await timed_s(partial(record, storage.stub, "large", "rx-1", large_bytes, data))
        print_memory(f"one recording of {large_bytes / 1024**3:.1f} GiB in {spent_s:.0f} s", noted)
    await postgres.drop_database(database)


async def measure_acquisitions(minio: MinioServer, postgres: PostgresServer, folder: Path) -> None:
    """Prints the memory of storage under ten acquisitions of seven receivers at once."""
    database = await postgres.create_database()
    variables = {**minio.variables, **postgres.variables(database)}
    async with running_mesh(folder, ACQUISITION_COUNT * RECEIVER_COUNT, variables=variables, log_dir=folder) as (
        mesh,
        client,
        _,
    ):
        await run_one(client, spec_of(0, 1.0))
        async with peak_memory(mesh.pids["storage"]) as noted:
            ended = await asyncio.gather(*(run_one(client, spec_of(n, 5.0)) for n in range(ACQUISITION_COUNT)))
    count = sum(len(acquisition.outcomes) for acquisition, _ in ended)
    print_memory(f"{len(ended)} acquisitions, {count} recordings at once", noted)
    await postgres.drop_database(database)


async def main() -> None:
    """Runs everything once and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (default: %(default)s)")
    parser.add_argument(
        "--large-mib", type=int, default=2048, help="size of the large recording (default: %(default)s)"
    )
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores; MinIO and PostgreSQL on the same machine, PostgreSQL without fsync")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("minio", "objects", "recordings", "mesh"):
            (folder / part).mkdir()
        async with postgres_server() as postgres, minio_server(folder / "minio") as minio:
            await measure_rows(postgres, arguments.rounds)
            raw = await measure_objects(minio, folder / "objects", arguments.rounds)
            large_bytes = arguments.large_mib * MIB
            await measure_recordings(minio, postgres, folder / "recordings", raw, large_bytes, arguments.rounds)
            await measure_acquisitions(minio, postgres, folder / "mesh")


if __name__ == "__main__":
    asyncio.run(main())
