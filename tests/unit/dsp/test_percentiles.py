from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.percentiles import MAX_KEPT_VALUES, PERCENTS, BinStatistics, Rows, bin_statistics, rows
from dsp_svc.estimate.psd import Welch

WELCH = Welch(64)
RATE_HZ = 12_000.0


def noise_lines(rng: np.random.Generator, count: int, length: int = 64, density: float = 1.0) -> Any:
    scale = np.sqrt(density * RATE_HZ * Welch(length).taper_energy / 2)
    made = rng.standard_normal((count, length)) + 1j * rng.standard_normal((count, length))
    return (scale * made).astype(np.complex64)


def statistics_of(statistics: Rows) -> BinStatistics:
    found = bin_statistics(statistics, RATE_HZ)
    assert found is not None
    return found


def mean_of(decibels: Any) -> float:
    return float(np.mean(10 ** (decibels.astype(np.float64) / 10)))


def test_noise_has_the_statistics_of_the_exponential_law(rng: np.random.Generator) -> None:
    count = 20_000
    statistics = Rows.none(WELCH)
    for _ in range(10):
        statistics += rows(WELCH.hop * statistics.row_count, noise_lines(rng, count // 10, density=1e-6), WELCH)
    found = statistics_of(statistics)
    assert (found.row_count, found.kept_count) == (20_000, 16_384)
    assert mean_of(found.mean) == pytest.approx(1e-6, rel=0.004)
    assert mean_of(found.median) == pytest.approx(1e-6 * np.log(2), rel=0.006)
    assert mean_of(found.minimum) == pytest.approx(1e-6 / count, rel=0.5)
    assert mean_of(found.maximum) == pytest.approx(1e-6 * (np.log(count) + 0.577), rel=0.06)
    assert mean_of(found.sample) == pytest.approx(1e-6, rel=0.6)
    for percent in PERCENTS[:6]:
        # In one bin the scatter is sqrt(p / (1 - p) / n); 64 bins share it.
        share = percent / 100
        expected = -1e-6 * np.log1p(-share)
        scatter = 1e-6 * np.sqrt(share / (1 - share) / 16_384 / 64)
        assert mean_of(found.percentiles[percent]) == pytest.approx(expected, abs=4 * scatter + 1e-3 * expected)


def test_extremes_and_mean_are_those_of_every_periodogram(rng: np.random.Generator) -> None:
    lines = noise_lines(rng, 50, length=16_384)
    lines = np.concatenate([lines] * 2)
    lines[3, 100], lines[90, 200] = 1e3, 0.0
    statistics = Rows.none(Welch(16_384))
    for start in range(0, 100, 7):
        statistics += rows(8_192 * start, lines[start : start + 7], Welch(16_384))
    assert statistics.kept.size <= MAX_KEPT_VALUES
    found = statistics_of(statistics)
    assert (found.row_count, found.kept_count) == (100, 64)
    power = np.abs(np.fft.fftshift(lines, axes=1).astype(np.complex128)) ** 2
    scale = RATE_HZ * Welch(16_384).taper_energy
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found.minimum, 10 * np.log10(power.min(axis=0) / scale), atol=1e-3)
    np.testing.assert_allclose(found.maximum, 10 * np.log10(power.max(axis=0) / scale), atol=1e-3)
    np.testing.assert_allclose(found.mean, 10 * np.log10(power.mean(axis=0) / scale), atol=1e-3)


def test_percentiles_are_those_of_numpy_while_all_are_kept(rng: np.random.Generator) -> None:
    lines = noise_lines(rng, 1_000)
    found = statistics_of(rows(0, lines[:400], WELCH) + rows(400 * WELCH.hop, lines[400:], WELCH))
    power = np.abs(np.fft.fftshift(lines, axes=1).astype(np.complex128)) ** 2 / (RATE_HZ * WELCH.taper_energy)
    assert tuple(found.percentiles) == PERCENTS[:6]
    for percent, values in found.percentiles.items():
        np.testing.assert_allclose(values, 10 * np.log10(np.percentile(power, percent, axis=0)), atol=1e-3)
    np.testing.assert_allclose(found.median, 10 * np.log10(np.median(power, axis=0)), atol=1e-3)
    assert np.any(np.all(np.isclose(10 * np.log10(power), found.sample, atol=1e-3), axis=1))


@pytest.mark.parametrize(
    ("count", "supported"), [(1, 0), (4, 2), (10, 3), (99, 4), (100, 5), (999, 5), (1_000, 6), (10_000, 7)]
)
def test_a_percentile_needs_a_periodogram_above_it(rng: np.random.Generator, count: int, supported: int) -> None:
    found = statistics_of(rows(0, noise_lines(rng, count), WELCH))
    assert tuple(found.percentiles) == PERCENTS[:supported]


def test_which_are_kept_does_not_depend_on_the_batches(rng: np.random.Generator) -> None:
    lines = noise_lines(rng, 300, length=16_384)
    welch = Welch(16_384)
    whole = rows(7, lines, welch)
    parts = rows(7 + 250 * welch.hop, lines[250:], welch) + rows(7, lines[:250], welch)
    np.testing.assert_array_equal(whole.keys, parts.keys)
    np.testing.assert_array_equal(whole.kept, parts.kept)


def test_the_kept_are_a_fair_choice(rng: np.random.Generator) -> None:
    # Rows whose level grows with time: the kept ones must hold early and late, loud and quiet alike.
    count = 3_200
    lines = noise_lines(rng, count, length=16_384 // 4) * np.linspace(1, 100, count, dtype=np.float32)[:, None]
    statistics = Rows.none(Welch(4_096))
    for start in range(0, count, 100):
        statistics += rows(2_048 * start, lines[start : start + 100], Welch(4_096))
    kept = np.sqrt(statistics.kept.mean(axis=1) / (RATE_HZ * Welch(4_096).taper_energy))
    assert len(kept) == 256
    places = (kept - 1) / 99
    assert np.mean(places) == pytest.approx(0.5, abs=4 / np.sqrt(12 * 256))
    assert np.std(places) == pytest.approx(1 / np.sqrt(12), rel=0.15)


def test_silence_is_kept_as_often_as_it_was(rng: np.random.Generator) -> None:
    """A signal that is switched off for a fifth of the time: its zeros are all alike, and each counts."""
    welch = Welch(16_384)
    shares = []
    for start in range(20):
        lines = noise_lines(rng, 400, length=16_384)
        lines[::5] = 0.0
        kept = rows(start * 400 * welch.hop, lines, welch).kept
        shares.append(np.mean(kept.sum(axis=1) == 0.0))
    # 64 of 400 are kept each time.
    assert np.mean(shares) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / 64 / 20))


def test_zeros_are_no_number(rng: np.random.Generator) -> None:
    found = statistics_of(rows(0, np.zeros((5, 64), np.complex64), WELCH))
    assert np.all(np.isneginf(found.median))
    assert bin_statistics(Rows.none(WELCH) + rows(0, np.zeros((0, 64), np.complex64), WELCH), RATE_HZ) is None
