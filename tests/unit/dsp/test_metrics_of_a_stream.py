"""What a stream measures is what was asked for, and every number of the contract has its metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.metrics import DEFAULT_METRICS, PRODUCTS, Metric
from dsp_svc.estimate.numbers import Numbers
from dsp_svc.estimate.result import Reason
from dsp_svc.requests import StreamConfig, read_config
from heimdall.common.v1 import iq_pb2, measurement_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.dsp.v1 import dsp_pb2
from heimdall.metrics import METRIC_NAMES
from tests.unit.dsp.test_session import RATE, START_NS, blocks, end, gap, play, refused, segment

Make = Callable[..., Any]
VALID = measurement_pb2.Estimate.VALIDITY_VALID
ESTIMATES = {
    field.name
    for field in measurement_pb2.Measurement.DESCRIPTOR.fields
    if field.message_type is not None and field.message_type.name == "Estimate"
}
FIELDS = {
    Metric.POWER: {"power_dbfs", "power_dbm"},
    Metric.NOISE: {"noise_dbfs_per_hz"},
    Metric.SNR: {"snr_db", "snr_bandwidth_hz", "carrier_to_noise_density_db_hz"},
    Metric.FREQUENCY_OFFSET: {"frequency_offset_hz"},
    Metric.FREQUENCY_DRIFT: {"frequency_drift_hz_per_s", "frequency_scatter_hz"},
    Metric.OCCUPIED_BANDWIDTH: {"occupied_bandwidth_hz", "x_db_bandwidth_hz"},
    Metric.KURTOSIS: {"kurtosis"},
    Metric.CREST_FACTOR: {"crest_factor_db"},
    Metric.SPECTRAL_FLATNESS: {"spectral_flatness_ratio"},
    Metric.CLIPPING: {"clipped_ratio", "wrapped_ratio"},
    Metric.DC_OFFSET: {"dc_offset_dbfs"},
    Metric.IMAGE_RATIO: {"image_ratio_db"},
}
RECORD = iq_pb2.Calibration(offset_db=-41.3, uncertainty_db=1.5, source="generator")


def config(*metrics: Metric) -> StreamConfig:
    return StreamConfig("acq-1", "rx-1", 1.0, 0, frozenset(metrics))


def codes(samples: Any, first: int) -> list[iq_pb2.IqEvent]:
    """Samples of a receiver with 16 bit."""
    values = np.round(np.asarray(samples, np.complex64).view(np.float32) * 32768.0).astype("<i2")
    return [
        iq_pb2.IqEvent(
            block=iq_pb2.Block(
                first_sample_index=first + at,
                first_sample_unix_ns=START_NS + (first + at) * 1_000_000_000 // RATE,
                sample_count=len(values[2 * at : 2 * at + 6_000]) // 2,
                samples=values[2 * at : 2 * at + 6_000].tobytes(),
            )
        )
        for at in range(0, len(samples), 3_000)
    ]


SEGMENT = segment(sample_format=iq_pb2.SAMPLE_FORMAT_CI16_LE, full_scale=32768.0)


@pytest.fixture
def stream(white_noise: Make, tone: Make) -> list[iq_pb2.IqEvent]:
    """Four seconds of a tone in noise, of a receiver that is calibrated."""
    samples = white_noise(4 * RATE, 1e-4) + tone(4 * RATE, 0.1, 0.1)
    opening = segment(sample_format=iq_pb2.SAMPLE_FORMAT_CI16_LE, full_scale=32768.0, calibration=RECORD)
    return [opening, *codes(samples, 0), end(4 * RATE)]


def test_every_number_of_the_contract_has_one_metric() -> None:
    assert {field.name for field in fields(Numbers)} == ESTIMATES - {"overload_ratio"}
    assert set(FIELDS) == DEFAULT_METRICS
    listed = [name for names in FIELDS.values() for name in names]
    assert sorted(listed) == sorted(ESTIMATES - {"overload_ratio"})


def test_everything_that_is_one_number_is_measured_by_default(stream: list[iq_pb2.IqEvent]) -> None:
    *windows, summary = play(stream)
    assert {name for name in ESTIMATES if not getattr(summary, name).HasField("value")} == set()
    # A clean tone has no image, no mean, and no width of its own: these are limits.
    limits = {name for name in ESTIMATES if getattr(summary, name).validity != VALID}
    assert limits <= {"image_ratio_db", "dc_offset_dbfs", "occupied_bandwidth_hz", "x_db_bandwidth_hz"}
    assert {getattr(summary, name).reason for name in ESTIMATES}.isdisjoint({"NOT_REQUESTED", "NOT_MEASURED"})
    assert {window.frequency_drift_hz_per_s.reason for window in windows} == {"SUMMARY_ONLY"}
    assert not summary.HasField("products")


@pytest.mark.parametrize("metric", [metric for metric in Metric if metric in DEFAULT_METRICS])
def test_only_what_was_asked_for_is_measured(stream: list[iq_pb2.IqEvent], metric: Metric) -> None:
    everything = play(stream)
    for measured, complete in zip(play(stream, config(metric)), everything, strict=True):
        for name in ESTIMATES - {"overload_ratio"}:
            estimate = getattr(measured, name)
            if name in FIELDS[metric]:
                assert estimate == getattr(complete, name)
            else:
                assert (estimate.reason, estimate.HasField("value")) == ("NOT_REQUESTED", False)


def test_a_config_names_metrics() -> None:
    message = dsp_pb2.ProcessRequest.Config(acquisition_id="a", receiver_id="b")
    message.measurement.metrics.extend([measurement_pb2.METRIC_KURTOSIS, measurement_pb2.METRIC_NOISE_PROFILE])
    assert read_config(message).metrics == {Metric.KURTOSIS, Metric.NOISE_PROFILE}


def test_products_come_when_they_are_asked_for(white_noise: Make, tone: Make) -> None:
    samples = white_noise(24 * RATE, 1e-4) + tone(24 * RATE, 0.25, 0.1)
    asked = replace(config(*PRODUCTS), spectrum_bin_count=64)
    *windows, summary = play([segment(), *blocks(samples, 0), end(24 * RATE)], asked)
    assert all(window.HasField("products") for window in windows)
    made = summary.products
    noise_db = -40.0 - 10 * math.log10(RATE)
    profile = made.noise_profile
    assert len(profile.noise_dbfs_per_hz) == 512
    assert profile.bin_spacing_hz == pytest.approx(RATE / 512)
    assert np.median(profile.noise_dbfs_per_hz) == pytest.approx(noise_db, abs=0.1)
    kurtosis = made.spectral_kurtosis
    line = round((0.25 * RATE - kurtosis.first_bin_hz) / kurtosis.bin_spacing_hz)
    assert kurtosis.kurtosis[line] == pytest.approx(0.0, abs=0.01)
    assert np.mean(kurtosis.kurtosis[:200]) == pytest.approx(1.0, abs=0.02)
    # The statistics have the bins of the spectrum that was asked for.
    statistics = made.spectrum_statistics
    traces = {(trace.kind, trace.percentile_ratio): trace.power_dbfs_per_hz for trace in statistics.traces}
    assert statistics.bin_spacing_hz == pytest.approx(RATE / 64)
    assert statistics.spectrum_count == 24 * (RATE // 32 - 1)
    kinds = measurement_pb2.SpectrumStatistics
    # Far from the tone: exponential, so the median is ln 2 of the mean and the 90th percentile ln 10.
    assert traces[kinds.KIND_MEAN, 0.0][5] == pytest.approx(noise_db, abs=0.2)
    assert traces[kinds.KIND_PERCENTILE, 0.5][5] == pytest.approx(noise_db + 10 * math.log10(math.log(2)), abs=0.3)
    assert traces[kinds.KIND_PERCENTILE, 0.9][5] == pytest.approx(noise_db + 10 * math.log10(math.log(10)), abs=0.3)
    assert traces[kinds.KIND_MINIMUM, 0.0][5] < noise_db - 20
    distribution = made.amplitude_distribution
    at_20 = round((-20.0 - distribution.first_level_dbfs) / distribution.level_step_db)
    assert distribution.exceedance_ratio[at_20] == pytest.approx(0.5, abs=0.05)
    assert distribution.exceedance_ratio[at_20 - 20] == pytest.approx(1.0)
    assert not summary.power_dbfs.HasField("value")


@pytest.mark.parametrize("bin_count", [512, 256])
@pytest.mark.parametrize("metrics", [{Metric.KURTOSIS}, {Metric.SPECTRUM_STATISTICS}, DEFAULT_METRICS])
def test_a_spectrum_comes_whatever_else_is_measured(
    white_noise: Make, metrics: frozenset[Metric], bin_count: int
) -> None:
    """With the bins that noise is measured with at this rate, 512, or with others."""
    asked = replace(config(*metrics), spectrum_bin_count=bin_count)
    for measured in play([segment(), *blocks(white_noise(2 * RATE, 1e-4), 0), end(2 * RATE)], asked):
        density = np.asarray(measured.spectrum.power_dbfs_per_hz, np.float64)
        assert len(density) == bin_count
        assert 10 * math.log10(np.mean(10 ** (density / 10))) == pytest.approx(-40.0 - 10 * math.log10(RATE), abs=0.1)
        assert measured.noise_dbfs_per_hz.HasField("value") == (Metric.NOISE in metrics)
        assert measured.HasField("products") == (Metric.SPECTRUM_STATISTICS in metrics)
        if Metric.SPECTRUM_STATISTICS in metrics:
            mean = measured.products.spectrum_statistics.traces[2]
            assert mean.kind == measurement_pb2.SpectrumStatistics.KIND_MEAN
            np.testing.assert_allclose(mean.power_dbfs_per_hz, density, atol=1e-3)


def test_dbm_are_the_level_plus_the_record(stream: list[iq_pb2.IqEvent]) -> None:
    for measured in play(stream):
        assert measured.power_dbm.value == pytest.approx(measured.power_dbfs.value - 41.3)
        assert (measured.power_dbm.sigma, measured.power_dbm.method) == (1.5, "calibration-record")


def test_a_derived_record_says_so(white_noise: Make) -> None:
    record = iq_pb2.Calibration(offset_db=-41.3, uncertainty_db=3.0, derived=True)
    summary = play([segment(calibration=record), *blocks(white_noise(RATE, 1e-4), 0), end(RATE)])[-1]
    assert summary.power_dbm.method == "calibration-derived"


def test_a_gain_that_changes_within_a_window_keeps_its_power(tone: Make) -> None:
    """The same power at the antenna, 20 dB louder from the middle of a window on."""
    half = RATE // 2
    louder = iq_pb2.Calibration(offset_db=-61.3, uncertainty_db=2.0, source="generator")
    quiet, loud = tone(half, 0.1, 0.01), tone(RATE + half, 0.1, 0.1)
    events = [
        segment(calibration=RECORD),
        *blocks(quiet, 0),
        segment(calibration=louder, first_sample_index=half),
        *blocks(loud, half),
        end(2 * RATE),
    ]
    first, second, summary = play(events)
    for measured in (first, second, summary):
        assert measured.power_dbm.value == pytest.approx(-81.3, abs=1e-3)
        assert measured.power_dbm.sigma == 2.0
    assert first.power_dbfs.value == pytest.approx(10 * math.log10((1e-4 + 1e-2) / 2), abs=1e-3)


def test_a_stretch_without_a_record_takes_the_dbm_away(white_noise: Make) -> None:
    samples = white_noise(2 * RATE, 1e-4)
    events = [segment(calibration=RECORD), *blocks(samples[:RATE], 0), segment(first_sample_index=RATE)]
    first, second, summary = play([*events, *blocks(samples[RATE:], RATE), end(2 * RATE)])
    assert first.power_dbm.validity == VALID
    assert second.power_dbm.reason == summary.power_dbm.reason == "NOT_CALIBRATED"


def test_a_record_below_thermal_noise_is_not_believed(white_noise: Make) -> None:
    # Noise of -80.8 dBFS/Hz is 1 dB above k T (-174 dBm/Hz) with an offset of -92.2 dB; 3 sigma are allowed below.
    for offset_db, believed in ((-92.2, True), (-97.0, True), (-99.0, False)):
        record = iq_pb2.Calibration(offset_db=offset_db, uncertainty_db=1.5, source="wrong")
        (summary,) = play([segment(calibration=record), *blocks(white_noise(11_000, 1e-4), 0), end(11_000)])
        assert (summary.power_dbm.validity == VALID) is believed, offset_db
        if not believed:
            assert summary.power_dbm.reason == "CALIBRATION_IMPLAUSIBLE"


@pytest.mark.parametrize(
    ("change", "field"), [({"offset_db": math.nan}, "offset_db"), ({"uncertainty_db": 0.0}, "uncertainty_db")]
)
def test_a_record_that_can_not_be_is_refused(change: dict[str, float], field: str) -> None:
    record = iq_pb2.Calibration(offset_db=1.0, uncertainty_db=1.0)
    for name, value in change.items():
        setattr(record, name, value)
    error = refused([segment(calibration=record)])
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_FIELD
    assert [violation.field for violation in error.violations] == [f"event.segment.calibration.{field}"]


def test_an_emission_without_a_carrier_has_an_offset_over_the_whole_stream(
    rng: np.random.Generator, white_noise: Make
) -> None:
    """BPSK of 600 baud at +1234.5 Hz, its edges rounded so that it does not fill the band."""
    count, sps = 6 * RATE, 20
    impulses = np.zeros(count)
    impulses[::sps] = rng.choice([-1.0, 1.0], count // sps)
    keyed = np.convolve(impulses, np.hanning(2 * sps), "same")
    samples = 0.1 * keyed * np.exp(2j * np.pi * 1_234.5 / RATE * np.arange(count)) + white_noise(count, 1e-4)
    *windows, summary = play([segment(), *blocks(samples, 0), end(count)])
    offset = summary.frequency_offset_hz
    assert offset.method == "psk-2"
    assert offset.value == pytest.approx(1_234.5, abs=5 * offset.sigma)
    assert offset.sigma < min(window.frequency_offset_hz.sigma for window in windows)


def test_drift_is_that_of_the_line(white_noise: Make) -> None:
    count = 20 * RATE
    at_s = np.arange(count) / RATE
    turns = 500.0 * at_s + 0.5 * 0.02 * at_s**2
    samples = np.exp(2j * np.pi * (turns % 1.0)) * 0.1 + white_noise(count, 1e-4)
    summary = play([segment(), *blocks(samples, 0), end(count)])[-1]
    drift = summary.frequency_drift_hz_per_s
    assert drift.value == pytest.approx(0.02, abs=4 * drift.sigma)
    assert drift.sigma < 1e-3
    assert summary.frequency_scatter_hz.value == pytest.approx(0.02 / math.sqrt(2), rel=0.2)


def test_a_gap_costs_no_number_its_value(stream: list[iq_pb2.IqEvent], white_noise: Make, tone: Make) -> None:
    samples = white_noise(4 * RATE, 1e-4) + tone(4 * RATE, 0.1, 0.1)
    head, tail = samples[: 2 * RATE], samples[2 * RATE + 500 :]
    events = [SEGMENT, *codes(head, 0), gap(2 * RATE, 500), *codes(tail, 2 * RATE + 500), end(4 * RATE)]
    whole, broken = play(stream)[-1], play(events)[-1]
    for name in ("power_dbfs", "noise_dbfs_per_hz", "kurtosis", "crest_factor_db", "spectral_flatness_ratio"):
        assert getattr(broken, name).value == pytest.approx(getattr(whole, name).value, abs=0.3), name


def test_the_page_names_every_metric_and_reason(repo_root: Path) -> None:
    page = (repo_root / "docs" / "measurements.md").read_text()
    for name in (*METRIC_NAMES, *ESTIMATES, *Reason):
        assert f"`{name}`" in page, name


def test_a_window_across_a_change_of_the_filter_is_judged_where_both_let_through(
    white_noise: Make, flat_signal: Make
) -> None:
    """Noise of which the filter leaves more from the middle of a window on: the floor is that of the common part."""
    half = RATE // 2
    narrow = flat_signal(half, RATE, -2_000.0, 2_000.0, 1e-4 / 3)
    events = [
        segment(passband_low_hz=-2_000.0, passband_high_hz=2_000.0),
        *blocks(narrow, 0),
        segment(passband_low_hz=-5_000.0, passband_high_hz=5_000.0, first_sample_index=half),
        *blocks(white_noise(RATE + half, 1e-4), half),
        end(2 * RATE),
    ]
    first, second, summary = play(events)
    for measured in (first, second, summary):
        assert measured.noise_dbfs_per_hz.value == pytest.approx(-40.0 - 10 * math.log10(RATE), abs=0.3)
    # The next window has its own filter again.
    assert second.noise_dbfs_per_hz.sigma < first.noise_dbfs_per_hz.sigma


def test_a_line_behind_a_change_of_gain_is_found(white_noise: Make, tone: Make) -> None:
    samples = white_noise(RATE, 1e-4)
    samples[RATE // 4 :] += tone(RATE - RATE // 4, 1_000.0 / RATE, 0.1)
    cut = RATE // 4
    events = [segment(), *blocks(samples[:cut], 0), segment(first_sample_index=cut), *blocks(samples[cut:], cut)]
    window, _ = play([*events, end(RATE)])
    assert window.frequency_offset_hz.method == "line-aboutanios-mulgrew"
    assert window.frequency_offset_hz.value == pytest.approx(1_000.0, abs=0.02)


def test_windows_that_disagree_widen_the_offset_of_the_stream(rng: np.random.Generator, white_noise: Make) -> None:
    """Noise-like emissions 300 Hz wide whose centre jumps by 40 Hz either way: no window is sure of the others."""
    parts = []
    for second in range(8):
        count = RATE
        lines = rng.standard_normal(count) + 1j * rng.standard_normal(count)
        frequencies = np.fft.fftfreq(count, 1.0 / RATE)
        centre = 1_000.0 + (40.0 if second % 2 else -40.0)
        flat = np.fft.ifft(np.where(np.abs(frequencies - centre) < 150.0, lines, 0.0))
        parts.append(flat / np.sqrt(np.mean(np.abs(flat) ** 2)) * 0.1)
    samples = np.concatenate(parts) + white_noise(8 * RATE, 1e-4)
    summary = play([segment(), *blocks(samples, 0), end(8 * RATE)])[-1]
    offset = summary.frequency_offset_hz
    assert offset.method == "centroid"
    assert offset.value == pytest.approx(1_000.0, abs=40.0)
    assert offset.sigma > 8.0


@pytest.mark.parametrize("place", ["status", "end"])
def test_a_rate_that_can_not_be_is_refused(white_noise: Make, place: str) -> None:
    events = [segment(), *blocks(white_noise(RATE, 1e-4), 0), end(RATE, 1e-300)]
    if place == "status":
        solution = iq_pb2.TimeSolution(sample_rate_hz=3 * RATE)
        events[1:] = [iq_pb2.IqEvent(status=iq_pb2.Status(time_solution=solution))]
    error = refused(events)
    assert [violation.field for violation in error.violations] == [f"event.{place}.time_solution.sample_rate_hz"]


def test_an_absurd_zero_offset_is_refused() -> None:
    error = refused([segment(zero_offset=1e20)])
    assert [violation.field for violation in error.violations] == ["event.segment.zero_offset"]
