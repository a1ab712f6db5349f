"""Everything that one stream's samples add up to."""

from __future__ import annotations

from dataclasses import dataclass

from dsp_svc.estimate.carrier import Carrier
from dsp_svc.estimate.measure import Numbers, Part, Plan, evaluate, measure_part, no_part
from dsp_svc.estimate.offset import Tone, frequency_offset_hz
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import Band


@dataclass(frozen=True)
class StretchNumbers:
    """The numbers of a window or of a whole stream."""

    sample_count: int
    """The samples that they rest on."""
    numbers: Numbers
    """Level, noise and SNR."""
    frequency_offset_hz: Quantity
    """The strongest line relative to the tuned centre in Hz."""


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
        self._line: Tone | Reason = Reason.NO_SAMPLES
        self._carrier: Carrier | None = None

    def add(self, data: bytes | bytearray, first_index: int, passband: Band) -> None:
        """Measures an unbroken run of samples of the current window.

        Args:
            data: Whole I,Q pairs in the stream's coding.
            first_index: The index of the first of them.
            passband: The receiver's passband relative to the tuned centre.

        Raises:
            ValueError: A float sample is not finite.
        """
        samples = self._plan.coding.decode(data)
        part = measure_part(samples, self._plan, passband)
        self._window = part if self._window is None else self._window + part
        self._total += part
        # The whole stream is derotated by one line: the first that was found.
        if self._carrier is None:
            self._line = part.tone
            if isinstance(part.tone, Tone):
                self._carrier = Carrier(part.tone.cycles_per_sample)
        if self._carrier is not None:
            self._carrier.add(samples, first_index, self._plan.sample_rate_hz)

    def end_window(self) -> None:
        """Forgets the current window; its samples stay in the sum of the stream."""
        self._window = None

    def window(self, passband: Band, sample_rate_hz: float) -> StretchNumbers:
        """Evaluates the current window.

        Args:
            passband: The receiver's passband relative to the tuned centre.
            sample_rate_hz: The best known sample rate in Hz.
        """
        part = no_part(self._plan) if self._window is None else self._window
        offset = frequency_offset_hz(part.tone, sample_rate_hz)
        return StretchNumbers(part.sample_count, evaluate(part, self._plan, passband, sample_rate_hz), offset)

    def summary(self, passband: Band, sample_rate_hz: float) -> StretchNumbers:
        """Evaluates the whole stream.

        Args:
            passband: The band that every run's passband holds.
            sample_rate_hz: The final sample rate in Hz.
        """
        if self._carrier is None:
            offset = frequency_offset_hz(self._line, sample_rate_hz)
        else:
            offset = self._carrier.offset_hz(sample_rate_hz)
        numbers = evaluate(self._total, self._plan, passband, sample_rate_hz)
        return StretchNumbers(self._total.sample_count, numbers, offset)
