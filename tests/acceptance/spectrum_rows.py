"""The power spectral density: its integral and the level of a tone, with every taper."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import scipy.signal

from dsp_svc.estimate.psd import Taper, Welch, periodograms
from tests.acceptance.table import Check, Row, at_most
from tests.signals import tone, white_noise

TRIALS: Final = 400
_RATE_HZ: Final = 12_000.0
_COUNT: Final = 24_000
_LENGTH: Final = 512


def _measure(rng: np.random.Generator, taper: Taper) -> list[Check]:
    welch = Welch(_LENGTH, taper)
    # The response of the taper is taken from another library.
    weights = scipy.signal.get_window(taper.value, _LENGTH)
    index = np.arange(_LENGTH)
    integrals, tones = np.zeros(TRIALS), np.zeros(TRIALS)
    for trial in range(TRIALS):
        cycles = rng.uniform(-0.5, 0.5)
        samples = tone(_COUNT, cycles, 1.0, rng.uniform()) + white_noise(rng, _COUNT, 0.01)
        spectrum = periodograms(samples, welch).spectrum(_RATE_HZ)
        power = float(np.mean(np.abs(samples.astype(np.complex128)) ** 2))
        integrals[trial] = 10 * np.log10(np.sum(spectrum.density) * _RATE_HZ / _LENGTH / power)
        peak = int(np.argmax(spectrum.density))
        away = cycles - spectrum.frequencies_hz[peak] / _RATE_HZ
        response = abs(np.sum(weights * np.exp(2j * np.pi * away * index))) ** 2
        read = spectrum.density[peak] * _RATE_HZ * np.sum(weights**2) / response
        tones[trial] = 10 * np.log10(read)
    return [
        at_most("largest error of the integral, dB", float(np.max(np.abs(integrals))), 0.02, 4),
        at_most("largest error of the tone, dB", float(np.max(np.abs(tones))), 0.05),
    ]


ROWS: Final = [
    Row(
        "PSD",
        f"tone of 0 dBFS at a random frequency, white noise of -20 dBFS, 24,000 samples, {_LENGTH} bins, {taper.value}",
        "integral within 0.02 dB of the mean power; tone within 0.05 dB, read with the response of the taper",
        TRIALS,
        partial(_measure, taper=taper),
    )
    for taper in Taper
]
