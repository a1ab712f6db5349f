"""Records from seven simulated KiwiSDRs for minutes on end and shows that no service grows meanwhile.

Simulator and services run as processes, and every service logs its vitals. Minutes count from the start of the
acquisition's window; from minute 2 to its end, a service may
- rise by less than 1 MiB: no half-minute's median of resident memory lies higher above one of the 10 min before it;
- have a slope below 1 MiB in 10 min: that of a straight line through all readings, the median of the slopes between any
  two of them (Theil and Sen);
- not rise at all in open files and tasks, by the least of each half-minute: what calls take for their moments is no
  growth.
The acquisition has to succeed without a gap, with every sample of its window on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

from benchmarks.bench_pipeline import RECEIVER_COUNT, result, running_mesh, spec_of
from benchmarks.soak_figures import SETTLED_MINUTE, SPAN_MINUTES, Figures, Readings, evaluate, read_vitals
from benchmarks.soak_page import write_page
from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.local import SERVICE_NAMES
from simulator.scenario import DEFAULT_SAMPLE_RATE_HZ

DOCS: Final = Path(__file__).resolve().parent.parent / "docs"
VITALS_INTERVAL_S: Final = 2.0
_SAMPLE_BYTES: Final = 4
_AFTER_S: Final = 10.0
"""How long the services are watched once the acquisition is over."""


async def record(folder: Path, minutes: float) -> Acquisition:
    """Runs one acquisition over the whole time; returns its terminal snapshot. The logs stay in the folder."""
    duration_s = minutes * 60
    variables = {
        "HEIMDALL_COORDINATOR_MAX_DURATION_S": str(duration_s),
        "HEIMDALL_LOG_LEVEL": "info",
        "HEIMDALL_LOG_FORMAT": "json",
        "HEIMDALL_LOG_VITALS_INTERVAL_S": str(VITALS_INTERVAL_S),
    }
    async with running_mesh(folder, RECEIVER_COUNT, variables=variables, log_dir=folder) as (_, client, _):
        last = await watch(client, duration_s)
        await asyncio.sleep(_AFTER_S)
        return last


async def watch(client: HeimdallClient, duration_s: float) -> Acquisition:
    """Acquires once and prints a line a minute; returns the terminal snapshot."""
    last, told_minute = Acquisition(), 0
    async with aclosing(client.acquire(spec_of(0, duration_s))) as snapshots:
        async for snapshot in snapshots:
            last = snapshot
            stored_s = min(outcome.stored_sample_count for outcome in last.outcomes) / DEFAULT_SAMPLE_RATE_HZ
            if stored_s >= 60 * (told_minute + 1):
                told_minute = int(stored_s // 60)
                gap_count = sum(outcome.gap_count for outcome in last.outcomes)
                print(f"minute {told_minute} of {duration_s / 60:g} is stored; gaps so far: {gap_count}", flush=True)
    return last


def missing_samples(outcome: ReceiverOutcome, duration_s: float, bucket: Path) -> int:
    """Returns how many samples of a receiver's window are not on disk; a sample too many counts too.

    Args:
        outcome: What became of the receiver.
        duration_s: Length of the window.
        bucket: The folder that stands for the bucket.
    """
    key = outcome.recording.data_object_key
    stored = Path(bucket, key).stat().st_size / _SAMPLE_BYTES if key else 0
    # However the samples lie, the window holds one of the two whole numbers beside this.
    exact = duration_s * DEFAULT_SAMPLE_RATE_HZ
    return math.ceil(max(math.floor(exact) - stored, stored - math.ceil(exact), 0))


def report(figures: Mapping[str, Figures], acquisition: Acquisition, missing_count: int) -> bool:
    """Prints the table and the lines for scripts; returns whether every budget is kept."""
    print(f"{'service':12}{'MiB at first':>14}{'at last':>10}{'rise':>8}{'slope':>8}   files, threads, tasks")
    for name, own in figures.items():
        print(
            f"{name:12}{own.first_resident_mib:14.2f}{own.last_resident_mib:10.2f}{own.rise_mib:8.2f}"
            f"{own.slope_mib:8.2f}   {own.open_files}, {own.threads}, {own.tasks}"
        )
    gap_count = sum(outcome.gap_count for outcome in acquisition.outcomes)
    kept = [result(f"resident_rise_mib_{name}", own.rise_mib, 1) for name, own in figures.items()]
    kept += [result(f"resident_slope_mib_in_10_min_{name}", own.slope_mib, 1) for name, own in figures.items()]
    kept += [
        result("open_file_rise", max(own.open_files.rise for own in figures.values()), 0),
        result("task_rise", max(own.tasks.rise for own in figures.values()), 0),
        result("not_succeeded", int(acquisition.state != Acquisition.STATE_SUCCEEDED), 0),
        result("gaps", gap_count, 0),
        result("missing_samples", missing_count, 0),
    ]
    return all(kept)


def main() -> None:
    """Runs the soak; ends with status 1 if a budget is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=SETTLED_MINUTE + SPAN_MINUTES + 1, help="length (default: %(default)s)"
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/soak.md and docs/soak.svg")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        acquisition = asyncio.run(record(folder, arguments.minutes))
        start_unix_ns = acquisition.window_start_unix_ns
        readings: dict[str, Readings] = {}
        for service in SERVICE_NAMES:
            with Path(folder, f"{service}.log").open() as log:
                readings[service] = read_vitals(log, start_unix_ns)
        duration_s, bucket = arguments.minutes * 60, folder / "data" / "heimdall-raw-iq"
        missing = [missing_samples(outcome, duration_s, bucket) for outcome in acquisition.outcomes]
    figures = {service: evaluate(own, arguments.minutes) for service, own in readings.items()}
    kept = report(figures, acquisition, sum(missing))
    if acquisition.state != Acquisition.STATE_SUCCEEDED:
        print(acquisition)
    if arguments.write_docs:
        write_page(DOCS, readings, figures, acquisition, minutes=arguments.minutes, missing_count=sum(missing))
    sys.exit(not kept)


if __name__ == "__main__":
    main()
