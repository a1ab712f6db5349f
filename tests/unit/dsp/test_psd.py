from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import scipy.signal

from dsp_svc.estimate.psd import Periodograms, Taper, Welch, default_segment_length, periodograms, segment_lines

RATE_HZ = 12_001.1
Make = Callable[..., Any]


def scipy_density(samples: Any, welch: Welch, rate_hz: float = 1.0) -> Any:
    """The same density in double precision by scipy, ascending frequency."""
    _, density = scipy.signal.welch(
        samples.astype(np.complex128),
        rate_hz,
        welch.taper.value,
        welch.segment_length,
        noverlap=welch.segment_length - welch.hop,
        return_onesided=False,
        detrend=False,
    )
    return np.fft.fftshift(density)


@pytest.mark.parametrize("length", [64, 512, 1024])
def test_density_is_that_of_scipy(white_noise: Make, tone: Make, length: int) -> None:
    samples = white_noise(12_001) + tone(12_001, 0.1234, 10.0) + np.complex64(3.0)
    spectrum = periodograms(samples, Welch(length)).spectrum(RATE_HZ)
    frequencies, density = scipy.signal.welch(
        samples, RATE_HZ, "hann", length, noverlap=length // 2, return_onesided=False, detrend=False
    )
    np.testing.assert_allclose(spectrum.frequencies_hz, np.fft.fftshift(frequencies), atol=1e-9)
    np.testing.assert_allclose(spectrum.density, np.fft.fftshift(density), rtol=2e-4)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.6, 0.75, 0.999])
@pytest.mark.parametrize("taper", Taper)
def test_every_taper_and_overlap_is_that_of_scipy(white_noise: Make, taper: Taper, overlap: float) -> None:
    samples = white_noise(5_003)
    welch = Welch(500, taper, overlap)
    ours = periodograms(samples, welch).spectrum(RATE_HZ).density
    np.testing.assert_allclose(ours, scipy_density(samples, welch, RATE_HZ), rtol=2e-5)


@pytest.mark.parametrize(("length", "worst"), [(512, 2e-4), (1024, 2e-4), (4096, 1e-3), (16_384, 4e-3)])
@pytest.mark.parametrize("taper", [Taper.HANN, Taper.BLACKMAN_HARRIS])
def test_single_precision_holds_beside_strong_lines(
    white_noise: Make, tone: Make, taper: Taper, length: int, worst: float
) -> None:
    # A tone 60 dB above all of the noise, beside a DC offset of 0.9 that is 69 dB above it. The longer the segment, the
    # further the lines stand out of the noise of one bin: by 110 dB in 16,384 bins, where 4e-3 is 0.02 dB.
    samples = white_noise(1 << 18, 1e-7) + tone(1 << 18, 0.1234, 0.316) + np.complex64(0.9)
    welch = Welch(length, taper)
    ours, expected = periodograms(samples, welch).spectrum(1.0).density, scipy_density(samples, welch)
    np.testing.assert_allclose(ours, expected, rtol=worst)
    assert np.median(np.abs(ours / expected - 1.0)) < 1e-4


@pytest.mark.parametrize("length", [16, 64, 1000])
@pytest.mark.parametrize("taper", Taper)
def test_tapers_are_the_periodic_ones_of_scipy(taper: Taper, length: int) -> None:
    expected = scipy.signal.get_window(taper.value, length, fftbins=True)
    np.testing.assert_allclose(Welch(length, taper).weights, expected, atol=1e-12)


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


@pytest.mark.parametrize(
    ("taper", "enbw_bins", "scalloping_loss_db"),
    [
        (Taper.BOXCAR, 1.000, 3.92),
        (Taper.HANN, 1.500, 1.42),
        (Taper.HAMMING, 1.363, 1.75),
        (Taper.BLACKMAN_HARRIS, 2.004, 0.83),
        (Taper.FLAT_TOP, 3.770, 0.00),
    ],
)
def test_tapers_have_the_figures_of_the_books(taper: Taper, enbw_bins: float, scalloping_loss_db: float) -> None:
    # Harris (1978), table 1, but for Hamming's loss: he prints 1.78 dB, while 0.54 sinc(1/2) + 0.23 (sinc(1/2) +
    # sinc(3/2)) over 0.54 is -1.75 dB. The flat top of scipy has its figures in its source.
    assert Welch(512, taper).enbw_bins == pytest.approx(enbw_bins, abs=6e-4)
    assert Welch(512, taper).scalloping_loss_db == pytest.approx(scalloping_loss_db, abs=0.01)


@pytest.mark.parametrize("taper", Taper)
def test_a_tone_between_bins_reads_low_by_the_scalloping_loss(tone: Make, taper: Taper) -> None:
    welch = Welch(512, taper)
    on, between = (
        periodograms(tone(12_000, bins / 512, 0.1), welch).spectrum(RATE_HZ).density_dbfs_per_hz().max()
        for bins in (100.0, 100.5)
    )
    assert on == pytest.approx(-20.0 - 10 * np.log10(welch.enbw_bins * RATE_HZ / 512), abs=0.01)
    assert on - between == pytest.approx(welch.scalloping_loss_db, abs=0.01)


@pytest.mark.parametrize(
    ("taper", "overlap", "count", "effective"),
    [
        (Taper.HANN, 0.5, 45, 42.7),
        (Taper.HANN, 0.75, 90, 47.0),
        (Taper.BLACKMAN_HARRIS, 0.75, 90, 63.3),
        (Taper.FLAT_TOP, 0.75, 90, 89.6),
        (Taper.BOXCAR, 0.0, 23, 23.0),
    ],
)
def test_overlapping_segments_are_worth_fewer(taper: Taper, overlap: float, count: int, effective: float) -> None:
    made = periodograms(np.zeros(12_000, np.complex64), Welch(512, taper, overlap))
    assert made.segment_count == count
    assert made.effective_count == pytest.approx(effective, abs=0.1)


def test_two_boxcar_segments_that_share_half_are_worth_one_and_three_fifths() -> None:
    # rho = 1/4: two averages of variance 1 and covariance 1/4 have a mean of variance (1 + 1/4) / 2.
    assert Welch(512, Taper.BOXCAR).effective_segment_count(2) == pytest.approx(1.6, rel=1e-9)
    assert Welch(512, Taper.BOXCAR).effective_segment_count(1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("overlap", "hop"), [(0.0, 64), (0.5, 32), (0.6, 26), (0.75, 16), (0.99, 1), (0.999, 1), (0.01, 63)]
)
def test_the_hop_is_the_rest_of_a_segment(overlap: float, hop: int) -> None:
    assert Welch(64, overlap=overlap).hop == hop


@pytest.mark.parametrize(
    ("taper", "overlap", "effective"), [(Taper.HANN, 0.5, 42.7), (Taper.BLACKMAN_HARRIS, 0.75, 63.3)]
)
def test_bins_scatter_as_the_effective_count_says(
    white_noise: Make, taper: Taper, overlap: float, effective: float
) -> None:
    welch = Welch(512, taper, overlap)
    density = [periodograms(white_noise(12_000), welch).spectrum(RATE_HZ).density for _ in range(40)]
    scatter = np.var(density) / np.mean(density) ** 2
    assert 1.0 / scatter == pytest.approx(effective, rel=0.08)


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


@pytest.mark.parametrize("length", [16, 64, 1024])
def test_a_long_run_is_worked_in_batches(white_noise: Make, length: int) -> None:
    samples = white_noise(400_000)
    ours = periodograms(samples, Welch(length)).spectrum(1.0).density
    np.testing.assert_allclose(ours, scipy_density(samples, Welch(length)), rtol=1e-5)


def test_lines_come_in_order_and_say_which_segments_they_are(white_noise: Make) -> None:
    samples = white_noise(200_000)
    welch = Welch(256, Taper.HAMMING)
    seen = 0
    for first, lines in segment_lines(samples, welch):
        assert first == seen
        for row in (0, len(lines) - 1):
            begin = (first + row) * welch.hop
            expected = np.fft.fft(samples[begin : begin + 256] * welch.weights)
            np.testing.assert_allclose(lines[row], expected, atol=1e-5 * float(np.abs(expected).max()))
        seen += len(lines)
    assert seen == welch.segment_count(200_000) > 1000


def test_samples_that_do_not_lie_side_by_side_are_measured_too(white_noise: Make) -> None:
    samples = white_noise(4_000)
    apart = periodograms(samples[::2], Welch(64)).total
    np.testing.assert_array_equal(apart, periodograms(samples[::2].copy(), Welch(64)).total)


def test_measuring_leaves_the_samples_alone(white_noise: Make) -> None:
    samples = white_noise(4_000)
    before = samples.copy()
    periodograms(samples, Welch(64))
    np.testing.assert_array_equal(samples, before)


def test_the_buffer_of_numpy_is_left_as_it_was(white_noise: Make) -> None:
    samples = white_noise(4_000)

    def sizes() -> tuple[int, int]:
        before = np.getbufsize()
        periodograms(samples, Welch(64))
        return before, np.getbufsize()

    before, after = contextvars.Context().run(sizes)
    assert before == after > 16


def test_streams_measured_at_once_do_not_mix(white_noise: Make) -> None:
    welch = Welch(512)
    streams = [white_noise(1 << 16) for _ in range(8)]
    alone = [periodograms(samples, welch).total for samples in streams]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = pool.map(lambda samples: periodograms(samples, welch).total, streams)
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_short_run_has_no_spectrum() -> None:
    made = periodograms(np.ones(511, np.complex64), Welch(512))
    assert made.segment_count == 0
    with pytest.raises(ValueError, match="no segment"):
        made.spectrum(RATE_HZ)


@pytest.mark.parametrize("length", [0, 15, 63, 16_386])
def test_a_segment_length_that_can_not_be_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"got {length}"):
        Welch(length)


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_that_can_not_be_is_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match=f"got {overlap}"):
        Welch(512, overlap=overlap)


@pytest.mark.parametrize(("rate_hz", "length"), [(8_000, 256), (12_000, 512), (20_250, 1024), (2_400_000, 16_384)])
def test_segments_suit_the_rate(rate_hz: float, length: int) -> None:
    assert default_segment_length(rate_hz) == length
