"""dBm of a simulated station against its own S-meter and against the geometry."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from simulator import EmitterSpec, Scenario, Simulator
from tests.integration.fetcher_bench import DIAL_HZ, running_fetcher, station

DISTANCE_M = 111_194.9 / 10
"""A tenth of a degree of latitude."""


async def test_a_steady_carrier_reads_what_the_s_meter_reads(tmp_path: Path) -> None:
    carrier = EmitterSpec(
        id="beacon",
        latitude_deg=45.1,
        longitude_deg=7.0,
        altitude_m=100.0,
        frequency_hz=DIAL_HZ + 1_000.0,
        power_dbm=0.0,
    )
    scenario = Scenario(station=(station(),), emitter=(carrier,))
    async with Simulator(scenario) as simulator, running_fetcher(simulator, tmp_path) as bench:
        caught = await bench.record(1.5)
    segment = caught.segments[-1]
    assert segment.calibration.derived
    assert segment.calibration.uncertainty_db == 3.0
    codes = np.frombuffer(caught.samples, "<i2").astype(np.float64) / segment.full_scale
    level_dbm = 10 * math.log10(2 * np.mean(codes**2)) + segment.calibration.offset_db
    # Free space: (wavelength / (4 pi d))².
    wavelength_m = 299_792_458.0 / carrier.frequency_hz
    assert level_dbm == pytest.approx(20 * math.log10(wavelength_m / (4 * math.pi * DISTANCE_M)), abs=0.3)
    s_meter_dbm = [status.receiver_level_dbm for status in caught.statuses if status.HasField("receiver_level_dbm")]
    assert s_meter_dbm
    assert level_dbm == pytest.approx(s_meter_dbm[-1], abs=0.3)
