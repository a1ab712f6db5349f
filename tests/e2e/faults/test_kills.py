"""A process killed in mid-acquisition, and started again 2 s later or never."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import reason_name
from heimdall.local import SERVICE_NAMES
from tests.e2e.faults.bench import (
    DIAL_HZ,
    SAMPLE_RATE_HZ,
    FaultBench,
    describe,
    eventually,
    fault_bench,
    problems,
    station,
    until,
)
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import StoredRecording, check_recording
from tests.integration.mesh import state_names

NAMES = ("rx-1", "rx-2", "rx-3")
DURATION_S = 20.0
RESTART_DELAY_S = 2.0
BEFORE = 30_000
"""Samples, 2.5 s, that are stored before anything is killed."""


async def checked(bench: FaultBench, final: Acquisition) -> list[StoredRecording]:
    return [
        await check_recording(bench.client, bench.simulator.stations[name].sent, final.acquisition_id, name)
        for name in NAMES
    ]


async def with_killed(bench: FaultBench, *names: str, restarted: bool = True) -> Acquisition:
    """Runs an acquisition in which services are killed; returns its end."""
    acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, DURATION_S, NAMES))
    await bench.stored(acquisition_id, BEFORE)
    await bench.kill(*names)
    if restarted:
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start(*names)
    return await bench.ended(acquisition_id)


@fault_case(
    Group.KILLED,
    fault="DSP is killed and comes back 2 s later",
    sees="PARTIALLY_SUCCEEDED; each outcome has the problem MEASUREMENT_MISSING, which names SERVICE_UNAVAILABLE",
    stored="every recording, complete and without a gap; no summary",
)
async def test_dsp_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        final = await with_killed(bench, "dsp")
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        for outcome in final.outcomes:
            assert problems(outcome) == ["MEASUREMENT_MISSING"]
            assert outcome.problems[0].metadata["cause"] == "SERVICE_UNAVAILABLE"
            assert not outcome.HasField("measurement")
            assert outcome.recording.complete
        for recording in await checked(bench, final):
            assert recording.sample_count == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
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
        final = await with_killed(bench, "fetcher")
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
        final = await with_killed(bench, "storage")
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 3), describe(final)
        for recording in await checked(bench, final):
            assert recording.sample_count == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)
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


@fault_case(
    Group.KILLED,
    fault="fetcher and storage are killed at once and come back 2 s later",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one SERVICE_RESTART gap",
    stored="everything that the fetcher delivered before and after, nothing twice",
)
async def test_fetcher_and_storage_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        final = await with_killed(bench, "fetcher", "storage")
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert recording.reasons == ["SERVICE_RESTART"]
            assert recording.sample_count == outcome.stored_sample_count == outcome.received_sample_count
            assert recording.end_index == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)


@fault_case(
    Group.KILLED,
    fault="coordinator and storage are killed at once and come back 2 s later",
    sees="PARTIALLY_SUCCEEDED, COORDINATOR_RESTARTED; the receivers are free within 1 s",
    stored="everything that was acknowledged, as readable recordings marked incomplete",
)
async def test_coordinator_and_storage_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        spec = acquisition_spec(DIAL_HZ, DURATION_S, NAMES)
        acquisition_id = await bench.start_acquisition(spec)
        before = await bench.stored(acquisition_id, BEFORE)
        await bench.kill("coordinator", "storage")
        await until(lambda: not any(one.clients for one in bench.simulator.stations.values()), timeout_s=1.0)
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start("coordinator", "storage")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        assert reason_name(final.error.reason) == "COORDINATOR_RESTARTED"
        for then, outcome, recording in zip(before.outcomes, final.outcomes, await checked(bench, final), strict=True):
            assert not outcome.recording.complete
            assert outcome.stored_sample_count == recording.sample_count >= then.stored_sample_count
            assert recording.reasons == ["SERVICE_RESTART"]


@fault_case(
    Group.KILLED,
    fault="all four services are killed at once and come back 2 s later",
    sees="PARTIALLY_SUCCEEDED, COORDINATOR_RESTARTED",
    stored="everything that was acknowledged, as readable recordings marked incomplete",
)
async def test_all_killed(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, DURATION_S, NAMES))
        before = await bench.stored(acquisition_id, BEFORE)
        await bench.kill(*SERVICE_NAMES)
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start(*SERVICE_NAMES)
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        for then, recording in zip(before.outcomes, await checked(bench, final), strict=True):
            assert recording.sample_count >= then.stored_sample_count
        again = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, NAMES))
        assert state_names(await bench.ended(again)) == ("SUCCEEDED", ["SUCCEEDED"] * 3)


@fault_case(
    Group.KILLED,
    fault="storage is killed while it finishes the recordings and comes back 2 s later",
    sees="SUCCEEDED",
    stored="every recording once, complete, with its collection; the spool is empty",
)
async def test_storage_killed_while_it_finishes(tmp_path: Path) -> None:
    duration_s = 3.0
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, duration_s, NAMES))
        async for snapshot in bench.client.watch_acquisition(acquisition_id):
            if any(outcome.state == ReceiverOutcome.STATE_FINISHING for outcome in snapshot.outcomes):
                break
        await bench.kill("storage")
        await asyncio.sleep(RESTART_DELAY_S)
        await bench.start("storage")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 3), describe(final)
        for recording in await checked(bench, final):
            assert recording.sample_count == pytest.approx(duration_s * SAMPLE_RATE_HZ, abs=1)
        assert sorted([row.receiver_id async for row in bench.client.list_recordings()]) == sorted(NAMES)
        await until(lambda: not list((bench.folder / "data" / "spool").iterdir()))
        folder = bench.folder / "data" / "heimdall-raw-iq" / "sessions" / acquisition_id
        await until((folder / "session.sigmf-collection").is_file)


@fault_case(
    Group.KILLED,
    fault="DSP is killed and does not come back",
    sees="PARTIALLY_SUCCEEDED at the end of the window; MEASUREMENT_MISSING",
    stored="every recording, complete",
)
async def test_dsp_never_comes_back(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        final = await with_killed(bench, "dsp", restarted=False)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        assert final.end_time.ToNanoseconds() - final.window_end_unix_ns < 3e9
        assert {tuple(problems(outcome)) for outcome in final.outcomes} == {("MEASUREMENT_MISSING",)}
        for recording in await checked(bench, final):
            assert recording.sample_count == pytest.approx(DURATION_S * SAMPLE_RATE_HZ, abs=1)


@fault_case(
    Group.KILLED,
    fault="the fetcher is killed and does not come back",
    sees="PARTIALLY_SUCCEEDED at the end of the window; SERVICE_UNAVAILABLE and SAMPLES_LOST",
    stored="what was delivered before, as readable recordings marked incomplete; the rest is a SERVICE_RESTART gap",
)
async def test_fetcher_never_comes_back(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name) for name in NAMES]) as bench:
        final = await with_killed(bench, "fetcher", restarted=False)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        assert final.end_time.ToNanoseconds() - final.window_end_unix_ns < 5e9
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert problems(outcome) == ["SERVICE_UNAVAILABLE", "SAMPLES_LOST"], describe(final)
            assert not outcome.recording.complete
            assert recording.reasons == ["SERVICE_RESTART"]
            assert recording.sample_count == outcome.received_sample_count >= BEFORE
            assert outcome.HasField("measurement")


@fault_case(
    Group.KILLED,
    fault="storage is killed and does not come back before the acquisition's deadline",
    sees="PARTIALLY_SUCCEEDED at the deadline; ACQUISITION_DEADLINE and SERVICE_UNAVAILABLE; the outcome counts what "
    "was acknowledged as stored, and storage hears of the terminal state once it is back",
    stored="everything that was acknowledged, finished by storage itself as WRITER_LOST after `resume_window_s`",
)
async def test_storage_comes_back_too_late(tmp_path: Path) -> None:
    settings = {"HEIMDALL_COORDINATOR_FINISH_ALLOWANCE_S": "6", "HEIMDALL_STORAGE_RESUME_WINDOW_S": "2"}
    async with fault_bench(tmp_path, [station(name) for name in NAMES], variables=settings) as bench:
        final = await with_killed(bench, "storage", restarted=False)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
        assert abs(final.end_time.ToNanoseconds() - final.deadline_time.ToNanoseconds()) < 2e9
        for outcome in final.outcomes:
            assert problems(outcome)[0] == "ACQUISITION_DEADLINE", describe(final)
            assert "SERVICE_UNAVAILABLE" in problems(outcome)
            assert outcome.stored_sample_count >= BEFORE
        await bench.start("storage")
        await eventually(bench.all_in_object_store)

        async def told() -> bool:
            return await bench.stored_state(final.acquisition_id) == final.state

        await eventually(told)
        for outcome, recording in zip(final.outcomes, await checked(bench, final), strict=True):
            assert recording.sample_count >= outcome.stored_sample_count


@fault_case(
    Group.KILLED,
    fault="the coordinator is killed and does not come back",
    sees="the coordinator is UNAVAILABLE; the receivers are free within 1 s; storage goes on serving, and shows the "
    "acquisition as running, past its `deadline_time`, until a coordinator settles it",
    stored="everything that was acknowledged, finished by storage itself as WRITER_LOST after `resume_window_s`",
)
async def test_coordinator_never_comes_back(tmp_path: Path) -> None:
    settings = {"HEIMDALL_STORAGE_RESUME_WINDOW_S": "2"}
    async with fault_bench(tmp_path, [station(name) for name in NAMES], variables=settings) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, DURATION_S, NAMES))
        before = await bench.stored(acquisition_id, BEFORE)
        await bench.kill("coordinator")
        await until(lambda: not any(one.clients for one in bench.simulator.stations.values()), timeout_s=1.0)
        await eventually(bench.all_in_object_store)
        rows = await bench.recordings()
        for then in before.outcomes:
            row = rows[then.receiver_id]
            assert reason_name(row.incomplete_cause.reason) == "WRITER_LOST"
            sent = bench.simulator.stations[then.receiver_id].sent
            recording = await check_recording(bench.client, sent, acquisition_id, then.receiver_id)
            assert recording.sample_count == row.sample_count >= then.stored_sample_count
        await bench.start("coordinator")
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 3), describe(final)
