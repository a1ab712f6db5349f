"""Acquisitions through the whole mesh, from simulated receivers' sockets to stored recordings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from heimdall.client import HeimdallClient, acquisition_spec
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, GapReason, TimeSource
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, reason_name
from heimdall.storage.v1.storage_pb2 import RecordFilter
from simulator import Fault
from tests.integration.mesh import SAMPLE_RATE_HZ, Mesh, last, running_mesh, state_names, station

SEVEN = tuple(f"rx-{number}" for number in range(1, 8))
DIAL_HZ = 7.1e6
FRAME_SAMPLES = 512


async def stored_blocks(client: HeimdallClient, acquisition_id: str, receiver_id: str) -> list[Block]:
    events = [event async for event in client.read_recording(acquisition_id, receiver_id)]
    assert events[0].HasField("segment")
    assert events[-1].HasField("end")
    position = 0
    for event in events:
        if event.HasField("block"):
            assert event.block.first_sample_index == position
            position += event.block.sample_count
        elif event.HasField("gap"):
            assert event.gap.first_lost_index == position
            position += event.gap.lost_sample_count
    assert events[-1].end.end_sample_index == position
    return [event.block for event in events if event.HasField("block")]


async def check_samples(mesh: Mesh, client: HeimdallClient, final: Acquisition, receiver_id: str) -> int:
    """Compares every stored sample with what the station sent for that index; returns how many there are."""
    frames = {frame.first_sample: frame for frame in mesh.simulator.stations[receiver_id].sent}
    first = min(frames)
    sent = {
        number + offset: frame.payload[4 * offset : 4 * offset + 4]
        for number, frame in frames.items()
        for offset in range(FRAME_SAMPLES)
    }
    blocks = await stored_blocks(client, final.acquisition_id, receiver_id)
    # Index 0 is the first sample at or after the window's start; stamps wander by 200 ns, so it may be one beside.
    about = first + (final.window_start_unix_ns - frames[first].true_unix_ns) * SAMPLE_RATE_HZ / 1e9
    for origin in range(round(about) - 1, round(about) + 3):
        if all(_as_sent(block) == _sent(sent, origin + block.first_sample_index, block) for block in blocks):
            return sum(block.sample_count for block in blocks)
    raise AssertionError("the stored samples are not those that were sent at their time")


def _as_sent(block: Block) -> bytes:
    """Returns the samples of a block in the byte order of the wire."""
    swapped = bytearray(block.samples)
    swapped[::2], swapped[1::2] = swapped[1::2], swapped[::2]
    return bytes(swapped)


def _sent(sent: dict[int, bytes], first: int, block: Block) -> bytes:
    return b"".join(sent.get(number, b"") for number in range(first, first + block.sample_count))


def reasons(outcome: ReceiverOutcome) -> list[str]:
    return [reason_name(problem.reason) for problem in outcome.problems]


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> float:
    """Waits for a condition; returns how long that took in s."""
    started = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (a socket of the simulator has no event to wait for)
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def captured(client: HeimdallClient, acquisition_id: str, sample_count: int) -> Acquisition:
    """Waits until every receiver has stored so many samples."""
    async with asyncio.timeout(20):
        async for snapshot in client.watch_acquisition(acquisition_id):
            if all(outcome.stored_sample_count >= sample_count for outcome in snapshot.outcomes):
                return snapshot
    raise AssertionError("the acquisition ended first")


def check_numbers(found: Measurement) -> None:
    """Holds a measurement against what the stations receive: a carrier of -60 dBm over noise of -150 dBm/Hz."""
    assert found.frequency_offset_hz.value == pytest.approx(1000.0, abs=0.1)
    assert found.power_dbm.value == pytest.approx(-60.0, abs=0.2)
    assert (found.power_dbm.method, found.power_dbm.sigma) == ("calibration-derived", 3.0)
    scale_db = found.power_dbm.value - found.power_dbfs.value
    assert found.noise_dbfs_per_hz.value + scale_db == pytest.approx(-150.0, abs=0.5)
    assert found.carrier_to_noise_density_db_hz.value == pytest.approx(90.0, abs=0.5)
    assert found.kurtosis.value == pytest.approx(1.0, abs=0.01)
    assert found.crest_factor_db.value == pytest.approx(0.0, abs=0.2)
    assert found.clipped_ratio.value == 0.0


async def test_seven_good_receivers_succeed_with_exact_counts(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station(name) for name in SEVEN]) as mesh, mesh.client() as client:
        spec = acquisition_spec(DIAL_HZ, 2.0, SEVEN, labels={"campaign": "test"})
        async with asyncio.timeout(30):
            final = await last(client.acquire(spec))
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 7)
        assert final.spec == spec
        for outcome in final.outcomes:
            assert outcome.expected_sample_count == outcome.stored_sample_count == 24_000
            assert outcome.lost_sample_count == outcome.gap_count == 0
            assert outcome.attempt_count == 1
            assert outcome.recording.state == Recording.STATE_STORED
            assert outcome.recording.complete
            assert outcome.recording.location.endswith(f"{outcome.receiver_id}.sigmf-meta")
            assert outcome.time_solution.source == TimeSource.TIME_SOURCE_GNSS
            assert outcome.time_solution.sample_rate_hz == pytest.approx(SAMPLE_RATE_HZ, abs=0.05)
            check_numbers(outcome.measurement)
            assert 0 <= outcome.first_sample_unix_ns - final.window_start_unix_ns <= 1e9 / SAMPLE_RATE_HZ + 1000
        assert await check_samples(mesh, client, final, "rx-1") == 24_000
        assert await client.get_acquisition(final.acquisition_id) == final
        assert [listed.acquisition_id async for listed in client.list_acquisitions()] == [final.acquisition_id]
        chosen = RecordFilter(acquisition_id=final.acquisition_id)
        summaries = [summary async for summary in client.query_measurements(chosen)]
        assert sorted(summary.receiver_id for summary in summaries) == sorted(SEVEN)
        for summary in summaries:
            check_numbers(summary)
        windows = client.query_measurements(chosen, scope=MeasurementScope.MEASUREMENT_SCOPE_WINDOW)
        assert len([window async for window in windows]) == 14
        assert len([recording async for recording in client.list_recordings(chosen)]) == 7


async def test_one_refusing_and_one_dropping_frames_leave_the_others_whole(tmp_path: Path) -> None:
    stations = [station(name) for name in SEVEN]
    stations[1] = station("rx-2", fault=(Fault(kind="too_busy"),))
    stations[4] = station("rx-5", fault=(Fault(kind="lost_frames", after_frame=30, frame_count=5),))
    async with running_mesh(tmp_path, stations) as mesh, mesh.client() as client:
        started = time.monotonic()
        async with asyncio.timeout(30):
            final = await last(client.acquire(acquisition_spec(DIAL_HZ, 2.0, SEVEN)))
        assert time.monotonic() - started < 4.5
        expected = ["SUCCEEDED"] * 7
        expected[1], expected[4] = "FAILED", "PARTIALLY_SUCCEEDED"
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", expected)
        busy, holed = final.outcomes[1], final.outcomes[4]
        assert reasons(busy) == ["UPSTREAM_BUSY"]
        assert not busy.HasField("recording")
        assert reasons(holed) == ["SAMPLES_LOST"]
        assert holed.problems[0].metadata["lost_sequence"] == "2560"
        assert (holed.gap_count, holed.lost_sample_count, holed.stored_sample_count) == (1, 2560, 24_000 - 2560)
        gap = holed.gaps[0]
        assert (gap.lost_sample_count, gap.exact, gap.reason) == (2560, True, GapReason.GAP_REASON_SEQUENCE)
        assert await check_samples(mesh, client, final, "rx-5") == 24_000 - 2560
        assert "rx-2 (UPSTREAM_BUSY)" in final.error.message


async def test_cancel_frees_the_receivers_within_a_second_and_keeps_what_came(tmp_path: Path) -> None:
    names = SEVEN[:3]
    async with running_mesh(tmp_path, [station(name) for name in names]) as mesh, mesh.client() as client:
        started = await client.start_acquisition(acquisition_spec(DIAL_HZ, 60.0, names))
        await captured(client, started.acquisition_id, 3000)
        cancelling = asyncio.create_task(client.cancel_acquisition(started.acquisition_id))
        assert await until(lambda: not any(s.clients for s in mesh.simulator.stations.values())) < 1.0
        final = await cancelling
        assert state_names(final) == ("CANCELLED", ["CANCELLED"] * 3)
        for outcome in final.outcomes:
            assert outcome.stored_sample_count == outcome.received_sample_count >= 3000
            assert outcome.recording.state == Recording.STATE_STORED
            assert await check_samples(mesh, client, final, outcome.receiver_id) == outcome.stored_sample_count


async def test_without_dsp_the_samples_are_whole(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")], without=["dsp"]) as mesh, mesh.client() as client:
        async with asyncio.timeout(20):
            final = await last(client.acquire(acquisition_spec(DIAL_HZ, 1.0, ["rx-1"])))
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"])
        assert reasons(final.outcomes[0]) == ["MEASUREMENT_MISSING"]
        assert final.outcomes[0].stored_sample_count == 12_000


async def test_a_restarted_dsp_costs_the_measurement_only(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")], mesh={"drain_timeout_s": 0}) as mesh, mesh.client() as client:
        started = await client.start_acquisition(acquisition_spec(DIAL_HZ, 2.0, ["rx-1"]))
        await captured(client, started.acquisition_id, 3000)
        await mesh.stop("dsp")
        await mesh.start("dsp")
        async with asyncio.timeout(20):
            final = await last(client.watch_acquisition(started.acquisition_id))
        assert reasons(final.outcomes[0]) == ["MEASUREMENT_MISSING"]
        assert final.outcomes[0].stored_sample_count == 24_000


async def test_a_restarted_storage_loses_nothing(tmp_path: Path) -> None:
    names = SEVEN[:2]
    async with (
        running_mesh(tmp_path, [station(name) for name in names], mesh={"drain_timeout_s": 0}) as mesh,
        mesh.client() as client,
    ):
        started = await client.start_acquisition(acquisition_spec(DIAL_HZ, 3.0, names))
        await captured(client, started.acquisition_id, 3000)
        await mesh.stop("storage")
        await mesh.start("storage")
        async with asyncio.timeout(30):
            final = await last(client.watch_acquisition(started.acquisition_id))
        assert state_names(final) == ("SUCCEEDED", ["SUCCEEDED"] * 2)
        for name in names:
            assert await check_samples(mesh, client, final, name) == 36_000


async def test_a_restarted_fetcher_leaves_one_gap_that_says_so(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")], mesh={"drain_timeout_s": 0}) as mesh, mesh.client() as client:
        started = await client.start_acquisition(acquisition_spec(DIAL_HZ, 6.0, ["rx-1"]))
        await captured(client, started.acquisition_id, 3000)
        await mesh.stop("fetcher")
        await mesh.start("fetcher")
        async with asyncio.timeout(30):
            final = await last(client.watch_acquisition(started.acquisition_id))
        outcome = final.outcomes[0]
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"])
        assert [gap.reason for gap in outcome.gaps] == [GapReason.GAP_REASON_SERVICE_RESTART]
        assert outcome.expected_sample_count == pytest.approx(72_000, abs=1)
        assert outcome.stored_sample_count == outcome.expected_sample_count - outcome.lost_sample_count


async def test_a_restarted_coordinator_settles_what_it_finds(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")], mesh={"drain_timeout_s": 0}) as mesh:
        async with mesh.client() as client:
            spec = acquisition_spec(DIAL_HZ, 30.0, ["rx-1"])
            started = await client.start_acquisition(spec, "before the restart")
            await captured(client, started.acquisition_id, 3000)
        await mesh.stop("coordinator")
        await until(lambda: not mesh.simulator.stations["rx-1"].clients, 1.0)
        await mesh.start("coordinator")
        async with mesh.client() as client:
            again = await client.start_acquisition(spec, "before the restart")
            assert again.acquisition_id == started.acquisition_id
            assert state_names(again)[0] == "CANCELLED"
            assert again.outcomes[0].stored_sample_count >= 3000
            assert reason_name(again.error.reason) == "DRAINING"


async def test_the_same_request_is_started_once(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")]) as mesh, mesh.client() as client:
        spec = acquisition_spec(DIAL_HZ, 0.5, ["rx-1"])
        answers = await asyncio.gather(*(client.start_acquisition(spec, "one") for _ in range(8)))
        assert len({answer.acquisition_id for answer in answers}) == 1
        final = await last(client.watch_acquisition(answers[0].acquisition_id))
        assert state_names(final)[0] == "SUCCEEDED"
        assert await client.start_acquisition(spec, "one") == final
        other = acquisition_spec(DIAL_HZ, 0.6, ["rx-1"])
        with pytest.raises(HeimdallError) as caught:
            await client.start_acquisition(other, "one")
        assert caught.value.reason == ErrorReason.ERROR_REASON_ACQUISITION_EXISTS
        assert caught.value.metadata["acquisition_id"] == final.acquisition_id


async def test_a_receiver_out_of_range_is_an_outcome(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, [station("rx-1")], max_frequency_hz=10e6) as mesh, mesh.client() as client:
        with pytest.raises(HeimdallError) as caught:
            await client.start_acquisition(acquisition_spec(14e6, 1.0, ["rx-1"]))
        assert caught.value.reason == ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE
        assert [listed async for listed in client.list_acquisitions()] == []


async def test_ten_acquisitions_at_one_tuning_share_the_receivers(tmp_path: Path) -> None:
    names = SEVEN[:3]
    async with running_mesh(tmp_path, [station(name) for name in names]) as mesh, mesh.client() as client:
        spec = acquisition_spec(DIAL_HZ, 1.0, names)
        async with asyncio.timeout(30):
            finals = await asyncio.gather(*(last(client.acquire(spec)) for _ in range(10)))
        assert [state_names(final)[0] for final in finals] == ["SUCCEEDED"] * 10
        assert [len(s.connection_times) for s in mesh.simulator.stations.values()] == [1, 1, 1]
