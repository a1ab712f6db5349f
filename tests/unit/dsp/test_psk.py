from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dsp_svc.estimate.psk import psk_offset_hz
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import Band
from tests.signals import Complex, flat_signal, fsk, psk, tone, white_noise

RATE_HZ = 48_000.0
COUNT = 16_384
SYMBOL = 8  # samples
Make = Callable[[np.random.Generator], Complex]


def measure(samples: Complex, centre_hz: float, width_hz: float, middle_hz: float | None = None) -> Quantity:
    band = Band(centre_hz - width_hz / 2, centre_hz + width_hz / 2)
    return psk_offset_hz(samples, RATE_HZ, band, centre_hz if middle_hz is None else middle_hz)


@pytest.mark.parametrize(("order", "snr_db"), [(2, 0.0), (2, 20.0), (4, 7.0), (4, 20.0), (8, 15.0), (8, 25.0)])
@pytest.mark.parametrize("roll_off", [0.2, 0.35])
def test_a_shaped_signal_gives_its_carrier(
    rng: np.random.Generator, order: int, snr_db: float, roll_off: float
) -> None:
    width_hz = (1 + roll_off) * RATE_HZ / SYMBOL
    scaled, methods = [], []
    for _ in range(40):
        truth_hz = rng.uniform(-0.3, 0.3) * RATE_HZ
        noise = white_noise(rng, COUNT, 10 ** (-snr_db / 10) * RATE_HZ / width_hz)
        samples = psk(rng, order, COUNT, SYMBOL, roll_off, truth_hz / RATE_HZ) + noise
        # The middle is known as well as a centroid is: to about a hundredth of the band.
        found = measure(samples, truth_hz, width_hz, truth_hz + rng.normal() * 0.01 * width_hz)
        methods.append(found.method)
        if found.value is not None and found.sigma is not None:
            scaled.append((found.value - truth_hz) / found.sigma)
    assert methods.count(f"psk-{order}") >= 36
    assert np.max(np.abs(scaled)) < 5.0
    # The noise beside the line is in part the signal's own, which is weaker at the line itself: sigma is no too small.
    assert 0.2 < np.sqrt(np.mean(np.square(scaled))) < 1.3


def test_sigma_is_that_of_the_line_divided_by_the_order(rng: np.random.Generator) -> None:
    # A carrier without keying has the same line in every power, at twice the frequency for M = 2.
    samples = tone(COUNT, 0.1) + white_noise(rng, COUNT, 1e-2)
    found = measure(samples, 4_800.0, 6_000.0)
    assert found.method == "psk-2"
    assert found.value == pytest.approx(4_800.0, abs=0.01)
    # z has the noise 2 n once the signal is 1, so the phase of z scatters twice and the frequency as before.
    bound_hz = RATE_HZ * np.sqrt(6.0 / (1e2 * COUNT**3)) / (2 * np.pi)
    assert found.sigma == pytest.approx(bound_hz, rel=0.25)


@pytest.mark.parametrize("centre_hz", [0.0, 20_000.0, -20_000.0])
def test_the_carrier_may_be_anywhere_in_the_band(rng: np.random.Generator, centre_hz: float) -> None:
    samples = psk(rng, 4, COUNT, SYMBOL, 0.35, (centre_hz + 300.0) / RATE_HZ) + white_noise(rng, COUNT, 1e-3)
    found = measure(samples, centre_hz, 8_000.0, centre_hz + 350.0)
    assert found.value == pytest.approx(centre_hz + 300.0, abs=0.3)


def test_conjugation_flips_the_sign(rng: np.random.Generator) -> None:
    samples = psk(rng, 4, COUNT, SYMBOL, 0.35, 0.1) + white_noise(rng, COUNT, 1e-2)
    found, mirrored = measure(samples, 4_800.0, 8_000.0), measure(np.conj(samples), -4_800.0, 8_000.0)
    assert found.value is not None
    assert mirrored.value == pytest.approx(-found.value, abs=1e-3)


def test_another_signal_beside_the_band_does_not_matter(rng: np.random.Generator) -> None:
    samples = psk(rng, 2, COUNT, SYMBOL, 0.35, 0.1) + tone(COUNT, -0.2, 10.0) + white_noise(rng, COUNT, 1e-2)
    assert measure(samples, 4_800.0, 8_000.0).value == pytest.approx(4_800.0, abs=0.3)


def chirp(rng: np.random.Generator) -> Complex:
    index = np.arange(COUNT)
    return np.asarray(np.exp(1j * np.pi * 0.1 * (index**2 / COUNT - index)), dtype=np.complex64)


def noise_fm(rng: np.random.Generator) -> Complex:
    """Frequency modulation by a smooth noise, as speech is: 1 kHz of standard deviation."""
    smooth = np.convolve(rng.standard_normal(COUNT + 400), np.hanning(400), "same")[:COUNT]
    return np.asarray(np.exp(2j * np.pi * np.cumsum(0.02 * smooth / np.std(smooth))), dtype=np.complex64)


@pytest.mark.parametrize(
    ("make", "width_hz"),
    [
        pytest.param(lambda rng: white_noise(rng, COUNT), 12_000.0, id="noise"),
        pytest.param(lambda rng: flat_signal(rng, COUNT, -0.06, 0.06, 100.0), 6_000.0, id="flat"),
        pytest.param(chirp, 5_000.0, id="chirp"),
        pytest.param(noise_fm, 6_000.0, id="fm"),
        # Half a turn a symbol: the square has two equal lines, a quarter of the symbol rate off the carrier.
        pytest.param(lambda rng: fsk(rng, COUNT, 16, 0.5 / 32, 0.0), 5_000.0, id="msk"),
        pytest.param(lambda rng: fsk(rng, COUNT, 16, 0.7 / 32, 0.0), 6_000.0, id="fsk-0.7"),
        pytest.param(lambda rng: fsk(rng, COUNT, 16, 1.0 / 32, 0.0), 7_500.0, id="fsk-1"),
        pytest.param(lambda rng: fsk(rng, COUNT, 16, 2.0 / 32, 0.0), 10_000.0, id="fsk-2"),
    ],
)
def test_what_is_no_phase_keying_gives_nothing(rng: np.random.Generator, make: Make, width_hz: float) -> None:
    for _ in range(200 if width_hz == 12_000.0 else 60):
        centre_hz = rng.uniform(-0.3, 0.3) * RATE_HZ
        samples = make(rng) * tone(COUNT, centre_hz / RATE_HZ) + white_noise(rng, COUNT, 1e-2)
        found = measure(samples, centre_hz, width_hz, centre_hz + rng.normal() * 0.02 * width_hz)
        assert (found.value, found.reason) == (None, Reason.NO_LINE)


def test_a_short_run_is_refused(rng: np.random.Generator) -> None:
    assert measure(white_noise(rng, 255), 0.0, 6_000.0).reason is Reason.TOO_FEW_SAMPLES


def test_silence_has_no_carrier() -> None:
    assert measure(np.zeros(COUNT, np.complex64), 0.0, 6_000.0).value is None
