"""What a request has to hold to: every bad field is found at once, before anything is connected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.common.v1.acquisition_pb2 import AcquisitionSpec, MeasurementConfig
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.receiver_pb2 import GainMode, Receiver, Tuning
from heimdall.errors import FieldViolation, HeimdallError, InvalidFieldsError
from heimdall.ids import ID_PATTERN, is_id
from heimdall.metrics import metric_violations
from heimdall.runtime.settings import CoordinatorSettings

MIN_FREQUENCY_HZ: Final = 1e3
"""Lowest centre frequency."""
MAX_FREQUENCY_HZ: Final = 6e9
"""Highest centre frequency."""
MAX_START_AGE_S: Final = 5.0
"""How far in the past a window may start; what lies before is lost in any case."""
MAX_START_LEAD_S: Final = 6 * 3600.0
"""How far in the future a window may start."""

_NS: Final = 1_000_000_000
_MAX_REQUEST_ID_LENGTH: Final = 128
_MAX_LABEL_COUNT: Final = 16
_MAX_LABEL_LENGTH: Final = 63
_SPECTRUM_BIN_COUNTS: Final = frozenset(2**power for power in range(6, 15))


@dataclass(frozen=True)
class Plan:
    """What a valid spec asks for, with the defaults filled in."""

    duration_ns: int
    """Length of the window in ns."""
    start_unix_ns: int | None
    """Start of the window in UTC ns since 1970; None for as soon as the receivers stream."""
    max_wait_s: float
    """How long to wait for the receivers."""
    min_receivers: int
    """Number of receivers that must store a sample."""


def check_request_id(request_id: str) -> list[FieldViolation]:
    """Returns what is wrong with the caller's id of a request; nothing if it is empty."""
    if len(request_id) <= _MAX_REQUEST_ID_LENGTH and request_id.isprintable():
        return []
    text = f"is {request_id[:40]!r} with {len(request_id)} characters; at most {_MAX_REQUEST_ID_LENGTH} printable ones"
    return [FieldViolation("request_id", text)]


def check_spec(spec: AcquisitionSpec, settings: CoordinatorSettings, now_unix_ns: int) -> list[FieldViolation]:
    """Returns every bad field of a spec, without looking at whether the receivers exist.

    Args:
        spec: What was asked for.
        settings: The limits.
        now_unix_ns: UTC now in ns since 1970.
    """
    return [
        *_check_tuning(spec),
        *_check_duration(
            "spec.duration", spec.duration, spec.HasField("duration"), 0.0, settings.max_duration_s, required=True
        ),
        *_check_receiver_ids(spec.receiver_ids, settings.max_receiver_count),
        *_check_start(spec, now_unix_ns),
        *_check_duration("spec.max_wait", spec.max_wait, spec.HasField("max_wait"), 0.0, settings.max_wait_s),
        *_check_min_receivers(spec),
        *_check_measurement(spec.measurement),
        *_check_labels(spec.labels),
    ]


def check_known(receiver_ids: Sequence[str], known: Mapping[str, object]) -> list[FieldViolation]:
    """Returns a violation for each receiver that no fetcher owns."""
    names = ", ".join(sorted(known)[:20]) or "none"
    return [
        FieldViolation(f"spec.receiver_ids[{index}]", f"no receiver is called {receiver_id!r}; known are: {names}")
        for index, receiver_id in enumerate(receiver_ids)
        if receiver_id not in known and is_id(receiver_id)
    ]


def make_plan(spec: AcquisitionSpec, settings: CoordinatorSettings) -> Plan:
    """Returns what a spec that passed the checks asks for, with the defaults filled in."""
    return Plan(
        duration_ns=_duration_ns(spec.duration),
        start_unix_ns=_time_ns(spec.start_time) if spec.HasField("start_time") else None,
        max_wait_s=_duration_ns(spec.max_wait) / _NS if spec.HasField("max_wait") else settings.default_wait_s,
        min_receivers=spec.min_receivers or 1,
    )


def out_of_range(tuning: Tuning, receiver: Receiver) -> HeimdallError | None:
    """Returns why a receiver can not be tuned as asked; None if it can."""
    if receiver.min_frequency_hz <= tuning.center_frequency_hz <= receiver.max_frequency_hz:
        return None
    return HeimdallError(
        ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE,
        f"{receiver.receiver_id} reaches {receiver.min_frequency_hz:.15g} Hz to {receiver.max_frequency_hz:.15g} Hz, "
        f"converter included; {tuning.center_frequency_hz:.15g} Hz is outside",
        metadata={
            "receiver_id": receiver.receiver_id,
            "center_frequency_hz": tuning.center_frequency_hz,
            "min_frequency_hz": receiver.min_frequency_hz,
            "max_frequency_hz": receiver.max_frequency_hz,
        },
    )


def refuse_if_none_in_range(tuning: Tuning, refusals: Sequence[HeimdallError], receiver_count: int) -> None:
    """Refuses a request none of whose receivers can be tuned to its frequency.

    Raises:
        HeimdallError: FREQUENCY_OUT_OF_RANGE, with the range of each receiver.
    """
    if len(refusals) < receiver_count:
        return
    raise HeimdallError(
        ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE,
        f"no receiver can be tuned to {tuning.center_frequency_hz:.15g} Hz: "
        + "; ".join(refusal.message for refusal in refusals),
        metadata={"center_frequency_hz": tuning.center_frequency_hz},
        violations=[FieldViolation("spec.tuning.center_frequency_hz", refusal.message) for refusal in refusals],
    )


def refuse_if_bad(violations: Sequence[FieldViolation]) -> None:
    """Refuses a request with bad fields.

    Raises:
        InvalidFieldsError: If there is any violation; names all of them.
    """
    if violations:
        raise InvalidFieldsError(violations)


def _check_tuning(spec: AcquisitionSpec) -> list[FieldViolation]:
    tuning, found = spec.tuning, list[FieldViolation]()
    frequency_hz = tuning.center_frequency_hz
    if not MIN_FREQUENCY_HZ <= frequency_hz <= MAX_FREQUENCY_HZ:
        text = f"is {frequency_hz:.15g} Hz; from {MIN_FREQUENCY_HZ:g} to {MAX_FREQUENCY_HZ:g} Hz is possible"
        found.append(FieldViolation("spec.tuning.center_frequency_hz", text))
    if tuning.gain_mode not in GainMode.values():
        found.append(FieldViolation("spec.tuning.gain_mode", f"is {tuning.gain_mode}; MANUAL and AUTOMATIC are known"))
    for name in ("gain_db", "passband_low_hz", "passband_high_hz"):
        value: float = getattr(tuning, name)
        if tuning.HasField(name) and not math.isfinite(value):
            found.append(FieldViolation(f"spec.tuning.{name}", f"is {value}; a finite number is needed"))
    if tuning.gain_mode == GainMode.GAIN_MODE_AUTOMATIC and tuning.HasField("gain_db"):
        text = f"is {tuning.gain_db:g} dB under automatic gain; leave it out, or set gain_mode to MANUAL"
        found.append(FieldViolation("spec.tuning.gain_db", text))
    both = tuning.HasField("passband_low_hz") and tuning.HasField("passband_high_hz")
    if both and tuning.passband_low_hz >= tuning.passband_high_hz:
        text = f"is {tuning.passband_low_hz:g} Hz; below passband_high_hz ({tuning.passband_high_hz:g} Hz) is possible"
        found.append(FieldViolation("spec.tuning.passband_low_hz", text))
    return found


def _check_duration(
    field: str, duration: Duration, present: bool, above_s: float, max_s: float, *, required: bool = False
) -> list[FieldViolation]:
    if not present:
        return [FieldViolation(field, f"is missing; above {above_s:g} s, at most {max_s:g} s")] if required else []
    value_s = _duration_ns(duration) / _NS
    malformed = not -_NS < duration.nanos < _NS or duration.seconds * duration.nanos < 0
    if malformed or not above_s < value_s <= max_s:
        return [FieldViolation(field, f"is {value_s:.15g} s; above {above_s:g} s, at most {max_s:g} s is possible")]
    return []


def _check_receiver_ids(receiver_ids: Sequence[str], max_count: int) -> list[FieldViolation]:
    field = "spec.receiver_ids"
    if not receiver_ids:
        return [FieldViolation(field, "is empty; at least one receiver is needed")]
    found, seen = list[FieldViolation](), dict[str, int]()
    if len(receiver_ids) > max_count:
        found.append(FieldViolation(field, f"has {len(receiver_ids)} entries; at most {max_count} are possible"))
    for index, receiver_id in enumerate(receiver_ids[:max_count]):
        if not is_id(receiver_id):
            text = f"is {receiver_id[:80]!r}; an id matches {ID_PATTERN}"
            found.append(FieldViolation(f"{field}[{index}]", text))
        elif receiver_id in seen:
            text = f"is {receiver_id!r} again, as [{seen[receiver_id]}] already; each receiver is named once"
            found.append(FieldViolation(f"{field}[{index}]", text))
        seen.setdefault(receiver_id, index)
    return found


def _check_start(spec: AcquisitionSpec, now_unix_ns: int) -> list[FieldViolation]:
    if not spec.HasField("start_time"):
        return []
    lead_s = (_time_ns(spec.start_time) - now_unix_ns) / _NS
    if 0 <= spec.start_time.nanos < _NS and -MAX_START_AGE_S <= lead_s <= MAX_START_LEAD_S:
        return []
    text = (
        f"lies {abs(lead_s):.3f} s in the {'future' if lead_s > 0 else 'past'}; "
        f"from {MAX_START_AGE_S:g} s in the past to {MAX_START_LEAD_S:g} s in the future is possible"
    )
    return [FieldViolation("spec.start_time", text)]


def _check_min_receivers(spec: AcquisitionSpec) -> list[FieldViolation]:
    if 0 <= spec.min_receivers <= max(1, len(spec.receiver_ids)):
        return []
    text = f"is {spec.min_receivers}; from 1 to the number of receivers, {len(spec.receiver_ids)}, is possible"
    return [FieldViolation("spec.min_receivers", text)]


def _check_measurement(config: MeasurementConfig) -> list[FieldViolation]:
    found = list[FieldViolation]()
    if config.HasField("window_duration"):
        window_s = _duration_ns(config.window_duration) / _NS
        if not 0.1 <= window_s <= 60:
            text = f"is {window_s:.15g} s; from 0.1 s to 60 s is possible"
            found.append(FieldViolation("spec.measurement.window_duration", text))
    bin_count = config.spectrum_bin_count
    if bin_count != 0 and bin_count not in _SPECTRUM_BIN_COUNTS:
        text = f"is {bin_count}; 0 for none, or a power of two from 64 to 16384"
        found.append(FieldViolation("spec.measurement.spectrum_bin_count", text))
    return found + metric_violations("spec.measurement.metrics", config.metrics)


def _check_labels(labels: Mapping[str, str]) -> list[FieldViolation]:
    found = list[FieldViolation]()
    if len(labels) > _MAX_LABEL_COUNT:
        text = f"has {len(labels)} entries; at most {_MAX_LABEL_COUNT} are possible"
        found.append(FieldViolation("spec.labels", text))
    for key, value in labels.items():
        if not 0 < len(key) <= _MAX_LABEL_LENGTH or len(value) > _MAX_LABEL_LENGTH:
            text = f"{key[:20]!r}={value[:20]!r} is too long or has no key; each part has at most 63 characters"
            found.append(FieldViolation("spec.labels", text))
    return found


def _duration_ns(duration: Duration) -> int:
    return duration.seconds * _NS + duration.nanos


def _time_ns(time: Timestamp) -> int:
    return time.seconds * _NS + time.nanos
