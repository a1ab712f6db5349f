from __future__ import annotations

import numpy as np
import pytest

from dsp_svc.estimate.drift import FrequencyTrack, drift_hz_per_s, frequency_scatter_hz
from dsp_svc.estimate.result import Reason, Validity


def track_of(times_s: np.ndarray, frequencies_hz: np.ndarray, sigmas_hz: np.ndarray) -> FrequencyTrack:
    track = FrequencyTrack.none()
    for point in zip(times_s.tolist(), frequencies_hz.tolist(), sigmas_hz.tolist(), strict=True):
        track += FrequencyTrack.point(*point)
    return track


@pytest.mark.parametrize(("start_s", "excess"), [(0.0, 0.1), (1.6e9, 1.0), (0.0, 30.0)])
def test_line_and_sigma_are_those_of_polyfit(rng: np.random.Generator, start_s: float, excess: float) -> None:
    times, sigmas = np.sort(rng.uniform(0.0, 600.0, 80)), rng.uniform(0.01, 0.3, 80)
    frequencies = 7e4 - 0.013 * times + rng.standard_normal(80) * sigmas * excess
    found = drift_hz_per_s(track_of(start_s + times, frequencies, sigmas))
    line, cov = np.polyfit(times, frequencies, 1, w=1.0 / sigmas, cov="unscaled")
    chi2 = np.sum(((frequencies - np.polyval(line, times)) / sigmas) ** 2) / 78
    assert found.validity is Validity.VALID
    assert found.value == pytest.approx(line[0], rel=1e-6)
    assert found.sigma == pytest.approx(np.sqrt(cov[0, 0] * max(1.0, chi2)), rel=1e-4)


def test_drift_scatters_as_its_sigma_says(rng: np.random.Generator) -> None:
    times, sigmas = np.arange(30.0), np.tile([0.02, 0.1, 0.05], 10)
    scaled = []
    for _ in range(600):
        found = drift_hz_per_s(track_of(times, 0.2 * times + rng.standard_normal(30) * sigmas, sigmas))
        assert found.value is not None
        assert found.sigma is not None
        scaled.append((found.value - 0.2) / found.sigma)
    assert abs(np.mean(scaled)) < 4 / np.sqrt(600)
    assert 0.85 < np.std(scaled) < 1.05  # the excess over 1 of chi² widens half of them a little


def test_tracks_add_up_wherever_they_are_cut(rng: np.random.Generator) -> None:
    times, frequencies, sigmas = np.arange(50.0), rng.standard_normal(50), rng.uniform(0.1, 1.0, 50)
    whole = track_of(times, frequencies, sigmas)
    for cut in (0, 1, 2, 25, 49, 50):
        parts = [track_of(times[part], frequencies[part], sigmas[part]) for part in (slice(cut), slice(cut, None))]
        both = parts[0] + parts[1]
        for quantity in (drift_hz_per_s, frequency_scatter_hz):
            assert quantity(both).value == pytest.approx(quantity(whole).value, rel=1e-9)
            assert quantity(both).sigma == pytest.approx(quantity(whole).sigma, rel=1e-9)


def test_scatter_is_half_the_mean_squared_step(rng: np.random.Generator) -> None:
    frequencies = rng.standard_normal(200) * 0.03
    found = frequency_scatter_hz(track_of(np.arange(200.0), frequencies, np.ones(200)))
    assert found.value == pytest.approx(np.sqrt(np.mean(np.diff(frequencies) ** 2) / 2), rel=1e-9)


def test_scatter_has_the_sigma_of_independent_points(rng: np.random.Generator) -> None:
    results = [
        frequency_scatter_hz(track_of(np.arange(40.0), rng.standard_normal(40), np.ones(40))) for _ in range(800)
    ]
    values = np.array([result.value for result in results], dtype=np.float64)
    sigmas = np.array([result.sigma for result in results], dtype=np.float64)
    assert np.mean(values) == pytest.approx(1.0, abs=0.03)
    assert 0.9 < np.std(values) / np.mean(sigmas) < 1.1


@pytest.mark.parametrize(
    ("count", "reason"), [(0, Reason.NO_LINE), (1, Reason.TOO_FEW_SAMPLES), (2, Reason.TOO_FEW_SAMPLES)]
)
def test_fewer_than_three_points_show_nothing(count: int, reason: Reason) -> None:
    track = track_of(np.arange(float(count)), np.ones(count), np.ones(count))
    assert drift_hz_per_s(track).reason is reason
    assert frequency_scatter_hz(track).reason is reason


def test_points_of_one_time_have_no_drift() -> None:
    assert drift_hz_per_s(track_of(np.ones(5), np.arange(5.0), np.ones(5))).value is None


@pytest.mark.parametrize("sigma_hz", [0.0, -1.0, float("nan")])
def test_a_sigma_that_can_not_be_is_refused(sigma_hz: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        FrequencyTrack.point(0.0, 0.0, sigma_hz)
