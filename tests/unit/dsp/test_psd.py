from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.signal

from dsp_svc.estimate.psd import Periodograms, Welch, default_segment_length, periodograms

RATE_HZ = 12_001.1
Make = Callable[..., Any]


@pytest.mark.parametrize("length", [64, 512, 1024])
def test_density_is_that_of_scipy(white_noise: Make, tone: Make, length: int) -> None:
    samples = white_noise(12_001) + tone(12_001, 0.1234, 10.0) + np.complex64(3.0)
    spectrum = periodograms(samples, Welch(length)).spectrum(RATE_HZ)
    frequencies, density = scipy.signal.welch(
        samples, RATE_HZ, "hann", length, noverlap=length // 2, return_onesided=False, detrend=False
    )
    np.testing.assert_allclose(spectrum.frequencies_hz, np.fft.fftshift(frequencies), atol=1e-9)
    np.testing.assert_allclose(spectrum.density, np.fft.fftshift(density), rtol=2e-4)


def test_density_integrates_to_the_power(white_noise: Make) -> None:
    samples = white_noise(120_000, 0.01)
    spectrum = periodograms(samples, Welch(512)).spectrum(RATE_HZ)
    power = np.sum(spectrum.density) * spectrum.bin_width_hz
    assert 10 * np.log10(power / np.mean(np.abs(samples) ** 2)) == pytest.approx(0.0, abs=0.02)


def test_a_tone_reads_its_power_over_the_noise_bandwidth(tone: Make) -> None:
    spectrum = periodograms(tone(12_000, 100 / 512, 0.1), Welch(512)).spectrum(RATE_HZ)
    # Hann: 1.5 bins of noise bandwidth.
    expected = -20.0 - 10 * np.log10(1.5 * RATE_HZ / 512)
    peak = int(np.argmax(spectrum.density))
    assert spectrum.frequencies_hz[peak] == pytest.approx(100 / 512 * RATE_HZ)
    assert spectrum.density_dbfs_per_hz()[peak] == pytest.approx(expected, abs=0.01)


def test_a_carrier_at_zero_hz_is_kept(tone: Make) -> None:
    spectrum = periodograms(tone(12_000, 0.0), Welch(512)).spectrum(RATE_HZ)
    assert spectrum.density_dbfs_per_hz()[256] == pytest.approx(-10 * np.log10(1.5 * RATE_HZ / 512), abs=0.01)


def test_frequencies_keep_their_sign(tone: Make) -> None:
    spectrum = periodograms(tone(12_000, -0.25), Welch(64)).spectrum(RATE_HZ)
    assert spectrum.frequencies_hz[np.argmax(spectrum.density)] == pytest.approx(-RATE_HZ / 4)


def test_hann_has_its_noise_bandwidth() -> None:
    assert Welch(512).enbw_bins == pytest.approx(1.5, abs=1e-9)


def test_overlapping_segments_are_worth_fewer() -> None:
    # 12,000 samples, Hann, half overlap: 45 segments, worth 42.7 independent ones.
    made = periodograms(np.zeros(12_000, np.complex64), Welch(512))
    assert made.segment_count == 45
    assert made.effective_count == pytest.approx(42.7, abs=0.1)


def test_bins_scatter_as_the_effective_count_says(white_noise: Make) -> None:
    density = [periodograms(white_noise(12_000), Welch(512)).spectrum(RATE_HZ).density for _ in range(40)]
    scatter = np.var(density) / np.mean(density) ** 2
    assert 1.0 / scatter == pytest.approx(42.7, rel=0.08)


def test_neighbouring_bins_share_their_noise() -> None:
    # Hann: correlations of 4/9 to the next bin and 1/36 to the one after it, on both sides.
    assert Welch(512).bins_per_independent_bin == pytest.approx(1 + 2 * (4 / 9 + 1 / 36), abs=1e-6)


def test_sums_of_runs_are_the_sum_of_both(white_noise: Make) -> None:
    first, second = white_noise(5_000), white_noise(3_000)
    welch = Welch(256)
    both = periodograms(first, welch) + periodograms(second, welch) + Periodograms.none(welch)
    one, other = periodograms(first, welch), periodograms(second, welch)
    assert both.segment_count == one.segment_count + other.segment_count
    expected = (
        one.segment_count * one.spectrum(1.0).density + other.segment_count * other.spectrum(1.0).density
    ) / both.segment_count
    np.testing.assert_allclose(both.spectrum(1.0).density, expected, rtol=1e-12)


def test_a_long_run_is_worked_in_batches(white_noise: Make) -> None:
    samples = white_noise(400_000)
    _, density = scipy.signal.welch(samples, 1.0, "hann", 64, noverlap=32, return_onesided=False, detrend=False)
    ours = periodograms(samples, Welch(64)).spectrum(1.0).density
    np.testing.assert_allclose(ours, np.fft.fftshift(density), rtol=1e-5)


def test_a_short_run_has_no_spectrum() -> None:
    made = periodograms(np.ones(511, np.complex64), Welch(512))
    assert made.segment_count == 0
    with pytest.raises(ValueError, match="no segment"):
        made.spectrum(RATE_HZ)


@pytest.mark.parametrize("length", [0, 15, 63, 16_386])
def test_a_segment_length_that_can_not_be_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"got {length}"):
        Welch(length)


@pytest.mark.parametrize(("rate_hz", "length"), [(8_000, 256), (12_000, 512), (20_250, 1024), (2_400_000, 16_384)])
def test_segments_suit_the_rate(rate_hz: float, length: int) -> None:
    assert default_segment_length(rate_hz) == length
