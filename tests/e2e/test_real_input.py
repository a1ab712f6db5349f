"""Real recordings, replayed over the wire and acquired by the whole mesh: what is stored is what the receivers sent."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from google.protobuf import json_format

from heimdall.client import HeimdallClient
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.iq_pb2 import Block, Gap, TimeDegradation, TimeSource
from heimdall.runtime.settings import load_settings
from tests.e2e.live_mesh import COMMAND_TIMEOUT_S, LiveMesh, mesh_on_free_ports, read_until_serving

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(120)]

_GROUP_BYTES = 2074
_HEADER_BYTES = 36
_FRAME_SAMPLES = 512
_WEEK_NS = 604_800 * 10**9
_GPS_EPOCH_UNIX_NS = 315_964_800 * 10**9
_LEAP_NS = 18 * 10**9


@dataclass(frozen=True)
class Truth:
    """What the table of the recordings says of one of them."""

    file: str
    sample_rate_hz: float
    carrier_offset_hz: float


# From the table in the recordings' own README.
_DCF77 = {
    "hb9odp": Truth("kiwi-dcf77-2020/20200813T065220Z_77500_HB9ODP_iq.wav", 12001.0843, -0.1e-3),
    "jo51xl": Truth("kiwi-dcf77-2020/20200813T065220Z_77500_JO51xl_iq.wav", 12001.0256, 0.0),
    "pa0rdt": Truth("kiwi-dcf77-2020/20200813T065220Z_77500_pa0rdt_iq.wav", 12001.0861, -0.6e-3),
}


def _frames(path: Path) -> list[tuple[int, bytes]]:
    """Returns stamp (ns of the GPS week) and sample bytes of every frame of a Kiwi WAV."""
    data = path.read_bytes()
    frames = []
    for start in range(_HEADER_BYTES, len(data), _GROUP_BYTES):
        second, nanosecond = struct.unpack_from("<II", data, start + 10)
        frames.append((second * 10**9 + nanosecond, data[start + 26 : start + _GROUP_BYTES]))
    return frames


def _week_ns(unix_ns: int) -> int:
    return (unix_ns - _GPS_EPOCH_UNIX_NS + _LEAP_NS) % _WEEK_NS


@contextmanager
def _replayed_mesh(folder: Path, files: dict[str, Path]) -> Iterator[tuple[LiveMesh, str]]:
    """Runs simulator and mesh; yields the mesh and the address of one station."""
    scenario = folder / "scenario.toml"
    scenario.write_text(
        "".join(
            f'[[station]]\nid = "{name}"\nlatitude_deg = 50.0\nlongitude_deg = 9.0\naltitude_m = 100\n'
            f"replay = {json.dumps(str(path))}\n"
            for name, path in files.items()
        )
    )
    simulate = [sys.executable, "-m", "heimdall.cli", "simulate", str(scenario), "--any-port"]
    with subprocess.Popen(simulate, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout is not None
        try:
            stations = json.loads(simulator.stdout.readline())["stations"]
            with (
                mesh_on_free_ports(folder, stations) as mesh,
                (folder / "up.log").open("w") as log,
                subprocess.Popen(
                    [sys.executable, "-m", "heimdall.cli", "up"],
                    env=mesh.environment,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                ) as up,
            ):
                try:
                    read_until_serving(up)
                    station = next(iter(stations.values()))
                    yield mesh, f"http://{station['host']}:{station['port']}"
                finally:
                    up.terminate()
                    assert up.wait(COMMAND_TIMEOUT_S) == 0, (folder / "up.log").read_text()
        finally:
            simulator.terminate()
            assert simulator.wait(COMMAND_TIMEOUT_S) == 0


def _acquire(mesh: LiveMesh, frequency: str, duration: str) -> dict[str, ReceiverOutcome]:
    ran = mesh.run("acquire", frequency, "--duration", duration, "--json")
    acquisition = json_format.Parse(ran.stdout.splitlines()[-1], Acquisition())
    assert ran.returncode == 0, (acquisition, ran.stderr)
    assert acquisition.state == Acquisition.STATE_SUCCEEDED
    return {outcome.receiver_id: outcome for outcome in acquisition.outcomes}


async def _read_back(mesh: LiveMesh, outcome: ReceiverOutcome) -> tuple[list[Block], list[Gap]]:
    settings = load_settings(Path(mesh.environment["HEIMDALL_CONFIG"]))
    recording = outcome.recording
    blocks, gaps = [], []
    async with HeimdallClient(settings.mesh.coordinator_target, settings.mesh.storage_target) as client:
        async for event in client.read_recording(recording.acquisition_id, recording.receiver_id):
            if event.HasField("block"):
                blocks.append(event.block)
            elif event.HasField("gap"):
                gaps.append(event.gap)
    return blocks, gaps


def test_dcf77_is_stored_bit_exact_with_its_stamps_rate_time_and_carrier(realdata: Path, tmp_path: Path) -> None:
    with _replayed_mesh(tmp_path, {name: realdata / truth.file for name, truth in _DCF77.items()}) as (mesh, station):
        outcomes = _acquire(mesh, "77500", "20s")
        with urlopen(f"{station}/replay", timeout=5) as answer:
            shift_ns = json.load(answer)["shift_s"] * 10**9
        read = {name: asyncio.run(_read_back(mesh, outcome)) for name, outcome in outcomes.items()}
    assert set(outcomes) == set(_DCF77)
    for name, truth in _DCF77.items():
        outcome, (blocks, gaps) = outcomes[name], read[name]
        assert (gaps, outcome.gap_count, outcome.lost_sample_count) == ([], 0, 0)
        assert outcome.attempt_count == 1
        samples = b"".join(block.samples for block in blocks)
        data = (mesh.folder / "data" / "heimdall-raw-iq" / outcome.recording.data_object_key).read_bytes()
        assert data == samples
        assert len(samples) == 4 * outcome.received_sample_count
        # 20 s at a rate that the file's own stamps give, the window's edges lying anywhere between two samples.
        assert abs(outcome.received_sample_count - 20 * truth.sample_rate_hz) < 1

        # Each stored stamp, taken back by the shift, is that of a frame of the file, and every stored sample is the
        # file's sample at the place that the stamps say.
        frames = _frames(realdata / truth.file)
        number_of = {stamp: number for number, (stamp, _) in enumerate(frames)}
        file_samples = b"".join(samples for _, samples in frames)
        stamps = [stamp for block in blocks for stamp in block.stamps]
        places = {
            number_of[(_week_ns(stamp.unix_ns) - shift_ns) % _WEEK_NS] * _FRAME_SAMPLES - stamp.sample_index
            for stamp in stamps
        }
        (place,) = places
        assert samples == file_samples[4 * place : 4 * place + len(samples)]
        # Only the stamps of a connection's first two frames are left out.
        assert stamps[0].sample_index <= 2 * _FRAME_SAMPLES
        steps = {after.sample_index - before.sample_index for before, after in pairwise(stamps)}
        assert steps == {_FRAME_SAMPLES}
        assert outcome.received_sample_count - stamps[-1].sample_index <= _FRAME_SAMPLES

        solution = outcome.time_solution
        assert solution.source == TimeSource.TIME_SOURCE_GNSS
        assert abs(solution.sample_rate_hz - truth.sample_rate_hz) < 1e-3
        at_first_stamp_ns = solution.reference_unix_ns + round(
            (stamps[0].sample_index - solution.reference_sample_index) * 1e9 / solution.sample_rate_hz
        )
        assert abs(at_first_stamp_ns - stamps[0].unix_ns) <= 250
        measurement = outcome.measurement
        assert abs(measurement.frequency_offset_hz.value - truth.carrier_offset_hz) < 0.3e-3
        components = np.frombuffer(samples, "<i2").astype(np.float64) / 32768.0
        powers = components[::2] ** 2 + components[1::2] ** 2
        assert measurement.power_dbfs.value == pytest.approx(10 * math.log10(np.mean(powers)), abs=1e-3)
        kurtosis = np.mean(powers**2) / np.mean(powers) ** 2
        assert 1.15 < kurtosis < 1.26
        assert measurement.kurtosis.value == pytest.approx(kurtosis, rel=1e-4)
        assert measurement.clipped_ratio.value == 0.0


def test_a_receiver_without_a_gnss_fix_is_stored_with_another_time_source(realdata: Path, tmp_path: Path) -> None:
    path = realdata / "kiwi-eloran/20251207T183506Z_100000_G7UAK_iq.wav"
    with _replayed_mesh(tmp_path, {"g7uak": path}) as (mesh, _):
        outcome = _acquire(mesh, "100kHz", "5s")["g7uak"]
        blocks, _ = asyncio.run(_read_back(mesh, outcome))
    solution = outcome.time_solution
    assert solution.source == TimeSource.TIME_SOURCE_HOST_ARRIVAL
    assert solution.degradation == TimeDegradation.TIME_DEGRADATION_NO_GNSS_FIX
    assert "255" in solution.degradation_message
    # Arrival time is uncertain by milliseconds and must not pretend otherwise.
    assert solution.time_sigma_ns >= 1e6
    meta = json.loads((mesh.folder / "data" / "heimdall-raw-iq" / outcome.recording.meta_object_key).read_text())
    stored = json.dumps(meta)
    assert "HOST_ARRIVAL" in stored
    assert "NO_GNSS_FIX" in stored
    assert b"".join(block.samples for block in blocks) in b"".join(samples for _, samples in _frames(path))
