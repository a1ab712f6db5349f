from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.kurtosis import NOISE_KURTOSIS, kurtosis
from dsp_svc.estimate.levels import Moments, moments
from dsp_svc.estimate.result import Quantity, Reason

Make = Callable[..., Any]


def value_of(quantity: Quantity) -> float:
    assert quantity.value is not None
    return quantity.value


def test_noise_has_two_and_rarely_looks_like_anything_else(rng: np.random.Generator) -> None:
    trials, count = 20_000, 1_200
    found = np.empty(trials)
    for trial in range(trials):
        # |x|² of circular noise is exponential: this is its fourth moment without the time to make it.
        power = rng.exponential(size=count)
        found[trial] = value_of(kurtosis(Moments(count, power.sum(), (power**2).sum(), power.max(), 0j)))
    # The estimator of n samples has the mean 2 n / (n + 1).
    assert np.mean(found) == pytest.approx(2.0 * count / (count + 1), abs=3 * np.std(found) / np.sqrt(trials))
    assert np.std(found) == pytest.approx(2.0 / np.sqrt(count), rel=0.03)
    assert np.mean(np.abs(found - NOISE_KURTOSIS) > 8.0 / np.sqrt(count)) < 2.5e-3


def test_samples_of_noise_have_two(white_noise: Make) -> None:
    results = [kurtosis(moments(white_noise(12_000, 1e-8))) for _ in range(100)]
    found = [value_of(result) for result in results]
    assert np.mean(found) == pytest.approx(2.0, abs=3 * 0.0183 / 10)
    assert results[0].sigma == pytest.approx(0.01826, abs=1e-5)


def test_a_tone_has_one(tone: Make) -> None:
    assert kurtosis(moments(tone(12_000, 0.1, 1e-3))).value == pytest.approx(1.0, abs=1e-5)


def test_a_tone_in_noise_lies_between(white_noise: Make, tone: Make) -> None:
    # A tone of power s in noise of power 1: (s² + 4 s + 2) / (s + 1)².
    found = [value_of(kurtosis(moments(white_noise(12_000) + tone(12_000, 0.1, 2.0)))) for _ in range(50)]
    assert np.mean(found) == pytest.approx((16 + 16 + 2) / 25, abs=0.006)


@pytest.mark.parametrize("duty", [0.5, 0.05])
def test_pulsed_noise_has_more(white_noise: Make, duty: float) -> None:
    count = 12_000
    samples = white_noise(count)
    samples[round(duty * count) :] = 0.0
    assert kurtosis(moments(samples)).value == pytest.approx(2.0 / duty, rel=8.0 / np.sqrt(duty * count))


def test_scale_does_not_matter(white_noise: Make) -> None:
    samples = white_noise(5_000)
    loud, quiet = kurtosis(moments(samples)), kurtosis(moments(samples * np.float32(1e-9)))
    assert value_of(loud) == pytest.approx(value_of(quiet), rel=1e-5)


def test_nothing_has_no_kurtosis(white_noise: Make) -> None:
    assert kurtosis(Moments.none()).reason is Reason.NO_SAMPLES
    assert kurtosis(moments(white_noise(255))).reason is Reason.TOO_FEW_SAMPLES
    assert kurtosis(moments(white_noise(256))).reason is None
    assert kurtosis(moments(np.zeros(512, np.complex64))).reason is Reason.ALL_ZERO
