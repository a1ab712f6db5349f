"""Measures one dsp process under many streams at 2.4 MS/s that are all offered faster than it can measure them.

Printed in one run:
- the samples that it measures in a second, in all and as a share of real time for each stream;
- how evenly the streams share it: the slowest over the fastest, and Jain's index (sum x)² / (n sum x²);
- the cores that it uses, those that are left idle, and by how much its resident memory grows once the streams run.

The streams come over one connection from this process, as those of a coordinator do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.bench_dsp import CU8, RTL_RATE_HZ, recording
from benchmarks.bench_pipeline import cpu_s
from heimdall.common.v1 import iq_pb2, measurement_pb2
from heimdall.dsp.v1 import dsp_pb2, dsp_pb2_grpc
from heimdall.local import LocalMesh, reserved_ports
from heimdall.runtime.channel import open_channel
from heimdall.runtime.settings import Settings
from heimdall.runtime.streams import ClientStream, heartbeat_now

BLOCK_SAMPLES = 1 << 17
WINDOW_S = 0.1
MIN_FAIRNESS = 0.8
# What a stream has under way comes and goes: one message of the largest size. All that is sent is many times as much.
MAX_GROWTH_MIB_A_STREAM = 1.0
_SETTLE_S = 5.0
_SAMPLE_INTERVAL_S = 0.25
_END_TIMEOUT_S = 60.0
_MIB = 2**20


@dataclass
class Progress:
    """What one stream has come to."""

    sample_counts: list[tuple[float, int]] = field(default_factory=list)
    """When each window came back, on the monotonic clock in s, and its samples."""
    summary_count: int = 0
    """The samples that the summary counts."""
    sent_count: int = 0
    """The samples that were sent."""

    def between(self, start_s: float, end_s: float) -> int:
        """Returns the samples that were measured between two moments."""
        return sum(count for moment_s, count in self.sample_counts if start_s <= moment_s < end_s)


@dataclass(frozen=True)
class Load:
    """What the process took at one moment."""

    moment_s: float
    """When, on the monotonic clock in s."""
    cpu_s: float
    """Its CPU time so far in s."""
    idle_s: float
    """The time so far that the cores had nothing to do, added up, in s."""
    resident_bytes: int
    """Its resident memory."""


def load_of(pid: int) -> Load:
    """Returns what a process takes now."""
    return Load(time.monotonic(), cpu_s(pid), psutil.cpu_times().idle, psutil.Process(pid).memory_info().rss)


def request(event: iq_pb2.IqEvent) -> dsp_pb2.ProcessRequest:
    """Packs an event."""
    return dsp_pb2.ProcessRequest(event=event)


def segment(receiver_id: str) -> iq_pb2.Segment:
    """Returns what the receiver does."""
    return iq_pb2.Segment(
        receiver_id=receiver_id,
        sample_rate_hz=RTL_RATE_HZ,
        sample_format=iq_pb2.SAMPLE_FORMAT_CU8,
        full_scale=CU8.full_scale,
        zero_offset=CU8.zero_offset,
    )


async def offer(
    stub: dsp_pb2_grpc.DspServiceAsyncStub, receiver_id: str, data: bytes, until_s: float, progress: Progress
) -> None:
    """Sends one stream as fast as it is taken, and takes down what comes back.

    Args:
        stub: The service.
        receiver_id: Whose stream it is.
        data: The samples of a block.
        until_s: When to end the stream, on the monotonic clock.
        progress: Where to take it down.
    """
    stream = ClientStream(
        stub.Process(),
        peer="dsp",
        make_heartbeat=lambda: request(iq_pb2.IqEvent(heartbeat=heartbeat_now())),
        heartbeat_interval_s=5.0,
        idle_timeout_s=15.0,
    )

    async def send() -> None:
        config = dsp_pb2.ProcessRequest.Config(acquisition_id="bench", receiver_id=receiver_id)
        config.measurement.window_duration.FromMilliseconds(round(WINDOW_S * 1e3))
        await stream.send(dsp_pb2.ProcessRequest(config=config))
        await stream.send(request(iq_pb2.IqEvent(segment=segment(receiver_id))))
        while time.monotonic() < until_s:
            block = iq_pb2.Block(first_sample_index=progress.sent_count, sample_count=BLOCK_SAMPLES, samples=data)
            await stream.send(request(iq_pb2.IqEvent(block=block)))
            progress.sent_count += BLOCK_SAMPLES
        await stream.send(request(iq_pb2.IqEvent(end=iq_pb2.End(end_sample_index=progress.sent_count))))
        await stream.close()

    async def receive() -> None:
        while (answer := await stream.receive()) is not None:
            if not answer.HasField("measurement"):
                continue
            measurement = answer.measurement
            if measurement.scope == measurement_pb2.MEASUREMENT_SCOPE_SUMMARY:
                progress.summary_count = measurement.sample_count
            else:
                progress.sample_counts.append((time.monotonic(), measurement.sample_count))

    allowed_s = until_s - time.monotonic() + _END_TIMEOUT_S
    async with stream, asyncio.timeout(allowed_s), asyncio.TaskGroup() as group:
        group.create_task(send())
        group.create_task(receive())
    if progress.summary_count != progress.sent_count:
        raise SystemExit(f"{receiver_id}: {progress.summary_count} of {progress.sent_count} samples were measured")


async def watch(pid: int, until_s: float) -> list[Load]:
    """Returns what a process takes from now on, four times a second."""
    loads = [load_of(pid)]
    while loads[-1].moment_s < until_s:
        await asyncio.sleep(_SAMPLE_INTERVAL_S)
        loads.append(load_of(pid))
    return loads


def result(name: str, ratio: float, budget: float, *, at_most: bool = False) -> None:
    """Prints one line for scripts."""
    kept = ratio <= budget if at_most else ratio >= budget
    print(f"RESULT {name} ratio={ratio:.3f} budget={budget:g} {'ok' if kept else 'short'}")


def print_figures(progresses: Sequence[Progress], loads: Sequence[Load], start_s: float, end_s: float) -> None:
    """Prints the figures of the time between two moments."""
    rates = [progress.between(start_s, end_s) / (end_s - start_s) for progress in progresses]
    total = sum(rates)
    jain = total**2 / (len(rates) * sum(rate**2 for rate in rates)) if total else 0.0
    fairness = min(rates) / max(rates) if total else 0.0
    steady = [load for load in loads if start_s <= load.moment_s]
    duration_s = steady[-1].moment_s - steady[0].moment_s
    cores = (steady[-1].cpu_s - steady[0].cpu_s) / duration_s
    idle = (steady[-1].idle_s - steady[0].idle_s) / duration_s
    quarter = max(len(steady) // 4, 1)
    before, after = (
        statistics.median(load.resident_bytes for load in part) / _MIB for part in (steady[:quarter], steady[-quarter:])
    )
    print(
        f"measured {total / 1e6:.1f} MS/s in all, {total / RTL_RATE_HZ:.2f} streams in real time, "
        f"{total / RTL_RATE_HZ / len(rates):.3f} of real time each"
    )
    print(f"streams: slowest {min(rates) / 1e6:.2f} MS/s, fastest {max(rates) / 1e6:.2f} MS/s, Jain's index {jain:.4f}")
    print(
        f"dsp used {cores:.2f} of {os.cpu_count()} cores while {idle:.2f} had nothing to do, "
        f"{total / cores / 1e6:.1f} MS/s a core; resident {before:.1f} MiB, later {after:.1f} MiB"
    )
    result("dsp_streams_slowest_over_fastest", fairness, MIN_FAIRNESS)
    growth_budget_mib = MAX_GROWTH_MIB_A_STREAM * len(rates)
    result("dsp_streams_resident_growth_mib", after - before, growth_budget_mib, at_most=True)


async def main() -> None:
    """Runs the streams once and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=16, help="streams at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time (default: %(default)s)")
    arguments = parser.parse_args()
    data = recording(CU8)[: BLOCK_SAMPLES * CU8.sample_size_bytes]
    progresses = [Progress() for _ in range(arguments.streams)]
    print(f"{os.cpu_count()} cores; {arguments.streams} streams, CU8 at 2.4 MS/s, windows of {WINDOW_S:g} s")
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        environment = {"HEIMDALL_LOG_LEVEL": "warning", "HEIMDALL_STORAGE_DATA_DIR": str(Path(name) / "data")}
        ports = stack.enter_context(reserved_ports("127.0.0.1"))
        async with LocalMesh(Settings(), ports, environment=environment) as mesh:
            await mesh.start("dsp")
            start_s = time.monotonic() + _SETTLE_S
            end_s = start_s + arguments.seconds
            async with open_channel("dsp", mesh.targets["dsp"]) as channel, asyncio.TaskGroup() as group:
                stub = dsp_pb2_grpc.DspServiceStub(channel)
                watching = group.create_task(watch(mesh.pids["dsp"], end_s))
                for number, progress in enumerate(progresses):
                    group.create_task(offer(stub, f"rx-{number}", data, end_s, progress))
    print_figures(progresses, watching.result(), start_s, end_s)


if __name__ == "__main__":
    asyncio.run(main())
