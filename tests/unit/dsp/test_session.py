from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from dsp_svc.requests import StreamConfig, read_config
from dsp_svc.session import Session
from heimdall.common.v1 import iq_pb2, measurement_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.dsp.v1 import dsp_pb2
from heimdall.errors import HeimdallError

Make = Callable[..., Any]
RATE = 12_000
START_NS = 1_600_000_000_000_000_000
CONFIG = StreamConfig("acq-1", "rx-1", 1.0, 0)


def segment(**changes: Any) -> iq_pb2.IqEvent:
    fields: dict[str, Any] = {
        "receiver_id": "rx-1",
        "center_frequency_hz": 77_500.0,
        "sample_rate_hz": float(RATE),
        "sample_format": iq_pb2.SAMPLE_FORMAT_CF32_LE,
        "full_scale": 1.0,
        "time_source": iq_pb2.TIME_SOURCE_GNSS,
    }
    return iq_pb2.IqEvent(segment=iq_pb2.Segment(**(fields | changes)))


def block(samples: Any, first: int, **changes: Any) -> iq_pb2.IqEvent:
    data = np.asarray(samples, np.complex64)
    fields: dict[str, Any] = {
        "first_sample_index": first,
        "first_sample_unix_ns": START_NS + first * 1_000_000_000 // RATE,
        "sample_count": len(data),
        "samples": data.tobytes(),
    }
    return iq_pb2.IqEvent(block=iq_pb2.Block(**(fields | changes)))


def gap(first: int, count: int) -> iq_pb2.IqEvent:
    return iq_pb2.IqEvent(gap=iq_pb2.Gap(first_lost_index=first, lost_sample_count=count))


def end(index: int, rate_hz: float | None = None) -> iq_pb2.IqEvent:
    event = iq_pb2.IqEvent(end=iq_pb2.End(end_sample_index=index, reason=iq_pb2.END_REASON_WINDOW_COMPLETE))
    if rate_hz is not None:
        event.end.time_solution.sample_rate_hz = rate_hz
        event.end.time_solution.reference_unix_ns = START_NS
        event.end.time_solution.source = iq_pb2.TIME_SOURCE_GNSS
    return event


def blocks(samples: Any, first: int, size: int = 3_000) -> list[iq_pb2.IqEvent]:
    return [block(samples[at : at + size], first + at) for at in range(0, len(samples), size)]


def play(events: Sequence[iq_pb2.IqEvent], config: StreamConfig = CONFIG) -> list[measurement_pb2.Measurement]:
    """Gives a session the events as the service does."""
    session, results = Session(config), []
    for event in events:
        for run in session.accept(event):
            window = session.measure(run)
            if window is not None:
                results.append(window)
        if event.HasField("end"):
            results.append(session.summarise(event.end))
    return results


def refused(events: Sequence[iq_pb2.IqEvent]) -> HeimdallError:
    with pytest.raises(HeimdallError) as caught:
        play(events)
    return caught.value


def test_windows_lie_on_the_grid_and_the_summary_holds_everything(white_noise: Make) -> None:
    samples = white_noise(30_500, 0.01)
    *windows, summary = play([segment(), *blocks(samples, 0, 2_789), end(30_500)])
    assert [(w.first_sample_index, w.sample_count) for w in windows] == [(0, 12_000), (12_000, 12_000)]
    assert windows[0].first_sample_unix_ns == START_NS
    # The time of a block in whole ns, and the place in it.
    assert abs(windows[1].first_sample_unix_ns - START_NS - 1_000_000_000) <= 1
    assert all(w.scope == measurement_pb2.MEASUREMENT_SCOPE_WINDOW for w in windows)
    assert summary.scope == measurement_pb2.MEASUREMENT_SCOPE_SUMMARY
    assert (summary.first_sample_index, summary.sample_count, summary.lost_sample_count) == (0, 30_500, 0)
    assert summary.power_dbfs.value == pytest.approx(10 * np.log10(np.mean(np.abs(samples) ** 2)), abs=1e-4)
    for window in windows:
        first = window.first_sample_index
        expected = 10 * np.log10(np.mean(np.abs(samples[first : first + 12_000]) ** 2))
        assert window.power_dbfs.value == pytest.approx(expected, abs=1e-4)


def test_the_grid_starts_again_after_a_gap(white_noise: Make) -> None:
    events = [segment(), *blocks(white_noise(18_000), 0), gap(18_000, 777), *blocks(white_noise(13_000), 18_777)]
    *windows, summary = play([*events, end(31_777)])
    assert [w.first_sample_index for w in windows] == [0, 18_777]
    assert (summary.sample_count, summary.lost_sample_count) == (31_000, 777)


def test_no_number_joins_samples_across_a_gap(tone: Make, white_noise: Make) -> None:
    """A tone whose phase a gap breaks stays one clean line: nothing was transformed across the break."""
    lost = 6_061
    whole = tone(48_000 + lost, 0.1 + 1e-5) + white_noise(48_000 + lost, 1e-8)
    head, tail = whole[:18_000], whole[18_000 + lost :]
    events = [segment(), *blocks(head, 0), gap(18_000, lost), *blocks(tail, 18_000 + lost), end(48_000 + lost)]
    *windows, summary = play(events)
    assert [w.first_sample_index for w in windows] == [0, 18_000 + lost, 30_000 + lost]
    for result in (*windows, summary):
        # A broken phase would fill the band far above a floor of 10^-8 a sample.
        assert result.noise_dbfs_per_hz.value == pytest.approx(-80.0 - 10 * np.log10(RATE), abs=0.3)
    for window in windows:
        assert window.frequency_offset_hz.value == pytest.approx((0.1 + 1e-5) * RATE, abs=1e-4)
    assert summary.frequency_offset_hz.value == pytest.approx((0.1 + 1e-5) * RATE, abs=1e-6)
    assert summary.frequency_offset_hz.method == "line-coherent"


def test_the_summary_uses_the_final_rate_and_time(tone: Make) -> None:
    rate_hz = 12_000.8
    events = [segment(), gap(0, 100), *blocks(tone(24_000, 0.1), 100), end(24_100, rate_hz)]
    *windows, summary = play(events)
    assert windows[0].frequency_offset_hz.value == pytest.approx(0.1 * RATE, abs=1e-3)
    assert summary.sample_rate_hz == rate_hz
    assert summary.frequency_offset_hz.value == pytest.approx(0.1 * rate_hz, abs=1e-5)
    assert summary.first_sample_index == 100
    assert summary.first_sample_unix_ns == START_NS + round(100 / rate_hz * 1e9)
    assert summary.time_source == iq_pb2.TIME_SOURCE_GNSS


def test_a_status_gives_windows_their_rate(tone: Make) -> None:
    status = iq_pb2.IqEvent()
    status.status.time_solution.sample_rate_hz = 12_001.0
    window, _ = play([segment(), status, *blocks(tone(12_000, 0.25), 0), end(12_000)])
    assert window.sample_rate_hz == 12_001.0
    assert window.frequency_offset_hz.value == pytest.approx(0.25 * 12_001.0, abs=1e-3)


def test_a_stream_without_samples_has_reasons_instead_of_numbers() -> None:
    (summary,) = play([segment(), gap(0, 500), end(500)])
    assert (summary.sample_count, summary.lost_sample_count) == (0, 500)
    for estimate in (summary.power_dbfs, summary.noise_dbfs_per_hz, summary.snr_db, summary.frequency_offset_hz):
        assert estimate.validity == measurement_pb2.Estimate.VALIDITY_ABSENT
        assert estimate.reason == "NO_SAMPLES"
        assert not estimate.HasField("value")


def test_a_stretch_shorter_than_a_segment_still_has_its_level(tone: Make) -> None:
    (summary,) = play([segment(), block(tone(200, 0.1, 0.1), 0), end(200)])
    assert summary.power_dbfs.value == pytest.approx(-20.0, abs=1e-4)
    assert summary.noise_dbfs_per_hz.reason == "TOO_FEW_SAMPLES"
    assert summary.frequency_offset_hz.reason == "TOO_FEW_SAMPLES"


def test_overload_is_the_share_of_the_marked_samples(white_noise: Make) -> None:
    first, second = block(white_noise(9_000), 0, overload=True), block(white_noise(15_000), 9_000)
    *windows, summary = play([segment(), first, second, end(24_000)])
    assert [w.overload_ratio.value for w in windows] == [0.75, 0.0]
    assert summary.overload_ratio.value == pytest.approx(9 / 24)


def test_a_spectrum_comes_only_if_asked_for(white_noise: Make) -> None:
    events = [segment(), *blocks(white_noise(12_000, 0.01), 0), end(12_000)]
    assert not any(result.HasField("spectrum") for result in play(events))
    for result in play(events, StreamConfig("acq-1", "rx-1", 1.0, 64)):
        spectrum = result.spectrum
        assert len(spectrum.power_dbfs_per_hz) == 64
        assert (spectrum.first_bin_hz, spectrum.bin_spacing_hz) == (-6_000.0, 187.5)
        assert spectrum.noise_bandwidth_hz == pytest.approx(1.5 * 187.5)
        power = np.sum(10 ** (np.asarray(spectrum.power_dbfs_per_hz) / 10)) * spectrum.bin_spacing_hz
        assert 10 * np.log10(power) == pytest.approx(-20.0, abs=0.2)


def test_long_windows_are_measured_in_runs(white_noise: Make) -> None:
    samples = white_noise(700_000, 0.01)
    config = StreamConfig("acq-1", "rx-1", 50.0, 0)
    window, summary = play([segment(), *blocks(samples, 0, 60_000), end(700_000)], config)
    assert window.sample_count == 600_000
    assert summary.sample_count == 700_000
    expected = 10 * np.log10(np.mean(np.abs(samples[:600_000]) ** 2))
    assert window.power_dbfs.value == pytest.approx(expected, abs=1e-4)


def test_a_new_passband_holds_from_its_segment_on(flat_signal: Make) -> None:
    samples = flat_signal(24_000, float(RATE), -3_000.0, 3_000.0, 0.01)
    wide = segment(passband_low_hz=-3_000.0, passband_high_hz=3_000.0)
    narrow = segment(passband_low_hz=-2_000.0, passband_high_hz=2_000.0, first_sample_index=12_000)
    *windows, summary = play(
        [wide, *blocks(samples[:12_000], 0), narrow, *blocks(samples[12_000:], 12_000), end(24_000)]
    )
    for result in (*windows, summary):
        assert result.noise_dbfs_per_hz.value == pytest.approx(-20.0 - 10 * np.log10(6_000), abs=0.3)


R = ErrorReason
SILENCE = np.ones(10, np.complex64)


@pytest.mark.parametrize(
    ("events", "reason", "field"),
    [
        ([block(SILENCE, 0)], R.ERROR_REASON_UNEXPECTED_MESSAGE, "event.block"),
        ([gap(0, 1)], R.ERROR_REASON_UNEXPECTED_MESSAGE, "event.gap"),
        ([end(0)], R.ERROR_REASON_UNEXPECTED_MESSAGE, "event.end"),
        ([iq_pb2.IqEvent()], R.ERROR_REASON_INVALID_FIELD, "event"),
        ([segment(), block(SILENCE, 1)], R.ERROR_REASON_INDEX_MISMATCH, "event.block.first_sample_index"),
        (
            [segment(), block(SILENCE, 0), block(SILENCE, 9)],
            R.ERROR_REASON_INDEX_MISMATCH,
            "event.block.first_sample_index",
        ),
        ([segment(), gap(5, 1)], R.ERROR_REASON_INDEX_MISMATCH, "event.gap.first_lost_index"),
        ([segment(), gap(0, 0)], R.ERROR_REASON_INVALID_FIELD, "event.gap.lost_sample_count"),
        ([segment(), block(SILENCE, 0), end(9)], R.ERROR_REASON_INDEX_MISMATCH, "event.end.end_sample_index"),
        ([segment(), block(SILENCE, 0, sample_count=9)], R.ERROR_REASON_BLOCK_LENGTH_MISMATCH, "event.block.samples"),
        ([segment(), block(SILENCE, 0, sample_count=0)], R.ERROR_REASON_INVALID_FIELD, "event.block.sample_count"),
        ([segment(), block(np.zeros(131_073), 0)], R.ERROR_REASON_BLOCK_TOO_LARGE, "event.block.samples"),
        ([segment(sample_format=0)], R.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT, "event.segment.sample_format"),
        ([segment(sample_format=99)], R.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT, "event.segment.sample_format"),
        ([segment(sample_rate_hz=0.0)], R.ERROR_REASON_INVALID_FIELD, "event.segment.sample_rate_hz"),
        ([segment(sample_rate_hz=1e300)], R.ERROR_REASON_INVALID_FIELD, "event.segment.sample_rate_hz"),
        ([segment(sample_rate_hz=float("nan"))], R.ERROR_REASON_INVALID_FIELD, "event.segment.sample_rate_hz"),
        (
            [segment(passband_low_hz=7e3, passband_high_hz=8e3)],
            R.ERROR_REASON_INVALID_FIELD,
            "event.segment.passband_low_hz",
        ),
        ([segment(passband_high_hz=float("inf"))], R.ERROR_REASON_INVALID_FIELD, "event.segment.passband_low_hz"),
        ([segment(full_scale=1e-200)], R.ERROR_REASON_INVALID_FIELD, "event.segment.full_scale"),
        ([segment(full_scale=-1.0)], R.ERROR_REASON_INVALID_FIELD, "event.segment.full_scale"),
        ([segment(zero_offset=float("nan"))], R.ERROR_REASON_INVALID_FIELD, "event.segment.zero_offset"),
        ([segment(receiver_id="rx-2")], R.ERROR_REASON_INVALID_FIELD, "event.segment.receiver_id"),
        (
            [segment(passband_low_hz=10.0, passband_high_hz=5.0)],
            R.ERROR_REASON_INVALID_FIELD,
            "event.segment.passband_low_hz",
        ),
        ([segment(), segment(sample_rate_hz=8_000.0)], R.ERROR_REASON_INVALID_FIELD, "event.segment.sample_rate_hz"),
        (
            [segment(), block(np.full(10, np.nan), 0), end(10)],
            R.ERROR_REASON_INVALID_FIELD,
            "event.block.samples",
        ),
    ],
)
def test_what_can_not_be_is_refused_by_its_field(
    events: list[iq_pb2.IqEvent], reason: ErrorReason.ValueType, field: str
) -> None:
    error = refused(events)
    assert ErrorReason.Name(error.reason) == ErrorReason.Name(reason)
    assert [violation.field for violation in error.violations] == [field]


def test_every_bad_field_of_the_config_is_named_at_once() -> None:
    config = dsp_pb2.ProcessRequest.Config(acquisition_id="Not An Id", receiver_id="")
    config.measurement.window_duration.FromMilliseconds(50)
    config.measurement.spectrum_bin_count = 1_000
    unknown: Any = 77
    config.measurement.metrics.extend([measurement_pb2.METRIC_SNR, unknown, measurement_pb2.METRIC_SNR])
    with pytest.raises(HeimdallError) as caught:
        read_config(config)
    assert [violation.field for violation in caught.value.violations] == [
        "config.acquisition_id",
        "config.receiver_id",
        "config.measurement.window_duration",
        "config.measurement.spectrum_bin_count",
        "config.measurement.metrics[1]",
        "config.measurement.metrics[2]",
    ]
    assert "0.05 s is not in 0.1 s to 60 s" in caught.value.message


def test_a_config_has_defaults() -> None:
    config = dsp_pb2.ProcessRequest.Config(acquisition_id="a", receiver_id="b")
    assert read_config(config) == StreamConfig("a", "b", 1.0, 0)
