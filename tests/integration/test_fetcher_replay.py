"""Real recordings, replayed over the wire and fetched again: every sample, every stamp, the known rates."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from heimdall.common.v1 import iq_pb2
from heimdall.common.v1.receiver_pb2 import Tuning
from simulator import Simulator
from tests.integration.fetcher_bench import SECOND, Bench, Caught, collect, mesh, next_of, send_window, station

pytestmark = pytest.mark.realdata

# From the README of the recordings: the rate by GNSS.
DCF77 = {"hb9odp": 12001.0843, "jo51xl": 12001.0256, "pa0rdt": 12001.0861}
WINDOW_S = 20


def frames_of(path: Path) -> list[tuple[int, int, bytes]]:
    """Returns age, ns of the GPS week and the bytes of every frame of a Kiwi WAV."""
    data = path.read_bytes()
    frames = []
    for at in range(36, len(data) - 2073, 2074):
        age_s, _, second, nanosecond = struct.unpack_from("<BBII", data, at + 8)
        frames.append((age_s, second * SECOND + nanosecond, data[at + 26 : at + 2074]))
    return frames


def assert_equals_file(caught: Caught, path: Path, unix_shift_s: int) -> None:
    """Every sample and stamp is the file's, at the place that the stamps say."""
    frames = frames_of(path)
    data = b"".join(samples for _, _, samples in frames)
    by_time = {stamp + unix_shift_s * SECOND: number for number, (_, stamp, _) in enumerate(frames) if number > 1}
    first = caught.stamps[0]
    origin = by_time[first.unix_ns] * 512 - first.sample_index
    for block in caught.blocks:
        start = 4 * (origin + block.first_sample_index)
        assert block.samples == data[start : start + 4 * block.sample_count]
    for stamp in caught.stamps:
        number = by_time[stamp.unix_ns]
        assert number * 512 == origin + stamp.sample_index
        assert stamp.age_s == frames[number][0]
    held = caught.end.end_sample_index // 512
    assert held - 1 <= len(caught.stamps) <= held + 1


async def record(bench: Bench, names: list[str], frequency_hz: float, duration_s: float) -> dict[str, Caught]:
    """Records a common window from several receivers."""
    async with AsyncExitStack() as stack:
        tuning = Tuning(center_frequency_hz=frequency_hz)
        streams = [await stack.enter_async_context(bench.stream(name, tuning=tuning)) for name in names]
        segments = [event.segment for event in await asyncio.gather(*(next_of(s, "segment") for s in streams))]
        start_ns = max(segment.available_from_unix_ns for segment in segments)
        for stream in streams:
            await send_window(stream, start_ns, start_ns + round(duration_s * SECOND))
        parts = (Caught(segments=[segment]) for segment in segments)
        caught = await asyncio.gather(*(collect(*pair) for pair in zip(streams, parts, strict=True)))
    return dict(zip(names, caught, strict=True))


def unix_shift_s(simulator: Simulator) -> int:
    shift_s = simulator.replay_unix_shift_s
    assert shift_s is not None
    return shift_s


@pytest.mark.timeout(90)
async def test_dcf77_recordings_are_fetched_exactly(realdata: Path, tmp_path: Path) -> None:
    files = {path.name.split("_")[2].lower(): path for path in (realdata / "kiwi-dcf77-2020").glob("*_iq.wav")}
    assert set(files) == set(DCF77)
    stations = [station(id=name, replay=path) for name, path in files.items()]
    async with mesh(tmp_path, *stations) as (simulator, bench):
        caught = await record(bench, list(files), 77_500, WINDOW_S)
        shift_s = unix_shift_s(simulator)
    for name, events in caught.items():
        events.assert_whole()
        assert events.gaps == []
        assert events.end.end_sample_index == pytest.approx(WINDOW_S * DCF77[name], abs=1)
        assert_equals_file(events, files[name], shift_s)
        solution = events.end.time_solution
        assert solution.source == iq_pb2.TIME_SOURCE_GNSS
        assert solution.degradation == iq_pb2.TIME_DEGRADATION_UNSPECIFIED
        assert solution.sample_rate_hz == pytest.approx(DCF77[name], abs=0.001)
        assert abs(solution.sample_rate_hz - DCF77[name]) < 10 * solution.sample_rate_sigma_hz
        # The first sample's fitted time, against the first stamp carried back by the known rate.
        first = events.stamps[0]
        stamped_ns = first.unix_ns - round(first.sample_index * 1e9 / DCF77[name])
        assert abs(solution.reference_unix_ns - stamped_ns) <= 250
        assert solution.rms_ns < 100
        # Frame 1 is zero in all files, HB9ODP's frame 2 is 3.2 h old; stamps of frames 1 and 2 are never used.
        assert solution.stamp_dropped_count == 2


async def test_recording_without_fix_has_no_gnss_time(realdata: Path, tmp_path: Path) -> None:
    (path,) = (realdata / "kiwi-eloran").glob("*_G7UAK_iq.wav")
    async with mesh(tmp_path, station(id="g7uak", replay=path)) as (_, bench):
        caught = (await record(bench, ["g7uak"], 100_000, 2))["g7uak"]
    caught.assert_whole()
    assert caught.gaps == []
    assert caught.segments[0].time_source == iq_pb2.TIME_SOURCE_HOST_ARRIVAL
    solution = caught.end.time_solution
    assert solution.source == iq_pb2.TIME_SOURCE_HOST_ARRIVAL
    assert solution.degradation == iq_pb2.TIME_DEGRADATION_NO_GNSS_FIX
    assert "255" in solution.degradation_message
    assert solution.time_sigma_ns > 50e6
    # The samples are good all the same.
    data = b"".join(samples for _, _, samples in frames_of(path))
    start = data.index(caught.blocks[0].samples)
    assert caught.samples == data[start : start + len(caught.samples)]


async def test_recording_with_fix_is_gnss_time(realdata: Path, tmp_path: Path) -> None:
    (path,) = (realdata / "kiwi-eloran").glob("*_G4FUI_iq.wav")
    async with mesh(tmp_path, station(id="g4fui", replay=path)) as (simulator, bench):
        caught = (await record(bench, ["g4fui"], 100_000, 5))["g4fui"]
        shift_s = unix_shift_s(simulator)
    caught.assert_whole()
    assert caught.gaps == []
    assert_equals_file(caught, path, shift_s)
    assert caught.end.time_solution.sample_rate_hz == pytest.approx(11999.024, abs=0.01)
