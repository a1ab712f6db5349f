from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.apd import AmplitudeDistribution, AmplitudeHistogram, amplitude_distribution, amplitude_histogram

Make = Callable[..., Any]


def distribution_of(histogram: AmplitudeHistogram) -> AmplitudeDistribution:
    distribution = amplitude_distribution(histogram)
    assert distribution is not None
    return distribution


@pytest.mark.parametrize("power", [1.0, 1e-9])
def test_noise_follows_the_rayleigh_law(white_noise: Make, power: float) -> None:
    found = distribution_of(amplitude_histogram(white_noise(200_000, power)))
    expected = np.exp(-(10 ** (found.levels_dbfs / 10)) / power)
    sigmas = np.sqrt(expected * (1 - expected) / 200_000)
    assert np.all(np.abs(found.probabilities - expected) <= 5 * sigmas + 2e-5)
    likely = (expected > 1e-3) & (expected < 0.999)
    assert np.count_nonzero(likely) > 50
    np.testing.assert_allclose(found.sigmas[likely], sigmas[likely], rtol=0.4)


@pytest.mark.parametrize("level_dbfs", [-119.7, -60.2, 0.3, 9.8])
def test_a_tone_is_above_every_lower_level(tone: Make, level_dbfs: float) -> None:
    found = distribution_of(amplitude_histogram(tone(1_000, 0.1, 10 ** (level_dbfs / 20))))
    np.testing.assert_array_equal(found.probabilities, np.where(found.levels_dbfs < level_dbfs, 1.0, 0.0))


def test_levels_go_in_half_decibels() -> None:
    found = distribution_of(amplitude_histogram(np.ones(1, np.complex64)))
    assert (found.levels_dbfs[0], found.levels_dbfs[-1], len(found.levels_dbfs)) == (-120.0, 10.0, 261)
    np.testing.assert_allclose(np.diff(found.levels_dbfs), 0.5)


def test_what_is_off_the_scale_is_counted(white_noise: Make) -> None:
    samples = np.array([0.0, 1e-30, 1e-7, 1e6, 1e6, 1e6], dtype=np.complex64)
    found = distribution_of(amplitude_histogram(samples))
    assert found.sample_count == 6
    np.testing.assert_array_equal(found.probabilities, np.full(261, 0.5))


def test_histograms_add_up(white_noise: Make) -> None:
    samples = white_noise(40_000)
    parts = amplitude_histogram(samples[:13_000]) + amplitude_histogram(samples[13_000:]) + AmplitudeHistogram.none()
    np.testing.assert_array_equal(parts.counts, amplitude_histogram(samples).counts)
    assert parts.counts.sum() == 40_000


def test_nothing_has_no_distribution() -> None:
    assert amplitude_distribution(amplitude_histogram(np.zeros(0, np.complex64))) is None
