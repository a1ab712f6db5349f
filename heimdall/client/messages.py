"""What callers fill in, from plain numbers and names; and what they may rely on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec
from heimdall.common.v1.receiver_pb2 import GainMode
from heimdall.metrics import metric_named
from heimdall.storage.v1 import storage_pb2

TERMINAL_STATES: Final = frozenset(
    {
        Acquisition.STATE_SUCCEEDED,
        Acquisition.STATE_PARTIALLY_SUCCEEDED,
        Acquisition.STATE_FAILED,
        Acquisition.STATE_CANCELLED,
    }
)
"""States in which an acquisition does not change any more."""


def acquisition_spec(
    center_frequency_hz: float,
    duration_s: float,
    receiver_ids: Sequence[str],
    *,
    start_time: datetime | None = None,
    max_wait_s: float | None = None,
    min_receivers: int | None = None,
    gain_db: float | None = None,
    automatic_gain: bool = False,
    passband_low_hz: float | None = None,
    passband_high_hz: float | None = None,
    window_duration_s: float | None = None,
    spectrum_bin_count: int | None = None,
    metrics: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
) -> AcquisitionSpec:
    """Builds a spec from plain values. What is None is left to the service's default.

    Args:
        center_frequency_hz: Radio frequency at the centre of the recorded band in Hz.
        duration_s: Length of the window in s, exact to 1 us.
        receiver_ids: Receivers to record from, each once.
        start_time: Start of the window in UTC sample time; must have a time zone. Default: as soon as possible.
        max_wait_s: How long to wait for the receivers to stream, in s.
        min_receivers: Number of receivers that must store a sample for the acquisition not to be FAILED.
        gain_db: Fixed gain on the receivers' own scale in dB. Default: each receiver's own setting.
        automatic_gain: Lets the receivers control their gain; levels then mean nothing.
        passband_low_hz: Lower edge of the filter relative to the centre in Hz. Default: as wide as the receiver can.
        passband_high_hz: Upper edge of the filter relative to the centre in Hz. Default: as wide as the receiver can.
        window_duration_s: Length of a measurement window in s.
        spectrum_bin_count: Number of bins of the spectra that come with the measurements; a power of two.
        metrics: What to measure, out of heimdall.metrics.METRIC_NAMES. Default: everything that is one number.
        labels: Free key and value pairs kept with the acquisition.

    Returns:
        The spec; the service checks its values.

    Raises:
        ValueError: If start_time has no time zone, or there is no such metric.
    """
    spec = AcquisitionSpec(receiver_ids=receiver_ids, min_receivers=min_receivers or 0, labels=labels or {})
    spec.tuning.center_frequency_hz = center_frequency_hz
    if automatic_gain:
        spec.tuning.gain_mode = GainMode.GAIN_MODE_AUTOMATIC
    if gain_db is not None:
        spec.tuning.gain_db = gain_db
    if passband_low_hz is not None:
        spec.tuning.passband_low_hz = passband_low_hz
    if passband_high_hz is not None:
        spec.tuning.passband_high_hz = passband_high_hz
    spec.duration.FromTimedelta(timedelta(seconds=duration_s))
    if start_time is not None:
        spec.start_time.FromDatetime(_in_utc("start_time", start_time))
    if max_wait_s is not None:
        spec.max_wait.FromTimedelta(timedelta(seconds=max_wait_s))
    if window_duration_s is not None:
        spec.measurement.window_duration.FromTimedelta(timedelta(seconds=window_duration_s))
    if spectrum_bin_count is not None:
        spec.measurement.spectrum_bin_count = spectrum_bin_count
    spec.measurement.metrics.extend(metric_named(name) for name in metrics)
    return spec


def record_filter(
    *,
    frequency_hz: float | None = None,
    tolerance_hz: float | None = None,
    last: timedelta | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    receiver_ids: Sequence[str] = (),
    acquisition_id: str = "",
) -> storage_pb2.RecordFilter:
    """Builds a filter of recordings or measurements from plain values. What is None selects everything.

    Args:
        frequency_hz: Centre frequency in Hz; not without tolerance_hz.
        tolerance_hz: How far a centre frequency may be from it, in Hz, 0 or more; the edges belong to it.
        last: Only what began in this time before now, by the clock of this host; not together with start.
        start: Only what begins at or after this; must have a time zone.
        end: Only what begins before this; must have a time zone.
        receiver_ids: Only these receivers; empty for all.
        acquisition_id: Only this acquisition; empty for all.

    Returns:
        The filter; the service checks its values.

    Raises:
        ValueError: If one of frequency_hz and tolerance_hz is given without the other or tolerance_hz is below 0, last
            is given with start or is not above 0, or a time has no time zone.

    Example:
        async for recording in client.list_recordings(
            record_filter(frequency_hz=145.5e6, tolerance_hz=5e3, last=timedelta(hours=24))
        ):
            samples = await client.read_samples(recording.acquisition_id, recording.receiver_id)
    """
    selected = storage_pb2.RecordFilter(receiver_ids=receiver_ids, acquisition_id=acquisition_id)
    if (frequency_hz is None) != (tolerance_hz is None):
        raise ValueError(f"frequency_hz is {frequency_hz} and tolerance_hz is {tolerance_hz}; give both or none")
    if frequency_hz is not None and tolerance_hz is not None:
        if not tolerance_hz >= 0:
            raise ValueError(f"tolerance_hz is {tolerance_hz}, must be 0 or more")
        # In decimal, as they are written: the edges belong to the band, whatever their last binary digit.
        centre, tolerance = Decimal(repr(float(frequency_hz))), Decimal(repr(float(tolerance_hz)))
        selected.min_frequency_hz = max(0.0, float(centre - tolerance))
        selected.max_frequency_hz = float(centre + tolerance)
    if last is not None:
        if start is not None:
            raise ValueError("last and start are both given; the beginning is named by one of them")
        if last <= timedelta():
            raise ValueError(f"last is {last}, must be above 0")
        start = datetime.now(UTC) - last
    if start is not None:
        selected.start_time.FromDatetime(_in_utc("start", start))
    if end is not None:
        selected.end_time.FromDatetime(_in_utc("end", end))
    return selected


def _in_utc(name: str, time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError(f"{name} {time.isoformat()} has no time zone; give one, such as datetime.UTC")
    return time.astimezone(UTC)
