"""The estimators on recordings of a transmitter whose frequency is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dsp_svc.requests import StreamConfig
from dsp_svc.session import Session
from heimdall.common.v1 import iq_pb2, measurement_pb2
from tests.kiwi_wav import SAMPLES_A_GROUP, read_codes

pytestmark = pytest.mark.realdata


def measure(codes: bytes, announced_hz: float, fitted_hz: float) -> list[measurement_pb2.Measurement]:
    session = Session(StreamConfig("acq", "rx", 1.0, 0))
    segment = iq_pb2.Segment(
        receiver_id="rx",
        center_frequency_hz=77_500.0,
        sample_rate_hz=announced_hz,
        sample_format=iq_pb2.SAMPLE_FORMAT_CI16_LE,
        full_scale=32768.0,
        passband_low_hz=-5_000.0,
        passband_high_hz=5_000.0,
    )
    events = [iq_pb2.IqEvent(segment=segment)]
    for at in range(0, len(codes), 4 * SAMPLES_A_GROUP):
        samples = codes[at : at + 4 * SAMPLES_A_GROUP]
        block = iq_pb2.Block(first_sample_index=at // 4, sample_count=len(samples) // 4, samples=samples)
        events.append(iq_pb2.IqEvent(block=block))
    end = iq_pb2.End(end_sample_index=len(codes) // 4)
    end.time_solution.sample_rate_hz = fitted_hz
    events.append(iq_pb2.IqEvent(end=end))
    results = []
    for event in events:
        for run in session.accept(event):
            window = session.measure(run)
            if window is not None:
                results.append(window)
    return [*results, session.summarise(end)]


@pytest.mark.parametrize("start_s", [0, 4, 9])
@pytest.mark.parametrize(
    ("name", "dropped_groups", "fitted_hz", "offset_mhz"),
    [("HB9ODP", 2, 12_001.0843, -0.1), ("JO51xl", 1, 12_001.0256, 0.0), ("pa0rdt", 1, 12_001.0861, -0.6)],
)
def test_dcf77_carrier_over_20_s(
    realdata: Path, name: str, dropped_groups: int, fitted_hz: float, offset_mhz: float, start_s: int
) -> None:
    (path,) = (realdata / "kiwi-dcf77-2020").glob(f"*_{name}_iq.wav")
    first = 4 * start_s * 12_000
    codes = read_codes(path, dropped_groups)[first : first + 4 * round(20 * fitted_hz)]
    *windows, summary = measure(codes, 12_001.0, fitted_hz)
    offset = summary.frequency_offset_hz
    assert offset.validity == measurement_pb2.Estimate.VALIDITY_VALID
    assert offset.value * 1e3 == pytest.approx(offset_mhz, abs=0.3)
    assert offset.sigma * 1e3 < 1.0
    parts = np.frombuffer(codes, "<i2").astype(np.float64) / 32768.0
    power_db = 10 * np.log10(np.sum(parts**2) / (len(parts) / 2))
    assert summary.power_dbfs.value == pytest.approx(power_db, abs=1e-4)
    # Single windows see the carrier through its modulation, up to 17 mHz off, and say so.
    assert len(windows) == 20
    for window in windows:
        assert abs(window.frequency_offset_hz.value * 1e3 - offset_mhz) < 20.0
        assert 1e-3 < window.frequency_offset_hz.sigma < 30e-3
    # Their filter is far narrower than the passband: what is left there is the rounding of the samples.
    noise = summary.noise_dbfs_per_hz
    assert noise.validity == measurement_pb2.Estimate.VALIDITY_UPPER_LIMIT
    assert noise.value == pytest.approx(-138.7, abs=0.3)
    assert summary.snr_db.reason == "NO_NOISE_FLOOR"


def test_eloran_pulses_have_no_line_of_their_own(realdata: Path) -> None:
    # Pulses make a comb; its strongest lines, one of them a carrier at +1136.5 Hz, are within a decibel.
    (path,) = (realdata / "kiwi-eloran").glob("*_G4FUI_iq.wav")
    *_, summary = measure(read_codes(path, 2), 12_000.0, 11_999.024)
    assert not summary.frequency_offset_hz.HasField("value")
    assert summary.frequency_offset_hz.reason == "NO_LINE"
