"""Checks of requests: every bad field at once, by its path."""

from __future__ import annotations

import math
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.iq_pb2 import EndReason, TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement, MeasurementScope
from heimdall.errors import FieldViolation, InvalidFieldsError
from heimdall.estimates import ESTIMATES
from heimdall.ids import is_id
from heimdall.storage.v1.storage_pb2 import (
    AggregateMeasurementsRequest,
    PutAcquisitionRequest,
    ReadRecordingRequest,
    RecordFilter,
    WriteMeasurementsRequest,
    WriteRecordingRequest,
)
from storage_svc.ids import id_violations
from storage_svc.measurements import RowFilter
from storage_svc.measurements.rows import DECIBEL_AGGREGATES, HERTZ_AGGREGATES

MAX_MEASUREMENTS = 1000

_NUL = "\0"
_MAX_SAMPLES = 10**15
_MAX_DECIBELS = 1000.0
"""More than samples in single precision can reach; sums of the ratios stay far below what a double holds."""
_MAX_HERTZ = 1e12

_HOUR_NS = 3600 * 1_000_000_000
_MAX_BUCKET_HOURS = 366 * 24


def refuse(violations: Iterable[FieldViolation]) -> None:
    """Raises InvalidFieldsError if there are any violations."""
    found = list(violations)
    if found:
        raise InvalidFieldsError(found)


def check_open(opening: WriteRecordingRequest.Open) -> None:
    """Refuses an opening message with a bad field."""
    bad = id_violations(
        open__acquisition_id=opening.acquisition_id, open__receiver__receiver_id=opening.receiver.receiver_id
    )
    if opening.writer_epoch < 0:
        bad.append(FieldViolation("open.writer_epoch", f"is {opening.writer_epoch}, must be 0 or more"))
    start, end = opening.window_start_unix_ns, opening.window_end_unix_ns
    if start <= 0:
        bad.append(FieldViolation("open.window_start_unix_ns", f"is {start}, must be the UTC in ns since 1970"))
    if end <= start:
        bad.append(FieldViolation("open.window_end_unix_ns", f"is {end}, must be after the start, {start}"))
    refuse(bad)


def check_finish(finish: WriteRecordingRequest.Finish) -> None:
    """Refuses a finishing message with a bad field."""
    dispositions = WriteRecordingRequest.Finish.Disposition
    bad = []
    if finish.disposition not in (dispositions.DISPOSITION_KEEP, dispositions.DISPOSITION_DISCARD):
        bad.append(FieldViolation("finish.disposition", f"is {finish.disposition}, must be KEEP or DISCARD"))
    elif finish.disposition == dispositions.DISPOSITION_KEEP:
        if not finish.HasField("end"):
            bad.append(FieldViolation("finish.end", "is missing; say how the stream ended"))
        elif finish.end.reason not in EndReason.values() or not finish.end.reason:
            text = f"is {finish.end.reason}, must be WINDOW_COMPLETE, STOPPED or FAILED"
            bad.append(FieldViolation("finish.end.reason", text))
    refuse(bad)


def check_range(request: ReadRecordingRequest) -> None:
    """Refuses a request to read with bad ids or an empty range."""
    bad = id_violations(acquisition_id=request.acquisition_id, receiver_id=request.receiver_id)
    if request.HasField("sample_range"):
        first, end = request.sample_range.first_sample_index, request.sample_range.end_sample_index
        if first < 0:
            bad.append(FieldViolation("sample_range.first_sample_index", f"is {first}, must be 0 or more"))
        if end and end <= first:
            text = f"is {end}, must be above first_sample_index {first}, or 0 for the end of the recording"
            bad.append(FieldViolation("sample_range.end_sample_index", text))
    elif request.HasField("time_range"):
        first, end = request.time_range.start_unix_ns, request.time_range.end_unix_ns
        if end <= first:
            bad.append(FieldViolation("time_range.end_unix_ns", f"is {end}, must be after the start, {first}"))
    refuse(bad)


def row_filter(selected: RecordFilter) -> RowFilter:
    """Returns what a filter selects.

    Raises:
        InvalidFieldsError: If it can not select anything, or a part of it is not well-formed.
    """
    bad = [
        FieldViolation(f"filter.receiver_ids[{place}]", f"is {receiver_id!r}, which can not be the id of a receiver")
        for place, receiver_id in enumerate(selected.receiver_ids)
        if not is_id(receiver_id)
    ]
    if selected.acquisition_id and not is_id(selected.acquisition_id):
        bad += id_violations(filter__acquisition_id=selected.acquisition_id)
    for name in ("start_time", "end_time"):
        bad += _time_violations(f"filter.{name}", getattr(selected, name))
    for name in ("min_frequency_hz", "max_frequency_hz"):
        value = getattr(selected, name)
        if not (math.isfinite(value) and value >= 0):
            bad.append(FieldViolation(f"filter.{name}", f"is {value}, must be 0 or more"))
    refuse(bad)
    start, end = (
        getattr(selected, name).ToNanoseconds() if selected.HasField(name) else None
        for name in ("start_time", "end_time")
    )
    low, high = (
        getattr(selected, name) if selected.HasField(name) else None
        for name in ("min_frequency_hz", "max_frequency_hz")
    )
    if start is not None and end is not None and end <= start:
        bad.append(FieldViolation("filter.end_time", "must be after filter.start_time"))
    if low is not None and high is not None and high < low:
        text = f"is {high}, must not be below filter.min_frequency_hz {low}"
        bad.append(FieldViolation("filter.max_frequency_hz", text))
    refuse(bad)
    return RowFilter(start, end, low, high, tuple(selected.receiver_ids), selected.acquisition_id or None)


def aggregation(request: AggregateMeasurementsRequest) -> tuple[RowFilter, int]:
    """Returns what is to be summarised, and in buckets of how many hours.

    Raises:
        InvalidFieldsError: If it can not be.
    """
    selected = row_filter(request.filter)
    bad = [
        FieldViolation(f"filter.{name}", "is no full hour of UTC; buckets are not cut")
        for name in ("start_time", "end_time")
        if request.filter.HasField(name) and getattr(request.filter, name).ToNanoseconds() % _HOUR_NS
    ]
    if selected.task_id is not None:
        bad.append(FieldViolation("filter.acquisition_id", "must not be set; QueryMeasurements selects by acquisition"))
    hours = 1
    if request.HasField("bucket_duration"):
        length = request.bucket_duration
        hours, rest_s = divmod(length.seconds, 3600)
        if rest_s or length.nanos or not 1 <= hours <= _MAX_BUCKET_HOURS:
            text = f"is {length.seconds + length.nanos / 1e9:g} s, must be whole hours, 1 h to 366 days"
            bad.append(FieldViolation("bucket_duration", text))
    refuse(bad)
    return selected, hours


def check_measurements(request: WriteMeasurementsRequest) -> None:
    """Refuses measurements that could not be stored as they are."""
    count = len(request.measurements)
    if not 1 <= count <= MAX_MEASUREMENTS:
        text = f"has {count} measurements, must have 1 to {MAX_MEASUREMENTS}"
        refuse([FieldViolation("measurements", text)])
    bad: list[FieldViolation] = []
    for place, measurement in enumerate(request.measurements):
        bad += (
            FieldViolation(f"measurements[{place}].{name}", text) for name, text in _measurement_faults(measurement)
        )
    refuse(bad)


def check_put_acquisition(request: PutAcquisitionRequest) -> None:
    """Refuses an acquisition that could not be stored as it is."""
    acquisition = request.acquisition
    bad = id_violations(acquisition__acquisition_id=acquisition.acquisition_id)
    if acquisition.state not in Acquisition.State.values() or not acquisition.state:
        bad.append(
            FieldViolation("acquisition.state", f"is {acquisition.state}, must be a state that is set and known")
        )
    if request.expected_revision < 0:
        bad.append(FieldViolation("expected_revision", f"is {request.expected_revision}, must be 0 or more"))
    if acquisition.revision <= request.expected_revision:
        text = f"is {acquisition.revision}, must be above expected_revision {request.expected_revision}"
        bad.append(FieldViolation("acquisition.revision", text))
    if not acquisition.HasField("create_time"):
        bad.append(FieldViolation("acquisition.create_time", "is missing"))
    bad += _time_violations("acquisition.create_time", acquisition.create_time)
    if _NUL in acquisition.request_id:
        text = "holds a NUL character, which no database takes in a text"
        bad.append(FieldViolation("acquisition.request_id", text))
    refuse(bad)


def _measurement_faults(measurement: Measurement) -> Iterable[tuple[str, str]]:
    for name in ("acquisition_id", "receiver_id"):
        value = getattr(measurement, name)
        if not is_id(value):
            yield name, f"is {value!r}, which can not be an id"
    scopes = (MeasurementScope.MEASUREMENT_SCOPE_SUMMARY, MeasurementScope.MEASUREMENT_SCOPE_WINDOW)
    if measurement.scope not in scopes:
        yield "scope", f"is {measurement.scope}, must be SUMMARY or WINDOW"
    for name in ("first_sample_index", "sample_count", "lost_sample_count"):
        value = getattr(measurement, name)
        if not 0 <= value <= _MAX_SAMPLES:
            yield name, f"is {value}, must be 0 to {_MAX_SAMPLES}"
    if measurement.first_sample_unix_ns < 0:
        yield "first_sample_unix_ns", f"is {measurement.first_sample_unix_ns}, must be the UTC in ns since 1970"
    for name in ("center_frequency_hz", "sample_rate_hz"):
        value = getattr(measurement, name)
        if not (math.isfinite(value) and value > 0):
            yield name, f"is {value}, must be above 0"
    if measurement.time_source not in TimeSource.values():
        yield "time_source", f"is {measurement.time_source}, which this version does not know"
    for name in ESTIMATES:
        estimate: Estimate = getattr(measurement, name)
        if not math.isfinite(estimate.value) or not math.isfinite(estimate.sigma):
            yield (
                name,
                f"is {estimate.value} +- {estimate.sigma}; a number that is not finite is absent, with its reason",
            )
        if estimate.validity not in Estimate.Validity.values():
            yield f"{name}.validity", f"is {estimate.validity}, which this version does not know"
        for part in ("reason", "method"):
            if _NUL in getattr(estimate, part):
                yield f"{name}.{part}", "holds a NUL character, which no database takes in a text"
    for names, limit, unit in ((DECIBEL_AGGREGATES, _MAX_DECIBELS, "dB"), (HERTZ_AGGREGATES, _MAX_HERTZ, "Hz")):
        for name in names:
            value = getattr(measurement, name).value
            if limit < abs(value) < math.inf:
                yield name, f"is {value}, must be within {limit:g} {unit} of 0: more can not be summed up"


def _time_violations(field: str, time: Timestamp) -> list[FieldViolation]:
    """Returns a violation if a timestamp is outside what its type and 64-bit nanoseconds can hold."""
    if not (0 <= time.nanos < 1_000_000_000 and abs(time.seconds) < 9_000_000_000):
        return [
            FieldViolation(field, f"is {time.seconds} s and {time.nanos} ns, which is not a time that can be stored")
        ]
    return []
