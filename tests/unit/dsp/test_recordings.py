"""The estimators on real recordings, against NumPy in double precision and what is known of the transmitters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dsp_svc.estimate.centroid import centroid_hz
from dsp_svc.estimate.clipping import clipped_ratio, clipping
from dsp_svc.estimate.emission import emission_in
from dsp_svc.estimate.fsk import two_tones
from dsp_svc.estimate.kurtosis import kurtosis
from dsp_svc.estimate.levels import moments, power_dbfs
from dsp_svc.estimate.noise import noise_floor, passband_bins
from dsp_svc.estimate.psd import Welch, periodograms
from dsp_svc.estimate.snr import Band
from heimdall.samples import SampleCoding, SampleFormat
from tests.kiwi_wav import read_codes

pytestmark = pytest.mark.realdata

KIWI = SampleCoding(SampleFormat.CI16_LE, 32768.0, 0.0)
RTL = SampleCoding(SampleFormat.CU8, 127.5, 127.5)
ONE_PERCENT_DB = 10 * np.log10(1.01)


def exact_powers(codes: bytes) -> npt.NDArray[np.float64]:
    """|x|² in double precision, straight from the file."""
    parts = np.frombuffer(codes, "<i2").astype(np.float64) / 32768.0
    return np.asarray(parts[::2] ** 2 + parts[1::2] ** 2, dtype=np.float64)


@pytest.mark.parametrize(("name", "dropped_groups"), [("HB9ODP", 2), ("JO51xl", 1), ("pa0rdt", 1)])
def test_dcf77_level_and_kurtosis(realdata: Path, name: str, dropped_groups: int) -> None:
    (path,) = (realdata / "kiwi-dcf77-2020").glob(f"*_{name}_iq.wav")
    codes = read_codes(path, dropped_groups)
    powers = exact_powers(codes)
    sums = moments(KIWI.decode(codes))
    assert power_dbfs(sums).value == pytest.approx(10 * np.log10(np.mean(powers)), abs=ONE_PERCENT_DB)
    found = kurtosis(sums).value
    assert found == pytest.approx(np.mean(powers**2) / np.mean(powers) ** 2, rel=0.01)
    assert found is not None
    assert 1.17 < found < 1.24


def test_eloran_is_pulsed(realdata: Path) -> None:
    (path,) = (realdata / "kiwi-eloran").glob("*_G4FUI_iq.wav")
    codes = read_codes(path, 2)
    powers = exact_powers(codes)
    found = kurtosis(moments(KIWI.decode(codes))).value
    assert found == pytest.approx(np.mean(powers**2) / np.mean(powers) ** 2, rel=0.01)
    assert found == pytest.approx(23.0, abs=1.0)


def burst_of(folder: Path, name: str, rate_hz: float, start_ms: float, length_ms: float) -> bytes:
    first, after = (2 * round(ms * 1e-3 * rate_hz) for ms in (start_ms, start_ms + length_ms))
    return (folder / "rtlsdr-wmbus" / name).read_bytes()[first:after]


WIDE = ("rtlsdr_868.625M_2M4_issue48.cu8", 2.4e6, 30.56, 6.89)
CLIPPED = ("rtlsdr_868.950M_1M6_samples2.cu8", 1.6e6, 239.3, 6.8)
SOUND = ("rtlsdr_868.950M_1M6_samples2.cu8", 1.6e6, 455.6, 14.6)
Burst = tuple[str, float, float, float]


@pytest.mark.parametrize(
    ("burst", "centre_khz"), [(WIDE, 280.6), (CLIPPED, -13.6), (SOUND, -11.9)], ids=["wide", "clipped", "sound"]
)
@pytest.mark.parametrize("half_width_khz", [200.0, 300.0, 500.0])
@pytest.mark.parametrize("around_ms", [0.0, 4.0])
def test_wireless_mbus_has_its_centre(
    realdata: Path, burst: Burst, centre_khz: float, half_width_khz: float, around_ms: float
) -> None:
    name, rate_hz, start_ms, length_ms = burst
    samples = RTL.decode(burst_of(realdata, name, rate_hz, start_ms - around_ms, length_ms + 2 * around_ms))
    band = Band(1e3 * (centre_khz - half_width_khz), 1e3 * (centre_khz + half_width_khz))
    found = two_tones(samples, rate_hz, band)
    assert found.centre_hz.value == pytest.approx(1e3 * centre_khz, abs=1e3)
    if burst is WIDE:
        assert found.deviation_hz.value == pytest.approx(49e3, abs=2e3)


def test_wireless_mbus_has_its_centroid(realdata: Path) -> None:
    name, rate_hz, start_ms, _ = WIDE
    recording = RTL.decode((realdata / "rtlsdr-wmbus" / name).read_bytes())
    burst = RTL.decode(burst_of(realdata, *WIDE))
    # The burst's side lobes fill the baseband, so the floor is that of the time before it.
    quiet = periodograms(recording[: round((start_ms - 2.0) * 1e-3 * rate_hz)], Welch(1024)).spectrum(rate_hz)
    floor = noise_floor(quiet, passband_bins(quiet, -rate_hz, rate_hz))
    spectrum = periodograms(burst, Welch(1024)).spectrum(rate_hz)
    found = centroid_hz(spectrum, floor, Band(-rate_hz / 2, rate_hz / 2))
    assert found.value == pytest.approx(274.4e3, abs=1e3)


@pytest.mark.parametrize(("burst", "centre_khz", "level_dbfs"), [(WIDE, 280.6, -4.9), (SOUND, -11.9, -9.5)])
def test_wireless_mbus_has_its_level(realdata: Path, burst: Burst, centre_khz: float, level_dbfs: float) -> None:
    # In the burst's band: in the second file the rest of the baseband adds 0.4 dB.
    rate_hz = burst[1]
    samples = RTL.decode(burst_of(realdata, *burst))
    low, high = ((1e3 * centre_khz + side) / rate_hz for side in (-150e3, 150e3))
    narrow = emission_in(samples, low, high).samples(len(samples))
    assert power_dbfs(moments(narrow)).value == pytest.approx(level_dbfs, abs=0.2)


@pytest.mark.parametrize(
    ("burst", "low", "high"), [(CLIPPED, 0.95, 1.0), (SOUND, 1e-4, 1e-3)], ids=["clipped", "sound"]
)
def test_clipping_shows_on_one_burst_only(realdata: Path, burst: Burst, low: float, high: float) -> None:
    codes = burst_of(realdata, *burst)
    found = clipped_ratio(clipping(codes, RTL), RTL).value
    extreme = np.isin(np.frombuffer(codes, np.uint8).reshape(-1, 2), (0, 255)).any(axis=1)
    assert found == pytest.approx(np.mean(extreme), rel=1e-9)
    assert low < np.mean(extreme) <= high
