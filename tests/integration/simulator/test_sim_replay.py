"""Real recordings replayed over the wire: every sample and stamp as in the file, in time."""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from simulator import KiwiWavError, Scenario, Simulator, StationSpec
from tests.integration.simulator.recorder import Recorder

WEEK_S = 604_800
GPS_EPOCH_UNIX_S = 315_964_800
FRAME_BYTES = 2074


def station(name: str, path: Path) -> StationSpec:
    return StationSpec(id=name, latitude_deg=50, longitude_deg=9, altitude_m=0, replay=path)


def file_frames(path: Path) -> list[tuple[tuple[int, int, int], bytes]]:
    """Stamp and little-endian samples of each frame, read without the simulator's reader."""
    body = path.read_bytes()[36:]
    frames = []
    for begin in range(0, len(body), FRAME_BYTES):
        age, _, second, nanosecond = struct.unpack_from("<BBII", body, begin + 8)
        frames.append(((age, second, nanosecond), body[begin + 26 : begin + FRAME_BYTES]))
    return frames


def big_endian(samples: bytes) -> bytes:
    return np.frombuffer(samples, dtype="<i2").astype(">i2").tobytes()


@pytest.mark.realdata
async def test_three_real_files_arrive_bit_exact_with_their_stamps_shifted(realdata: Path) -> None:
    folder = realdata / "kiwi-dcf77-2020"
    paths = {name: next(folder.glob(f"*{name}*")) for name in ("HB9ODP", "JO51xl", "pa0rdt")}
    specs = tuple(station(name.lower(), path) for name, path in paths.items())
    async with Simulator(Scenario(station=specs), record_sent=True) as simulator:
        assert simulator.replay_shift_s is None
        recorders = {name: Recorder(simulator.stations[name.lower()].port) for name in paths}
        async with recorders["HB9ODP"], recorders["JO51xl"], recorders["pa0rdt"]:
            await asyncio.gather(*(r.run(frame_count=20, seconds=10) for r in recorders.values()))
        shift_s, unix_shift_s = simulator.replay_shift_s, simulator.replay_unix_shift_s
        async with aiohttp.ClientSession() as session:
            for running in simulator.stations.values():
                async with session.get(f"{running.url}/replay") as answer:
                    assert await answer.json() == {"shift_s": shift_s, "unix_shift_s": unix_shift_s}
        now_s, now_unix_s = time.monotonic(), simulator.stations["hb9odp"].clock.now_unix_ns() / 1e9
    assert shift_s is not None
    assert unix_shift_s is not None
    # GPS seconds since 1980 plus the epoch minus 18 leap seconds are UTC.
    assert (unix_shift_s - GPS_EPOCH_UNIX_S + 18 - shift_s) % WEEK_S == 0
    for name, path in paths.items():
        frames = recorders[name].frames
        expected = file_frames(path)[: len(frames)]
        assert [f.sequence for f in frames] == list(range(1, 21))
        assert [f.raw[20:] for f in frames] == [big_endian(samples) for _, samples in expected]
        assert [f.stamp for f in frames] == [
            (age, (second + shift_s) % WEEK_S, nanosecond) if second or nanosecond else (0, 0, 0)
            for (age, second, nanosecond), _ in expected
        ]
        # From the third frame on all stamps are good: none leaves before its last sample was taken.
        for frame, ((_, second, nanosecond), _) in list(zip(frames, expected, strict=True))[2:]:
            end_unix_s = second + unix_shift_s + nanosecond / 1e9 + 512 / 12001
            late_s = frame.arrival_s - (now_s + end_unix_s - now_unix_s)
            assert -0.002 < late_s < 0.5
    rates = [float(r.value("sample_rate") or 0) for r in recorders.values()]
    assert rates == pytest.approx([12001.0843, 12001.0256, 12001.0861], abs=0.003)
    sent = simulator.stations["hb9odp"].sent
    assert [s.first_sample for s in sent[:3]] == [0, 512, 1024]
    good = file_frames(paths["HB9ODP"])[2][0]
    assert sent[2].true_unix_ns == (good[1] + unix_shift_s) * 10**9 + good[2]


@pytest.mark.realdata
async def test_reconnect_goes_on_where_the_file_is_now(realdata: Path) -> None:
    path = next((realdata / "kiwi-dcf77-2020").glob("*JO51xl*"))
    expected = [big_endian(samples) for _, samples in file_frames(path)]
    async with Simulator(Scenario(station=(station("a", path),)), record_sent=True) as simulator:
        port = simulator.stations["a"].port
        async with Recorder(port, path="/1/SND") as first:
            await first.run(frame_count=5)
        async with Recorder(port, path="/2/SND", frequency_khz=1000, man_gain=90) as second:
            await second.run(frame_count=4)
        sent = simulator.stations["a"].sent
    begin = next(s.first_sample for s in sent if s.connection == 2) // 512
    assert begin >= 5
    assert (second.frames[0].sequence, second.frames[0].stamp) == (1, (0, 0, 0))
    assert [f.raw[20:] for f in second.frames] == expected[begin : begin + 4]


@pytest.mark.realdata
async def test_file_without_a_fix_keeps_its_age_of_255(realdata: Path) -> None:
    path = next((realdata / "kiwi-eloran").glob("*G7UAK*"))
    async with (
        Simulator(Scenario(station=(station("a", path),))) as simulator,
        Recorder(simulator.stations["a"].port) as recorder,
    ):
        await recorder.run(frame_count=5)
    assert [f.stamp[0] for f in recorder.frames] == [0, 255, 255, 255, 255]


@pytest.mark.realdata
async def test_end_of_a_file_is_a_normal_close(realdata: Path, tmp_path: Path) -> None:
    path = next((realdata / "kiwi-dcf77-2020").glob("*pa0rdt*"))
    short = tmp_path / "short.wav"
    short.write_bytes(path.read_bytes()[: 36 + 8 * FRAME_BYTES])
    async with (
        Simulator(Scenario(station=(station("a", short),))) as simulator,
        Recorder(simulator.stations["a"].port) as recorder,
    ):
        await recorder.run()
    assert (len(recorder.frames), recorder.ended) == (8, "close frame:")


async def test_unusable_file_stops_the_start(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing")
    with pytest.raises(KiwiWavError, match=r"bad\.wav: 7 bytes"):
        await Simulator(Scenario(station=(station("a", bad),))).__aenter__()


async def test_live_stations_have_no_shift() -> None:
    spec = StationSpec(id="a", latitude_deg=50, longitude_deg=9, altitude_m=0)
    async with (
        Simulator(Scenario(station=(spec,))) as simulator,
        aiohttp.ClientSession() as session,
        session.get(f"{simulator.stations['a'].url}/replay") as answer,
    ):
        assert await answer.json() == {"shift_s": None, "unix_shift_s": None}
