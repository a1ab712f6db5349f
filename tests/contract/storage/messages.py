"""Messages that the tests of the databases store."""

from __future__ import annotations

from typing import Any

from heimdall.common.v1.acquisition_pb2 import Acquisition
from heimdall.common.v1.iq_pb2 import Segment, TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement, MeasurementScope, Spectrum
from heimdall.common.v1.recording_pb2 import Recording
from storage_svc.measurements import RowFilter

SUMMARY = MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
WINDOW = MeasurementScope.MEASUREMENT_SCOPE_WINDOW
T0_UNIX_NS = 1_700_000_000_123_456_789
EVERYTHING = RowFilter()
FLOAT32_THIRD = 0.3333333432674408
"""The float nearest to 1/3, which a spectrum's bin can hold exactly."""


def measurement(task: str = "task-1", receiver: str = "rx-1", **values: Any) -> Measurement:
    made = Measurement(
        acquisition_id=task,
        receiver_id=receiver,
        scope=SUMMARY,
        first_sample_unix_ns=T0_UNIX_NS,
        sample_count=60_000,
        center_frequency_hz=77_500.0,
        sample_rate_hz=12_000.25,
        time_source=TimeSource.TIME_SOURCE_GNSS,
    )
    for name, value in values.items():
        setattr(made, name, value)
    return made


ESTIMATES = [
    field.name
    for field in Measurement.DESCRIPTOR.fields
    if field.message_type is not None and field.message_type.name == "Estimate"
]


def full_measurement() -> Measurement:
    made = measurement(lost_sample_count=340, first_sample_index=7)
    valid, limit, absent = (
        Estimate.Validity.VALIDITY_VALID,
        Estimate.Validity.VALIDITY_UPPER_LIMIT,
        Estimate.Validity.VALIDITY_ABSENT,
    )
    made.power_dbfs.CopyFrom(Estimate(value=-23.25, sigma=0.01, validity=valid, method="mean-square"))
    made.snr_db.CopyFrom(Estimate(value=-12.0, validity=limit, reason="BELOW_LIMIT", method="quantile-0.25"))
    made.power_dbm.CopyFrom(Estimate(validity=absent, reason="NO_CALIBRATION"))
    made.frequency_offset_hz.CopyFrom(Estimate(value=0.0, sigma=0.0, validity=valid, method="coherent"))
    for number, name in enumerate(ESTIMATES):
        if not made.HasField(name):  # type: ignore[arg-type]  # a name from the descriptor
            getattr(made, name).CopyFrom(Estimate(value=0.5 + number, sigma=0.25, validity=valid, method=name))
    made.products.amplitude_distribution.exceedance_ratio.extend([1.0, 1 / 3, 0.0])
    made.products.spectral_kurtosis.kurtosis.append(FLOAT32_THIRD)
    made.spectrum.CopyFrom(
        Spectrum(first_bin_hz=-6000.0, bin_spacing_hz=187.5, power_dbfs_per_hz=[FLOAT32_THIRD, -100.5])
    )
    return made


def recording(task: str = "task-1", receiver: str = "rx-1", **values: Any) -> Recording:
    made = Recording(
        acquisition_id=task,
        receiver_id=receiver,
        state=Recording.State.STATE_STORED,
        complete=True,
        segment=Segment(receiver_id=receiver, center_frequency_hz=77_500.0, sample_rate_hz=12_000.0),
        window_start_unix_ns=T0_UNIX_NS,
        window_end_unix_ns=T0_UNIX_NS + 5_000_000_000,
        sample_count=60_000,
        data_object_key=f"sessions/{task}/{receiver}.sigmf-data",
    )
    made.create_time.FromNanoseconds(T0_UNIX_NS)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def acquisition(task: str = "task-1", revision: int = 1, **values: Any) -> Acquisition:
    made = Acquisition(acquisition_id=task, revision=revision, state=Acquisition.State.STATE_ACCEPTED)
    made.create_time.FromNanoseconds(T0_UNIX_NS)
    made.spec.labels["b"] = "2"
    made.spec.labels["a"] = "1"
    for name, value in values.items():
        setattr(made, name, value)
    return made
