from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.image import MirrorProducts, image_ratio_db, mirror_products
from dsp_svc.estimate.noise import NoiseFloor, noise_floor, passband_bins
from dsp_svc.estimate.psd import Spectrum, Welch, periodograms, segment_lines
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.estimate.snr import Band, strongest_band

RATE_HZ = 12_000.0
COUNT = 48_000
WELCH = Welch(512)
Make = Callable[..., Any]


def products_of(samples: Any) -> MirrorProducts:
    total = MirrorProducts.none(WELCH)
    for _, lines in segment_lines(samples, WELCH):
        total += mirror_products(lines, WELCH)
    return total


def measure(samples: Any, low_hz: float = -RATE_HZ, high_hz: float = RATE_HZ) -> Quantity:
    spectrum = periodograms(samples, WELCH).spectrum(RATE_HZ)
    noise = noise_floor(spectrum, passband_bins(spectrum, low_hz, high_hz))
    return image_ratio_db(products_of(samples), spectrum, noise, strongest_band(spectrum, noise))


def unbalanced(samples: Any, gain: float, phase: float) -> tuple[Any, float]:
    """What a receiver makes of a signal whose Q is larger by a gain and late by a phase, and the image's level."""
    turned = gain * np.exp(1j * phase)
    truth_db = 20 * np.log10(np.abs((turned - 1) / (turned + 1)))
    made = samples.real + 1j * gain * (samples.imag * np.cos(phase) + samples.real * np.sin(phase))
    return made.astype(np.complex64), float(truth_db)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("gain", "phase"), [(1.2, 0.05), (1.05, 0.0), (1.0, 0.1), (1.006, 0.002)])
def test_an_imbalance_reads_its_closed_form(
    white_noise: Make, flat_signal: Make, side: int, gain: float, phase: float
) -> None:
    results = []
    for _ in range(20):
        low_hz, high_hz = sorted((side * 1_000.0, side * 3_000.0))
        signal = flat_signal(COUNT, RATE_HZ, low_hz, high_hz, 0.1)
        made, truth_db = unbalanced(signal, gain, phase)
        results.append(measure(made + white_noise(COUNT, 1e-5)))
    values = np.array([result.value for result in results], dtype=np.float64)
    sigmas = np.array([result.sigma for result in results], dtype=np.float64)
    assert -51.0 < truth_db < -19.0
    assert np.mean(values) == pytest.approx(truth_db, abs=max(0.05, 4 * float(np.mean(sigmas)) / np.sqrt(20)))
    assert np.std(values) < 1.5 * np.mean(sigmas) + 0.02


def test_the_scatter_is_that_of_sigma(white_noise: Make, tone: Make, flat_signal: Make) -> None:
    # Independent signals opposite the emission and its image: their products scatter, and do not add up.
    results = []
    for _ in range(100):
        made, truth_db = unbalanced(flat_signal(COUNT, RATE_HZ, 1_000.0, 3_000.0, 0.1), 1.02, 0.0)
        other = flat_signal(COUNT, RATE_HZ, -3_000.0, -1_000.0, 1e-4)
        results.append(measure(made + other + white_noise(COUNT, 1e-5)))
    assert all(result.validity is Validity.VALID for result in results)
    errors = np.array([result.value for result in results], dtype=np.float64) - truth_db
    sigmas = np.array([result.sigma for result in results], dtype=np.float64)
    assert abs(np.mean(errors)) < 0.3 * np.mean(sigmas)
    assert 0.75 < np.std(errors) / np.mean(sigmas) < 1.1


def test_a_tone_shows_its_image(white_noise: Make, tone: Make) -> None:
    made, truth_db = unbalanced(tone(COUNT, 0.1234), 1.02, 0.01)
    assert measure(made + white_noise(COUNT, 1e-5)).value == pytest.approx(truth_db, abs=0.3)


@pytest.mark.parametrize("bandwidth_hz", [0.0, 2_000.0])
def test_without_an_image_there_is_a_limit(
    white_noise: Make, flat_signal: Make, tone: Make, bandwidth_hz: float
) -> None:
    results = []
    for _ in range(100):
        high_hz = 1_000.0 + bandwidth_hz
        emission = flat_signal(COUNT, RATE_HZ, 1_000.0, high_hz, 0.1) if bandwidth_hz else tone(COUNT, 0.1)
        results.append(measure(emission + white_noise(COUNT, 1e-4)))
    limits = [result for result in results if result.validity is Validity.UPPER_LIMIT]
    assert len(limits) >= 99
    for limit in limits:
        assert limit.reason is Reason.NO_SIGNAL
        assert limit.value is not None
        assert -78.0 < limit.value < -45.0


def test_a_limit_is_above_the_image_that_is_there(white_noise: Make, flat_signal: Make) -> None:
    limits = []
    for _ in range(100):
        made, truth_db = unbalanced(flat_signal(COUNT, RATE_HZ, 1_000.0, 3_000.0, 0.1), 1.002, 0.0)
        result = measure(made + white_noise(COUNT, 5e-3))
        if result.validity is Validity.UPPER_LIMIT:
            assert result.value is not None
            limits.append(result.value - truth_db)
    assert len(limits) > 25
    assert min(limits) > 0.0


def test_noise_has_no_image(white_noise: Make) -> None:
    result = measure(white_noise(COUNT))
    assert (result.value, result.reason) == (None, Reason.NO_SIGNAL)


def test_an_emission_on_its_own_mirror_has_no_image(white_noise: Make, flat_signal: Make) -> None:
    result = measure(white_noise(COUNT, 1e-3) + flat_signal(COUNT, RATE_HZ, -500.0, 1_500.0, 1.0))
    assert (result.value, result.reason) == (None, Reason.STRADDLES_CENTER)


def test_a_filter_that_takes_the_mirror_takes_the_image(white_noise: Make, flat_signal: Make) -> None:
    samples = white_noise(COUNT, 1e-3) + flat_signal(COUNT, RATE_HZ, 1_000.0, 2_000.0, 1.0)
    result = measure(samples, 300.0, 5_000.0)
    assert (result.value, result.reason) == (None, Reason.MIRROR_OUTSIDE_PASSBAND)


def test_without_a_floor_there_is_no_ratio(white_noise: Make) -> None:
    assert measure(white_noise(COUNT), -100.0, 100.0).reason is Reason.NO_NOISE_FLOOR


def test_products_add_up(white_noise: Make) -> None:
    samples = white_noise(COUNT)
    segments = np.lib.stride_tricks.sliding_window_view(samples, WELCH.segment_length)[:: WELCH.hop]
    lines = np.fft.fft(segments * WELCH.weights, axis=-1).astype(np.complex64)
    parts = mirror_products(lines[:50], WELCH) + mirror_products(lines[50:], WELCH) + MirrorProducts.none(WELCH)
    whole = mirror_products(lines, WELCH)
    assert parts.segment_count == whole.segment_count == len(lines)
    np.testing.assert_allclose(parts.total, whole.total, rtol=1e-9)
    np.testing.assert_allclose(
        products_of(samples).total, whole.total, rtol=1e-4, atol=1e-4 * np.abs(whole.total).max()
    )
    # Bin m above the centre meets bin m below it.
    assert whole.total[9] == pytest.approx(np.sum(lines[:, 10].astype(complex) * lines[:, -10]), rel=1e-5)


def test_only_bins_whose_mirror_the_filter_lets_through_count() -> None:
    welch = Welch(64)
    density = np.full(64, 1e-9)
    density[32 + 10 : 32 + 21] = 1.0
    passband = np.arange(64) >= 32 - 15
    floor = NoiseFloor(1e-9, 0.0, passband, density > 0.5, Quantity.valid(-90.0, 0.0, ""))
    # Products of a hundredth up to the 15th bin, beyond it nothing that counts.
    products = np.where(np.arange(1, 32) <= 15, 0.01, 0.5) * 1e6 * 64.0 * welch.taper_energy
    total = products.astype(np.complex128)
    spectrum = Spectrum(welch, density, 64.0, 1e6)
    result = image_ratio_db(MirrorProducts(welch, total, 10**6), spectrum, floor, Band(9.5, 20.5))
    assert result.value == pytest.approx(-40.0, abs=1e-3)
