"""Everything that one stream's samples add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dsp_svc.estimate.calibration import Calibration
from dsp_svc.estimate.carrier import Carrier
from dsp_svc.estimate.drift import FrequencyTrack, drift_hz_per_s, frequency_scatter_hz
from dsp_svc.estimate.emission_offset import best_offset
from dsp_svc.estimate.measure import Part, Plan, measure_part, no_part
from dsp_svc.estimate.metrics import Metric
from dsp_svc.estimate.numbers import NOT_YET, Evaluation, Numbers, Products, evaluate
from dsp_svc.estimate.offset import Tone, frequency_offset_hz
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.estimate.samples import check_amplitudes
from dsp_svc.estimate.snr import Band
from heimdall.samples import SampleFormat, Samples

_MIN_SIGMA_CYCLES: Final = 1e-12
"""What stands for the uncertainty of a line without any noise, which would outweigh all others."""


@dataclass(frozen=True)
class StretchNumbers:
    """The numbers of a window or of a whole stream."""

    sample_count: int
    """The samples that they rest on."""
    numbers: Numbers
    """What is one number."""
    products: Products
    """What is more than one."""


class Meter:
    """Adds up one stream. Nothing of a run is kept but sums, so memory does not grow with its samples."""

    def __init__(self, plan: Plan) -> None:
        """Starts with nothing.

        Args:
            plan: How to measure.
        """
        self._plan = plan
        self._total = no_part(plan)
        self._window: Part | None = None
        self._window_index = 0
        self._head: Samples | None = None
        self._line: Tone | Reason = Reason.NO_SAMPLES
        self._carrier: Carrier | None = None
        self._lines = FrequencyTrack.none()
        self._emissions: dict[str, FrequencyTrack] = {}
        self._window_count = 0

    def add(
        self, data: bytes | bytearray, first_index: int, passband: Band, calibration: Calibration | None = None
    ) -> None:
        """Measures an unbroken run of samples of the current window.

        Args:
            data: Whole I,Q pairs in the stream's coding.
            first_index: The index of the first of them.
            passband: The receiver's passband relative to the tuned centre.
            calibration: What turns levels into dBm; None if that is not known.

        Raises:
            BadSamplesError: A float sample is not finite.
        """
        samples = self._plan.coding.decode(data)
        if self._plan.coding.sample_format is SampleFormat.CF32_LE:
            check_amplitudes(samples)
        part = measure_part(data, samples, first_index, self._plan, passband, calibration)
        if self._window is None:
            self._window, self._window_index = part, first_index
            if Metric.FREQUENCY_OFFSET in self._plan.metrics and not isinstance(part.tone, Tone):
                self._head = samples
        else:
            self._window += part
        self._total += part
        if Metric.FREQUENCY_OFFSET in self._plan.metrics:
            self._follow(part.tone, samples, first_index)

    def _follow(self, tone: Tone | Reason, samples: Samples, first_index: int) -> None:
        """Derotates the whole stream by one line: the first that was found."""
        if self._carrier is None:
            self._line = tone
            if isinstance(tone, Tone):
                self._carrier = Carrier(tone.cycles_per_sample)
        if self._carrier is not None:
            self._carrier.add(samples, first_index, self._plan.sample_rate_hz)

    def end_window(self) -> None:
        """Forgets the current window; its samples stay in the sum of the stream."""
        self._window = self._head = None

    def window(self, passband: Band, sample_rate_hz: float) -> StretchNumbers:
        """Evaluates the current window; once for each.

        Args:
            passband: The receiver's passband relative to the tuned centre.
            sample_rate_hz: The best known sample rate in Hz.
        """
        self._window_count += 1
        part = no_part(self._plan) if self._window is None else self._window
        found = evaluate(part, self._plan, passband, sample_rate_hz)
        if Metric.FREQUENCY_OFFSET in self._plan.metrics:
            found.numbers.frequency_offset_hz = self._window_offset(part, found, sample_rate_hz)
        if Metric.FREQUENCY_DRIFT in self._plan.metrics:
            found.numbers.frequency_drift_hz_per_s = found.numbers.frequency_scatter_hz = NOT_YET
            if isinstance(part.tone, Tone):
                self._lines += self._point(part, part.tone)
        return StretchNumbers(part.sample_count, found.numbers, found.products)

    def summary(self, passband: Band, sample_rate_hz: float) -> StretchNumbers:
        """Evaluates the whole stream.

        Args:
            passband: The band that every run's passband holds.
            sample_rate_hz: The final sample rate in Hz.
        """
        found = evaluate(self._total, self._plan, passband, sample_rate_hz)
        if Metric.FREQUENCY_OFFSET in self._plan.metrics:
            found.numbers.frequency_offset_hz = self._offset(found, sample_rate_hz)
        if Metric.FREQUENCY_DRIFT in self._plan.metrics:
            found.numbers.frequency_drift_hz_per_s = drift_hz_per_s(self._lines)
            found.numbers.frequency_scatter_hz = frequency_scatter_hz(self._lines)
        return StretchNumbers(self._total.sample_count, found.numbers, found.products)

    def _window_offset(self, part: Part, found: Evaluation, sample_rate_hz: float) -> Quantity:
        """Returns the line's frequency, or that of the emission; remembers the latter for the summary."""
        if self._head is None:
            return frequency_offset_hz(part.tone, sample_rate_hz)
        offset = best_offset(self._head, sample_rate_hz, found.spectrum, found.noise, found.band, part.tone)
        if offset.validity is Validity.VALID and offset.value is not None and offset.sigma:
            track = self._emissions.get(offset.method, FrequencyTrack.none())
            middle_s = (self._window_index + part.sample_count / 2) / self._plan.sample_rate_hz
            self._emissions[offset.method] = track + FrequencyTrack.point(middle_s, offset.value, offset.sigma)
        return offset

    def _offset(self, found: Evaluation, sample_rate_hz: float) -> Quantity:
        """Returns the frequency of the line over the whole stream; without one, the mean of what most windows gave."""
        if self._carrier is not None:
            return self._carrier.offset_hz(sample_rate_hz)
        if self._emissions and found.band is not None:
            method, track = max(self._emissions.items(), key=lambda item: item[1].point_count)
            if 2 * track.point_count > self._window_count:
                # Windows that scatter more than their own sigmas say, as fading makes them, widen it.
                excess = max(1.0, track.frequency_spread / max(track.point_count - 1, 1))
                return Quantity.valid(track.mean_frequency_hz, (excess / track.weight) ** 0.5, method)
        return frequency_offset_hz(self._line, sample_rate_hz)

    def _point(self, part: Part, tone: Tone) -> FrequencyTrack:
        rate_hz = self._plan.sample_rate_hz
        sigma_hz = max(tone.sigma_cycles_per_sample, _MIN_SIGMA_CYCLES) * rate_hz
        return FrequencyTrack.point(part.tone_index / rate_hz, tone.cycles_per_sample * rate_hz, sigma_hz)
