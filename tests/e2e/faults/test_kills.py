"""A process killed in mid-acquisition, and started again 2 s later or never."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import reason_name
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, FaultBench, describe, fault_bench, problems, station, until
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import StoredRecording, check_recording
from tests.integration.mesh import state_names

NAMES = ("rx-1", "rx-2", "rx-3")
DURATION_S = 15.0
RESTART_DELAY_S = 2.0
BEFORE = 30_000
"""Samples, 2.5 s, that are stored before anything is killed."""


async def checked(bench: FaultBench, final: Acquisition) -> list[StoredRecording]:
    return [
        await check_recording(bench.client, bench.simulator.stations[name].sent, final.acquisition_id, name)
        for name in NAMES
    ]


@fault_case(
    Group.KILLED,
    fault="DSP is killed and comes back 2 s later",
    sees="PARTIALLY_SUCCEEDED; each outcome has the problem MEASUREMENT_MISSING, which names SERVICE_UNAVAILABLE",
    stored="every recording, complete and without a gap; no summary",
)
async def test_dsp_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, DURATION_S, NAMES))
        await bench.stored(acquisition_id, BEFORE)
        await bench.kill("dsp")
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start("dsp")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        for outcome in final.outcomes:
            assert problems(outcome) == ["MEASUREMENT_MISSING"]
            assert outcome.problems[0].metadata["cause"] == "SERVICE_UNAVAILABLE"
            assert not outcome.HasField("measurement")
            assert outcome.recording.complete
        for recording in await checked(bench, final):
            assert recording.sample_count == DURATION_S * SAMPLE_RATE_HZ
            assert recording.gaps == []
        again = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, NAMES))
        assert state_names(await bench.ended(again)) == ("SUCCEEDED", ["SUCCEEDED"] * 3)


@fault_case(
    Group.KILLED,
    fault="the fetcher is killed and comes back 2 s later",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one SERVICE_RESTART gap",
    stored="every recording on both sides of the gap, at its true index; the summary of all good samples",
)
async def test_fetcher_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, DURATION_S, NAMES))
        await bench.stored(acquisition_id, BEFORE)
        await bench.kill("fetcher")
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start("fetcher")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert recording.reasons == ["SERVICE_RESTART"]
            assert outcome.HasField("measurement")
            assert recording.sample_count == outcome.stored_sample_count
            assert recording.end_index == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
            # Two seconds away, and what starting, the caller's back-off and connecting take.
            assert 1.5 * SAMPLE_RATE_HZ < recording.lost_count < 10 * SAMPLE_RATE_HZ


@fault_case(
    Group.KILLED,
    fault="storage is killed and comes back 2 s later",
    sees="SUCCEEDED: the coordinator holds what was not acknowledged and goes on where storage wants it",
    stored="every recording, complete, nothing twice",
)
async def test_storage_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, DURATION_S, NAMES))
        await bench.stored(acquisition_id, BEFORE)
        await bench.kill("storage")
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start("storage")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 3), describe(final)
        for recording in await checked(bench, final):
            assert recording.sample_count == DURATION_S * SAMPLE_RATE_HZ
            assert recording.gaps == []
        assert not list((bench.folder / "data" / "spool").iterdir())


@fault_case(
    Group.KILLED,
    fault="the coordinator is killed and comes back 2 s later",
    sees="PARTIALLY_SUCCEEDED, COORDINATOR_RESTARTED; its receivers are free within 1 s; a repeat of the request with "
    "the same request_id finds the acquisition",
    stored="everything that was acknowledged, as readable recordings marked incomplete; the rest of the window is a "
    "SERVICE_RESTART gap",
)
async def test_coordinator_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        spec = acquisition_spec(DIAL_HZ, DURATION_S, NAMES)
        acquisition_id = await bench.start_acquisition(spec, "kept")
        before = await bench.stored(acquisition_id, BEFORE)
        await bench.kill("coordinator")
        await until(lambda: not any(one.clients for one in bench.simulator.stations.values()), timeout_s=1.0)
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start("coordinator")
        repeated = await bench.client.start_acquisition(spec, "kept")
        assert repeated.acquisition_id == acquisition_id
        assert reason_name(repeated.error.reason) == "COORDINATOR_RESTARTED"
        assert state_names(repeated) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(repeated)
        for then, outcome, recording in zip(
            before.outcomes, repeated.outcomes, await checked(bench, repeated), strict=True
        ):
            assert problems(outcome)[0] == "COORDINATOR_RESTARTED"
            assert outcome.recording.state == Recording.STATE_STORED
            assert not outcome.recording.complete
            assert recording.sample_count >= then.stored_sample_count
            assert recording.reasons == ["SERVICE_RESTART"]
            assert recording.end_index == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
