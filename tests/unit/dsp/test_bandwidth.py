from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.bandwidth import EmissionBandwidth, occupied_bandwidth, x_db_bandwidth
from dsp_svc.estimate.noise import NoiseFloor, noise_floor, passband_bins
from dsp_svc.estimate.psd import Spectrum, Welch, periodograms
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.estimate.snr import Band

RATE_HZ = 12_000.0
BIN_HZ = RATE_HZ / 512
Make = Callable[..., Any]


def spectrum_and_floor(samples: Any, passband_hz: float = RATE_HZ) -> tuple[Spectrum, NoiseFloor]:
    spectrum = periodograms(samples, Welch(512)).spectrum(RATE_HZ)
    return spectrum, noise_floor(spectrum, passband_bins(spectrum, -passband_hz, passband_hz))


def root_raised_cosine(frequencies_hz: Any, symbol_rate_hz: float, rolloff: float) -> Any:
    """The amplitude of the pulse's spectrum; its square is the density of random symbols."""
    slope = np.clip((2 * np.abs(frequencies_hz) / symbol_rate_hz - (1 - rolloff)) / (2 * rolloff), 0.0, 1.0)
    return np.sqrt(0.5 * (1 + np.cos(np.pi * slope)))


def shaped_signal(rng: np.random.Generator, count: int, amplitude: Callable[[Any], Any], power: float) -> Any:
    lines = rng.standard_normal(count) + 1j * rng.standard_normal(count)
    signal = np.fft.ifft(lines * amplitude(np.fft.fftfreq(count, 1.0 / RATE_HZ)))
    return (signal * np.sqrt(power / np.mean(np.abs(signal) ** 2))).astype(np.complex64)


def widths_of(results: list[EmissionBandwidth]) -> tuple[Any, Any]:
    assert all(result.width_hz.validity is Validity.VALID for result in results)
    widths = [result.width_hz.value for result in results]
    sigmas = [result.width_hz.sigma for result in results]
    return np.array(widths, dtype=np.float64), np.array(sigmas, dtype=np.float64)


@pytest.mark.parametrize("center_hz", [0.0, -2_200.0])
@pytest.mark.parametrize("snr_db", [0.0, 5.0, 10.0, 20.0, 30.0])
def test_a_flat_emission_has_99_percent_of_its_width(
    white_noise: Make, flat_signal: Make, snr_db: float, center_hz: float
) -> None:
    power = 10 ** (snr_db / 10) * 3_000.0 / RATE_HZ
    results = []
    for _ in range(40):
        signal = flat_signal(12_000, RATE_HZ, center_hz - 1_500.0, center_hz + 1_500.0, power)
        results.append(occupied_bandwidth(*spectrum_and_floor(white_noise(12_000) + signal)))
    widths, sigmas = widths_of(results)
    middles = np.array([result.midpoint_hz for result in results], dtype=np.float64)
    assert np.mean(widths) == pytest.approx(2_970.0, abs=BIN_HZ)
    assert np.mean(middles) == pytest.approx(center_hz, abs=BIN_HZ / 2)
    if snr_db >= 5.0:
        assert np.std(widths) < BIN_HZ
        assert 0.4 < np.std(widths) / np.mean(sigmas) < 1.4
        assert np.std(middles) < np.mean(sigmas)


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 10.0, 30.0])
def test_a_root_raised_cosine_has_the_width_of_its_integral(
    rng: np.random.Generator, white_noise: Make, snr_db: float
) -> None:
    # Its edges lie where the density slopes into the noise: 6 s are needed where 1 s does for a steep one.
    def amplitude(frequencies_hz: Any) -> Any:
        return root_raised_cosine(frequencies_hz, 2_000.0, 0.25)

    grid_hz = np.linspace(-1_500.0, 1_500.0, 300_001)
    share = np.cumsum(amplitude(grid_hz) ** 2)
    low_hz, high_hz = np.interp([0.005, 0.995], share / share[-1], grid_hz)
    power = 10 ** (snr_db / 10) * 2_000.0 / RATE_HZ
    results = []
    for _ in range(40):
        signal = shaped_signal(rng, 72_000, amplitude, power)
        results.append(occupied_bandwidth(*spectrum_and_floor(white_noise(72_000) + signal)))
    widths, sigmas = widths_of(results)
    assert np.mean(widths) == pytest.approx(high_hz - low_hz, abs=BIN_HZ)
    if snr_db >= 5.0:
        assert np.std(widths) < BIN_HZ
        assert 0.5 < np.std(widths) / np.mean(sigmas) < 1.5


def test_the_noise_of_the_rest_of_the_band_does_not_count(white_noise: Make, flat_signal: Make) -> None:
    # Without subtraction 99 % of the power would take 11.6 kHz.
    signal = flat_signal(12_000, RATE_HZ, -1_500.0, 1_500.0, 10.0 * 3_000.0 / RATE_HZ)
    result = occupied_bandwidth(*spectrum_and_floor(white_noise(12_000) + signal))
    assert result.width_hz.value == pytest.approx(2_970.0, abs=2 * BIN_HZ)


def test_the_given_emission_is_measured_and_its_neighbour_is_not(white_noise: Make, flat_signal: Make) -> None:
    strong = flat_signal(48_000, RATE_HZ, 1_000.0, 3_000.0, 10.0)
    weak = flat_signal(48_000, RATE_HZ, -500.0, 500.0, 1.0)
    spectrum, floor = spectrum_and_floor(white_noise(48_000, 0.01) + strong + weak)
    assert occupied_bandwidth(spectrum, floor).width_hz.value == pytest.approx(1_980.0, abs=1.5 * BIN_HZ)
    found = occupied_bandwidth(spectrum, floor, Band(-550.0, 550.0))
    assert found.width_hz.value == pytest.approx(990.0, abs=1.5 * BIN_HZ)
    assert found.midpoint_hz == pytest.approx(0.0, abs=BIN_HZ)


def test_a_weaker_emission_than_minus_5_db_is_not_measured(white_noise: Make, flat_signal: Make) -> None:
    signal = flat_signal(480_000, RATE_HZ, -1_500.0, 1_500.0, 10**-0.7 * 3_000.0 / RATE_HZ)
    spectrum, floor = spectrum_and_floor(white_noise(480_000) + signal)
    result = occupied_bandwidth(spectrum, floor)
    assert (result.width_hz.value, result.width_hz.reason) == (None, Reason.SNR_TOO_LOW)
    assert result.midpoint_hz is None


@pytest.mark.parametrize("cycles", [0.1, 0.1009])
def test_a_carrier_has_a_limit_that_the_taper_sets(white_noise: Make, tone: Make, cycles: float) -> None:
    spectrum, floor = spectrum_and_floor(white_noise(12_000, 1e-4) + tone(12_000, cycles))
    for result in (occupied_bandwidth(spectrum, floor), x_db_bandwidth(spectrum, floor)):
        assert result.width_hz.validity is Validity.UPPER_LIMIT
        assert result.width_hz.reason is Reason.RESOLUTION
        assert result.width_hz.value is not None
        assert BIN_HZ < result.width_hz.value < 4.5 * BIN_HZ
        assert result.midpoint_hz == pytest.approx(cycles * RATE_HZ, abs=0.2 * BIN_HZ)


def test_without_an_emission_there_is_no_width(white_noise: Make) -> None:
    noise = white_noise(12_000)
    for method in (occupied_bandwidth, x_db_bandwidth):
        assert method(*spectrum_and_floor(noise)).width_hz.reason is Reason.NO_SIGNAL
        assert method(*spectrum_and_floor(noise, 100.0)).width_hz.reason is Reason.NO_NOISE_FLOOR


@pytest.mark.parametrize("x_db", [6.0, 26.0])
def test_a_slope_is_x_db_down_where_it_says(rng: np.random.Generator, white_noise: Make, x_db: float) -> None:
    def amplitude(frequencies_hz: Any) -> Any:
        # Flat for 500 Hz on both sides of the centre, then 2 dB for every 100 Hz, for 1500 Hz.
        away_hz = np.abs(frequencies_hz) - 500.0
        return np.where(away_hz < 1_500.0, 10.0 ** (-np.maximum(away_hz, 0.0) / 1_000.0), 0.0)

    results = []
    for _ in range(40):
        samples = white_noise(48_000, 1e-5) + shaped_signal(rng, 48_000, amplitude, 1.0)
        results.append(x_db_bandwidth(*spectrum_and_floor(samples), x_db=x_db))
    widths, sigmas = widths_of(results)
    # The largest of 60 noisy bins is about 2.3 sigma of 0.45 dB too high, and the outermost crossing too far out.
    truth_hz = 1_000.0 + 100.0 * x_db
    assert np.mean(widths) == pytest.approx(truth_hz, abs=4 * BIN_HZ)
    assert np.std(widths) < 1.5 * np.mean(sigmas)
    assert results[0].width_hz.method == f"x-db-{x_db:g}"


def test_26_db_down_must_not_be_in_the_noise(white_noise: Make, flat_signal: Make) -> None:
    signal = flat_signal(12_000, RATE_HZ, -1_500.0, 1_500.0, 100.0 * 3_000.0 / RATE_HZ)
    spectrum, floor = spectrum_and_floor(white_noise(12_000) + signal)
    assert x_db_bandwidth(spectrum, floor).width_hz.reason is Reason.SNR_TOO_LOW
    assert x_db_bandwidth(spectrum, floor, x_db=10.0).width_hz.value == pytest.approx(3_000.0, abs=3 * BIN_HZ)


@pytest.mark.parametrize(("found_bins", "width_bins"), [(90, 99.0), (60, 71.3)])
def test_an_emission_may_go_on_for_a_tenth_beyond_the_band(found_bins: int, width_bins: float) -> None:
    # 100 bins of an emission, of which a band was found: 9 bins more on both sides end it, 6 do not.
    density = np.where(np.abs(np.arange(512) - 255.5) < 50, 2.0, 1.0)
    nothing = np.zeros(512, dtype=np.bool_)
    floor = NoiseFloor(1.0, 0.0, ~nothing, nothing, Quantity.valid(0.0, 0.0, ""))
    spectrum = Spectrum(Welch(512), density, 512.0, 1e6)
    found = occupied_bandwidth(spectrum, floor, Band(-0.5 - found_bins / 2, -0.5 + found_bins / 2))
    assert found.width_hz.value == pytest.approx(width_bins, abs=0.1)
