"""Every fault in a running stream, compared frame by frame with what the station did."""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest

from simulator import Fault, Scenario, Simulator, StationSpec, ToneSpec
from tests.integration.simulator.recorder import Recorder, Snd, until

FRAME_NS = 512e9 / (66_665_900 / 5556)


async def record(*faults: Fault, frame_count: int = 12, **changes: Any) -> tuple[Recorder, list[Any]]:
    values = {"id": "a", "latitude_deg": 45.0, "longitude_deg": 7.0, "altitude_m": 100.0, "fault": faults}
    spec = StationSpec.model_validate(values | {"tone": [ToneSpec(offset_hz=1000, dbm=-60)]} | changes)
    async with Simulator(Scenario(station=(spec,)), record_sent=True) as simulator:
        async with Recorder(simulator.stations["a"].port) as recorder:
            await recorder.run(frame_count=frame_count)
        return recorder, simulator.stations["a"].sent


def steps(frames: list[Snd]) -> list[float]:
    """Distances of the stamps in frames, from the second on."""
    return [round(float(step), 4) for step in np.diff([f.stamp_ns for f in frames[1:]]) / FRAME_NS]


async def test_lost_frames_leave_a_gap_in_numbers_and_stamps() -> None:
    recorder, sent = await record(Fault(kind="lost_frames", frame_count=5, after_frame=6))
    assert [f.sequence for f in recorder.frames] == [*range(1, 7), *range(12, 18)]
    assert steps(recorder.frames) == pytest.approx([1, 1, 1, 1, 6, 1, 1, 1, 1, 1], abs=1e-4)
    assert [s.sequence for s in sent if s.dropped] == [7, 8, 9, 10, 11]
    assert all(len(s.payload) == 2048 for s in sent)


async def test_silent_loss_leaves_a_gap_in_stamps_only() -> None:
    recorder, sent = await record(Fault(kind="silent_loss", sample_count=340, after_frame=6))
    assert [f.sequence for f in recorder.frames] == list(range(1, 13))
    gap = 1 + 340 / 512
    assert steps(recorder.frames) == pytest.approx([1, 1, 1, 1, gap, 1, 1, 1, 1, 1], abs=1e-4)
    assert sent[6].first_sample - sent[5].first_sample == 512 + 340


async def test_stamp_jump_comes_and_goes() -> None:
    fault = Fault(kind="stamp_jump", offset_ns=1_000_000, frame_count=2, after_frame=4)
    recorder, _ = await record(fault, frame_count=8)
    jump = 1_000_000 / FRAME_NS
    assert steps(recorder.frames) == pytest.approx([1, 1, 1 + jump, 1, 1 - jump, 1], abs=1e-4)


async def test_stale_second_stamp() -> None:
    recorder, _ = await record(Fault(kind="stale_stamp"), frame_count=5)
    stamps = [f.stamp_ns for f in recorder.frames]
    assert stamps[0] == 0
    assert (stamps[2] - stamps[1]) % (604_800 * 10**9) == pytest.approx(11_520e9 + FRAME_NS, abs=500)
    assert stamps[3] - stamps[2] == pytest.approx(FRAME_NS, abs=250)


async def test_drop_is_a_reset_and_close_a_close_frame_without_code() -> None:
    dropped, _ = await record(Fault(kind="drop", after_frame=4))
    assert (dropped.ended, len(dropped.frames)) == ("reset", 4)
    closed, _ = await record(Fault(kind="close", after_frame=4))
    assert (closed.ended, len(closed.frames)) == ("close frame:", 4)


@pytest.mark.parametrize(
    ("what", "binary", "text"),
    [
        ("unknown_tag", [b"XYZ" + bytes(range(64))], []),
        ("short_body", [b"SND\x08\x01\x00"], []),
        ("text_frame", [], ["MSG rx_chans=4"]),
    ],
)
async def test_garbage_between_two_frames(what: Any, binary: list[bytes], text: list[str]) -> None:
    recorder, _ = await record(Fault(kind="garbage", what=what, after_frame=3), frame_count=6)
    assert (recorder.binary, recorder.text) == (binary, text)
    assert [f.sequence for f in recorder.frames] == list(range(1, 7))


async def test_a_cut_frame_is_numbered_and_half_of_it_sent() -> None:
    recorder, sent = await record(Fault(kind="cut_frame", after_frame=3), frame_count=5)
    assert [len(message) for message in recorder.binary] == [2068 // 2]
    assert recorder.binary[0][:8] == b"SND" + recorder.binary[0][3:4] + (4).to_bytes(4, "little")
    assert [f.sequence for f in recorder.frames] == [1, 2, 3, 5, 6]
    assert [f.sequence for f in sent if f.dropped] == [4]


async def test_invalid_msg_text() -> None:
    recorder, _ = await record(Fault(kind="garbage", what="invalid_msg", after_frame=3), frame_count=5)
    assert "sample_rate=nan" in recorder.messages[-1]


async def test_little_endian_is_flagged_and_swapped() -> None:
    recorder, sent = await record(Fault(kind="little_endian", after_frame=3), frame_count=6)
    assert [f.flags for f in recorder.frames] == [0x0D, 0x08, 0x08, 0x88, 0x88, 0x88]
    level = [
        np.sqrt(np.mean(np.abs(f.samples.view(np.float64).astype(">i2").view("<i2")) ** 2.0)) for f in recorder.frames
    ]
    # A tone of -18.73 dBFS has an rms of 2682 in each of I and Q once the bytes are in order.
    assert level[4] == pytest.approx(2682, rel=0.01)
    assert recorder.frames[4].raw[20:] == sent[4].payload


async def test_flags_and_overflow() -> None:
    faults = (
        Fault(kind="adc_overflow", after_frame=3, frame_count=2),
        Fault(kind="flags", flags=0x40, after_frame=7, frame_count=1),
    )
    recorder, _ = await record(*faults, frame_count=10)
    assert [f.flags for f in recorder.frames[1:]] == [8, 8, 10, 10, 8, 8, 0x48, 8, 8]


async def test_gain_changes_behind_the_clients_back() -> None:
    recorder, _ = await record(Fault(kind="gain_change", gain_db=-20, after_frame=4), frame_count=7)
    level = [np.abs(f.samples).mean() for f in recorder.frames]
    assert 20 * np.log10(level[5] / level[3]) == pytest.approx(-20, abs=0.02)
    assert round(recorder.frames[5].s_meter_dbm, 1) in (-60.1, -60.0)


async def test_announced_rate_can_be_wrong() -> None:
    by_fault, _ = await record(Fault(kind="wrong_rate", sample_rate_hz=12_500), frame_count=4)
    assert by_fault.value("sample_rate") == "12500.000000"
    assert steps(by_fault.frames) == pytest.approx([1, 1], abs=1e-4)
    by_spec, _ = await record(frame_count=2, announced_sample_rate_hz=12_001.5)
    assert by_spec.value("sample_rate") == "12001.500000"


async def test_week_wraps_in_mid_stream() -> None:
    recorder, _ = await record(Fault(kind="week_wrap", duration_s=0.3, after_frame=2), frame_count=40)
    stamps = [f.stamp_ns for f in recorder.frames[3:]]
    assert max(f.stamp[1] for f in recorder.frames[3:]) == 604_799
    assert recorder.frames[-1].stamp[1] in (0, 1)
    unwrapped = np.diff(stamps) % (604_800 * 10**9)
    assert np.abs(unwrapped - FRAME_NS).max() < 250


async def test_stall_holds_frames_back_and_then_sends_them() -> None:
    recorder, _ = await record(Fault(kind="stall", duration_s=0.5, after_frame=5), frame_count=22)
    pauses = np.diff([f.arrival_s for f in recorder.frames])
    assert np.argmax(pauses) == 4
    assert pauses.max() > 0.45
    assert [f.sequence for f in recorder.frames] == list(range(1, 23))


async def test_full_queue_loses_frames_after_numbering() -> None:
    # At 60 kHz 117 frames a second: 94 pile up in 0.8 s, where 65 have room beside the one being sent.
    stall = Fault(kind="stall", duration_s=0.8, after_frame=2)
    recorder, sent = await record(stall, frame_count=100, sample_rate_hz=60_000.0)
    dropped = [s.sequence for s in sent if s.dropped]
    assert dropped == list(range(dropped[0], dropped[0] + len(dropped)))
    assert dropped[0] == pytest.approx(67, abs=2)
    received = [f.sequence for f in recorder.frames]
    assert received == [n for n in range(1, received[-1] + 1) if n not in dropped]


async def test_frames_are_taken_again_once_half_the_queue_is_free() -> None:
    # 117 frames a second come, 58 go: full after 1.1 s. Half a queue later, 34 frames that go, twice as many
    # have come and are lost; without the hysteresis it would be every other frame.
    slow = Fault(kind="slow", bytes_per_s=120_000, after_frame=2)
    _, sent = await record(slow, frame_count=115, sample_rate_hz=60_000.0)
    dropped = [s.sequence for s in sent if s.dropped]
    run = next((n for n, sequence in enumerate(dropped) if sequence != dropped[0] + n), len(dropped))
    assert 50 < run < 100


async def test_slow_link() -> None:
    recorder, _ = await record(Fault(kind="slow", bytes_per_s=20_000, after_frame=2), frame_count=10)
    # 2068 bytes at 20 kB/s take 0.103 s.
    assert 0.1 < np.median(np.diff([f.arrival_s for f in recorder.frames[3:]])) < 0.2


async def test_client_that_does_not_read_harms_nobody_else() -> None:
    spec = StationSpec(id="a", latitude_deg=45, longitude_deg=7, altitude_m=0)
    async with Simulator(Scenario(station=(spec,))) as simulator:
        station = simulator.stations["a"]
        async with Recorder(station.port, path="/1/SND") as lazy, Recorder(station.port, path="/2/SND") as keen:
            await lazy.run(frame_count=2)
            await station.inject(Fault(kind="stall", connection=1))
            await keen.run(frame_count=20)
            assert np.diff([f.arrival_s for f in keen.frames]).max() < 1
            with pytest.raises(TimeoutError):
                await lazy.run(frame_count=10, seconds=0.3, set_up=False)


async def test_injected_fault_hits_open_connections_only() -> None:
    spec = StationSpec(id="a", latitude_deg=45, longitude_deg=7, altitude_m=0)
    async with Simulator(Scenario(station=(spec,))) as simulator:
        station = simulator.stations["a"]
        async with Recorder(station.port, path="/1/SND") as first:
            await first.run(frame_count=3)
            await station.inject(Fault(kind="drop"))
            await first.run(set_up=False)
            assert first.ended == "reset"
        async with Recorder(station.port, path="/2/SND") as second:
            await second.run(frame_count=4)
            assert second.frames[0].sequence == 1
        with pytest.raises(ValueError, match="multiple of 170"):
            await station.inject(Fault(kind="silent_loss", sample_count=100))


async def test_connection_number_and_count_select_the_connections() -> None:
    fault = Fault(kind="close", after_frame=2, connection=2)
    spec = StationSpec(id="a", latitude_deg=45, longitude_deg=7, altitude_m=0, fault=(fault,))
    ends = []
    async with Simulator(Scenario(station=(spec,))) as simulator:
        for _ in range(3):
            async with Recorder(simulator.stations["a"].port) as recorder:
                await recorder.run(frame_count=4)
                ends.append((recorder.ended, len(recorder.frames)))
            await until(lambda: simulator.stations["a"].clients == 0)
    assert ends == [("", 4), ("close frame:", 2), ("", 4)]


async def test_leaving_the_simulator_ends_every_connection_at_once() -> None:
    spec = StationSpec(id="a", latitude_deg=45, longitude_deg=7, altitude_m=0)
    simulator = Simulator(Scenario(station=(spec,)))
    async with simulator:
        recorder = Recorder(simulator.stations["a"].port)
        async with recorder:
            await recorder.run(frame_count=2)
            begin_s = time.monotonic()
            await simulator.__aexit__(None, None, None)
            assert time.monotonic() - begin_s < 1
            await recorder.run(set_up=False)
            assert recorder.ended == "reset"


def test_frame_header_layout_is_the_one_of_the_notes() -> None:
    raw = bytes.fromhex("534e440802000000029d0100e0930400 00e7e609 f8e9f303 005af12f")
    frame = Snd(raw, 0.0)
    assert (frame.flags, frame.sequence, frame.stamp) == (8, 2, (1, 300_000, 166_127_360))
    assert frame.s_meter_dbm == pytest.approx(-60.1)
    assert list(frame.samples) == [-1815 - 3325j, 90 - 3793j]
    assert struct.unpack_from(">H", raw, 8) == (669,)
