"""Messages as rows and back. The same columns in every database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.iq_pb2 import TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement, MeasurementProducts, MeasurementScope, Spectrum
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.estimates import ESTIMATES, estimate_detail
from heimdall.storage.v1.storage_pb2 import AggregatedQuantity, MeasurementAggregate

MEASUREMENT_COLUMNS: Final = (
    "time",
    "task_id",
    "receiver_id",
    "first_sample_index",
    "first_sample_unix_ns",
    "frequency_hz",
    "sample_rate_hz",
    "sample_count",
    "lost_sample_count",
    "duration_s",
    *ESTIMATES,
    "frequency_offset_sigma_hz",
    "estimate_details",
    "spectrum",
    "products",
    "time_source",
)
"""Columns that a measurement brings; object_key and state come from its recording."""
_EMPTY_ROW: Final[dict[str, object]] = dict.fromkeys(MEASUREMENT_COLUMNS)
_TIME_SOURCES: Final = {number: name.removeprefix("TIME_SOURCE_") for name, number in TimeSource.items()}
DECIBEL_AGGREGATES: Final = ("power_dbfs", "power_dbm", "noise_dbfs_per_hz", "snr_db")
"""Quantities in decibels that are aggregated; their mean is that of the ratios."""
HERTZ_AGGREGATES: Final = ("frequency_offset_hz", "occupied_bandwidth_hz")
"""Quantities in Hz that are aggregated."""


def measurement_row(measurement: Measurement, time: Callable[[int], object]) -> dict[str, object]:
    """Returns the columns of a measurement in their order; a quantity without a value is None.

    The column estimate_details says why it has none, and how far to trust the others.

    Args:
        measurement: The measurement.
        time: Turns a time in ns since 1970 into what the column time holds; also below.
    """
    # Looking a method up on a message takes longer than calling it.
    has: Callable[[str], bool] = measurement.HasField  # type: ignore[assignment]  # names from the descriptor
    row = _EMPTY_ROW.copy()
    details = []
    for name in ESTIMATES:
        if has(name):
            estimate: Estimate = getattr(measurement, name)
            value = estimate.value
            if value or estimate.HasField("value"):
                row[name] = value
            details.append(estimate_detail(name, estimate))
    if has("frequency_offset_hz") and measurement.frequency_offset_hz.HasField("sigma"):
        row["frequency_offset_sigma_hz"] = measurement.frequency_offset_hz.sigma
    unix_ns, rate_hz, count = measurement.first_sample_unix_ns, measurement.sample_rate_hz, measurement.sample_count
    row["time"] = time(unix_ns)
    row["task_id"] = measurement.acquisition_id
    row["receiver_id"] = measurement.receiver_id
    row["first_sample_index"] = measurement.first_sample_index
    row["first_sample_unix_ns"] = unix_ns
    row["frequency_hz"] = measurement.center_frequency_hz
    row["sample_rate_hz"] = rate_hz
    row["sample_count"] = count
    row["lost_sample_count"] = measurement.lost_sample_count
    row["duration_s"] = count / rate_hz if rate_hz > 0 else None
    row["estimate_details"] = f"{{{','.join(details)}}}"
    row["spectrum"] = measurement.spectrum.SerializeToString() if has("spectrum") else None
    row["products"] = measurement.products.SerializeToString() if has("products") else None
    row["time_source"] = _TIME_SOURCES[measurement.time_source]
    return row


def measurement_from_row(row: Mapping[str, Any], scope: MeasurementScope.ValueType) -> Measurement:
    """Returns the measurement that `measurement_row` took apart."""
    measurement = Measurement(
        acquisition_id=row["task_id"],
        receiver_id=row["receiver_id"],
        scope=scope,
        first_sample_index=row["first_sample_index"],
        first_sample_unix_ns=row["first_sample_unix_ns"],
        sample_count=row["sample_count"],
        lost_sample_count=row["lost_sample_count"],
        center_frequency_hz=row["frequency_hz"],
        sample_rate_hz=row["sample_rate_hz"],
        time_source=TimeSource.Value(f"TIME_SOURCE_{row['time_source']}"),
    )
    for name, detail in json.loads(row["estimate_details"]).items():
        estimate: Estimate = getattr(measurement, name)
        estimate.SetInParent()
        if row[name] is not None:
            estimate.value = row[name]
        if "sigma" in detail:
            estimate.sigma = detail["sigma"]
        estimate.validity = Estimate.Validity.Value(f"VALIDITY_{detail['validity']}")
        estimate.reason = detail.get("reason", "")
        estimate.method = detail.get("method", "")
    if row["spectrum"] is not None:
        measurement.spectrum.CopyFrom(Spectrum.FromString(row["spectrum"]))
    if row["products"] is not None:
        measurement.products.CopyFrom(MeasurementProducts.FromString(row["products"]))
    return measurement


def aggregate_from_row(row: Mapping[str, Any]) -> MeasurementAggregate:
    """Returns the aggregate of a row of the query aggregate_summary; a variance becomes a standard deviation."""
    aggregate = MeasurementAggregate(
        receiver_id=row["receiver_id"],
        center_frequency_hz=row["frequency_hz"],
        measurement_count=row["measurement_count"],
        sample_count=row["sample_count"],
        lost_sample_count=row["lost_sample_count"],
    )
    aggregate.bucket_start_time.FromSeconds(row["bucket_start_s"])
    for name in DECIBEL_AGGREGATES + HERTZ_AGGREGATES:
        quantity: AggregatedQuantity = getattr(aggregate, name)
        quantity.value_count = row[f"{name}_count"]
        if quantity.value_count:
            quantity.mean, quantity.min, quantity.max = (row[f"{name}_{kind}"] for kind in ("mean", "min", "max"))
            if name in HERTZ_AGGREGATES and quantity.value_count > 1:
                quantity.standard_deviation = math.sqrt(row[f"{name}_variance"])
    return aggregate


def recording_row(recording: Recording, time: Callable[[int], object]) -> dict[str, object]:
    """Returns the columns of a recording."""
    segment = recording.segment if recording.HasField("segment") else None
    return {
        "time": time(recording.window_start_unix_ns),
        "task_id": recording.acquisition_id,
        "receiver_id": recording.receiver_id,
        "window_start_unix_ns": recording.window_start_unix_ns,
        "window_end_unix_ns": recording.window_end_unix_ns,
        "frequency_hz": None if segment is None else segment.center_frequency_hz,
        "sample_rate_hz": None if segment is None else segment.sample_rate_hz,
        "sample_count": recording.sample_count,
        "lost_sample_count": recording.lost_sample_count,
        "gap_count": recording.gap_count,
        "state": Recording.State.Name(recording.state).removeprefix("STATE_"),
        "complete": recording.complete,
        "object_key": recording.data_object_key or None,
        "data_sha512": recording.data_sha512 or None,
        "data_size_bytes": recording.data_size_bytes,
        "message": recording.SerializeToString(),
    }


def acquisition_row(acquisition: Acquisition, time: Callable[[int], object]) -> dict[str, object]:
    """Returns the columns of an acquisition."""
    create_unix_ns = acquisition.create_time.ToNanoseconds()
    return {
        "task_id": acquisition.acquisition_id,
        "time": time(create_unix_ns),
        "create_unix_ns": create_unix_ns,
        "request_id": acquisition.request_id,
        "state": acquisition_state_name(acquisition.state),
        "revision": acquisition.revision,
        "message": acquisition.SerializeToString(deterministic=True),
    }


def acquisition_state_name(state: Acquisition.State.ValueType) -> str:
    """Returns a state as it stands in its column, such as SUCCEEDED."""
    return Acquisition.State.Name(state).removeprefix("STATE_")
