"""What callers ask for, checked and in plain types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dsp_svc.estimate.calibration import Calibration
from dsp_svc.estimate.metrics import DEFAULT_METRICS, Metric
from dsp_svc.estimate.psd import Welch
from dsp_svc.estimate.snr import Band
from heimdall.common.v1 import acquisition_pb2, iq_pb2, measurement_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.dsp.v1 import dsp_pb2
from heimdall.errors import BadFieldError, FieldViolation, InvalidFieldsError
from heimdall.ids import ID_PATTERN, is_id
from heimdall.metrics import metric_violations
from heimdall.samples import SampleCoding, SampleFormat

MAX_SAMPLES_BYTES: Final = 1024 * 1024
"""Most bytes of samples in one message."""

_DEFAULT_WINDOW_S: Final = 1.0
_WINDOW_RANGE_S: Final = (0.1, 60.0)
_BIN_COUNT_RANGE: Final = (64, 16_384)
_DEFAULT_BIN_COUNT: Final = 1024
_SAMPLE_RATE_RANGE_HZ: Final = (100.0, 1e9)
_FULL_SCALE_RANGE: Final = (1e-3, 1e9)
_ZERO_OFFSET_RANGE: Final = (-1e6, 1e6)
_OFFSET_RANGE_DB: Final = (-1000.0, 1000.0)
_UNCERTAINTY_RANGE_DB: Final = (1e-6, 100.0)
_FORMATS: Final[Mapping[int, SampleFormat]] = MappingProxyType(
    {
        iq_pb2.SAMPLE_FORMAT_CI16_LE: SampleFormat.CI16_LE,
        iq_pb2.SAMPLE_FORMAT_CU8: SampleFormat.CU8,
        iq_pb2.SAMPLE_FORMAT_CF32_LE: SampleFormat.CF32_LE,
    }
)
_METRICS: Final[Mapping[int, Metric]] = MappingProxyType(
    {measurement_pb2.Metric.Value(f"METRIC_{metric.name}"): metric for metric in Metric}
)
_SCALES: Final[Mapping[SampleFormat, tuple[float, float]]] = MappingProxyType(
    {
        SampleFormat.CI16_LE: (32768.0, 0.0),
        SampleFormat.CU8: (127.5, 127.5),
        SampleFormat.CF32_LE: (1.0, 0.0),
    }
)


@dataclass(frozen=True)
class StreamConfig:
    """What to measure of one receiver's stream."""

    acquisition_id: str
    """The acquisition that the samples belong to."""
    receiver_id: str
    """The receiver that the samples belong to."""
    window_s: float
    """The length of a measurement window in s."""
    spectrum_bin_count: int
    """The bins of the spectra that are handed out; 0 for none."""
    metrics: frozenset[Metric] = DEFAULT_METRICS
    """What is measured."""


@dataclass(frozen=True)
class StreamSegment:
    """What the receiver does."""

    first_sample_index: int
    """The first index that this holds for."""
    center_frequency_hz: float
    """The radio frequency at 0 Hz of the baseband in Hz."""
    sample_rate_hz: float
    """The announced sample rate in Hz."""
    coding: SampleCoding
    """The scale of the samples."""
    passband: Band
    """What the receiver's filter lets through; all of the baseband if that is not known."""
    time_source: iq_pb2.TimeSource.ValueType
    """Whose clock the sample times come from."""
    calibration: Calibration | None = None
    """What turns levels into dBm; None if that is not known."""


@dataclass(frozen=True)
class SpectrumJob:
    """One run of samples to measure by itself."""

    samples: bytes
    """Whole I,Q pairs."""
    coding: SampleCoding
    """Their scale."""
    sample_rate_hz: float
    """Their rate in Hz."""
    center_frequency_hz: float
    """The radio frequency at 0 Hz in Hz."""
    passband: Band
    """The band that holds receiver noise."""
    welch: Welch
    """The spectrum asked for."""


def read_config(config: dsp_pb2.ProcessRequest.Config) -> StreamConfig:
    """Checks the opening message of a stream.

    Raises:
        InvalidFieldsError: Every field that can not be.
    """
    wrong: list[FieldViolation] = []
    for name, value in (("acquisition_id", config.acquisition_id), ("receiver_id", config.receiver_id)):
        if not is_id(value):
            wrong.append(FieldViolation(f"config.{name}", f"{value!r} does not match {ID_PATTERN}"))
    window_s = _window_s(config.measurement, wrong)
    bin_count = config.measurement.spectrum_bin_count
    if bin_count != 0:
        _check_bin_count("config.measurement.spectrum_bin_count", bin_count, wrong)
    wrong += metric_violations("config.measurement.metrics", config.measurement.metrics)
    if wrong:
        raise InvalidFieldsError(wrong)
    asked = frozenset(_METRICS[metric] for metric in config.measurement.metrics)
    return StreamConfig(config.acquisition_id, config.receiver_id, window_s, bin_count, asked or DEFAULT_METRICS)


def read_segment(segment: iq_pb2.Segment) -> StreamSegment:
    """Checks a segment.

    Raises:
        InvalidFieldsError: Every field that can not be.
        HeimdallError: UNKNOWN_SAMPLE_FORMAT.
    """
    coding_format = _read_format(segment.sample_format, "event.segment.sample_format")
    wrong: list[FieldViolation] = []
    _check_range("event.segment.sample_rate_hz", segment.sample_rate_hz, _SAMPLE_RATE_RANGE_HZ, wrong)
    _check_range("event.segment.full_scale", segment.full_scale, _FULL_SCALE_RANGE, wrong)
    _check_range("event.segment.zero_offset", segment.zero_offset, _ZERO_OFFSET_RANGE, wrong)
    _check_finite("event.segment.center_frequency_hz", segment.center_frequency_hz, wrong)
    passband = _read_passband(segment, segment.sample_rate_hz, "event.segment.", wrong)
    calibration = _read_calibration(segment, wrong)
    if wrong:
        raise InvalidFieldsError(wrong)
    return StreamSegment(
        segment.first_sample_index,
        segment.center_frequency_hz,
        segment.sample_rate_hz,
        SampleCoding(coding_format, segment.full_scale, segment.zero_offset),
        passband,
        segment.time_source,
        calibration,
    )


def read_spectrum_job(request: dsp_pb2.ComputeSpectrumRequest) -> SpectrumJob:
    """Checks a request for one spectrum.

    Raises:
        InvalidFieldsError: Every field that can not be.
        HeimdallError: UNKNOWN_SAMPLE_FORMAT, BLOCK_TOO_LARGE or BLOCK_LENGTH_MISMATCH.
    """
    coding_format = _read_format(request.sample_format, "sample_format")
    full_scale, zero_offset = _SCALES[coding_format]
    full_scale = request.full_scale if request.HasField("full_scale") else full_scale
    zero_offset = request.zero_offset if request.HasField("zero_offset") else zero_offset
    bin_count = request.bin_count or _DEFAULT_BIN_COUNT
    wrong: list[FieldViolation] = []
    _check_range("sample_rate_hz", request.sample_rate_hz, _SAMPLE_RATE_RANGE_HZ, wrong)
    _check_range("full_scale", full_scale, _FULL_SCALE_RANGE, wrong)
    _check_range("zero_offset", zero_offset, _ZERO_OFFSET_RANGE, wrong)
    _check_finite("center_frequency_hz", request.center_frequency_hz, wrong)
    _check_bin_count("bin_count", bin_count, wrong)
    passband = _read_passband(request, request.sample_rate_hz, "", wrong)
    if wrong:
        raise InvalidFieldsError(wrong)
    coding = SampleCoding(coding_format, full_scale, zero_offset)
    check_length("samples", len(request.samples), None, coding)
    sample_count = len(request.samples) // coding.sample_size_bytes
    if sample_count < bin_count:
        text = f"{sample_count} samples are fewer than the {bin_count} bins; send more samples or ask for fewer bins"
        raise InvalidFieldsError([FieldViolation("samples", text)])
    return SpectrumJob(
        request.samples, coding, request.sample_rate_hz, request.center_frequency_hz, passband, Welch(bin_count)
    )


def check_length(field: str, byte_count: int, sample_count: int | None, coding: SampleCoding) -> None:
    """Checks the size of a run of samples.

    Args:
        field: The field that carries the samples.
        byte_count: Its length.
        sample_count: The count that the caller states; None if it states none.
        coding: The scale of the samples.

    Raises:
        HeimdallError: BLOCK_TOO_LARGE or BLOCK_LENGTH_MISMATCH.
    """
    size = coding.sample_size_bytes
    if byte_count > MAX_SAMPLES_BYTES:
        text = f"{byte_count} bytes of samples are more than {MAX_SAMPLES_BYTES}; cut them at 256 KiB"
        raise BadFieldError(ErrorReason.ERROR_REASON_BLOCK_TOO_LARGE, field, text, byte_count=byte_count)
    if sample_count is not None and byte_count != sample_count * size:
        text = f"{byte_count} bytes are not {sample_count} samples of {size} bytes ({coding.sample_format.name})"
        raise BadFieldError(ErrorReason.ERROR_REASON_BLOCK_LENGTH_MISMATCH, field, text, byte_count=byte_count)
    if byte_count % size:
        text = f"{byte_count} bytes are no whole number of samples of {size} bytes ({coding.sample_format.name})"
        raise BadFieldError(ErrorReason.ERROR_REASON_BLOCK_LENGTH_MISMATCH, field, text, byte_count=byte_count)


def check_rate(field: str, solution: iq_pb2.TimeSolution, segment: StreamSegment) -> None:
    """Checks the fitted sample rate of a stream; 0 stands for none.

    Args:
        field: The field that carries the time solution.
        solution: The time solution.
        segment: What the receiver announced.

    Raises:
        InvalidFieldsError: The rate is not near the announced one.
    """
    rate_hz = solution.sample_rate_hz
    if rate_hz and not 0.5 <= rate_hz / segment.sample_rate_hz <= 2.0:
        text = f"{rate_hz:g} is not near the announced {segment.sample_rate_hz:g}"
        raise InvalidFieldsError([FieldViolation(f"{field}.sample_rate_hz", text)])


def _window_s(measurement: acquisition_pb2.MeasurementConfig, wrong: list[FieldViolation]) -> float:
    if not measurement.HasField("window_duration"):
        return _DEFAULT_WINDOW_S
    window_s = measurement.window_duration.seconds + measurement.window_duration.nanos / 1e9
    low, high = _WINDOW_RANGE_S
    if not low <= window_s <= high:
        text = f"{window_s:g} s is not in {low:g} s to {high:g} s"
        wrong.append(FieldViolation("config.measurement.window_duration", text))
    return window_s


def _read_format(value: iq_pb2.SampleFormat.ValueType, field: str) -> SampleFormat:
    if value in _FORMATS:
        return _FORMATS[value]
    text = f"{value} is none of {', '.join(sample_format.name for sample_format in SampleFormat)}"
    raise BadFieldError(ErrorReason.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT, field, text, value=value)


def _read_passband(
    message: iq_pb2.Segment | dsp_pb2.ComputeSpectrumRequest,
    sample_rate_hz: float,
    prefix: str,
    wrong: list[FieldViolation],
) -> Band:
    low_hz = message.passband_low_hz if message.HasField("passband_low_hz") else -sample_rate_hz / 2.0
    high_hz = message.passband_high_hz if message.HasField("passband_high_hz") else sample_rate_hz / 2.0
    # A sample rate that is refused already says nothing about the edges.
    if not wrong and not -math.inf < low_hz < high_hz < math.inf:
        text = f"{low_hz:g} Hz must be a finite number below the upper edge, {high_hz:g} Hz"
        wrong.append(FieldViolation(f"{prefix}passband_low_hz", text))
    elif not wrong and (low_hz >= sample_rate_hz / 2.0 or high_hz <= -sample_rate_hz / 2.0):
        text = f"{low_hz:g}..{high_hz:g} Hz is outside the baseband, {-sample_rate_hz / 2:g}..{sample_rate_hz / 2:g} Hz"
        wrong.append(FieldViolation(f"{prefix}passband_low_hz", text))
    return Band(low_hz, high_hz)


def _read_calibration(segment: iq_pb2.Segment, wrong: list[FieldViolation]) -> Calibration | None:
    if not segment.HasField("calibration"):
        return None
    record = segment.calibration
    _check_range("event.segment.calibration.offset_db", record.offset_db, _OFFSET_RANGE_DB, wrong)
    _check_range("event.segment.calibration.uncertainty_db", record.uncertainty_db, _UNCERTAINTY_RANGE_DB, wrong)
    return Calibration(record.offset_db, record.uncertainty_db, record.derived)


def _check_bin_count(field: str, bin_count: int, wrong: list[FieldViolation]) -> None:
    low, high = _BIN_COUNT_RANGE
    if not low <= bin_count <= high or bin_count & (bin_count - 1):
        wrong.append(FieldViolation(field, f"{bin_count} is no power of two from {low} to {high}"))


def _check_range(field: str, value: float, allowed: tuple[float, float], wrong: list[FieldViolation]) -> None:
    low, high = allowed
    if not low <= value <= high:
        wrong.append(FieldViolation(field, f"{value:g} is not in {low:g} to {high:g}"))


def _check_finite(field: str, value: float, wrong: list[FieldViolation]) -> None:
    if not math.isfinite(value):
        wrong.append(FieldViolation(field, f"{value:g} must be a finite number"))
