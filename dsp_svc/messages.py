"""Numbers as the messages that carry them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from dsp_svc.estimate.apd import LOWEST_DBFS, STEP_DB
from dsp_svc.estimate.numbers import Axis, Numbers, Products
from dsp_svc.estimate.percentiles import BinStatistics
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Validity
from dsp_svc.estimate.spectral_kurtosis import SpectralKurtosis
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


def fill_numbers(
    measurement: measurement_pb2.Measurement, numbers: Numbers, products: Products, overload: Quantity
) -> None:
    """Puts the numbers of a stretch into its measurement.

    Args:
        measurement: The measurement, which already says whose numbers they are.
        numbers: The numbers.
        products: What is no single number.
        overload: The share of the samples that the receiver marked as overloaded.
    """
    for number in dataclasses.fields(numbers):
        getattr(measurement, number.name).CopyFrom(estimate_message(getattr(numbers, number.name)))
    measurement.overload_ratio.CopyFrom(estimate_message(overload))
    if products.spectrum is not None:
        measurement.spectrum.CopyFrom(_spectrum_message(products.spectrum))
    made = measurement.products
    if products.noise_profile is not None:
        axis, density = products.noise_profile
        made.noise_profile.CopyFrom(
            measurement_pb2.NoiseProfile(
                first_bin_hz=axis.first_bin_hz, bin_spacing_hz=axis.bin_spacing_hz, noise_dbfs_per_hz=density
            )
        )
    if products.spectral_kurtosis is not None:
        made.spectral_kurtosis.CopyFrom(_kurtosis_message(*products.spectral_kurtosis))
    if products.bin_statistics is not None:
        made.spectrum_statistics.CopyFrom(_statistics_message(*products.bin_statistics))
    if products.amplitudes is not None:
        made.amplitude_distribution.CopyFrom(
            measurement_pb2.AmplitudeDistribution(
                first_level_dbfs=LOWEST_DBFS, level_step_db=STEP_DB, exceedance_ratio=products.amplitudes.probabilities
            )
        )


def _spectrum_message(spectrum: Spectrum) -> measurement_pb2.Spectrum:
    return measurement_pb2.Spectrum(
        first_bin_hz=float(spectrum.frequencies_hz[0]),
        bin_spacing_hz=spectrum.bin_width_hz,
        power_dbfs_per_hz=spectrum.density_dbfs_per_hz(),
        noise_bandwidth_hz=spectrum.welch.enbw_bins * spectrum.bin_width_hz,
        effective_average_count=spectrum.effective_count,
    )


def _kurtosis_message(axis: Axis, found: SpectralKurtosis) -> measurement_pb2.SpectralKurtosis:
    return measurement_pb2.SpectralKurtosis(
        first_bin_hz=axis.first_bin_hz,
        bin_spacing_hz=axis.bin_spacing_hz,
        kurtosis=found.values,
        sigma=found.sigma,
        spectrum_count=found.spectrum_count,
    )


def _statistics_message(axis: Axis, found: BinStatistics) -> measurement_pb2.SpectrumStatistics:
    kinds, trace = measurement_pb2.SpectrumStatistics, measurement_pb2.SpectrumStatistics.Trace
    percentiles = {50.0: found.median, **found.percentiles}
    return measurement_pb2.SpectrumStatistics(
        first_bin_hz=axis.first_bin_hz,
        bin_spacing_hz=axis.bin_spacing_hz,
        spectrum_count=found.row_count,
        kept_spectrum_count=found.kept_count,
        traces=[
            trace(kind=kinds.KIND_MINIMUM, power_dbfs_per_hz=found.minimum),
            trace(kind=kinds.KIND_MAXIMUM, power_dbfs_per_hz=found.maximum),
            trace(kind=kinds.KIND_MEAN, power_dbfs_per_hz=found.mean),
            trace(kind=kinds.KIND_SAMPLE, power_dbfs_per_hz=found.sample),
            *(
                trace(kind=kinds.KIND_PERCENTILE, percentile_ratio=percent / 100.0, power_dbfs_per_hz=values)
                for percent, values in sorted(percentiles.items())
            ),
        ],
    )
