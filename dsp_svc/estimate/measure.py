"""What one run of samples adds to a stretch of its stream."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from dsp_svc.estimate.apd import AmplitudeHistogram, amplitude_histogram
from dsp_svc.estimate.calibration import Calibration, ReferenceEnergy, reference_energy
from dsp_svc.estimate.clipping import Clipping, clipping
from dsp_svc.estimate.image import MirrorProducts, mirror_products
from dsp_svc.estimate.levels import Moments, moments
from dsp_svc.estimate.metrics import DEFAULT_METRICS, Metric
from dsp_svc.estimate.offset import Tone, find_tone
from dsp_svc.estimate.percentiles import Rows, rows
from dsp_svc.estimate.psd import Periodograms, Welch, line_powers, segment_lines
from dsp_svc.estimate.result import Reason
from dsp_svc.estimate.snr import Band
from dsp_svc.estimate.spectral_kurtosis import PowerSums, power_sums
from heimdall.samples import SampleCoding, Samples

_WITHOUT_SPECTRUM: Final = frozenset(
    {Metric.KURTOSIS, Metric.CREST_FACTOR, Metric.CLIPPING, Metric.DC_OFFSET, Metric.AMPLITUDE_DISTRIBUTION}
)
_WITH_LINE: Final = frozenset({Metric.FREQUENCY_OFFSET, Metric.FREQUENCY_DRIFT})
_WITH_MOMENTS: Final = frozenset({Metric.POWER, Metric.KURTOSIS, Metric.CREST_FACTOR, Metric.DC_OFFSET})

_SumT = TypeVar("_SumT", bound=Any)


@dataclass(frozen=True)
class Plan:
    """How every run of one stream is measured."""

    coding: SampleCoding
    """The scale of the samples."""
    sample_rate_hz: float
    """The announced sample rate in Hz; it scales no result."""
    welch: Welch
    """The spectrum that noise and emissions are taken from."""
    shown_welch: Welch | None = None
    """The spectrum that is handed out; None for none."""
    metrics: frozenset[Metric] = DEFAULT_METRICS
    """What is measured."""

    @property
    def shows_own(self) -> bool:
        """Whether the spectrum that is handed out is the one that noise and emissions are taken from."""
        return self.shown_welch == self.welch

    @property
    def has_spectrum(self) -> bool:
        """Whether anything is taken from the spectrum of noise and emissions."""
        return self.shows_own or not self.metrics <= _WITHOUT_SPECTRUM

    @property
    def other_welch(self) -> Welch | None:
        """The spectrum that is made besides, to be handed out; None if there is none to make."""
        return None if self.shows_own else self.shown_welch

    @property
    def has_line(self) -> bool:
        """Whether a line is looked for."""
        return bool(self.metrics & _WITH_LINE)


@dataclass(frozen=True)
class Spectra:
    """What the transforms of a run add up to; sums of separate runs add up to those of both."""

    periodograms: Periodograms
    """The mean power of each bin."""
    mirror: MirrorProducts | None
    """The products of opposite bins; None if they are not asked for."""
    powers: PowerSums | None
    """The moments of the power in each bin; None if they are not asked for."""
    rows: Rows | None
    """The distribution of the power in each bin; None if it is not asked for."""

    def __add__(self, other: Spectra) -> Spectra:
        return Spectra(
            self.periodograms + other.periodograms,
            _sum(self.mirror, other.mirror),
            _sum(self.powers, other.powers),
            _sum(self.rows, other.rows),
        )


@dataclass(frozen=True)
class Part:
    """What one unbroken run of samples adds to a stretch."""

    sample_count: int
    """The samples in the run."""
    moments: Moments
    """Their power and its moments; without any if none is asked for."""
    reference: ReferenceEnergy
    """Their energy at the plane of the calibration."""
    clipping: Clipping
    """What suggests an overload; without any if it is not asked for."""
    spectra: Spectra | None
    """Their spectrum for noise and emissions; None if it is not asked for."""
    other: Spectra | None
    """Their spectrum to hand out, if that is another one."""
    histogram: AmplitudeHistogram | None
    """Their amplitudes; None if they are not asked for."""
    tone: Tone | Reason
    """The strongest line of any run of the stretch, or why there is none in the first."""
    tone_index: float
    """The index in the stream of the middle of the run that has the line."""

    def __add__(self, other: Part) -> Part:
        first = self if self.sample_count else other
        best = other if isinstance(other.tone, Tone) and other.tone.n_snr_db > first.tone_n_snr_db else first
        return dataclasses.replace(
            self,
            sample_count=self.sample_count + other.sample_count,
            moments=self.moments + other.moments,
            reference=self.reference + other.reference,
            clipping=self.clipping + other.clipping,
            spectra=_sum(self.spectra, other.spectra),
            other=_sum(self.other, other.other),
            histogram=_sum(self.histogram, other.histogram),
            tone=best.tone,
            tone_index=best.tone_index,
        )

    @property
    def tone_n_snr_db(self) -> float:
        """The integrated SNR of the line in dB; -inf without one."""
        return self.tone.n_snr_db if isinstance(self.tone, Tone) else -math.inf


def measure_part(
    data: bytes | bytearray,
    samples: Samples,
    first_index: int,
    plan: Plan,
    passband: Band,
    calibration: Calibration | None = None,
) -> Part:
    """Measure one unbroken run.

    Args:
        data: The run as the receiver sent it, whole I,Q pairs in the coding of the plan.
        samples: The same as complex amplitudes, shape (n,), complex64, full scale 1.
        first_index: The index of the first of them in the stream.
        plan: How to measure.
        passband: Where to look for a line, relative to the tuned centre.
        calibration: What turns levels into dBm; None if that is not known.

    Returns:
        The run's part of a stretch.
    """
    metrics, rate_hz = plan.metrics, plan.sample_rate_hz
    sums = moments(samples) if metrics & _WITH_MOMENTS else Moments.none()
    own, other = _welches(plan)
    tone: Tone | Reason = Reason.NOT_REQUESTED
    if plan.has_line:
        tone = find_tone(samples, passband.low_hz / rate_hz, passband.high_hz / rate_hz)
    return Part(
        len(samples),
        sums,
        reference_energy(sums, calibration),
        clipping(data, plan.coding) if Metric.CLIPPING in metrics else Clipping.none(),
        None if own is None else _spectra(samples, first_index, *own),
        None if other is None else _spectra(samples, first_index, *other),
        amplitude_histogram(samples) if Metric.AMPLITUDE_DISTRIBUTION in metrics else None,
        tone,
        first_index + (len(samples) - 1) / 2.0,
    )


def no_part(plan: Plan) -> Part:
    """Make the part of a stretch without samples."""
    own, other = _welches(plan)
    return Part(
        0,
        Moments.none(),
        ReferenceEnergy.none(),
        Clipping.none(),
        None if own is None else _no_spectra(*own),
        None if other is None else _no_spectra(*other),
        AmplitudeHistogram.none() if Metric.AMPLITUDE_DISTRIBUTION in plan.metrics else None,
        Reason.NO_SAMPLES,
        0.0,
    )


_Made: TypeAlias = tuple[Welch, frozenset[Metric]]
"""A spectrum, and what is asked of it."""


def _welches(plan: Plan) -> tuple[_Made | None, _Made | None]:
    """Tells what is asked of the spectrum of noise and emissions, and of the other one; None where it is not made.

    The statistics have the bins of the spectrum that is handed out.
    """
    statistics = frozenset({Metric.SPECTRUM_STATISTICS})
    other = None if plan.other_welch is None else (plan.other_welch, plan.metrics & statistics)
    asked = plan.metrics if other is None else plan.metrics - statistics
    return (plan.welch, asked) if plan.has_spectrum else None, other


def _spectra(samples: Samples, first_index: int, welch: Welch, metrics: frozenset[Metric]) -> Spectra:
    """Add up what is asked for, batch by batch, while the transforms are in the cache."""
    made = _no_spectra(welch, metrics)
    total, mirror, powers, statistics = made.periodograms.total, made.mirror, made.powers, made.rows
    for first_row, lines in segment_lines(samples, welch):
        total += line_powers(lines)
        mirror = None if mirror is None else mirror + mirror_products(lines, welch)
        powers = None if powers is None else powers + power_sums(first_row, lines, welch)
        statistics = (
            None if statistics is None else statistics + rows(first_index + first_row * welch.hop, lines, welch)
        )
    count = welch.segment_count(len(samples))
    return Spectra(Periodograms(welch, total, count, welch.effective_segment_count(count)), mirror, powers, statistics)


def _no_spectra(welch: Welch, metrics: frozenset[Metric]) -> Spectra:
    return Spectra(
        Periodograms.none(welch),
        MirrorProducts.none(welch) if Metric.IMAGE_RATIO in metrics else None,
        PowerSums.none(welch) if Metric.SPECTRAL_KURTOSIS in metrics else None,
        Rows.none(welch) if Metric.SPECTRUM_STATISTICS in metrics else None,
    )


def _sum(first: _SumT | None, second: _SumT | None) -> _SumT | None:
    return None if first is None or second is None else first + second
