from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.flatness import flatness
from dsp_svc.estimate.noise import passband_bins
from dsp_svc.estimate.psd import Spectrum, Welch, periodograms
from dsp_svc.estimate.result import Quantity, Reason

RATE_HZ = 12_000.0
Make = Callable[..., Any]


def flatness_of(spectrum: Spectrum, band_hz: float = RATE_HZ) -> Quantity:
    return flatness(spectrum, passband_bins(spectrum, -band_hz, band_hz))


@pytest.mark.parametrize("averages", [1, 10, 50])
def test_white_noise_has_one_after_any_number_of_averages(rng: np.random.Generator, averages: int) -> None:
    made = [Spectrum(Welch(512), rng.gamma(averages, 1.0, 512), RATE_HZ, float(averages)) for _ in range(400)]
    found = [flatness_of(spectrum).value for spectrum in made]
    # Means of logarithms over so many bins are biased by about a tenth of their scatter.
    assert np.mean(np.array(found, dtype=np.float64)) == pytest.approx(1.0, abs=0.25 * float(np.std(np.array(found))))


@pytest.mark.parametrize("seconds", [0.05, 1.0])
def test_noise_scatters_as_sigma_says(white_noise: Make, seconds: float) -> None:
    results = [
        flatness_of(periodograms(white_noise(round(seconds * RATE_HZ)), Welch(512)).spectrum(RATE_HZ))
        for _ in range(400)
    ]
    values = np.array([result.value for result in results], dtype=np.float64)
    sigmas = np.array([result.sigma for result in results], dtype=np.float64)
    assert np.mean(values) == pytest.approx(1.0, abs=0.2 * float(np.mean(sigmas)))
    assert np.std(values) / np.mean(sigmas) == pytest.approx(1.0, abs=0.2)
    assert np.mean(np.abs(values - 1.0) > 4 * sigmas) <= 0.005


def test_a_step_of_level_has_the_value_of_its_two_means() -> None:
    density = np.where(np.arange(512) < 128, 16.0, 1.0)
    found = flatness_of(Spectrum(Welch(512), density, RATE_HZ, 1e7))
    # A quarter of the bins at 16: the geometric mean is 2, the arithmetic 19/4.
    assert found.value == pytest.approx(2.0 / 4.75, rel=1e-6)


def test_a_tone_is_far_from_flat(white_noise: Make, tone: Make) -> None:
    found = flatness_of(periodograms(white_noise(12_000, 1e-6) + tone(12_000, 0.1), Welch(512)).spectrum(RATE_HZ))
    assert found.value is not None
    assert found.value < 1e-3


def test_only_the_passband_counts() -> None:
    density = np.where(np.abs(np.arange(512) - 256) < 128, 1.0, 1e-9)
    assert flatness_of(Spectrum(Welch(512), density, RATE_HZ, 1e7), 2_900.0).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("density", "band_hz", "reason"),
    [
        (np.ones(512), 100.0, Reason.PASSBAND_TOO_NARROW),
        (np.zeros(512), RATE_HZ, Reason.ALL_ZERO),
        (np.where(np.arange(512) == 7, 0.0, 1.0), RATE_HZ, Reason.ALL_ZERO),
    ],
)
def test_a_flatness_needs_bins_with_power(density: Any, band_hz: float, reason: Reason) -> None:
    found = flatness_of(Spectrum(Welch(512), density, RATE_HZ, 10.0), band_hz)
    assert (found.value, found.reason) == (None, reason)
