"""Clocks that are wrong, that jump, and that are set: those of receivers and that of the host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from heimdall.client import HeimdallClient, acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.iq_pb2 import TimeDegradation, TimeSource
from simulator import Fault, StationSpec
from simulator.station import Station
from tests.clock import SetClock
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, describe, fault_bench, problems, station, until
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import FRAME_SAMPLES, StoredRecording, check_recording
from tests.integration.mesh import last, running_mesh, state_names

SECOND: Final = 10**9
LEADING_COUNT: Final = 2
"""Frames of a connection whose stamps are never used (protocol notes, section 3)."""
STAMP_ERROR_NS: Final = 300
"""The simulated stamps wander by 100 ns, the line through them by less, and times are whole ns."""
ARRIVAL_LATE_S: Final = 1.0
"""Most that a busy machine may hold a frame up; as a rule it is 0.1 s with the 43 ms of the frame."""
BUSY_S: Final = 4.5
"""Most that a busy machine may take for anything else; what followed the host clock would be off by 5 s."""
GPS_WEEK_S: Final = 604_800
GPS_EPOCH_UNIX_S: Final = 315_964_800
GPS_MINUS_UTC_S: Final = 18


def source(outcome: ReceiverOutcome) -> str:
    return TimeSource.Name(outcome.time_solution.source).removeprefix("TIME_SOURCE_")


def degradation(outcome: ReceiverOutcome) -> str:
    return TimeDegradation.Name(outcome.time_solution.degradation).removeprefix("TIME_DEGRADATION_")


def by_receiver(acquisition: Acquisition) -> dict[str, ReceiverOutcome]:
    return {outcome.receiver_id: outcome for outcome in acquisition.outcomes}


async def check_true_times(client: HeimdallClient, one: Station, final: Acquisition, outcome: ReceiverOutcome) -> None:
    """The recording is whole, every sample is true and dated as it was taken, to what the stamps are good for."""
    name = outcome.receiver_id
    recording = await check_recording(client, one.sent, final.acquisition_id, name)
    window_s = (final.window_end_unix_ns - final.window_start_unix_ns) / SECOND
    assert recording.gaps == [], name
    assert recording.sample_count == pytest.approx(window_s * SAMPLE_RATE_HZ, abs=1), name
    assert recording.missed_count == 0, name
    assert max(map(abs, recording.late_ns)) <= STAMP_ERROR_NS, name


async def check_arrival_times(
    client: HeimdallClient, one: Station, final: Acquisition, outcome: ReceiverOutcome
) -> StoredRecording:
    """Every sample is true, and all are dated as late as the first ones came, on a line without a step."""
    name = outcome.receiver_id
    recording = await check_recording(client, one.sent, final.acquisition_id, name, late_s=ARRIVAL_LATE_S)
    assert source(outcome) == "HOST_ARRIVAL"
    assert outcome.time_solution.stamp_used_count == 0
    assert all(0 < late_ns < ARRIVAL_LATE_S * SECOND for late_ns in recording.late_ns), name
    if not recording.gaps:
        window_s = (final.window_end_unix_ns - final.window_start_unix_ns) / SECOND
        assert recording.sample_count == pytest.approx(window_s * SAMPLE_RATE_HZ, abs=1), name
        assert recording.missed_count == 0, name
        assert max(recording.late_ns) - min(recording.late_ns) <= 2, name
    return recording


UNTRUSTED: Mapping[str, Mapping[str, Any]] = {
    "good": {},
    "two-hours-off": {"clock_offset_s": 7200.0},
    "stamps-off": {"gnss": "off"},
    "no-fix": {"gnss": "no_fix"},
    "week-wraps": {"fault": (Fault(kind="week_wrap", duration_s=4.0),)},
}
"""Receivers whose time is not used; the last one begins far off, and comes to the end of its GPS week meanwhile."""


@fault_case(
    Group.CLOCKS,
    fault="a receiver's time is off, by two hours or by days, and its GPS week ends meanwhile; its stamps are switched "
    "off; it never had a GNSS fix",
    sees="SUCCEEDED; the time solution of that receiver is HOST_ARRIVAL with an uncertainty of 0.1 s or more, and says "
    "why: DISAGREES_WITH_HOST with the distance, STAMPS_OFF, NO_GNSS_FIX; the others keep their GNSS time",
    stored="every sample, dated by its arrival",
)
async def test_time_that_is_not_trusted(tmp_path: Path) -> None:
    stations = [station(name, **keys) for name, keys in UNTRUSTED.items()]
    async with fault_bench(tmp_path, stations) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 5.0, list(UNTRUSTED)))
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * len(UNTRUSTED)), describe(final)
        outcomes = by_receiver(final)
        for name, outcome in outcomes.items():
            one = bench.simulator.stations[name]
            if name == "good":
                await check_true_times(bench.client, one, final, outcome)
            else:
                await check_arrival_times(bench.client, one, final, outcome)
                assert 0.1e9 <= outcome.time_solution.time_sigma_ns < ARRIVAL_LATE_S * SECOND
    assert {name: (source(outcome), degradation(outcome)) for name, outcome in outcomes.items()} == {
        "good": ("GNSS", "UNSPECIFIED"),
        "two-hours-off": ("HOST_ARRIVAL", "DISAGREES_WITH_HOST"),
        "stamps-off": ("HOST_ARRIVAL", "STAMPS_OFF"),
        "no-fix": ("HOST_ARRIVAL", "NO_GNSS_FIX"),
        "week-wraps": ("HOST_ARRIVAL", "DISAGREES_WITH_HOST"),
    }
    assert "+7199." in outcomes["two-hours-off"].time_solution.degradation_message
    wrapped = [frame.gps_second for frame in bench.simulator.stations["week-wraps"].sent]
    assert wrapped[LEADING_COUNT] > GPS_WEEK_S - 10
    assert wrapped[-1] < 10


JUMP_FRAME: Final = 60
FOR_GOOD_NS: Final = 20 * SECOND
"""Longer than a busy machine holds frames up: a jump ahead that is as late as it is long looks like a loss."""
LYING: Mapping[str, Fault | None] = {
    "good": None,
    "one-late": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, frame_count=1, offset_ns=SECOND),
    "one-early": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, frame_count=1, offset_ns=-SECOND),
    "six-late": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, frame_count=6, offset_ns=3600 * SECOND),
    "thirty-early": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, frame_count=30, offset_ns=-SECOND // 2),
    "stale": Fault(kind="stale_stamp", after_frame=JUMP_FRAME, frame_count=3),
    "late-for-good": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, offset_ns=FOR_GOOD_NS),
    "early-for-good": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, offset_ns=-FOR_GOOD_NS),
    "week-wraps": Fault(kind="week_wrap", after_frame=JUMP_FRAME, duration_s=0.5),
    "put-right": Fault(kind="stamp_jump", after_frame=JUMP_FRAME, offset_ns=60_000),
}
PASSING = {"good": 0, "one-late": 1, "one-early": 1, "six-late": 6, "thirty-early": 30, "stale": 3, "put-right": 0}
"""Frames whose stamps are not used, besides the leading ones."""


@fault_case(
    Group.CLOCKS,
    fault="a receiver's stamps jump for good, by 20 s forward or back, or by days to the end of the GPS week",
    sees="SUCCEEDED; the times go on from the earlier stamps, the time solution says STAMPS_INCONSISTENT, and its "
    "uncertainty is as large as the contradiction if the new stamps could be right too",
    stored="every sample, without a gap",
)
@fault_case(
    Group.CLOCKS,
    fault="a receiver's stamps jump for one frame or for many and come back, old stamps come in between, or its clock "
    "is put right by 60 us",
    sees="SUCCEEDED; wrong stamps are counted in stamp_dropped_count and change nothing, a clock put right makes the "
    "uncertainty as large as the step",
    stored="every sample, dated as it was taken or by the clock put right, without a gap",
)
async def test_stamps_that_jump(tmp_path: Path) -> None:
    stations = [station(name, fault=() if fault is None else (fault,)) for name, fault in LYING.items()]
    async with fault_bench(tmp_path, stations) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 5.0, list(LYING)))
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * len(LYING)), describe(final)
        for name, outcome in by_receiver(final).items():
            one, solution = bench.simulator.stations[name], outcome.time_solution
            assert source(outcome) == "GNSS", name
            assert solution.sample_rate_hz == pytest.approx(SAMPLE_RATE_HZ, abs=0.05), name
            if name == "put-right":
                recording = await check_recording(bench.client, one.sent, acquisition_id, name)
                assert (recording.gaps, recording.missed_count) == ([], 0)
                assert max(recording.late_ns) == pytest.approx(60_000, abs=STAMP_ERROR_NS)
                assert solution.time_sigma_ns == pytest.approx(60_000, rel=0.01)
            else:
                await check_true_times(bench.client, one, final, outcome)
            if name in PASSING:
                assert degradation(outcome) == "UNSPECIFIED", name
                assert solution.stamp_dropped_count == LEADING_COUNT + PASSING[name], name
                assert name == "put-right" or solution.time_sigma_ns < 1_000, name
                continue
            assert degradation(outcome) == "STAMPS_INCONSISTENT", name
            # The window holds 117 frames; some more came while its last ones were on their way.
            assert 117 - JUMP_FRAME <= solution.stamp_dropped_count - LEADING_COUNT <= len(one.sent) - JUMP_FRAME
            if name == "week-wraps":
                assert solution.time_sigma_ns < 1_000
            else:
                assert solution.time_sigma_ns == pytest.approx(FOR_GOOD_NS, rel=1e-3)


@fault_case(
    Group.CLOCKS,
    fault="the GPS week ends in mid-acquisition",
    sees="SUCCEEDED",
    stored="every sample, dated as it was taken, without a gap",
)
async def test_the_gps_week_ends(tmp_path: Path) -> None:
    names = ("rx-1", "rx-2")
    # Times of stamps are reckoned from the week's start in GPS time, here in a world that is 9 s before the next one.
    to_gps_s = GPS_MINUS_UTC_S - GPS_EPOCH_UNIX_S
    week = (SetClock().unix_ns() // SECOND + to_gps_s) // GPS_WEEK_S + 1
    week_end_ns = (week * GPS_WEEK_S - to_gps_s) * SECOND
    clock = SetClock()
    clock.step((week_end_ns - clock.unix_ns()) / 1e9 - 9)
    start_time = datetime.fromtimestamp(week_end_ns // SECOND - 2, UTC)
    async with (
        running_mesh(tmp_path, [station(name) for name in names], clock=clock) as mesh,
        mesh.client() as client,
        asyncio.timeout(30),
    ):
        final = await last(client.acquire(acquisition_spec(DIAL_HZ, 4.0, names, start_time=start_time)))
        assert (final.window_start_unix_ns + final.window_end_unix_ns) // 2 == week_end_ns
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 2), describe(final)
        for outcome in final.outcomes:
            one = mesh.simulator.stations[outcome.receiver_id]
            assert one.sent[LEADING_COUNT].gps_second > GPS_WEEK_S - 10 > 10 > one.sent[-1].gps_second
            await check_true_times(client, one, final, outcome)
            assert (source(outcome), degradation(outcome)) == ("GNSS", "UNSPECIFIED")
            assert outcome.time_solution.stamp_dropped_count == LEADING_COUNT


HOST_TIMED = {"no-fix", "no-fix-dropping"}
DROPPING = {"gnss-dropping", "no-fix-dropping"}


def host_stations() -> list[StationSpec]:
    return [
        station("gnss"),
        station("no-fix", gnss="no_fix"),
        station("gnss-dropping"),
        station("no-fix-dropping", gnss="no_fix"),
    ]


async def captured(client: HeimdallClient, acquisition_id: str, sample_count: int) -> None:
    async with asyncio.timeout(30):
        async for snapshot in client.watch_acquisition(acquisition_id):
            if all(outcome.stored_sample_count >= sample_count for outcome in snapshot.outcomes):
                return
    raise AssertionError(f"the acquisition ended first: {describe(snapshot)}")


@fault_case(
    Group.CLOCKS,
    fault="the host clock is set by 5 s, forward or back, in mid-acquisition; then connections are lost and made again",
    sees="nothing, where a receiver has GNSS time: SUCCEEDED, or a RECONNECT gap of the true length; where it has not, "
    "SUCCEEDED with an uncertainty of 5 s and the step in words, or a RECONNECT gap as long as the connection was away",
    stored="every sample of the window, dated as if the clock had not been set",
)
@pytest.mark.parametrize("step_s", [-5.0, 5.0])
async def test_host_clock_set_in_mid_acquisition(tmp_path: Path, step_s: float) -> None:
    clock = SetClock()
    window_s = 5.0
    names = [spec.id for spec in host_stations()]
    async with running_mesh(tmp_path, host_stations(), clock=clock) as mesh, mesh.client() as client:
        began_ns = clock.unix_ns()
        started = await client.start_acquisition(acquisition_spec(DIAL_HZ, window_s, names))
        await captured(client, started.acquisition_id, round(SAMPLE_RATE_HZ))
        clock.step(step_s)
        for name in DROPPING:
            await mesh.simulator.stations[name].inject(Fault(kind="drop"))
        async with asyncio.timeout(30):
            final = await last(client.watch_acquisition(started.acquisition_id))
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["SUCCEEDED"] * 2 + ["PARTIALLY_SUCCEEDED"] * 2), describe(
            final
        )
        assert 0 <= final.window_start_unix_ns - began_ns < BUSY_S * SECOND
        assert 0 < final.end_time.ToNanoseconds() - final.window_end_unix_ns < BUSY_S * SECOND
        for name, outcome in by_receiver(final).items():
            one, solution = mesh.simulator.stations[name], outcome.time_solution
            if name == "gnss":
                await check_true_times(client, one, final, outcome)
            elif name == "gnss-dropping":
                recording = await check_recording(client, one.sent, final.acquisition_id, name)
                assert max(map(abs, recording.late_ns)) <= STAMP_ERROR_NS
                check_reconnect(recording, one, outcome, tolerance=1)
            else:
                recording = await check_arrival_times(client, one, final, outcome)
                if name in DROPPING:
                    check_reconnect(recording, one, outcome, tolerance=round(0.3 * SAMPLE_RATE_HZ))
                assert 4.99e9 < solution.time_sigma_ns < 6e9, name
                assert f"the host clock was set by {step_s:+.3f} s" in solution.degradation_message
            if name not in HOST_TIMED:
                assert (source(outcome), degradation(outcome)) == ("GNSS", "UNSPECIFIED"), name
                assert solution.time_sigma_ns < 1_000


def check_reconnect(recording: StoredRecording, one: Station, outcome: ReceiverOutcome, tolerance: int) -> None:
    """The one gap is what the station took and did not send between its two connections, and no more."""
    (gap,) = recording.gaps
    assert recording.reasons == ["RECONNECT"]
    assert problems(outcome) == ["UPSTREAM_CONNECTION_LOST", "SAMPLES_LOST"]
    assert outcome.attempt_count == 2
    before = [frame for frame in one.sent if frame.connection == 1][-1]
    after = next(frame for frame in one.sent if frame.connection == 2)
    away = after.first_sample - before.first_sample - FRAME_SAMPLES
    # Some frames may have been on their way when the connection was reset.
    unread = max(0, round((gap.lost_sample_count - away) / FRAME_SAMPLES))
    assert unread <= 8
    assert gap.lost_sample_count == pytest.approx(away + unread * FRAME_SAMPLES, abs=tolerance)
    assert recording.end_index == outcome.expected_sample_count


@fault_case(
    Group.CLOCKS,
    fault="the host clock is set by 5 s, forward or back, before an acquisition, while receivers are connected, or at "
    "the window's end",
    sees="SUCCEEDED; if the host is wrong from the start the window begins up to 5 s later, since receivers without "
    "GNSS have the host's time",
    stored="every sample of the window",
)
@pytest.mark.parametrize("step_s", [-5.0, 5.0])
async def test_host_clock_set_at_any_other_time(tmp_path: Path, step_s: float) -> None:
    clock = SetClock()
    names = ("gnss", "no-fix")
    stations = [station("gnss"), station("no-fix", gnss="no_fix")]
    spec = acquisition_spec(DIAL_HZ, 1.5, names)
    async with running_mesh(tmp_path, stations, clock=clock) as mesh, mesh.client() as client, asyncio.timeout(60):
        for moment in ("preparing", "ending", "before"):
            if moment == "before":
                clock.step(step_s)
            started = await client.start_acquisition(spec)
            if moment == "preparing":
                # Each needs five frames, 0.2 s, before it can say from when on it delivers.
                await until(lambda: all(one.clients for one in mesh.simulator.stations.values()))
                clock.step(step_s)
            elif moment == "ending":
                await captured(client, started.acquisition_id, round(1.2 * SAMPLE_RATE_HZ))
                clock.step(step_s)
            final = await last(client.watch_acquisition(started.acquisition_id))
            assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 2), f"{moment}: {describe(final)}"
            gnss, no_fix = final.outcomes
            await check_true_times(client, mesh.simulator.stations["gnss"], final, gnss)
            if moment != "before":
                await check_arrival_times(client, mesh.simulator.stations["no-fix"], final, no_fix)
                clock.step(-step_s)
            if moment == "preparing":
                assert 4.99e9 < no_fix.time_solution.time_sigma_ns < 6e9
            took_s = (final.end_time.ToNanoseconds() - final.create_time.ToNanoseconds()) / SECOND
            assert 1.5 < took_s < 1.5 + BUSY_S + (5.0 if moment == "before" else 0.0)
