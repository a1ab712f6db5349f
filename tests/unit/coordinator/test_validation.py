"""Every bad field of a spec is named, and nothing good is refused."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from coordinator_svc.validation import (
    check_known,
    check_request_id,
    check_spec,
    make_plan,
    out_of_range,
    refuse_if_none_in_range,
)
from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import AcquisitionSpec
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.receiver_pb2 import GainMode, Receiver
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import CoordinatorSettings

SETTINGS = CoordinatorSettings()
NOW_NS = 1_790_000_000_000_000_000


def good() -> AcquisitionSpec:
    return acquisition_spec(145.5e6, 5.0, ["torino", "genova"])


def fields(spec: AcquisitionSpec) -> list[str]:
    return [violation.field for violation in check_spec(spec, SETTINGS, NOW_NS)]


def test_a_plain_spec_is_good() -> None:
    assert fields(good()) == []


def set_frequency(hz: float) -> Callable[[AcquisitionSpec], None]:
    return lambda spec: setattr(spec.tuning, "center_frequency_hz", hz)


def set_start(offset_ns: int) -> Callable[[AcquisitionSpec], None]:
    return lambda spec: spec.start_time.FromNanoseconds(NOW_NS + offset_ns)


def set_duration_parts(seconds: int, nanos: int) -> Callable[[AcquisitionSpec], None]:
    def change(spec: AcquisitionSpec) -> None:
        spec.duration.seconds, spec.duration.nanos = seconds, nanos

    return change


def set_window(seconds: float) -> Callable[[AcquisitionSpec], None]:
    return lambda spec: spec.measurement.window_duration.FromNanoseconds(round(seconds * 1e9))


def set_bins(count: int) -> Callable[[AcquisitionSpec], None]:
    return lambda spec: setattr(spec.measurement, "spectrum_bin_count", count)


def set_passband(spec: AcquisitionSpec) -> None:
    spec.tuning.passband_low_hz, spec.tuning.passband_high_hz = 3000, -3000


def set_automatic_with_gain(spec: AcquisitionSpec) -> None:
    spec.tuning.gain_mode, spec.tuning.gain_db = GainMode.GAIN_MODE_AUTOMATIC, 40.0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (set_frequency(999.9), "spec.tuning.center_frequency_hz"),
        (set_frequency(6.000001e9), "spec.tuning.center_frequency_hz"),
        (set_frequency(math.nan), "spec.tuning.center_frequency_hz"),
        (set_frequency(math.inf), "spec.tuning.center_frequency_hz"),
        (lambda s: setattr(s.tuning, "gain_db", math.nan), "spec.tuning.gain_db"),
        (set_automatic_with_gain, "spec.tuning.gain_db"),
        (lambda s: setattr(s.tuning, "gain_mode", 9), "spec.tuning.gain_mode"),
        (set_passband, "spec.tuning.passband_low_hz"),
        (lambda s: setattr(s.tuning, "passband_high_hz", math.inf), "spec.tuning.passband_high_hz"),
        (lambda s: s.ClearField("duration"), "spec.duration"),
        (set_duration_parts(0, 0), "spec.duration"),
        (set_duration_parts(-1, 0), "spec.duration"),
        (set_duration_parts(300, 1), "spec.duration"),
        (set_duration_parts(1, -5), "spec.duration"),
        (lambda s: s.ClearField("receiver_ids"), "spec.receiver_ids"),
        (lambda s: s.receiver_ids.append("Torino"), "spec.receiver_ids[2]"),
        (lambda s: s.receiver_ids.append("../etc"), "spec.receiver_ids[2]"),
        (lambda s: s.receiver_ids.append("torino"), "spec.receiver_ids[2]"),
        (lambda s: s.receiver_ids.extend(f"r{n}" for n in range(99)), "spec.receiver_ids"),
        (set_start(-5_000_000_001), "spec.start_time"),
        (set_start(6 * 3600 * 10**9 + 1), "spec.start_time"),
        (lambda s: s.max_wait.FromSeconds(61), "spec.max_wait"),
        (lambda s: s.max_wait.FromSeconds(0), "spec.max_wait"),
        (lambda s: setattr(s, "min_receivers", 3), "spec.min_receivers"),
        (lambda s: setattr(s, "min_receivers", -1), "spec.min_receivers"),
        (set_window(0.099), "spec.measurement.window_duration"),
        (set_window(60.1), "spec.measurement.window_duration"),
        (set_bins(1000), "spec.measurement.spectrum_bin_count"),
        (set_bins(32), "spec.measurement.spectrum_bin_count"),
        (set_bins(32768), "spec.measurement.spectrum_bin_count"),
        (lambda s: s.measurement.metrics.append(99), "spec.measurement.metrics[0]"),
        (lambda s: s.measurement.metrics.append(0), "spec.measurement.metrics[0]"),
        (lambda s: s.measurement.metrics.extend([7, 8, 7]), "spec.measurement.metrics[2]"),
        (lambda s: s.measurement.metrics.extend([7] * 17), "spec.measurement.metrics"),
        (lambda s: s.labels.update({"k" * 64: "v"}), "spec.labels"),
        (lambda s: s.labels.update({"": "v"}), "spec.labels"),
        (lambda s: s.labels.update({str(n): "" for n in range(17)}), "spec.labels"),
    ],
)
def test_a_bad_field_is_named(change: Callable[[AcquisitionSpec], None], field: str) -> None:
    spec = good()
    change(spec)
    assert fields(spec) == [field]


@pytest.mark.parametrize(
    "change",
    [
        set_frequency(1e3),
        set_frequency(6e9),
        set_duration_parts(300, 0),
        set_duration_parts(0, 1),
        set_start(-5_000_000_000),
        set_start(6 * 3600 * 10**9),
        lambda s: s.max_wait.FromSeconds(60),
        lambda s: setattr(s, "min_receivers", 2),
        set_window(0.1),
        set_window(60),
        set_bins(64),
        set_bins(16384),
        lambda s: s.labels.update({"k" * 63: "v" * 63}),
    ],
)
def test_the_limits_themselves_are_good(change: Callable[[AcquisitionSpec], None]) -> None:
    spec = good()
    change(spec)
    assert fields(spec) == []


def test_all_bad_fields_come_at_once() -> None:
    assert fields(AcquisitionSpec(min_receivers=2)) == [
        "spec.tuning.center_frequency_hz",
        "spec.duration",
        "spec.receiver_ids",
        "spec.min_receivers",
    ]


def test_unknown_receivers_are_named_with_those_that_exist() -> None:
    violations = check_known(["torino", "nowhere", "genova"], {"torino": 1, "genova": 2})
    assert [violation.field for violation in violations] == ["spec.receiver_ids[1]"]
    assert "'nowhere'" in violations[0].description
    assert "genova, torino" in violations[0].description


@pytest.mark.parametrize("request_id", ["x" * 129, "a\nb", "\x00"])
def test_a_request_id_is_short_and_printable(request_id: str) -> None:
    assert [violation.field for violation in check_request_id(request_id)] == ["request_id"]


@pytest.mark.parametrize("request_id", ["", "x", "x" * 128, "3b3e0f0c-7a3c-4a66-8a4e-c1b4f3b1a0d1", "día 1"])
def test_a_good_request_id_passes(request_id: str) -> None:
    assert check_request_id(request_id) == []


def test_defaults_are_filled_in() -> None:
    plan = make_plan(good(), SETTINGS)
    assert plan == type(plan)(duration_ns=5 * 10**9, start_unix_ns=None, max_wait_s=5.0, min_receivers=1)


def test_a_duration_is_exact_to_the_nanosecond() -> None:
    spec = good()
    set_duration_parts(299, 999_999_999)(spec)
    spec.start_time.FromNanoseconds(time.time_ns() // 10**9 * 10**9 + 7)
    plan = make_plan(spec, SETTINGS)
    assert plan.duration_ns == 299_999_999_999
    assert plan.start_unix_ns is not None
    assert plan.start_unix_ns % 10**9 == 7


@pytest.mark.parametrize(("hz", "fits"), [(144e6, True), (146e6, True), (143.999e6, False), (146.001e6, False)])
def test_range_of_a_receiver_is_inclusive(hz: float, fits: bool) -> None:
    receiver = Receiver(receiver_id="torino", min_frequency_hz=144e6, max_frequency_hz=146e6)
    refusal = out_of_range(acquisition_spec(hz, 1, ["torino"]).tuning, receiver)
    assert (refusal is None) == fits
    if refusal is not None:
        assert refusal.reason == ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE
        assert refusal.metadata["max_frequency_hz"] == "146000000.0"


def test_a_request_is_refused_only_if_no_receiver_reaches_the_frequency() -> None:
    receiver = Receiver(receiver_id="torino", min_frequency_hz=144e6, max_frequency_hz=146e6)
    tuning = acquisition_spec(7.1e6, 1, ["torino"]).tuning
    refusal = out_of_range(tuning, receiver)
    assert refusal is not None
    refuse_if_none_in_range(tuning, [refusal], 2)
    with pytest.raises(HeimdallError) as caught:
        refuse_if_none_in_range(tuning, [refusal], 1)
    assert caught.value.reason == ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE
    assert [violation.field for violation in caught.value.violations] == ["spec.tuning.center_frequency_hz"]
