from __future__ import annotations

import numpy as np
import pytest

from dsp_svc.estimate.centroid import centroid_hz
from dsp_svc.estimate.noise import NoiseFloor, noise_floor, passband_bins
from dsp_svc.estimate.psd import Spectrum, Welch, periodograms
from dsp_svc.estimate.result import Reason, Validity
from dsp_svc.estimate.snr import Band
from tests.signals import Complex, flat_signal, white_noise

RATE_HZ = 12_000.0
COUNT = 48_000


def spectrum_and_floor(samples: Complex, passband_hz: float = RATE_HZ) -> tuple[Spectrum, NoiseFloor]:
    spectrum = periodograms(samples, Welch(512)).spectrum(RATE_HZ)
    return spectrum, noise_floor(spectrum, passband_bins(spectrum, -passband_hz / 2, passband_hz / 2))


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_a_flat_signal_has_its_middle(rng: np.random.Generator, snr_db: float) -> None:
    # The band is 600 Hz wider on one side: without the noise subtracted the centroid would follow it.
    errors, sigmas = [], []
    for _ in range(60):
        power = 10 ** (snr_db / 10) * 2_000 / RATE_HZ
        samples = white_noise(rng, COUNT) + flat_signal(rng, COUNT, 1_000 / RATE_HZ, 3_000 / RATE_HZ, power)
        found = centroid_hz(*spectrum_and_floor(samples), Band(900.0, 3_700.0))
        assert found.value is not None
        assert found.sigma is not None
        errors.append(found.value - 2_000.0)
        sigmas.append(found.sigma)
    assert abs(np.mean(errors)) < 4 * np.mean(sigmas) / np.sqrt(60)
    assert 0.75 < np.std(errors) / np.mean(sigmas) < 1.3


def test_power_pulls_the_centroid_where_it_is(rng: np.random.Generator) -> None:
    strong = flat_signal(rng, COUNT, -0.25, -0.15, 3.0)
    weak = flat_signal(rng, COUNT, 0.15, 0.25, 1.0)
    found = centroid_hz(*spectrum_and_floor(strong + weak + white_noise(rng, COUNT, 1e-3)), Band(-3_200.0, 3_200.0))
    assert found.value == pytest.approx(-0.1 * RATE_HZ, abs=15.0)


def test_scale_does_not_matter_and_conjugation_flips_the_sign(rng: np.random.Generator) -> None:
    samples = white_noise(rng, COUNT) + flat_signal(rng, COUNT, 0.1, 0.2, 5.0)
    found = centroid_hz(*spectrum_and_floor(samples), Band(1_000.0, 2_600.0)).value
    assert found is not None
    scaled = centroid_hz(*spectrum_and_floor(samples * np.float32(1e-3)), Band(1_000.0, 2_600.0)).value
    mirrored = centroid_hz(*spectrum_and_floor(np.conj(samples)), Band(-2_600.0, -1_000.0)).value
    assert scaled == pytest.approx(found, abs=1e-3)
    assert mirrored == pytest.approx(-found, abs=1e-3)


def test_noise_has_no_centroid(rng: np.random.Generator) -> None:
    results = [centroid_hz(*spectrum_and_floor(white_noise(rng, COUNT)), Band(-500.0, 1_500.0)) for _ in range(100)]
    assert all(result.validity is Validity.ABSENT for result in results)
    assert {result.reason for result in results} == {Reason.NO_SIGNAL}


def test_without_a_floor_there_is_no_centroid(rng: np.random.Generator) -> None:
    samples = white_noise(rng, COUNT)
    assert centroid_hz(*spectrum_and_floor(samples, 200.0), Band(-50.0, 50.0)).reason is Reason.NO_NOISE_FLOOR
    assert centroid_hz(*spectrum_and_floor(samples), Band(7_000.0, 8_000.0)).reason is Reason.NO_SIGNAL
