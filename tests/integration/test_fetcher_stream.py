"""StreamIq against simulated stations: samples, times, losses, windows."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from heimdall.common.v1 import iq_pb2
from heimdall.common.v1.receiver_pb2 import GAIN_MODE_AUTOMATIC, Tuning
from heimdall.fetcher.v1 import fetcher_pb2
from simulator import Fault, Scenario, Simulator
from tests.integration.fetcher_bench import (
    DIAL_HZ,
    SECOND,
    Caught,
    assert_bit_exact,
    collect,
    entry,
    mesh,
    next_of,
    reason,
    running_fetcher,
    send_window,
    station,
    until,
)

RATE_HZ = 66_665_900 / 5556
HALF_SAMPLE_NS = 0.5e9 / RATE_HZ


async def test_a_good_window_is_exact(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        caught = await bench.record(1.5)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
    assert caught.gaps == []
    assert caught.end.end_sample_index == pytest.approx(1.5 * RATE_HZ, abs=1)
    assert caught.end.attempt_count == 1
    origin = assert_bit_exact(caught, sent)

    segment = caught.segments[0]
    assert segment.receiver_id == "a"
    assert segment.center_frequency_hz == DIAL_HZ
    assert segment.sample_rate_hz == pytest.approx(RATE_HZ, abs=1e-6)
    assert segment.sample_format == iq_pb2.SAMPLE_FORMAT_CI16_LE
    assert (segment.full_scale, segment.zero_offset) == (32768, 0)
    assert (segment.gain_db, segment.passband_low_hz, segment.passband_high_hz) == (50, -5998, 5998)
    assert segment.time_source == iq_pb2.TIME_SOURCE_GNSS
    assert segment.server_version == "KiwiSDR_v1.711"

    # Times are those of the station to the 200 ns by which its stamps wander.
    truth = {frame.first_sample: frame.true_unix_ns for frame in sent}
    for stamp in caught.stamps:
        assert abs(stamp.unix_ns - truth[origin + stamp.sample_index]) <= 250
    solution = caught.end.time_solution
    assert solution.source == iq_pb2.TIME_SOURCE_GNSS
    assert solution.degradation == iq_pb2.TIME_DEGRADATION_UNSPECIFIED
    assert solution.reference_sample_index == 0
    assert abs(solution.reference_unix_ns - caught.blocks[0].first_sample_unix_ns) <= 250
    assert solution.sample_rate_hz == pytest.approx(RATE_HZ, abs=0.01)
    assert solution.stamp_dropped_count == 2
    # Every sent frame from the third on has a stamp; the frames behind the window's end do not count.
    assert 30 <= solution.stamp_used_count <= len(sent) - 2
    assert 0 < solution.time_sigma_ns < 1000


async def test_last_block_comes_with_the_last_frame(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (_, bench), bench.stream() as stream:
        segment = (await next_of(stream, "segment")).segment
        end_ns = segment.available_from_unix_ns + SECOND
        await send_window(stream, end_ns - SECOND // 2, end_ns)
        await collect(stream)
        late_ns = time.time_ns() - end_ns
    # A frame lasts 43 ms and leaves up to one chunk of 14 ms later; the rest is ours.
    assert late_ns < 150_000_000


async def test_window_in_the_future_starts_to_the_sample(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (_, bench):
        caught = await bench.record(0.5, lead_s=0.7)
    caught.assert_whole()
    assert caught.gaps == []
    wanted_ns = caught.segments[0].available_from_unix_ns + 7 * SECOND // 10
    assert 0 <= caught.blocks[0].first_sample_unix_ns - wanted_ns < 2 * HALF_SAMPLE_NS + 250


async def test_window_before_the_first_sample_is_a_late_start(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        caught = await bench.record(1.0, lead_s=-0.4)
    assert_bit_exact(caught, simulator.stations["a"].sent)
    caught.assert_whole()
    ((count, _, why),) = caught.gap_list()
    assert why == "LATE_START"
    assert count == pytest.approx(0.4 * RATE_HZ, abs=1)
    assert caught.gaps[0].first_lost_index == 0
    assert caught.end.end_sample_index == pytest.approx(RATE_HZ, abs=1)


@pytest.mark.parametrize("frame_count", [1, 5])
async def test_lost_frames_are_a_sequence_gap(tmp_path: Path, frame_count: int) -> None:
    spec = station(fault=[Fault(kind="lost_frames", after_frame=15, frame_count=frame_count)])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(1.2)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    assert sum(frame.dropped for frame in sent) == frame_count
    assert caught.gap_list() == [(frame_count * 512, True, "SEQUENCE")]
    origin = assert_bit_exact(caught, sent)
    lost = next(frame for frame in sent if frame.dropped)
    assert origin + caught.gaps[0].first_lost_index == lost.first_sample
    assert caught.end.end_sample_index == pytest.approx(1.2 * RATE_HZ, abs=1)


@pytest.mark.parametrize("sample_count", [170, 340, 1700])
async def test_silently_lost_samples_are_a_timestamp_gap(tmp_path: Path, sample_count: int) -> None:
    spec = station(fault=[Fault(kind="silent_loss", after_frame=15, sample_count=sample_count)])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(1.2)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    assert caught.gap_list() == [(sample_count, True, "TIMESTAMP")]
    assert_bit_exact(caught, sent)


@pytest.mark.parametrize(("kind", "cause"), [("drop", "UPSTREAM_CONNECTION_LOST"), ("close", "UPSTREAM_CLOSED")])
async def test_dropped_connection_is_made_again(tmp_path: Path, kind: str, cause: str) -> None:
    spec = station(fault=[Fault.model_validate({"kind": kind, "after_frame": 15, "connection": 1})])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(2.0)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    ((count, exact, why),) = caught.gap_list()
    assert (exact, why) == (False, "RECONNECT")
    before = [frame for frame in sent if frame.connection == 1][-1]
    after = next(frame for frame in sent if frame.connection == 2)
    # The simulated sample clock runs on, so the time tells the count to the sample.
    assert count == after.first_sample - before.first_sample - 512
    assert_bit_exact(caught, sent)
    assert caught.end.attempt_count == 2
    assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
    assert caught.gaps[0].cause.reason == reason(cause)
    states = [status.state for status in caught.statuses]
    assert iq_pb2.STREAM_STATE_RECONNECTING in states
    assert states[-1] == iq_pb2.STREAM_STATE_STREAMING


async def test_station_whose_clock_drifted_meanwhile_is_no_other_format(tmp_path: Path) -> None:
    # A KiwiSDR announces its rate anew at each connect, by its latest estimate of its own clock.
    faults = [
        Fault(kind="drop", after_frame=15, connection=1),
        Fault(kind="wrong_rate", sample_rate_hz=RATE_HZ * (1 + 2e-6), connection=2),
    ]
    async with mesh(tmp_path, station(fault=faults)) as (_, bench):
        caught = await bench.record(2.0)
    caught.assert_whole()
    assert [why for _, _, why in caught.gap_list()] == ["RECONNECT"]
    assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
    # The announced rate of a stream never changes; what the clock really does is in the time solution.
    assert {segment.sample_rate_hz for segment in caught.segments} == {round(RATE_HZ, 6)}


async def test_stalled_connection_is_made_again(tmp_path: Path) -> None:
    spec = station(fault=[Fault(kind="stall", after_frame=12, connection=1)])
    async with mesh(tmp_path, spec) as (_, bench):
        caught = await bench.record(6.0)
    caught.assert_whole()
    ((count, _, why),) = caught.gap_list()
    assert why == "RECONNECT"
    # 3 s of silence, up to 0.5 s to close, then 0.5 s to 0.63 s of waiting.
    assert 3.4 * RATE_HZ < count < 4.6 * RATE_HZ
    assert caught.gaps[0].cause.reason == reason("UPSTREAM_STALLED")
    notices = [notice.message for status in caught.statuses for notice in status.notices]
    assert "no samples came for 2 s" in notices


async def test_receiver_that_stays_away_ends_early(tmp_path: Path) -> None:
    faults = [
        Fault(kind="drop", after_frame=15, connection=1),
        *(Fault(kind="http_404", connection=number) for number in range(2, 9)),
    ]
    async with mesh(tmp_path, station(fault=faults)) as (_, bench):
        opened_at = asyncio.get_running_loop().time()
        caught = await bench.record(1.5)
    caught.assert_whole()
    assert [why for _, _, why in caught.gap_list()] == ["EARLY_END"]
    assert caught.end.reason == iq_pb2.END_REASON_FAILED
    assert caught.end.error.reason == reason("UPSTREAM_NOT_FOUND")
    assert caught.end.end_sample_index == pytest.approx(1.5 * RATE_HZ, abs=1)
    assert caught.end_at - opened_at < 1.5 + 1.0


async def test_stale_stamps_are_dropped_and_counted(tmp_path: Path) -> None:
    spec = station(fault=[Fault(kind="stale_stamp", frame_count=3), Fault(kind="stale_stamp", after_frame=20)])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(1.2)
    assert_bit_exact(caught, simulator.stations["a"].sent)
    caught.assert_whole()
    assert caught.gaps == []
    assert caught.segments[0].time_source == iq_pb2.TIME_SOURCE_GNSS
    # Frame 1 has none; 2, 3, 4 and later one more are 3.2 h old.
    assert caught.end.time_solution.stamp_dropped_count == 5
    assert caught.end.time_solution.sample_rate_hz == pytest.approx(RATE_HZ, abs=0.01)


@pytest.mark.parametrize("offset_ns", [-SECOND, SECOND // 2, 3600 * SECOND])
async def test_stamps_that_jump_away_and_back_move_nothing(tmp_path: Path, offset_ns: int) -> None:
    spec = station(fault=[Fault(kind="stamp_jump", after_frame=12, frame_count=6, offset_ns=offset_ns)])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(1.2)
    assert_bit_exact(caught, simulator.stations["a"].sent)
    caught.assert_whole()
    assert caught.gaps == []
    assert caught.end.time_solution.stamp_dropped_count == 2 + 6
    steps_ns = [b.first_sample_unix_ns - a.first_sample_unix_ns for a, b in pairwise(caught.blocks)]
    assert max(steps_ns) < 0.25 * SECOND


@pytest.mark.parametrize(
    ("changes", "degradation", "text"),
    [
        ({"gnss": "no_fix"}, iq_pb2.TIME_DEGRADATION_NO_GNSS_FIX, "age 255"),
        ({"gnss": "off"}, iq_pb2.TIME_DEGRADATION_STAMPS_OFF, "zero"),
        ({"clock_offset_s": 7200.0}, iq_pb2.TIME_DEGRADATION_DISAGREES_WITH_HOST, "+7199"),
    ],
)
async def test_untrusted_time_is_arrival_time_and_says_why(
    tmp_path: Path, changes: dict[str, object], degradation: int, text: str
) -> None:
    async with mesh(tmp_path, station(**changes)) as (simulator, bench):
        caught = await bench.record(1.0)
    sent = simulator.stations["a"].sent
    caught.assert_whole()
    assert caught.gaps == []
    assert caught.segments[0].time_source == iq_pb2.TIME_SOURCE_HOST_ARRIVAL
    solution = caught.end.time_solution
    assert solution.source == iq_pb2.TIME_SOURCE_HOST_ARRIVAL
    assert solution.degradation == degradation
    assert text in solution.degradation_message
    assert not solution.HasField("sample_rate_sigma_hz")
    assert solution.stamp_used_count == 0
    assert caught.stamps == []
    # Arrival is late by a frame and the network, and the stated uncertainty covers that.
    first = sent[0]
    error_ns = caught.blocks[0].first_sample_unix_ns - first.true_unix_ns
    assert 0 < error_ns < solution.time_sigma_ns < 0.3e9
    assert caught.end.end_sample_index == pytest.approx(RATE_HZ, abs=1)


async def test_silent_loss_is_found_without_a_fix(tmp_path: Path) -> None:
    spec = station(gnss="no_fix", fault=[Fault(kind="silent_loss", after_frame=15, sample_count=340)])
    async with mesh(tmp_path, spec) as (_, bench):
        caught = await bench.record(1.2)
    assert caught.gap_list() == [(340, True, "TIMESTAMP")]


async def test_week_wraps_in_mid_stream(tmp_path: Path) -> None:
    """The simulated station's week ends within a second, so its time is far from ours; no samples are lost by that."""
    spec = station(fault=[Fault(kind="week_wrap", duration_s=0.8)])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(2.2)
    assert min(frame.gps_second for frame in simulator.stations["a"].sent[2:]) < 10
    caught.assert_whole()
    assert caught.gaps == []


async def test_garbage_between_frames_is_noted_and_survived(tmp_path: Path) -> None:
    kinds = ["unknown_tag", "short_body", "invalid_msg", "text_frame"]
    faults = [
        Fault.model_validate({"kind": "garbage", "what": what, "after_frame": 10 + n}) for n, what in enumerate(kinds)
    ]
    async with mesh(tmp_path, station(fault=faults)) as (simulator, bench):
        caught = await bench.record(1.0)
    assert_bit_exact(caught, simulator.stations["a"].sent)
    caught.assert_whole()
    assert caught.gaps == []
    notices = [notice for status in caught.statuses for notice in status.notices]
    assert len(notices) == 4
    assert {notice.reason for notice in notices} == {reason("UPSTREAM_PROTOCOL_ERROR")}


async def test_frames_that_can_not_be_read_are_the_cause_of_their_gap(tmp_path: Path) -> None:
    faults = [
        Fault(kind="cut_frame", frame_count=2, after_frame=10),
        Fault(kind="lost_frames", frame_count=1, after_s=0.9),
    ]
    async with mesh(tmp_path, station(fault=faults)) as (simulator, bench):
        caught = await bench.record(1.4)
    assert_bit_exact(caught, simulator.stations["a"].sent)
    caught.assert_whole()
    assert [(gap.lost_sample_count, gap.exact) for gap in caught.gaps] == [(1024, True), (512, True)]
    assert [gap.cause.reason for gap in caught.gaps] == [reason("UPSTREAM_PROTOCOL_ERROR"), 0]
    assert "bytes" in caught.gaps[0].cause.message


@pytest.mark.parametrize("kind", ["little_endian", "adc_overflow"])
async def test_flags_of_frames(tmp_path: Path, kind: str) -> None:
    spec = station(fault=[Fault.model_validate({"kind": kind, "after_frame": 15})])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(1.2)
    assert_bit_exact(caught, simulator.stations["a"].sent)
    overloaded = [block for block in caught.blocks if block.overload]
    assert len(overloaded) == (1 if kind == "adc_overflow" else 0)


@pytest.mark.parametrize(("order", "offset_khz"), [("v1.711", 116_000), ("2018", 116_000), ("v1.711", 0)])
async def test_converter_announced_or_configured(tmp_path: Path, order: str, offset_khz: float) -> None:
    spec = station(
        message_order=order,
        freq_offset_khz=offset_khz,
        converter_offset_hz=0.0 if offset_khz else 116e6,
        password="a b%c",
    )
    async with Simulator(Scenario(station=(spec,))) as simulator:
        (tmp_path / "password").write_text("a b%c\n")
        receiver = entry(
            "a",
            simulator.stations["a"].url,
            min_frequency_hz=144e6,
            max_frequency_hz=146e6,
            converter_offset_hz=116e6,
            password_file="password",
        )
        async with running_fetcher(simulator, tmp_path, receiver) as bench:
            tuning = Tuning(center_frequency_hz=145.5e6, gain_mode=GAIN_MODE_AUTOMATIC, passband_high_hz=3000)
            caught = await bench.record(0.3, tuning=tuning)
        commands = [command.text for command in simulator.stations["a"].commands]
    assert "SET auth t=kiwi p=a%20b%25c" in commands
    assert "SET mod=iq low_cut=-5998 high_cut=3000 freq=29500.000000" in commands
    assert any(command.startswith("SET agc=1 ") for command in commands)
    assert caught.segments[0].center_frequency_hz == 145.5e6
    assert caught.segments[0].gain_mode == GAIN_MODE_AUTOMATIC
    assert not caught.segments[0].HasField("gain_db")


async def test_stop_delivers_what_is_held(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench), bench.stream() as stream:
        await next_of(stream, "segment")
        await send_window(stream, 0, 0)
        kept = [(await next_of(stream, "block")).block for _ in range(2)]
        delivered = sum(block.sample_count for block in kept)
        # Two frames more, and a third that is at most under way when the stop comes.
        sent = simulator.stations["a"].sent
        await until(lambda: len(sent) * 512 >= delivered + 3 * 512)
        await stream.send(fetcher_pb2.StreamIqRequest(stop=fetcher_pb2.StreamIqRequest.Stop()))
        caught = await collect(stream, Caught(blocks=kept))
    assert caught.end.reason == iq_pb2.END_REASON_STOPPED
    caught.assert_whole()
    assert caught.end.received_sample_count >= delivered + 2 * 512


async def test_stop_without_a_window_delivers_from_the_first_sample(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (_, bench), bench.stream() as stream:
        segment = (await next_of(stream, "segment")).segment
        await stream.send(fetcher_pb2.StreamIqRequest(stop=fetcher_pb2.StreamIqRequest.Stop()))
        caught = await collect(stream)
    assert caught.end.reason == iq_pb2.END_REASON_STOPPED
    assert caught.blocks[0].first_sample_unix_ns == segment.available_from_unix_ns
    assert caught.end.received_sample_count >= 5 * 512
    caught.assert_whole()


async def test_resumed_stream_goes_on_by_time(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        async with bench.stream() as stream:
            origin_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
            await send_window(stream, origin_ns, origin_ns + 3 * SECOND)
            first = (await next_of(stream, "block")).block
            kept = first.sample_count
        resumed: dict[str, Any] = {"resume": True, "resume_sample_index": kept, "resume_origin_unix_ns": origin_ns}
        async with bench.stream(**resumed) as stream:
            await send_window(stream, origin_ns, origin_ns + 3 * SECOND)
            caught = await collect(stream)
    sent = simulator.stations["a"].sent
    assert [why for _, _, why in caught.gap_list()] == ["SERVICE_RESTART"]
    assert caught.gaps[0].first_lost_index == kept
    assert caught.end.end_sample_index == pytest.approx(3 * RATE_HZ, abs=1)
    # The simulated sample clock runs on, so index 0 is the first sample of the first connection.
    assert assert_bit_exact(caught, sent) == sent[0].first_sample
    # Its segment holds from where it goes on, like every other but the first of a recording.
    assert caught.segments[0].first_sample_index == kept
