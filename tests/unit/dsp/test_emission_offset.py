from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dsp_svc.estimate.emission_offset import MAX_SAMPLES, best_offset
from dsp_svc.estimate.noise import noise_floor, passband_bins
from dsp_svc.estimate.offset import Tone, find_tone
from dsp_svc.estimate.psd import Welch, periodograms
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import strongest_band
from tests.signals import Complex, flat_signal, fsk, psk, tone, white_noise

RATE_HZ = 48_000.0
COUNT = 48_000
CENTRE_HZ = 6_000.0
CYCLES = CENTRE_HZ / RATE_HZ


def measure(samples: Complex, passband_hz: float = RATE_HZ) -> Quantity:
    spectrum = periodograms(samples, Welch(1024)).spectrum(RATE_HZ)
    noise = noise_floor(spectrum, passband_bins(spectrum, -passband_hz / 2, passband_hz / 2))
    reach = passband_hz / RATE_HZ / 2
    found = find_tone(samples, -reach, reach)
    return best_offset(samples, RATE_HZ, spectrum, noise, strongest_band(spectrum, noise), found)


@pytest.mark.parametrize(
    ("name", "method", "tolerance_hz"),
    [
        ("carrier", "line-aboutanios-mulgrew", 0.1),
        ("am", "line-aboutanios-mulgrew", 0.1),
        ("bpsk", "psk-2", 0.5),
        ("qpsk", "psk-4", 0.5),
        ("8-psk", "psk-8", 0.5),
        ("fsk", "fsk-midpoint", 60.0),
        ("flat", "centroid", 60.0),
    ],
)
def test_each_signal_is_read_by_the_method_that_suits_it(
    rng: np.random.Generator, name: str, method: str, tolerance_hz: float
) -> None:
    speech = 1 + 0.5 * flat_signal(rng, COUNT, -0.05, 0.05, 0.2).real
    signals: dict[str, Callable[[], Complex]] = {
        "carrier": lambda: tone(COUNT, CYCLES),
        "am": lambda: np.asarray(tone(COUNT, CYCLES) * speech, dtype=np.complex64),
        "bpsk": lambda: psk(rng, 2, COUNT, 8, 0.35, CYCLES),
        "qpsk": lambda: psk(rng, 4, COUNT, 8, 0.35, CYCLES),
        "8-psk": lambda: psk(rng, 8, COUNT, 8, 0.35, CYCLES),
        "fsk": lambda: fsk(rng, COUNT, 16, 0.7 / 32, CYCLES),
        "flat": lambda: flat_signal(rng, COUNT, CYCLES - 0.05, CYCLES + 0.05, 1.0),
    }
    found = measure(signals[name]() + white_noise(rng, COUNT, 0.05))
    assert found.method == method
    assert found.value == pytest.approx(CENTRE_HZ, abs=tolerance_hz)
    assert found.sigma is not None
    assert 0.0 < found.sigma < tolerance_hz


def test_noise_has_no_offset(rng: np.random.Generator) -> None:
    results = [measure(white_noise(rng, COUNT)) for _ in range(50)]
    assert {(result.value, result.reason) for result in results} == {(None, Reason.NO_SIGNAL)}


def test_a_burst_late_in_a_long_run_is_read(rng: np.random.Generator) -> None:
    samples = white_noise(rng, 4 * MAX_SAMPLES, 0.01)
    burst = slice(200_000, 240_000)
    samples[burst] += psk(rng, 4, 40_000, 8, 0.35, CYCLES)
    found = measure(samples)
    assert found.method == "psk-4"
    assert found.value == pytest.approx(CENTRE_HZ, abs=0.5)


def test_what_is_outside_the_passband_is_not_read(rng: np.random.Generator) -> None:
    inside = psk(rng, 2, COUNT, 16, 0.35, CYCLES)
    samples = inside + tone(COUNT, 0.4, 3.0) + white_noise(rng, COUNT, 0.05)
    found = measure(samples, 24_000.0)
    assert found.method == "psk-2"
    assert found.value == pytest.approx(CENTRE_HZ, abs=0.5)


def test_a_line_is_taken_as_it_is() -> None:
    found = best_offset(np.zeros(0, np.complex64), RATE_HZ, None, None, None, Tone(-0.25, 1e-6, 30.0))
    assert found.value == -12_000.0
    assert found.sigma == pytest.approx(0.048)


def test_nothing_to_read_has_its_reason(rng: np.random.Generator) -> None:
    silence = np.zeros(COUNT, np.complex64)
    assert measure(silence).reason is Reason.ALL_ZERO
    assert best_offset(silence[:0], RATE_HZ, None, None, None, Reason.NO_SAMPLES).reason is Reason.NO_SAMPLES
    assert measure(white_noise(rng, COUNT), 200.0).reason is Reason.NO_NOISE_FLOOR
    assert best_offset(silence[:100], RATE_HZ, None, None, None, Reason.TOO_FEW_SAMPLES).value is None
