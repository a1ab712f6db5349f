from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.offset import MAX_SAMPLES, Tone, find_tone, frequency_offset_hz
from dsp_svc.estimate.result import Reason, Validity

Make = Callable[..., Any]


def cycles_bound(count: int, snr: float) -> float:
    """The bound of Rife and Boorstyn in cycles a sample, phase unknown."""
    return float(np.sqrt(6.0 / (snr * count * (count**2 - 1))) / (2 * np.pi))


def found(samples: Any) -> Tone:
    result = find_tone(samples)
    assert isinstance(result, Tone), result
    return result


@pytest.mark.parametrize(("count", "snr_db"), [(256, -5.0), (256, 60.0)])
def test_scatter_reaches_the_bound(
    rng: np.random.Generator, white_noise: Make, tone: Make, count: int, snr_db: float
) -> None:
    snr, trials = 10 ** (snr_db / 10), 3_000
    errors, scaled, missed = [], [], 0
    for _ in range(trials):
        cycles = rng.uniform(-0.48, 0.48)
        result = find_tone(tone(count, cycles, np.sqrt(snr), rng.uniform()) + white_noise(count))
        if isinstance(result, Reason):
            missed += 1
            continue
        errors.append(result.cycles_per_sample - cycles)
        scaled.append(errors[-1] / result.sigma_cycles_per_sample)
    bound = cycles_bound(count, snr)
    assert missed < 0.02 * trials
    assert 0.95 < np.sqrt(np.mean(np.square(errors))) / bound < 1.08
    assert abs(np.mean(errors)) < 0.1 * bound
    # The stated variance is 1.1 times the bound, from a noise level that is itself estimated.
    assert 0.75 < np.mean(np.square(scaled)) < 1.1


@pytest.mark.parametrize("cycles", [0.0, 0.5, -0.4999, 0.4999, 1 / 3])
def test_no_frequency_is_special(white_noise: Make, tone: Make, cycles: float) -> None:
    count = 12_001
    error = found(tone(count, cycles) + white_noise(count, 0.1)).cycles_per_sample - cycles
    error -= round(error)
    assert abs(error) < 5 * cycles_bound(count, 10.0)


def test_conjugation_flips_the_sign(white_noise: Make, tone: Make) -> None:
    samples = tone(4_096, 0.2) + white_noise(4_096, 0.1)
    mirrored = found(np.conj(samples)).cycles_per_sample
    assert mirrored == pytest.approx(-found(samples).cycles_per_sample, abs=1e-9)


def test_noise_has_no_line(white_noise: Make) -> None:
    assert {find_tone(white_noise(1_024)) for _ in range(300)} == {Reason.NO_LINE}


def test_a_wideband_signal_has_no_line(white_noise: Make, flat_signal: Make) -> None:
    samples = white_noise(12_000, 1e-6) + flat_signal(12_000, 12_000.0, -1_500.0, 1_500.0, 1.0)
    assert find_tone(samples) is Reason.NO_LINE


def test_integrated_ratio_is_that_of_the_tone(white_noise: Make, tone: Make) -> None:
    ratios = [found(tone(4_096, 0.1) + white_noise(4_096)).n_snr_db for _ in range(50)]
    assert np.mean(ratios) == pytest.approx(10 * np.log10(4_096), abs=0.4)


def test_the_search_keeps_to_its_range(white_noise: Make, tone: Make) -> None:
    samples = tone(4_096, 0.3) + tone(4_096, -0.2, 0.3) + tone(4_096, 0.05, 0.2) + white_noise(4_096, 1e-3)
    for low, high, expected in [(-0.5, 0.5, 0.3), (-0.25, 0.25, -0.2), (0.0, 0.1, 0.05), (-0.3, -0.1, -0.2)]:
        result = find_tone(samples, low, high)
        assert isinstance(result, Tone)
        assert result.cycles_per_sample == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.ones(255, np.complex64), Reason.TOO_FEW_SAMPLES),
        (np.zeros(4_096, np.complex64), Reason.ALL_ZERO),
        (np.eye(1, 4_096, dtype=np.complex64)[0], Reason.NO_LINE),
    ],
)
def test_nothing_to_find_has_its_reason(samples: Any, reason: Reason) -> None:
    offset = frequency_offset_hz(find_tone(samples), 12_000.0)
    assert (offset.value, offset.validity, offset.reason) == (None, Validity.ABSENT, reason)


def test_a_long_run_is_searched_in_its_first_part(tone: Make, white_noise: Make) -> None:
    samples = np.concatenate([tone(MAX_SAMPLES, 0.1), tone(MAX_SAMPLES, 0.2)]) + white_noise(2 * MAX_SAMPLES, 0.1)
    assert found(samples).cycles_per_sample == pytest.approx(0.1, abs=1e-8)


def test_offset_is_in_hz_of_the_rate_given() -> None:
    offset = frequency_offset_hz(Tone(-0.25, 1e-6, 30.0), 12_001.0)
    assert offset.value == pytest.approx(-3_000.25)
    assert offset.sigma == pytest.approx(0.012001)
    assert offset.validity is Validity.VALID
