"""Emissions at many levels in the same noise.

The periodograms of noise, signal and their sum give those of the signal at any level in that noise, so that all
ratios of a row rest on the same signals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.noise import NoiseFloor, noise_floor, passband_bins
from dsp_svc.estimate.psd import Periodograms, Spectrum, Welch, periodograms
from tests.signals import Complex, flat_signal, root_raised_cosine, white_noise

TRIALS: Final = 400
RATE_HZ: Final = 12_000.0
WELCH: Final = Welch(512)
SYMBOL_RATE_HZ: Final = 2_400.0
ROLL_OFF: Final = 0.25

Make = Callable[[np.random.Generator, int], Complex]


@dataclass(frozen=True)
class Mixture:
    """A signal of power 1 and noise of power 1, as sums of periodograms."""

    noise: Periodograms
    signal: Periodograms
    cross: npt.NDArray[np.float64]

    def at(self, power: float) -> tuple[Spectrum, NoiseFloor]:
        """The spectrum and its noise floor with the signal at a power."""
        total = self.noise.total + power * self.signal.total + np.sqrt(power) * self.cross
        spectrum = Periodograms(WELCH, total, self.noise.segment_count, self.noise.effective_count).spectrum(RATE_HZ)
        return spectrum, noise_floor(spectrum, passband_bins(spectrum, -RATE_HZ, RATE_HZ))


def mixtures(rng: np.random.Generator, make: Make, count: int) -> Iterator[Mixture]:
    """Yield signal and noise of every trial."""
    for _ in range(TRIALS):
        noise, signal = white_noise(rng, count), make(rng, count)
        of_noise, of_signal, of_both = (periodograms(part, WELCH) for part in (noise, signal, noise + signal))
        yield Mixture(of_noise, of_signal, of_both.total - of_noise.total - of_signal.total)


def flat(width_hz: float) -> Make:
    def make(rng: np.random.Generator, count: int) -> Complex:
        return flat_signal(rng, count, -width_hz / 2 / RATE_HZ, width_hz / 2 / RATE_HZ, 1.0)

    return make


def shaped(rng: np.random.Generator, count: int) -> Complex:
    response = root_raised_cosine(count, SYMBOL_RATE_HZ / RATE_HZ, ROLL_OFF)
    signal = np.fft.ifft(white_noise(rng, count) * response)
    return np.asarray(signal / np.sqrt(np.mean(np.abs(signal) ** 2)), dtype=np.complex64)
