"""Every metric of the estimators as a piece of work, for bench_dsp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsp_svc.estimate.apd import amplitude_distribution, amplitude_histogram
from dsp_svc.estimate.bandwidth import occupied_bandwidth, x_db_bandwidth
from dsp_svc.estimate.carrier import Carrier
from dsp_svc.estimate.centroid import centroid_hz
from dsp_svc.estimate.clipping import clipped_ratio, clipping, wrapped_ratio
from dsp_svc.estimate.drift import FrequencyTrack, drift_hz_per_s, frequency_scatter_hz
from dsp_svc.estimate.flatness import flatness
from dsp_svc.estimate.fsk import two_tones
from dsp_svc.estimate.image import MirrorProducts, image_ratio_db, mirror_products
from dsp_svc.estimate.kurtosis import kurtosis
from dsp_svc.estimate.levels import crest_factor_db, dc_offset_dbfs, moments, power_dbfs
from dsp_svc.estimate.noise import noise_floor, passband_bins, sliding_noise_floor
from dsp_svc.estimate.offset import Tone, find_tone
from dsp_svc.estimate.percentiles import Rows, bin_statistics, rows
from dsp_svc.estimate.psd import Welch, periodograms, segment_lines
from dsp_svc.estimate.psk import psk_offset_hz
from dsp_svc.estimate.snr import Band, signal_to_noise, strongest_band
from dsp_svc.estimate.spectral_kurtosis import PowerSums, power_sums, spectral_kurtosis
from heimdall.samples import SampleCoding

Work = Callable[[], object]

SEGMENT_LENGTH = 512
SEARCHED_SAMPLES = 1 << 16
"""Most samples of a run that an emission without a carrier is looked for in."""


def sample_metrics(data: bytes, coding: SampleCoding, rate_hz: float) -> dict[str, Work]:
    """Returns what looks at every sample of a run, by name.

    What works on the transforms of a run gets them ready made: the spectrum has paid for them.

    Args:
        data: One unbroken run.
        coding: Its coding.
        rate_hz: Its sample rate in Hz.
    """
    samples = coding.decode(data)
    welch = Welch(SEGMENT_LENGTH)
    batches = [(first, lines.copy()) for first, lines in segment_lines(samples, welch)]
    tone = find_tone(samples)
    assert isinstance(tone, Tone)
    carrier = Carrier(tone.cycles_per_sample)
    return {
        "decode": lambda: coding.decode(data),
        "moments: power, crest factor, DC, kurtosis": lambda: moments(samples),
        "clipped and wrapped": lambda: clipping(data, coding),
        "spectrum, 512 points": lambda: periodograms(samples, welch),
        "spectrum, 1024 points": lambda: periodograms(samples, Welch(1024)),
        "spectrum, 16384 points": lambda: periodograms(samples, Welch(16_384)),
        "spectral kurtosis, on top of the spectrum": lambda: [power_sums(n, lines, welch) for n, lines in batches],
        "image, on top of the spectrum": lambda: [mirror_products(lines, welch) for _, lines in batches],
        "percentiles, on top of the spectrum": lambda: [rows(first, lines, welch) for first, lines in batches],
        "amplitude distribution": lambda: amplitude_histogram(samples),
        "line": lambda: find_tone(samples),
        "coherent carrier": lambda: carrier.add(samples, 0, rate_hz),
    }


def window_metrics(data: bytes, coding: SampleCoding, rate_hz: float) -> dict[str, Work]:
    """Returns what looks at the sums of a window, by name; arguments as of sample_metrics."""
    samples = coding.decode(data)
    welch = Welch(SEGMENT_LENGTH)
    sums = moments(samples)
    spectrum = periodograms(samples, welch).spectrum(rate_hz)
    bins = passband_bins(spectrum, -rate_hz / 2, rate_hz / 2)
    noise = noise_floor(spectrum, bins, coding.quantisation_power)
    band = strongest_band(spectrum, noise)
    assert band is not None
    codes = clipping(data, coding)
    powers, products, statistics = PowerSums.none(welch), MirrorProducts.none(welch), Rows.none(welch)
    for first, lines in segment_lines(samples, welch):
        powers += power_sums(first, lines, welch)
        products += mirror_products(lines, welch)
        statistics += rows(first * welch.hop, lines, welch)
    histogram = amplitude_histogram(samples)
    track = FrequencyTrack.none()
    for second in range(10):
        track += FrequencyTrack.point(float(second), 0.01 * second, 0.001)
    searched = samples[:SEARCHED_SAMPLES]
    wide = Band(band.low_hz - rate_hz / 20, band.high_hz + rate_hz / 20)
    middle_hz = (band.low_hz + band.high_hz) / 2
    duration_s = len(samples) / rate_hz
    return {
        "power, crest factor, DC": lambda: (power_dbfs(sums), crest_factor_db(sums), dc_offset_dbfs(sums)),
        "kurtosis": lambda: kurtosis(sums),
        "clipped and wrapped": lambda: (clipped_ratio(codes, coding), wrapped_ratio(codes, coding)),
        "noise floor": lambda: noise_floor(spectrum, bins, coding.quantisation_power),
        "sliding noise floor": lambda: sliding_noise_floor(spectrum, bins),
        "SNR and C/N0": lambda: signal_to_noise(spectrum, noise, duration_s),
        "flatness": lambda: flatness(spectrum, bins),
        "occupied bandwidth": lambda: occupied_bandwidth(spectrum, noise, band),
        "x dB bandwidth": lambda: x_db_bandwidth(spectrum, noise, band),
        "drift": lambda: (drift_hz_per_s(track), frequency_scatter_hz(track)),
        "M-th power, 65,536 samples, where there is no line": lambda: psk_offset_hz(searched, rate_hz, wide, middle_hz),
        "two tones, 65,536 samples, where there is no line": lambda: two_tones(searched, rate_hz, wide),
        "centroid": lambda: centroid_hz(spectrum, noise, band),
        "spectral kurtosis": lambda: spectral_kurtosis(powers),
        "image": lambda: image_ratio_db(products, spectrum, noise, band),
        "percentiles": lambda: bin_statistics(statistics, rate_hz),
        "amplitude distribution": lambda: amplitude_distribution(histogram),
        "spectrum in dB": lambda: np.sum(spectrum.density_dbfs_per_hz()),
    }
