"""What an earlier program of this kind got wrong: each input that misled it, with the true answer.

12 kHz and 10 s, as there.
"""

from __future__ import annotations

import numpy as np
import pytest

from dsp_svc.estimate.emission_offset import best_offset
from dsp_svc.estimate.levels import moments, power_dbfs
from dsp_svc.estimate.measure import Plan
from dsp_svc.estimate.offset import Tone, find_tone
from dsp_svc.estimate.psd import Welch, default_segment_length, periodograms
from dsp_svc.estimate.result import Reason, Validity
from dsp_svc.estimate.snr import Band
from dsp_svc.meter import Meter, StretchNumbers
from heimdall.samples import SampleCoding, SampleFormat
from tests.signals import Complex, flat_signal, tone, white_noise

RATE_HZ = 12_000.0
COUNT = 120_000
PASSBAND = Band(-RATE_HZ / 2, RATE_HZ / 2)


def measure(samples: Complex) -> StretchNumbers:
    """Everything that the service says of one window."""
    coding = SampleCoding(SampleFormat.CF32_LE, 1.0, 0.0)
    meter = Meter(Plan(coding, RATE_HZ, Welch(default_segment_length(RATE_HZ)), None))
    meter.add(samples.tobytes(), 0, PASSBAND)
    return meter.window(PASSBAND, RATE_HZ)


def test_1_levels_are_not_relative_to_the_peak(rng: np.random.Generator) -> None:
    samples = tone(COUNT, 0.1, 0.1) + white_noise(rng, COUNT, 1e-4)
    loud, quiet = measure(samples).numbers, measure(samples * np.float32(1e-3)).numbers
    assert loud.power_dbfs.value == pytest.approx(10 * np.log10(0.1**2 + 1e-4), abs=0.01)
    assert quiet.power_dbfs.value == pytest.approx(10 * np.log10(0.1**2 + 1e-4) - 60.0, abs=0.01)
    assert quiet.noise_dbfs_per_hz.value == pytest.approx(-100.0 - 10 * np.log10(RATE_HZ), abs=0.1)
    samples[60_000] += np.complex64(0.3)  # it would have shifted all by 10 dB
    assert measure(samples).numbers.noise_dbfs_per_hz.value == pytest.approx(loud.noise_dbfs_per_hz.value, abs=0.1)


@pytest.mark.parametrize("power_dbfs_per_hz", [-60.0, -150.0])
def test_2_noise_has_its_density_and_no_arbitrary_floor(rng: np.random.Generator, power_dbfs_per_hz: float) -> None:
    samples = white_noise(rng, COUNT, 10 ** (power_dbfs_per_hz / 10) * RATE_HZ)
    assert measure(samples).numbers.noise_dbfs_per_hz.value == pytest.approx(power_dbfs_per_hz, abs=0.1)


def test_3_a_carrier_at_the_centre_is_kept(rng: np.random.Generator) -> None:
    samples = tone(COUNT, 0.0, 10.0) + white_noise(rng, COUNT)
    found = measure(samples)
    density = found.numbers.carrier_to_noise_density_db_hz
    assert density.value == pytest.approx(20.0 + 10 * np.log10(RATE_HZ), abs=0.1)
    assert found.numbers.frequency_offset_hz.value == pytest.approx(0.0, abs=1e-3)
    spectrum = periodograms(samples, Welch(512)).spectrum(RATE_HZ)
    at_centre = float(spectrum.density[spectrum.frequencies_hz == 0.0][0])
    assert 10 * np.log10(at_centre) == pytest.approx(20.0 - 10 * np.log10(1.5 * RATE_HZ / 512), abs=0.1)


def test_4_noise_is_not_taken_where_the_signal_is(rng: np.random.Generator) -> None:
    # 20 dB in the 3 kHz that the signal fills; it read -13.9 dB.
    signal = flat_signal(rng, COUNT, -1_500 / RATE_HZ, 1_500 / RATE_HZ, 100.0 * 3_000 / RATE_HZ)
    snr = measure(signal + white_noise(rng, COUNT)).numbers
    assert snr.snr_db.value is not None
    assert snr.snr_bandwidth_hz.value is not None
    in_band_db = snr.snr_db.value + 10 * np.log10(snr.snr_bandwidth_hz.value / 3_000.0)
    assert in_band_db == pytest.approx(20.0, abs=0.1)


@pytest.mark.parametrize("frequency_hz", [100.0, 1_000.0, 2_000.0, 3_500.0, 5_000.0, -5_000.0])
def test_5_a_narrow_tone_keeps_its_power(rng: np.random.Generator, frequency_hz: float) -> None:
    samples = tone(COUNT, frequency_hz / RATE_HZ, 10.0) + white_noise(rng, COUNT)
    density = measure(samples).numbers.carrier_to_noise_density_db_hz
    assert density.validity is Validity.VALID
    assert density.value == pytest.approx(60.8, abs=0.1)


@pytest.mark.parametrize("width_hz", [500.0, 3_000.0])
def test_6_a_ratio_has_its_bandwidth(rng: np.random.Generator, width_hz: float) -> None:
    power = 100.0
    signal = flat_signal(rng, COUNT, (2_000 - width_hz / 2) / RATE_HZ, (2_000 + width_hz / 2) / RATE_HZ, power)
    snr = measure(signal + white_noise(rng, COUNT)).numbers
    assert snr.snr_bandwidth_hz.value is not None
    # The emission with a guard of 2.5 bins, and what stands out of the noise beside it.
    assert width_hz < snr.snr_bandwidth_hz.value < width_hz + 16 * RATE_HZ / 512
    noise_in_band = snr.snr_bandwidth_hz.value / RATE_HZ
    assert snr.snr_db.value == pytest.approx(10 * np.log10(power / noise_in_band), abs=0.1)
    assert snr.carrier_to_noise_density_db_hz.value == pytest.approx(10 * np.log10(power * RATE_HZ), abs=0.1)


@pytest.mark.parametrize("frequency_hz", [3_500.0, 5_000.0, -5_900.0])
def test_7_a_tone_is_found_in_all_of_the_baseband(rng: np.random.Generator, frequency_hz: float) -> None:
    found = measure(tone(COUNT, frequency_hz / RATE_HZ) + white_noise(rng, COUNT)).numbers.frequency_offset_hz
    assert found.value == pytest.approx(frequency_hz, abs=2e-3)
    assert found.sigma is not None
    assert found.sigma < 1e-3


def test_7_noise_has_no_offset(rng: np.random.Generator) -> None:
    samples = white_noise(rng, COUNT)
    assert measure(samples).numbers.frequency_offset_hz.value is None
    assert not isinstance(find_tone(samples), Tone)
    assert best_offset(samples, RATE_HZ, None, None, None, Reason.NO_LINE).value is None
    assert power_dbfs(moments(samples)).value == pytest.approx(0.0, abs=0.05)
