from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.noise import noise_floor, passband_bins
from dsp_svc.estimate.psd import Spectrum, Welch, periodograms
from dsp_svc.estimate.result import Reason, Validity
from dsp_svc.estimate.snr import SignalToNoise, signal_to_noise, strongest_band

RATE_HZ = 12_000.0
COUNT = 12_000
Make = Callable[..., Any]


def spectrum_of(samples: Any) -> Spectrum:
    return periodograms(samples, Welch(512)).spectrum(RATE_HZ)


def measure(samples: Any, passband_hz: float = RATE_HZ) -> SignalToNoise:
    spectrum = spectrum_of(samples)
    noise = noise_floor(spectrum, passband_bins(spectrum, -passband_hz, passband_hz))
    return signal_to_noise(spectrum, noise, len(samples) / RATE_HZ)


@pytest.mark.parametrize(
    ("snr_db", "seconds", "scatter_db"), [(-5.0, 4, 0.3), (0.0, 1, 0.3), (10.0, 1, 0.12), (40.0, 1, 0.1)]
)
def test_a_flat_signal_reads_its_ratio(
    white_noise: Make, flat_signal: Make, snr_db: float, seconds: int, scatter_db: float
) -> None:
    errors: list[float] = []
    sigmas: list[float] = []
    for _ in range(40):
        power = 10 ** (snr_db / 10) * 3_000.0 / RATE_HZ
        count = seconds * COUNT
        samples = white_noise(count) + flat_signal(count, RATE_HZ, -1_500.0, 1_500.0, power)
        found = measure(samples)
        assert found.snr_db.value is not None
        assert found.snr_db.sigma is not None
        assert found.bandwidth_hz.value is not None
        assert 3_000.0 < found.bandwidth_hz.value < 3_600.0
        # The ratio is stated for the guarded band: the same signal power over a little more noise.
        truth_db = 10 * np.log10(power / (found.bandwidth_hz.value / RATE_HZ))
        errors.append(found.snr_db.value - truth_db)
        sigmas.append(found.snr_db.sigma)
        density_db = 10 * np.log10(power * RATE_HZ)
        assert found.carrier_to_noise_density_db_hz.value == pytest.approx(density_db, abs=6 * scatter_db)
    assert abs(np.mean(errors)) < 0.1
    assert np.sqrt(np.mean(np.square(errors))) < scatter_db
    assert 0.5 < np.std(errors) / np.mean(sigmas) < 1.4


def test_the_strongest_emission_is_found(white_noise: Make, flat_signal: Make, tone: Make) -> None:
    samples = white_noise(COUNT, 1e-3) + tone(COUNT, 0.3, 0.05) + flat_signal(COUNT, RATE_HZ, -2_500.0, -1_000.0, 1.0)
    spectrum = spectrum_of(samples)
    band = strongest_band(spectrum, noise_floor(spectrum, passband_bins(spectrum, -RATE_HZ, RATE_HZ)))
    assert band is not None
    assert band.low_hz == pytest.approx(-2_500.0, abs=5 * RATE_HZ / 512)
    assert band.high_hz == pytest.approx(-1_000.0, abs=5 * RATE_HZ / 512)


@pytest.mark.parametrize("cycles", [0.0, 0.123, -0.4])
def test_a_tone_reads_its_carrier_to_noise_density(white_noise: Make, tone: Make, cycles: float) -> None:
    # A tone at the centre is the case that detrending and edge bands get wrong.
    found = measure(white_noise(COUNT) + tone(COUNT, cycles, 10.0))
    assert found.carrier_to_noise_density_db_hz.value == pytest.approx(20.0 + 10 * np.log10(RATE_HZ), abs=0.4)
    assert found.bandwidth_hz.value is not None
    assert found.bandwidth_hz.value < 500.0


def test_scale_does_not_matter(white_noise: Make, tone: Make) -> None:
    samples = white_noise(COUNT) + tone(COUNT, 0.1, 3.0)
    loud, quiet = measure(samples), measure(samples * np.float32(1e-3))
    assert loud.snr_db.value == pytest.approx(quiet.snr_db.value, abs=1e-3)


def test_noise_alone_has_a_limit(white_noise: Make) -> None:
    found = [measure(white_noise(COUNT)) for _ in range(100)]
    limits = [result for result in found if result.snr_db.validity is Validity.UPPER_LIMIT]
    assert len(limits) >= 99
    for result in limits:
        assert result.snr_db.reason is Reason.NO_SIGNAL
        assert result.bandwidth_hz.value == pytest.approx(RATE_HZ)
        # Two sigma of a power and a floor known to about one percent each.
        assert result.snr_db.value is not None
        assert -16.0 < result.snr_db.value < -11.0


def test_without_a_floor_there_is_no_ratio(white_noise: Make) -> None:
    found = measure(white_noise(COUNT), passband_hz=100.0)
    assert found.snr_db.reason is Reason.NO_NOISE_FLOOR
    assert found.bandwidth_hz.value is None


@pytest.mark.parametrize(("bandwidth_hz", "seconds"), [(1_500.0, 2), (3_000.0, 1), (6_000.0, 1)])
@pytest.mark.parametrize(("snr_db", "rms_db"), [(-5.0, 0.45), (0.0, 0.3), (10.0, 0.1), (20.0, 0.1), (40.0, 0.1)])
def test_the_ratio_is_accepted_in_three_bandwidths(
    white_noise: Make, flat_signal: Make, bandwidth_hz: float, seconds: int, snr_db: float, rms_db: float
) -> None:
    count = seconds * COUNT
    power = 10 ** (snr_db / 10) * bandwidth_hz / RATE_HZ
    errors = []
    for _ in range(60):
        signal = flat_signal(count, RATE_HZ, -bandwidth_hz / 2, bandwidth_hz / 2, power)
        found = measure(white_noise(count) + signal)
        assert found.snr_db.validity is Validity.VALID
        assert found.snr_db.value is not None
        assert found.bandwidth_hz.value is not None
        errors.append(found.snr_db.value - 10 * np.log10(power / (found.bandwidth_hz.value / RATE_HZ)))
    # A mean of so few trials scatters by an eighth of their scatter.
    assert abs(np.mean(errors)) < 0.1 + (0.05 if snr_db < 0.0 else 0.0)
    assert np.sqrt(np.mean(np.square(errors))) < rms_db
