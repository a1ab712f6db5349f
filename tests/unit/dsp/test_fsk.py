from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dsp_svc.estimate.fsk import TwoTones, two_tones
from dsp_svc.estimate.result import Reason
from dsp_svc.estimate.snr import Band
from tests.signals import Complex, flat_signal, fsk, psk, tone, white_noise

RATE_HZ = 48_000.0
COUNT = 16_384
SYMBOL = 16  # samples
Make = Callable[[np.random.Generator], Complex]


def measure(samples: Complex, centre_hz: float, width_hz: float) -> TwoTones:
    return two_tones(samples, RATE_HZ, Band(centre_hz - width_hz / 2, centre_hz + width_hz / 2))


@pytest.mark.parametrize("turns_a_symbol", [0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("snr_db", [14.0, 30.0])
def test_keying_gives_its_midpoint_and_deviation(
    rng: np.random.Generator, turns_a_symbol: float, snr_db: float
) -> None:
    deviation_hz = turns_a_symbol / 2 * RATE_HZ / SYMBOL
    width_hz = RATE_HZ / SYMBOL + 2 * deviation_hz
    errors, scaled, deviations = [], [], []
    for _ in range(40):
        truth_hz = rng.uniform(-0.3, 0.3) * RATE_HZ
        noise = white_noise(rng, COUNT, 10 ** (-snr_db / 10) * RATE_HZ / width_hz)
        samples = fsk(rng, COUNT, SYMBOL, deviation_hz / RATE_HZ, truth_hz / RATE_HZ) + noise
        found = measure(samples, truth_hz + rng.uniform(-0.1, 0.1) * deviation_hz, width_hz)
        assert found.centre_hz.value is not None
        assert found.centre_hz.sigma is not None
        assert found.deviation_hz.value is not None
        errors.append(found.centre_hz.value - truth_hz)
        scaled.append(errors[-1] / found.centre_hz.sigma)
        deviations.append(found.deviation_hz.value / deviation_hz)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(40) + 0.002 * deviation_hz
    assert np.std(errors) < 0.03 * deviation_hz
    # The parts scatter more by themselves than together: sigma is above the true scatter.
    assert 0.3 < np.sqrt(np.mean(np.square(scaled))) < 1.5
    assert 0.85 < np.mean(deviations) < 1.01


def test_a_burst_is_found_in_a_wide_band_with_noise_around_it(rng: np.random.Generator) -> None:
    samples = white_noise(rng, COUNT, 0.01)
    samples[5_000:11_000] += fsk(rng, 6_000, SYMBOL, 1 / 32, 0.2)
    found = measure(samples, 9_600.0, 20_000.0)
    assert found.centre_hz.value == pytest.approx(9_600.0, abs=100.0)
    assert found.deviation_hz.value == pytest.approx(1_500.0, rel=0.1)
    assert (found.centre_hz.method, found.deviation_hz.method) == ("fsk-midpoint", "fsk-half-distance")


def chirp(rng: np.random.Generator) -> Complex:
    index = np.arange(COUNT)
    return np.asarray(np.exp(1j * np.pi * 0.1 * (index**2 / COUNT - index)), dtype=np.complex64)


def noise_fm(rng: np.random.Generator) -> Complex:
    smooth = np.convolve(rng.standard_normal(COUNT + 400), np.hanning(400), "same")[:COUNT]
    return np.asarray(np.exp(2j * np.pi * np.cumsum(0.02 * smooth / np.std(smooth))), dtype=np.complex64)


def four_tones(rng: np.random.Generator) -> Complex:
    keyed = np.repeat(rng.choice([-3.0, -1.0, 1.0, 3.0], COUNT // SYMBOL), SYMBOL)
    return np.asarray(np.exp(2j * np.pi * np.cumsum(0.02 * keyed)), dtype=np.complex64)


@pytest.mark.parametrize(
    ("make", "width_hz"),
    [
        pytest.param(lambda rng: white_noise(rng, COUNT), 12_000.0, id="noise"),
        pytest.param(lambda rng: flat_signal(rng, COUNT, -0.06, 0.06, 1.0), 6_000.0, id="flat"),
        pytest.param(lambda rng: psk(rng, 2, COUNT, 8, 0.35, 0.0), 8_000.0, id="bpsk"),
        pytest.param(lambda rng: psk(rng, 4, COUNT, 8, 0.35, 0.0), 8_000.0, id="qpsk"),
        pytest.param(lambda rng: psk(rng, 8, COUNT, 8, 0.35, 0.0), 8_000.0, id="8-psk"),
        pytest.param(chirp, 5_000.0, id="chirp"),
        pytest.param(noise_fm, 6_000.0, id="fm"),
        pytest.param(four_tones, 8_000.0, id="four tones"),
        pytest.param(lambda rng: tone(COUNT, 0.02) + tone(COUNT, -0.02), 3_000.0, id="two carriers"),
        pytest.param(lambda rng: tone(COUNT, 0.0), 3_000.0, id="carrier"),
    ],
)
def test_what_does_not_dwell_on_two_tones_gives_nothing(rng: np.random.Generator, make: Make, width_hz: float) -> None:
    for _ in range(60):
        centre_hz = rng.uniform(-0.3, 0.3) * RATE_HZ
        samples = make(rng) * tone(COUNT, centre_hz / RATE_HZ) + white_noise(rng, COUNT, 1e-2)
        found = measure(samples, centre_hz, width_hz)
        assert (found.centre_hz.value, found.centre_hz.reason) == (None, Reason.NOT_TWO_TONES)
        assert found.deviation_hz.value is None


def test_one_sine_passes_with_its_right_centre(rng: np.random.Generator) -> None:
    index = np.arange(COUNT)
    samples = np.exp(2j * np.pi * 0.1 * index + 5j * np.sin(2 * np.pi * 0.002 * index)).astype(np.complex64)
    found = measure(samples + white_noise(rng, COUNT, 1e-3), 4_800.0, 1_200.0).centre_hz
    assert found.value is None or found.value == pytest.approx(4_800.0, abs=20.0)


def test_a_short_run_and_silence_are_refused(rng: np.random.Generator) -> None:
    assert measure(white_noise(rng, 255), 0.0, 6_000.0).centre_hz.reason is Reason.TOO_FEW_SAMPLES
    assert measure(np.zeros(COUNT, np.complex64), 0.0, 6_000.0).centre_hz.reason is Reason.NOT_TWO_TONES
