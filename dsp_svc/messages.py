"""Numbers as the messages that carry them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.meter import StretchNumbers
from heimdall.common.v1 import measurement_pb2

_VALIDITIES: Final[Mapping[Validity, measurement_pb2.Estimate.Validity.ValueType]] = MappingProxyType(
    {
        Validity.VALID: measurement_pb2.Estimate.VALIDITY_VALID,
        Validity.UPPER_LIMIT: measurement_pb2.Estimate.VALIDITY_UPPER_LIMIT,
        Validity.ABSENT: measurement_pb2.Estimate.VALIDITY_ABSENT,
    }
)


def estimate_message(quantity: Quantity) -> measurement_pb2.Estimate:
    """Packs one number."""
    return measurement_pb2.Estimate(
        value=quantity.value,
        sigma=quantity.sigma,
        validity=_VALIDITIES[quantity.validity],
        reason="" if quantity.reason is None else quantity.reason.value,
        method=quantity.method,
    )


def fill_numbers(measurement: measurement_pb2.Measurement, stretch: StretchNumbers, overload: Quantity) -> None:
    """Puts the numbers of a stretch into its measurement.

    Args:
        measurement: The measurement, which already says whose numbers they are.
        stretch: The numbers.
        overload: The share of the samples that the receiver marked as overloaded.
    """
    numbers = stretch.numbers
    measurement.sample_count = stretch.sample_count
    measurement.power_dbfs.CopyFrom(estimate_message(numbers.power_dbfs))
    measurement.power_dbm.CopyFrom(estimate_message(Quantity.absent(Reason.NOT_CALIBRATED, "")))
    measurement.noise_dbfs_per_hz.CopyFrom(estimate_message(numbers.noise_dbfs_per_hz))
    snr = numbers.signal_to_noise
    measurement.snr_db.CopyFrom(estimate_message(snr.snr_db))
    measurement.snr_bandwidth_hz.CopyFrom(estimate_message(snr.bandwidth_hz))
    density = estimate_message(snr.carrier_to_noise_density_db_hz)
    measurement.carrier_to_noise_density_db_hz.CopyFrom(density)
    measurement.frequency_offset_hz.CopyFrom(estimate_message(stretch.frequency_offset_hz))
    measurement.occupied_bandwidth_hz.CopyFrom(estimate_message(Quantity.absent(Reason.NOT_MEASURED, "")))
    measurement.overload_ratio.CopyFrom(estimate_message(overload))
    if numbers.spectrum is not None:
        measurement.spectrum.CopyFrom(_spectrum_message(numbers.spectrum))


def _spectrum_message(spectrum: Spectrum) -> measurement_pb2.Spectrum:
    return measurement_pb2.Spectrum(
        first_bin_hz=float(spectrum.frequencies_hz[0]),
        bin_spacing_hz=spectrum.bin_width_hz,
        power_dbfs_per_hz=spectrum.density_dbfs_per_hz(),
        noise_bandwidth_hz=spectrum.welch.enbw_bins * spectrum.bin_width_hz,
        effective_average_count=spectrum.effective_count,
    )
