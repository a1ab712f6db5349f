"""A plain recording from a simulated station: the acceptance checks of the protocol notes, section 7."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import numpy as np
import pytest

from simulator import EmitterSpec, Scenario, Simulator, StationSpec, ToneSpec
from tests.integration.simulator.recorder import Recorder

WEEK_NS = 604_800 * 10**9
GPS_MINUS_UNIX_NS = (18 - 315_964_800) * 10**9


def station(**changes: Any) -> StationSpec:
    values = {"id": "a", "latitude_deg": 45.0, "longitude_deg": 7.0, "altitude_m": 100.0}
    return StationSpec.model_validate(values | changes)


TONE_STATION = station(tone=[ToneSpec(offset_hz=1000, dbm=-60)])


async def test_recording_passes_the_acceptance_checks() -> None:
    async with Simulator(Scenario(station=(TONE_STATION,)), record_sent=True) as simulator:
        async with Recorder(simulator.stations["a"].port) as recorder:
            await recorder.run(frame_count=60)
        sent = simulator.stations["a"].sent
    frames = recorder.frames
    duration_s = frames[-1].arrival_s - frames[0].arrival_s
    assert abs(59 - duration_s * 11998.902 / 512) <= 3
    assert not recorder.text
    assert [f.sequence for f in frames] == list(range(1, 61))
    assert (frames[0].flags, frames[0].stamp) == (0x0D, (0, 0, 0))
    assert {f.flags for f in frames[1:]} == {0x08}
    assert float(recorder.value("sample_rate") or 0) == pytest.approx(11998.902088, abs=1e-6)

    steps_ns = np.diff([f.stamp_ns for f in frames[2:]])
    assert np.abs(steps_ns - 512e9 / 11998.902088).max() < 210
    assert {f.stamp[0] for f in frames[2:]} <= {0, 1}

    samples = np.concatenate([f.samples for f in frames[1:]]) / 32767
    assert 20 * np.log10(np.sqrt(np.mean(np.abs(samples) ** 2))) == pytest.approx(-18.73, abs=0.02)
    spectrum = np.abs(np.fft.fft(samples * np.blackman(samples.size))) ** 2
    bins_hz = np.fft.fftfreq(samples.size, 1 / 11998.902088)
    assert bins_hz[np.argmax(spectrum)] == pytest.approx(1000, abs=1)
    image = spectrum[np.abs(bins_hz + 1000) < 5].max()
    assert 10 * np.log10(image / spectrum.max()) < -60
    assert {round(f.s_meter_dbm, 1) for f in frames[2:]} <= {-60.1, -60.0}

    # What the station remembers is what went over the wire, and its stamps are near the true time.
    assert [s.payload for s in sent[:60]] == [f.raw[20:] for f in frames]
    assert [s.first_sample - sent[0].first_sample for s in sent] == [512 * n for n in range(len(sent))]
    for record, frame in zip(sent[1:60], frames[1:], strict=True):
        assert (record.age_s, record.gps_second, record.gps_nanosecond) == frame.stamp
        error_ns = frame.stamp_ns - (record.true_unix_ns + GPS_MINUS_UNIX_NS) % WEEK_NS
        assert abs((error_ns + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2) <= 100


async def test_frames_leave_on_chunk_borders_in_real_time() -> None:
    async with Simulator(Scenario(station=(station(),)), record_sent=True) as simulator:
        async with Recorder(simulator.stations["a"].port) as recorder:
            await recorder.run(frame_count=40)
        sent = simulator.stations["a"].sent[:40]
        now_unix_ns = simulator.stations["a"].clock.now_unix_ns()
        now_s = time.monotonic()
    assert sent[0].first_sample % 170 == 0
    rate_hz = 66_665_900 / 5556
    border = [-(-(s.first_sample + 512) // 170) * 170 for s in sent]
    # 512 / 170 = 3.01: three chunks, and a fourth every 85 frames.
    assert set(np.diff(border)) <= {3 * 170, 4 * 170}
    true_s = np.array([s.true_unix_ns / 1e9 - now_unix_ns / 1e9 + now_s for s in sent])
    due_s = true_s + (np.array(border) - [s.first_sample for s in sent]) / rate_hz
    late_s = np.array([f.arrival_s for f in recorder.frames]) - due_s
    # Never before the chunk is complete; mostly at once, though this machine may be busy.
    assert late_s.min() > -0.002
    assert np.median(late_s) < 0.1


async def test_sample_numbers_go_on_across_connections() -> None:
    async with Simulator(Scenario(station=(station(),)), record_sent=True) as simulator:
        for name in ("1", "2"):
            async with Recorder(simulator.stations["a"].port, path=f"/{name}/SND") as recorder:
                await recorder.run(frame_count=5)
        sent = simulator.stations["a"].sent
        assert len(simulator.stations["a"].connection_times) == 2
    first, second = ([s for s in sent if s.connection == number] for number in (1, 2))
    assert second[0].sequence == 1
    assert second[0].first_sample >= first[-1].first_sample + 512
    elapsed_ns = second[0].true_unix_ns - first[0].true_unix_ns
    samples = second[0].first_sample - first[0].first_sample
    assert samples * 1e9 / 11998.902088 == pytest.approx(elapsed_ns, abs=2)


async def test_two_clients_share_the_antenna() -> None:
    async with Simulator(Scenario(station=(station(noise_dbm_per_hz=-130),)), record_sent=True) as simulator:
        port = simulator.stations["a"].port
        async with Recorder(port, path="/1/SND") as one, Recorder(port, path="/2/SND") as two:
            await asyncio.gather(one.run(frame_count=8), two.run(frame_count=8))
            assert simulator.stations["a"].clients == 2
        sent = simulator.stations["a"].sent
    streams = []
    for number in (1, 2):
        records = [s for s in sent if s.connection == number]
        streams.append((records[0].first_sample, np.frombuffer(b"".join(s.payload for s in records), dtype=">i2")))
    shift = 2 * (streams[1][0] - streams[0][0])
    early, late = (streams[0][1], streams[1][1]) if shift >= 0 else (streams[1][1], streams[0][1])
    common = min(early.size - abs(shift), late.size)
    assert common > 2000
    np.testing.assert_array_equal(early[abs(shift) : abs(shift) + common], late[:common])


async def test_retuning_moves_the_signal_and_sets_the_flag() -> None:
    beacon = EmitterSpec(
        id="b", latitude_deg=45.1, longitude_deg=7.1, altitude_m=100, frequency_hz=145.5e6, power_dbm=20
    )
    spec = station(converter_offset_hz=116e6)
    async with (
        Simulator(Scenario(station=(spec,), emitter=(beacon,))) as simulator,
        Recorder(simulator.stations["a"].port, frequency_khz=29_499.0) as recorder,
    ):
        await recorder.run(frame_count=12)
        await recorder.say("SET mod=iq low_cut=-4000 high_cut=4000 freq=29502.000")
        await recorder.run(frame_count=30, set_up=False)
    flags = [f.flags for f in recorder.frames[1:]]
    changed = flags.index(0x0D) + 1
    assert flags.count(0x08) == len(flags) - 1

    def strongest_hz(frames: list[Any]) -> float:
        samples = np.concatenate([f.samples for f in frames])
        spectrum = np.abs(np.fft.fft(samples * np.hanning(samples.size)))
        return float(np.fft.fftfreq(samples.size, 1 / 11998.902)[np.argmax(spectrum)])

    assert strongest_hz(recorder.frames[2 : changed - 1]) == pytest.approx(1000, abs=3)
    assert strongest_hz(recorder.frames[changed + 1 :]) == pytest.approx(-2000, abs=3)


async def test_agc_brings_the_level_near_6_dbfs() -> None:
    async with (
        Simulator(Scenario(station=(TONE_STATION,))) as simulator,
        Recorder(simulator.stations["a"].port, agc=True) as recorder,
    ):
        await recorder.run(frame_count=6)
    peak = np.abs(recorder.frames[-1].samples).max() / 32767
    assert 20 * np.log10(peak) == pytest.approx(-6, abs=0.1)


async def test_strong_signal_sets_the_overflow_flag() -> None:
    loud = station(tone=[ToneSpec(offset_hz=500, dbm=-10)])
    async with (
        Simulator(Scenario(station=(loud,))) as simulator,
        Recorder(simulator.stations["a"].port, man_gain=10) as recorder,
    ):
        await recorder.run(frame_count=4)
    assert {f.flags for f in recorder.frames[1:]} == {0x0A}


@pytest.mark.parametrize("order", ["v1.711", "2018"])
async def test_both_message_orders_lead_to_sound(order: str) -> None:
    async with (
        Simulator(Scenario(station=(station(message_order=order),))) as simulator,
        Recorder(simulator.stations["a"].port) as recorder,
    ):
        await recorder.run(frame_count=3)
    assert recorder.value("rx_chans") == "4"
    assert recorder.value("rf_attn") == "0.0"


@pytest.mark.parametrize(("gnss", "age", "seconds"), [("no_fix", 255, range(3600, 3630)), ("off", 0, range(1))])
async def test_stations_without_time(gnss: str, age: int, seconds: range) -> None:
    async with (
        Simulator(Scenario(station=(station(gnss=gnss),))) as simulator,
        Recorder(simulator.stations["a"].port) as recorder,
    ):
        await recorder.run(frame_count=5)
    assert {f.stamp[0] for f in recorder.frames[1:]} == {age}
    assert all(f.stamp[1] in seconds for f in recorder.frames[1:])


async def test_other_chunk_and_rate_of_a_three_channel_kiwi() -> None:
    spec = station(sample_rate_hz=20_250.881, chunk_sample_count=226, rx_chans=3)
    async with Simulator(Scenario(station=(spec,)), record_sent=True) as simulator:
        async with Recorder(simulator.stations["a"].port) as recorder:
            await recorder.run(frame_count=20)
        assert simulator.stations["a"].sent[0].first_sample % 226 == 0
    assert recorder.value("audio_rate") == "20250"
    steps_ns = np.diff([f.stamp_ns for f in recorder.frames[2:]])
    assert np.abs(steps_ns - 512e9 / 20_250.881).max() < 210


async def test_status_page() -> None:
    specs = (station(), station(id="b", gnss="off", password="x", freq_offset_khz=116_000.0))
    async with Simulator(Scenario(station=specs)) as simulator, aiohttp.ClientSession() as session:
        pages = {}
        async with Recorder(simulator.stations["a"].port) as recorder:
            await recorder.run(frame_count=2)
            for name, running in simulator.stations.items():
                async with session.get(f"{running.url}/status") as answer:
                    assert answer.headers["Server"].startswith("KiwiSDR_")
                    assert answer.content_type == "text/plain"
                    text = await answer.text()
                pages[name] = dict(line.split("=", 1) for line in text.splitlines())
        async with session.get(f"{simulator.stations['a'].url}/VER") as answer:
            assert (await answer.json())["min"] == 711
    assert (pages["a"]["status"], pages["a"]["users"], pages["a"]["users_max"]) == ("active", "1", "4")
    assert (pages["a"]["gps"], pages["a"]["tdoa_ch"]) == ("(45.000000, 7.000000)", "4")
    assert (pages["b"]["status"], pages["b"]["users"], pages["b"]["tdoa_ch"]) == ("private", "0", "-1")
    assert (pages["b"]["freq_offset"], pages["b"]["bands"]) == ("116000.000", "116000000-146000000")
