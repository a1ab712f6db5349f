"""The numbers of a stretch of samples, from parts that add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.apd import AmplitudeDistribution, amplitude_distribution
from dsp_svc.estimate.bandwidth import occupied_bandwidth, x_db_bandwidth
from dsp_svc.estimate.calibration import power_dbm
from dsp_svc.estimate.clipping import clipped_ratio, wrapped_ratio
from dsp_svc.estimate.flatness import flatness
from dsp_svc.estimate.image import image_ratio_db
from dsp_svc.estimate.kurtosis import kurtosis
from dsp_svc.estimate.levels import crest_factor_db, dc_offset_dbfs, power_dbfs
from dsp_svc.estimate.measure import Part, Plan
from dsp_svc.estimate.metrics import Metric
from dsp_svc.estimate.noise import NoiseFloor, noise_floor, passband_bins, sliding_noise_floor
from dsp_svc.estimate.percentiles import BinStatistics, bin_statistics
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import Band, signal_to_noise, strongest_band
from dsp_svc.estimate.spectral_kurtosis import SpectralKurtosis, spectral_kurtosis

NOT_REQUESTED: Final = Quantity.absent(Reason.NOT_REQUESTED, "")
"""A number that nobody asked for."""
NOT_YET: Final = Quantity.absent(Reason.SUMMARY_ONLY, "")
"""A number that a window can not have."""


@dataclass
class Numbers:
    """The numbers of a stretch, in the units of their names; their meaning stands in the contract."""

    power_dbfs: Quantity = NOT_REQUESTED
    power_dbm: Quantity = NOT_REQUESTED
    noise_dbfs_per_hz: Quantity = NOT_REQUESTED
    snr_db: Quantity = NOT_REQUESTED
    snr_bandwidth_hz: Quantity = NOT_REQUESTED
    carrier_to_noise_density_db_hz: Quantity = NOT_REQUESTED
    frequency_offset_hz: Quantity = NOT_REQUESTED
    frequency_drift_hz_per_s: Quantity = NOT_REQUESTED
    frequency_scatter_hz: Quantity = NOT_REQUESTED
    occupied_bandwidth_hz: Quantity = NOT_REQUESTED
    x_db_bandwidth_hz: Quantity = NOT_REQUESTED
    kurtosis: Quantity = NOT_REQUESTED
    crest_factor_db: Quantity = NOT_REQUESTED
    spectral_flatness_ratio: Quantity = NOT_REQUESTED
    clipped_ratio: Quantity = NOT_REQUESTED
    wrapped_ratio: Quantity = NOT_REQUESTED
    dc_offset_dbfs: Quantity = NOT_REQUESTED
    image_ratio_db: Quantity = NOT_REQUESTED


@dataclass(frozen=True)
class Axis:
    """The frequencies of an array, ascending."""

    first_bin_hz: float
    """The first bin's frequency relative to the tuned centre in Hz."""
    bin_spacing_hz: float
    """The distance of two bins in Hz."""


@dataclass
class Products:
    """What is no single number; None where it was not asked for, or there is too little to make it of."""

    spectrum: Spectrum | None = None
    """The power spectral density."""
    noise_profile: tuple[Axis, npt.NDArray[np.float64]] | None = None
    """The noise density of every bin of the passband in dBFS/Hz."""
    spectral_kurtosis: tuple[Axis, SpectralKurtosis] | None = None
    """The kurtosis of every bin."""
    bin_statistics: tuple[Axis, BinStatistics] | None = None
    """The distribution of every bin."""
    amplitudes: AmplitudeDistribution | None = None
    """The distribution of the amplitude."""


@dataclass(frozen=True)
class Evaluation:
    """All that follows from the parts of a stretch."""

    numbers: Numbers
    """The numbers; those of a frequency over many runs are not among them."""
    products: Products
    """What is no single number."""
    spectrum: Spectrum | None
    """The spectrum that noise and emissions were taken from; None without a whole segment."""
    noise: NoiseFloor | None
    """Its noise floor; None without a spectrum."""
    band: Band | None
    """The strongest emission; None where nothing stands out."""


def evaluate(part: Part, plan: Plan, passband: Band, sample_rate_hz: float) -> Evaluation:
    """Turn the parts of a stretch, added up, into its numbers.

    Args:
        part: The sum of the parts.
        plan: How they were measured.
        passband: The receiver's passband relative to the tuned centre.
        sample_rate_hz: The best known sample rate in Hz.

    Returns:
        The numbers that the plan asks for, each with its validity.
    """
    numbers, products = Numbers(), Products()
    spectrum: Spectrum | None = None
    noise: NoiseFloor | None = None
    band: Band | None = None
    if part.spectra is not None and part.spectra.periodograms.segment_count:
        spectrum = part.spectra.periodograms.spectrum(sample_rate_hz)
        bins = passband_bins(spectrum, passband.low_hz, passband.high_hz)
        noise = noise_floor(spectrum, bins, plan.coding.quantisation_power)
        band = None if noise.density is None else strongest_band(spectrum, noise)
        _fill_from_spectrum(numbers, products, part, plan, spectrum, noise, band)
    elif part.spectra is not None:
        _fill_without_spectrum(numbers, plan, Reason.TOO_FEW_SAMPLES if part.sample_count else Reason.NO_SAMPLES)
    _fill_from_samples(numbers, products, part, plan, None if noise is None else noise.estimate)
    _fill_from_shown(products, part, plan, sample_rate_hz)
    return Evaluation(numbers, products, spectrum, noise, band)


def _fill_from_samples(
    numbers: Numbers, products: Products, part: Part, plan: Plan, noise_dbfs_per_hz: Quantity | None
) -> None:
    metrics, sums = plan.metrics, part.moments
    if Metric.POWER in metrics:
        numbers.power_dbfs = power_dbfs(sums)
        numbers.power_dbm = power_dbm(part.reference, sums, noise_dbfs_per_hz)
    if Metric.KURTOSIS in metrics:
        numbers.kurtosis = kurtosis(sums)
    if Metric.CREST_FACTOR in metrics:
        numbers.crest_factor_db = crest_factor_db(sums)
    if Metric.DC_OFFSET in metrics:
        numbers.dc_offset_dbfs = dc_offset_dbfs(sums)
    if Metric.CLIPPING in metrics:
        numbers.clipped_ratio = clipped_ratio(part.clipping, plan.coding)
        numbers.wrapped_ratio = wrapped_ratio(part.clipping, plan.coding)
    if part.histogram is not None:
        products.amplitudes = amplitude_distribution(part.histogram)


def _fill_from_spectrum(
    numbers: Numbers,
    products: Products,
    part: Part,
    plan: Plan,
    spectrum: Spectrum,
    noise: NoiseFloor,
    band: Band | None,
) -> None:
    metrics, spectra = plan.metrics, part.spectra
    if Metric.NOISE in metrics:
        numbers.noise_dbfs_per_hz = noise.estimate
    if Metric.SNR in metrics:
        ratio = signal_to_noise(spectrum, noise, part.sample_count / spectrum.sample_rate_hz)
        numbers.snr_db = ratio.snr_db
        numbers.snr_bandwidth_hz = ratio.bandwidth_hz
        numbers.carrier_to_noise_density_db_hz = ratio.carrier_to_noise_density_db_hz
    if Metric.OCCUPIED_BANDWIDTH in metrics:
        numbers.occupied_bandwidth_hz = occupied_bandwidth(spectrum, noise, band).width_hz
        numbers.x_db_bandwidth_hz = x_db_bandwidth(spectrum, noise, band).width_hz
    if Metric.SPECTRAL_FLATNESS in metrics:
        numbers.spectral_flatness_ratio = flatness(spectrum, noise.passband)
    if spectra is not None and spectra.mirror is not None:
        numbers.image_ratio_db = image_ratio_db(spectra.mirror, spectrum, noise, band)
    if spectra is not None and spectra.powers is not None:
        found = spectral_kurtosis(spectra.powers)
        products.spectral_kurtosis = None if found is None else (_axis(spectrum), found)
    if Metric.NOISE_PROFILE in metrics:
        products.noise_profile = _noise_profile(spectrum, noise)


def _fill_from_shown(products: Products, part: Part, plan: Plan, sample_rate_hz: float) -> None:
    made = part.spectra if plan.other_welch is None else part.other
    if made is None or made.periodograms.segment_count == 0:
        return
    spectrum = made.periodograms.spectrum(sample_rate_hz)
    if plan.shown_welch is not None:
        products.spectrum = spectrum
    statistics = None if made.rows is None else bin_statistics(made.rows, sample_rate_hz)
    if statistics is not None:
        products.bin_statistics = _axis(spectrum), statistics


def _noise_profile(spectrum: Spectrum, noise: NoiseFloor) -> tuple[Axis, npt.NDArray[np.float64]] | None:
    density = sliding_noise_floor(spectrum, noise.passband).density
    if density is None:
        return None
    inside = np.flatnonzero(noise.passband)
    first_hz = float(spectrum.frequencies_hz[inside[0]])
    return Axis(first_hz, spectrum.bin_width_hz), np.asarray(10.0 * np.log10(density[inside]), dtype=np.float64)


def _axis(spectrum: Spectrum) -> Axis:
    return Axis(float(spectrum.frequencies_hz[0]), spectrum.bin_width_hz)


def _fill_without_spectrum(numbers: Numbers, plan: Plan, reason: Reason) -> None:
    nothing = Quantity.absent(reason, "")
    for metric, names in _OF_SPECTRUM.items():
        if metric in plan.metrics:
            for name in names:
                setattr(numbers, name, nothing)


_OF_SPECTRUM: Final = {
    Metric.NOISE: ("noise_dbfs_per_hz",),
    Metric.SNR: ("snr_db", "snr_bandwidth_hz", "carrier_to_noise_density_db_hz"),
    Metric.OCCUPIED_BANDWIDTH: ("occupied_bandwidth_hz", "x_db_bandwidth_hz"),
    Metric.SPECTRAL_FLATNESS: ("spectral_flatness_ratio",),
    Metric.IMAGE_RATIO: ("image_ratio_db",),
}
"""The numbers that need a spectrum."""
