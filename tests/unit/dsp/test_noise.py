from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.noise import noise_floor, passband_bins, sliding_noise_floor
from dsp_svc.estimate.psd import Spectrum, Taper, Welch, periodograms
from dsp_svc.estimate.result import Reason, Validity

RATE_HZ = 12_000.0
Make = Callable[..., Any]
EVERYWHERE = (-RATE_HZ, RATE_HZ)


def floor_db(spectrum: Spectrum) -> float:
    value = noise_floor(spectrum, passband_bins(spectrum, *EVERYWHERE)).estimate.value
    assert value is not None
    return value


def gamma_spectrum(rng: np.random.Generator, averages: int, occupied: float) -> Spectrum:
    """A spectrum of independent bins, part of them 30 dB up."""
    density = rng.gamma(averages, 1.0 / averages, 512)
    density[100 : 100 + round(512 * occupied)] *= 1000.0
    return Spectrum(Welch(512), density, RATE_HZ, float(averages))


@pytest.mark.parametrize("averages", [4, 10, 50])
@pytest.mark.parametrize(("occupied", "bound"), [(0.0, 0.05), (0.2, None), (0.4, None)])
def test_bias_stays_small_under_signals(
    rng: np.random.Generator, averages: int, occupied: float, bound: float | None
) -> None:
    # Without the iteration the bias is gammaincinv(K, q/(1-a)) / gammaincinv(K, q); at most half may remain.
    plain = {(4, 0.2): 0.46, (10, 0.2): 0.28, (50, 0.2): 0.12, (4, 0.4): 1.13, (10, 0.4): 0.68, (50, 0.4): 0.29}
    limit = bound if bound is not None else plain[averages, occupied] / 2
    found = [10 ** (floor_db(gamma_spectrum(rng, averages, occupied)) / 10) for _ in range(200)]
    assert abs(10 * np.log10(np.mean(found))) < limit


def test_level_and_sigma_hold_for_white_noise(white_noise: Make) -> None:
    truth_db = 10 * np.log10(1e-6 / RATE_HZ)
    found: list[float] = []
    sigmas: list[float] = []
    for _ in range(150):
        spectrum = periodograms(white_noise(12_000, 1e-6), Welch(512)).spectrum(RATE_HZ)
        estimate = noise_floor(spectrum, passband_bins(spectrum, *EVERYWHERE)).estimate
        assert estimate.validity is Validity.VALID
        assert estimate.value is not None
        assert estimate.sigma is not None
        found.append(estimate.value)
        sigmas.append(estimate.sigma)
    assert np.mean(found) == pytest.approx(truth_db, abs=0.03)
    # Bins that share noise share part of their order statistics too: sigma may be above the scatter, not below.
    assert 0.75 < np.std(found) / np.mean(sigmas) < 1.1


def test_the_floor_is_that_of_the_passband(flat_signal: Make) -> None:
    samples = flat_signal(120_000, RATE_HZ, -3_000.0, 3_000.0, 1e-6)
    spectrum = periodograms(samples, Welch(512)).spectrum(RATE_HZ)
    inside = noise_floor(spectrum, passband_bins(spectrum, -3_000.0, 3_000.0))
    assert inside.estimate.value == pytest.approx(10 * np.log10(1e-6 / 6_000.0), abs=0.05)


def test_the_passband_leaves_two_bins_at_its_edges() -> None:
    spectrum = Spectrum(Welch(512), np.ones(512), 512.0, 10.0)
    chosen = spectrum.frequencies_hz[passband_bins(spectrum, -100.0, 50.0)]
    assert (chosen[0], chosen[-1]) == (-98.0, 48.0)
    assert passband_bins(spectrum, -256.0, 256.0).all()


def test_a_strong_tone_does_not_lift_the_floor(white_noise: Make, tone: Make) -> None:
    noise = white_noise(12_000, 1e-6)
    alone = periodograms(noise, Welch(512)).spectrum(RATE_HZ)
    with_tone = periodograms(noise + tone(12_000, 0.1, 0.5), Welch(512)).spectrum(RATE_HZ)
    assert floor_db(with_tone) == pytest.approx(floor_db(alone), abs=0.1)


def test_scaling_shifts_the_floor_and_nothing_else(white_noise: Make) -> None:
    noise = white_noise(12_000)
    loud = floor_db(periodograms(noise, Welch(512)).spectrum(RATE_HZ))
    quiet = floor_db(periodograms(noise * np.float32(1e-3), Welch(512)).spectrum(RATE_HZ))
    assert loud - quiet == pytest.approx(60.0, abs=1e-4)


def test_rounding_noise_is_only_a_limit(white_noise: Make) -> None:
    codes = np.round(white_noise(48_000, 0.2).view(np.float32))
    spectrum = periodograms((codes / np.float32(32768)).view(np.complex64), Welch(512)).spectrum(RATE_HZ)
    rounding = 2.0 / 12.0 / 32768.0**2
    estimate = noise_floor(spectrum, passband_bins(spectrum, *EVERYWHERE), rounding).estimate
    assert estimate.validity is Validity.UPPER_LIMIT
    assert estimate.reason is Reason.QUANTISATION_NOISE
    assert estimate.sigma is None


@pytest.mark.parametrize(
    ("density", "band", "reason"),
    [
        (np.ones(512), (-100.0, 100.0), Reason.PASSBAND_TOO_NARROW),
        (np.zeros(512), EVERYWHERE, Reason.ALL_ZERO),
        (np.where(np.arange(512) % 20 == 0, 1e-9, 1.0), EVERYWHERE, None),
        (np.geomspace(1e-12, 1.0, 512), EVERYWHERE, Reason.PASSBAND_OCCUPIED),
    ],
)
def test_a_floor_needs_bins_of_noise(density: Any, band: tuple[float, float], reason: Reason | None) -> None:
    spectrum = Spectrum(Welch(512), density, RATE_HZ, 50.0)
    floor = noise_floor(spectrum, passband_bins(spectrum, *band))
    assert floor.estimate.reason is reason
    assert (floor.density is None) == (reason is not None)


def runs_of(mask: Any) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(first), int(after)) for first, after in zip(edges[::2], edges[1::2], strict=True)]


def test_a_weak_wide_emission_is_found_whole(rng: np.random.Generator) -> None:
    # 1.2 dB over the noise with a scatter of 0.65 dB a bin.
    whole = 0
    for _ in range(50):
        density = rng.gamma(43.0, 1.0 / 43.0, 512)
        density[200:328] *= 1.316
        spectrum = Spectrum(Welch(512, Taper.BOXCAR), density, RATE_HZ, 43.0)
        floor = noise_floor(spectrum, passband_bins(spectrum, *EVERYWHERE))
        longest = max(runs_of(floor.occupied), key=lambda run: run[1] - run[0])
        whole += abs(longest[0] - 200) <= 12 and abs(longest[1] - 328) <= 12
    assert whole >= 47


def test_half_a_band_of_weak_emission_does_not_lift_the_floor(white_noise: Make, flat_signal: Make) -> None:
    truth_db = 10 * np.log10(1.0 / RATE_HZ)
    found = []
    for _ in range(40):
        signal = flat_signal(12_000, RATE_HZ, -3_000.0, 3_000.0, 10**-0.5 / 2)
        found.append(floor_db(periodograms(white_noise(12_000) + signal, Welch(512)).spectrum(RATE_HZ)) - truth_db)
    assert abs(np.mean(found)) < 0.05


@pytest.mark.parametrize("averages", [2, 10, 40, 400])
def test_two_lines_stay_two_emissions(rng: np.random.Generator, averages: int) -> None:
    for _ in range(50):
        density = rng.gamma(averages, 1.0 / averages, 512)
        density[[200, 201, 220, 221]] *= 1e5
        spectrum = Spectrum(Welch(512, Taper.BOXCAR), density, RATE_HZ, float(averages))
        occupied = noise_floor(spectrum, passband_bins(spectrum, *EVERYWHERE)).occupied
        assert occupied[[200, 201, 220, 221]].all()
        assert not occupied[206:215].all()


@pytest.mark.parametrize("averages", [1, 10, 400])
def test_noise_has_no_emission(rng: np.random.Generator, averages: int) -> None:
    found = 0
    for _ in range(300):
        spectrum = Spectrum(
            Welch(512, Taper.BOXCAR), rng.gamma(averages, 1.0 / averages, 512), RATE_HZ, float(averages)
        )
        found += bool(noise_floor(spectrum, passband_bins(spectrum, *EVERYWHERE)).occupied.any())
    assert found <= 2


def tilted_noise(rng: np.random.Generator, averages: float, slope_db: float) -> tuple[Spectrum, Any]:
    truth_db = np.linspace(-90.0 - slope_db / 2, -90.0 + slope_db / 2, 512)
    density = rng.gamma(averages, 1.0 / averages, 512) * 10 ** (truth_db / 10)
    return Spectrum(Welch(512, Taper.BOXCAR), density, RATE_HZ, averages), truth_db


@pytest.mark.parametrize("averages", [4, 43, 400])
@pytest.mark.parametrize("slope_db", [0.0, 20.0, -40.0])
def test_a_sliding_floor_follows_a_slope_under_emissions(
    rng: np.random.Generator, averages: int, slope_db: float
) -> None:
    errors, sigma = [], 0.0
    for _ in range(60):
        spectrum, truth_db = tilted_noise(rng, float(averages), slope_db)
        for first, width, gain in ((40, 8, 100.0), (200, 2, 1e4), (333, 10, 30.0)):
            spectrum.density[first : first + width] *= gain
        floor = sliding_noise_floor(spectrum, np.ones(512, dtype=np.bool_))
        assert floor.reason is None
        assert floor.density is not None
        assert floor.occupied[[43, 200, 338]].all()
        assert not floor.occupied[[100, 270, 450]].any()
        errors.append(10 * np.log10(floor.density) - truth_db)
        sigma = 10 / np.log(10) * floor.relative_sigma
    bias = np.mean(errors, axis=0)
    # Where a window has lost bins to an emission, and at the edges, more scatter is left in a mean of 60.
    assert abs(np.mean(bias)) < 0.05 + 0.05 * sigma
    assert np.max(np.abs(bias)) < 0.1 + 0.6 * sigma
    # Between two windows the mean of both scatters less.
    assert 0.7 < np.sqrt(np.mean(np.var(errors, axis=0))) / sigma < 1.2


def test_one_floor_for_all_bins_would_miss_a_slope(rng: np.random.Generator) -> None:
    spectrum, truth_db = tilted_noise(rng, 43.0, 20.0)
    value = floor_db(spectrum)
    assert np.max(np.abs(value - truth_db)) > 5.0
    found = sliding_noise_floor(spectrum, np.ones(512, dtype=np.bool_)).density
    assert found is not None
    assert np.max(np.abs(10 * np.log10(found) - truth_db)) < 2.0


def test_a_sliding_floor_of_white_noise_is_the_floor(white_noise: Make, tone: Make) -> None:
    samples = white_noise(120_000, 1e-6) + tone(120_000, 0.1, 0.1)
    spectrum = periodograms(samples, Welch(512)).spectrum(RATE_HZ)
    passband = passband_bins(spectrum, -4_000.0, 4_000.0)
    found = sliding_noise_floor(spectrum, passband)
    assert found.density is not None
    assert np.all(found.density[~passband] == 0.0)
    truth = 1e-6 / RATE_HZ
    assert np.mean(found.density[passband]) == pytest.approx(truth, rel=0.01)
    assert np.std(found.density[passband]) == pytest.approx(truth * found.relative_sigma, rel=0.4)


@pytest.mark.parametrize(
    ("density", "band", "reason"),
    [
        (np.ones(512), (-100.0, 100.0), Reason.PASSBAND_TOO_NARROW),
        (np.zeros(512), EVERYWHERE, Reason.ALL_ZERO),
        (np.where(np.arange(512) % 2 == 0, 1.0, 1e9), EVERYWHERE, Reason.PASSBAND_OCCUPIED),
    ],
)
def test_a_sliding_floor_needs_bins_of_noise(density: Any, band: tuple[float, float], reason: Reason) -> None:
    spectrum = Spectrum(Welch(512), density, RATE_HZ, 50.0)
    floor = sliding_noise_floor(spectrum, passband_bins(spectrum, *band))
    assert (floor.density, floor.reason) == (None, reason)
