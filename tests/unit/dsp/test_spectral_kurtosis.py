from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.psd import Welch
from dsp_svc.estimate.spectral_kurtosis import PowerSums, SpectralKurtosis, power_sums, spectral_kurtosis

Make = Callable[..., Any]
WELCH = Welch(64)


def lines_of(samples: Any) -> Any:
    segments = np.lib.stride_tricks.sliding_window_view(samples, 64)[:: WELCH.hop]
    window = np.sin(np.pi * np.arange(64) / 64) ** 2
    return np.fft.fft(segments * window, axis=-1).astype(np.complex64)


def result_of(sums: PowerSums) -> SpectralKurtosis:
    result = spectral_kurtosis(sums)
    assert result is not None
    return result


def noise_lines(rng: np.random.Generator, count: int, bins: int) -> Any:
    return (rng.standard_normal((count, bins)) + 1j * rng.standard_normal((count, bins))).astype(np.complex64)


@pytest.mark.parametrize("count", [24, 100, 1000])
def test_noise_has_one_with_the_stated_scatter(rng: np.random.Generator, count: int) -> None:
    welch = Welch(16_384)
    # Rows 0, 2, 4 ... do not overlap; what lies between them is not looked at.
    lines = np.zeros((2, 16_384), dtype=np.complex64)
    sums = PowerSums.none(welch)
    for row in range(count):
        lines[0] = noise_lines(rng, 1, 16_384)[0]
        sums += power_sums(2 * row, lines, welch)
    result = result_of(sums)
    assert result.spectrum_count == count
    assert np.mean(result.values) == pytest.approx(1.0, abs=4 * result.sigma / 128)
    assert np.std(result.values) == pytest.approx(result.sigma, rel=0.06)


@pytest.mark.parametrize("count", [50, 400])
def test_noise_passes_the_limits_as_often_as_asked_for(rng: np.random.Generator, count: int) -> None:
    power = rng.exponential(size=(count, 100_000))
    sums = PowerSums(WELCH, count, power.sum(axis=0), (power**2).sum(axis=0))
    result = result_of(sums)
    for false_alarm in (0.1, 0.01):
        low, high = result.limits(false_alarm)
        expected = 100_000 * false_alarm / 2
        assert np.count_nonzero(result.values < low) == pytest.approx(expected, rel=0.15, abs=4 * np.sqrt(expected))
        assert np.count_nonzero(result.values > high) == pytest.approx(expected, rel=0.1, abs=4 * np.sqrt(expected))


def test_only_rows_that_do_not_overlap_count_in_whatever_batches(white_noise: Make) -> None:
    lines = lines_of(white_noise(64 * 101))
    whole = power_sums(0, lines, WELCH)
    assert whole.spectrum_count == 101
    parts, start = PowerSums.none(WELCH), 0
    for rows in (1, 2, 7, 40, 100, 51):
        parts += power_sums(start, lines[start : start + rows], WELCH)
        start += rows
    assert start == len(lines)
    assert parts.spectrum_count == 101
    np.testing.assert_allclose(parts.first, whole.first, rtol=1e-12)
    np.testing.assert_allclose(whole.first, np.sum(np.abs(lines[::2].astype(np.complex128)) ** 2, axis=0), rtol=1e-6)
    np.testing.assert_allclose(parts.second, whole.second, rtol=1e-12)


def test_a_carrier_has_none_and_a_pulse_much(white_noise: Make, tone: Make) -> None:
    count = 64 * 400
    samples = white_noise(count, 1e-6) + tone(count, 10 / 64)
    samples[: count // 10] += tone(count // 10, -20 / 64)
    result = result_of(power_sums(0, lines_of(samples), WELCH))
    assert result.values[32 + 10] == pytest.approx(0.0, abs=0.01)
    # A carrier for a tenth d of the time: (M + 1) / (M - 1) (1 / d - 1).
    assert result.values[32 - 20] == pytest.approx(9.0, abs=0.1)
    low, high = result.limits(0.001)
    assert low < result.values[32] < high


def test_level_does_not_matter(white_noise: Make) -> None:
    lines = lines_of(white_noise(64 * 100))
    loud, quiet = power_sums(0, lines, WELCH), power_sums(0, lines * np.float32(1e-6), WELCH)
    np.testing.assert_allclose(result_of(loud).values, result_of(quiet).values, rtol=1e-4)


def test_too_few_spectra_say_nothing(rng: np.random.Generator) -> None:
    assert spectral_kurtosis(PowerSums.none(WELCH)) is None
    assert spectral_kurtosis(power_sums(0, noise_lines(rng, 46, 64), WELCH)) is None
    assert spectral_kurtosis(power_sums(0, noise_lines(rng, 47, 64), WELCH)) is not None


def test_a_bin_without_power_has_no_value() -> None:
    result = result_of(power_sums(0, np.zeros((100, 64), np.complex64), WELCH))
    assert np.all(np.isnan(result.values))
