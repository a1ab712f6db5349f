from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.levels import Moments, crest_factor_db, dc_offset_dbfs, moments, power_dbfs
from dsp_svc.estimate.result import Reason, Validity

Make = Callable[..., Any]


@pytest.mark.parametrize("count", [1, 1000, 16_384, 50_001])
def test_sums_are_those_of_double_precision(white_noise: Make, count: int) -> None:
    samples = white_noise(count) + np.complex64(0.1 - 0.2j)
    exact = samples.astype(np.complex128)
    power = exact.real**2 + exact.imag**2
    found = moments(samples)
    assert found.sample_count == count
    assert found.energy == pytest.approx(power.sum(), rel=1e-6)
    assert found.fourth_moment == pytest.approx((power**2).sum(), rel=1e-6)
    assert found.peak_power == pytest.approx(power.max(), rel=1e-6)
    assert found.total == pytest.approx(complex(exact.sum()), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_sums_hold_over_the_range_of_float_samples(scale: float) -> None:
    found = moments(np.full(20_000, scale, dtype=np.complex64))
    assert found.energy == pytest.approx(20_000 * scale**2, rel=1e-5)
    assert found.fourth_moment == pytest.approx(20_000 * scale**4, rel=1e-5)


def test_sums_of_runs_are_the_sum_of_both(white_noise: Make) -> None:
    samples = white_noise(40_000)
    both = moments(samples[:13_000]) + moments(samples[13_000:]) + Moments.none()
    whole = moments(samples)
    assert both.sample_count == whole.sample_count
    assert both.peak_power == whole.peak_power
    assert both.energy == pytest.approx(whole.energy, rel=1e-9)
    assert both.fourth_moment == pytest.approx(whole.fourth_moment, rel=1e-9)
    assert both.total == pytest.approx(whole.total, rel=1e-4)
    assert moments(samples[:0]) == Moments.none()


@pytest.mark.parametrize("amplitude", [1.0, 0.5, 1e-4])
def test_a_tone_of_magnitude_one_is_zero_dbfs(tone: Make, amplitude: float) -> None:
    power = power_dbfs(moments(tone(10_000, 0.1234, amplitude)))
    assert power.validity is Validity.VALID
    assert power.value == pytest.approx(20 * np.log10(amplitude), abs=1e-4)


def test_levels_add_up_over_runs_of_different_length() -> None:
    loud, quiet = np.full(100, 1.0 + 0j, np.complex64), np.full(300, 0.1 + 0j, np.complex64)
    power = power_dbfs(moments(loud) + moments(quiet))
    assert power.value == pytest.approx(10 * np.log10((100 * 1.0 + 300 * 0.01) / 400), abs=1e-4)


def test_scaling_shifts_every_level_by_as_much(white_noise: Make) -> None:
    samples = white_noise(10_000) + np.complex64(0.3)
    loud, quiet = moments(samples), moments(samples * np.float32(1e-3))
    for level, shift_db in ((power_dbfs, 60.0), (dc_offset_dbfs, 60.0), (crest_factor_db, 0.0)):
        above, below = level(loud).value, level(quiet).value
        assert above is not None
        assert below is not None
        assert above - below == pytest.approx(shift_db, abs=1e-4)


def test_nothing_and_silence_have_no_level() -> None:
    for level in (power_dbfs, crest_factor_db, dc_offset_dbfs):
        assert level(Moments.none()).reason is Reason.NO_SAMPLES
        assert level(Moments.none()).value is None
        assert level(moments(np.zeros(512, np.complex64))).reason is Reason.ALL_ZERO


def test_a_constant_envelope_has_no_crest(tone: Make) -> None:
    assert crest_factor_db(moments(tone(12_000, 0.1))).value == pytest.approx(0.0, abs=1e-4)


def test_noise_has_the_crest_of_the_largest_of_many(white_noise: Make) -> None:
    # The largest of n unit exponentials is ln n + 0.577 in the mean and pi / sqrt(6) in scatter.
    crests = [crest_factor_db(moments(white_noise(12_000))).value for _ in range(200)]
    linear = [10 ** (crest / 10) for crest in crests if crest is not None]
    assert np.mean(linear) == pytest.approx(np.log(12_000) + 0.577, abs=4 * 1.283 / np.sqrt(200))


def test_an_impulse_after_a_batch_sets_the_crest(tone: Make) -> None:
    samples = tone(40_000, 0.1)
    samples[39_999] = 100.0
    expected = 10 * np.log10(100.0**2 * 40_000 / (39_999 + 100.0**2))
    assert crest_factor_db(moments(samples)).value == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("offset_db", [-60.0, -40.0, 0.0])
def test_an_offset_is_found_under_noise(white_noise: Make, offset_db: float) -> None:
    amplitude = np.complex64(10 ** (offset_db / 20) * np.exp(1j))
    power = 10 ** (offset_db / 10) * 100.0
    results = [dc_offset_dbfs(moments(white_noise(12_000, power) + amplitude)) for _ in range(200)]
    errors = np.array([result.value for result in results], dtype=np.float64) - offset_db
    sigmas = [result.sigma for result in results if result.sigma is not None]
    assert all(result.validity is Validity.VALID for result in results)
    assert len(sigmas) == len(results)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(200) + 0.04  # |m| of a noisy mean is a little larger
    assert 0.85 < np.std(errors) / np.mean(sigmas) < 1.15


def test_noise_has_a_limit_to_its_offset_and_no_offset(white_noise: Make) -> None:
    results = [dc_offset_dbfs(moments(white_noise(4_000))) for _ in range(2_000)]
    limits = [result for result in results if result.validity is Validity.UPPER_LIMIT]
    # One in a thousand is expected: 2 of 2000, above 9 once in 20,000.
    assert len(results) - len(limits) <= 9
    of_noise_db = 10 * np.log10(np.log(1000.0) / 4_000)
    for result in limits:
        assert result.reason is Reason.NO_SIGNAL
        assert result.value is not None
        assert of_noise_db - 0.5 < result.value < of_noise_db + 6.1


def test_a_limit_holds_for_the_offset_that_is_there(white_noise: Make) -> None:
    offset = 10 ** (-45 / 20)  # as large as the scatter of the mean: too small to be found
    results = [dc_offset_dbfs(moments(white_noise(30_000) + np.complex64(offset))) for _ in range(300)]
    limits = [result.value for result in results if result.validity is Validity.UPPER_LIMIT]
    assert len(limits) > 200
    assert all(limit is not None and limit > -45.0 for limit in limits)


def test_a_tone_away_from_zero_is_no_offset(tone: Make) -> None:
    assert dc_offset_dbfs(moments(tone(12_000, 0.01))).validity is Validity.UPPER_LIMIT
    assert dc_offset_dbfs(moments(tone(12_000, 0.0, 0.5))).value == pytest.approx(20 * np.log10(0.5), abs=1e-4)


def test_a_few_samples_have_no_dc_offset(white_noise: Callable[..., Any]) -> None:
    assert dc_offset_dbfs(moments(white_noise(255))).reason is Reason.TOO_FEW_SAMPLES
    assert dc_offset_dbfs(moments(white_noise(256))).value is not None
