"""The numbers of a stretch of samples, from parts that add up."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dsp_svc.estimate.levels import Moments, moments, power_dbfs
from dsp_svc.estimate.noise import noise_floor, passband_bins
from dsp_svc.estimate.offset import Tone, find_tone
from dsp_svc.estimate.psd import Periodograms, Spectrum, Welch, periodograms
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.samples import SampleCoding, Samples
from dsp_svc.estimate.snr import Band, SignalToNoise, signal_to_noise


@dataclass(frozen=True)
class Plan:
    """How every part of one stream is measured."""

    coding: SampleCoding
    """The scale of the samples."""
    sample_rate_hz: float
    """The announced sample rate in Hz; it scales no result."""
    welch: Welch
    """The spectrum that noise and SNR are taken from."""
    shown_welch: Welch | None
    """The spectrum that is handed out; None for none."""


@dataclass(frozen=True)
class Part:
    """What one unbroken run of samples adds to a stretch."""

    moments: Moments
    """The number of samples, and the sums that their levels follow from."""
    periodograms: Periodograms
    """Their spectrum for noise and SNR."""
    shown: Periodograms | None
    """Their spectrum to hand out."""
    tone: Tone | Reason
    """The strongest line of the first run of the stretch."""

    @property
    def sample_count(self) -> int:
        """Samples in the run."""
        return self.moments.sample_count

    def __add__(self, other: Part) -> Part:
        shown = None if self.shown is None or other.shown is None else self.shown + other.shown
        return dataclasses.replace(
            self,
            moments=self.moments + other.moments,
            periodograms=self.periodograms + other.periodograms,
            shown=shown,
        )


@dataclass(frozen=True)
class Numbers:
    """The numbers of a stretch."""

    power_dbfs: Quantity
    """The mean power in dBFS."""
    noise_dbfs_per_hz: Quantity
    """The noise density in dBFS/Hz."""
    signal_to_noise: SignalToNoise
    """The strongest emission against the noise."""
    spectrum: Spectrum | None
    """The power spectral density, where it was asked for and a segment of it came."""


def measure_part(samples: Samples, plan: Plan, passband: Band) -> Part:
    """Measure one unbroken run.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64, full scale 1.
        plan: How to measure.
        passband: Where to look for a line, relative to the tuned centre.

    Returns:
        The run's part of a stretch.
    """
    spectra = periodograms(samples, plan.welch)
    shown = None
    if plan.shown_welch is not None:
        shown = spectra if plan.shown_welch == plan.welch else periodograms(samples, plan.shown_welch)
    low_cycles, high_cycles = passband.low_hz / plan.sample_rate_hz, passband.high_hz / plan.sample_rate_hz
    return Part(moments(samples), spectra, shown, find_tone(samples, low_cycles, high_cycles))


def no_part(plan: Plan) -> Part:
    """Make the part of a stretch without samples."""
    shown = None if plan.shown_welch is None else Periodograms.none(plan.shown_welch)
    return Part(Moments.none(), Periodograms.none(plan.welch), shown, Reason.NO_SAMPLES)


def evaluate(part: Part, plan: Plan, passband: Band, sample_rate_hz: float) -> Numbers:
    """Turn the parts of a stretch, added up, into its numbers.

    Args:
        part: The sum of the parts.
        plan: How they were measured.
        passband: The receiver's passband relative to the tuned centre.
        sample_rate_hz: The best known sample rate in Hz.

    Returns:
        The numbers, each with its validity.
    """
    shown = part.shown.spectrum(sample_rate_hz) if part.shown is not None and part.shown.segment_count else None
    power = power_dbfs(part.moments)
    if part.periodograms.segment_count == 0:
        reason = Reason.TOO_FEW_SAMPLES if part.sample_count else Reason.NO_SAMPLES
        nothing = Quantity.absent(reason, "")
        return Numbers(power, nothing, SignalToNoise(nothing, nothing, nothing), shown)
    spectrum = part.periodograms.spectrum(sample_rate_hz)
    bins = passband_bins(spectrum, passband.low_hz, passband.high_hz)
    noise = noise_floor(spectrum, bins, plan.coding.quantisation_power)
    snr = signal_to_noise(spectrum, noise, part.sample_count / sample_rate_hz)
    return Numbers(power, noise.estimate, snr, shown)
