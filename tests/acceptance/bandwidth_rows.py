"""The occupied bandwidth of emissions in white noise."""

from __future__ import annotations

from typing import Final

import numpy as np

from dsp_svc.estimate.bandwidth import occupied_bandwidth
from tests.acceptance.mixtures import RATE_HZ, ROLL_OFF, SYMBOL_RATE_HZ, TRIALS, Make, flat, mixtures, shaped
from tests.acceptance.table import Check, Row, at_most
from tests.signals import root_raised_cosine

_SNRS_DB: Final = (0.0, 5.0, 10.0, 20.0, 30.0)
_FLAT_HZ: Final = 3_000.0
_FLAT_S: Final = 1.0
_SHAPED_S: Final = 4.0


def _measure(rng: np.random.Generator, make: Make, width_hz: float, truth_hz: float, seconds: float) -> list[Check]:
    errors: dict[float, list[float]] = {snr_db: [] for snr_db in _SNRS_DB}
    for mixture in mixtures(rng, make, round(seconds * RATE_HZ)):
        for snr_db, bins in errors.items():
            spectrum, noise = mixture.at(10 ** (snr_db / 10) * width_hz / RATE_HZ)
            found_hz = occupied_bandwidth(spectrum, noise).width_hz.value
            bins.append(float("nan") if found_hz is None else (found_hz - truth_hz) / spectrum.bin_width_hz)
    checks = []
    for snr_db, bins in errors.items():
        checks.append(at_most(f"mean error at {snr_db:g} dB, bins", float(np.mean(bins)), 1.0, 2))
        checks.append(at_most("std", float(np.std(bins)), 1.0 if snr_db >= 5 else np.inf, 2))
    return checks


def _shaped_width_hz() -> float:
    """The width that holds 99 % of the power, from the response itself."""
    count = 1 << 16
    power = np.fft.fftshift(root_raised_cosine(count, SYMBOL_RATE_HZ / RATE_HZ, ROLL_OFF) ** 2)
    share = np.cumsum(power) / np.sum(power)
    low, high = np.interp((0.005, 0.995), share, np.arange(count))
    return float((high - low) / count * RATE_HZ)


_SHAPED_HZ: Final = _shaped_width_hz()
_TARGET: Final = "mean within 1 bin; standard deviation below 1 bin from 5 dB on"

ROWS: Final = [
    Row(
        "occupied bandwidth",
        f"flat signal, {0.99 * _FLAT_HZ:.0f} Hz hold 99 %, {_FLAT_S:g} s, bins of 23.4 Hz, 0 to 30 dB",
        _TARGET,
        TRIALS,
        lambda rng: _measure(rng, flat(_FLAT_HZ), _FLAT_HZ, 0.99 * _FLAT_HZ, _FLAT_S),
    ),
    Row(
        "occupied bandwidth",
        f"root raised cosine, {_SHAPED_HZ:.0f} Hz hold 99 %, {_SHAPED_S:g} s, bins of 23.4 Hz, 0 to 30 dB",
        _TARGET,
        TRIALS,
        lambda rng: _measure(rng, shaped, _SHAPED_HZ, _SHAPED_HZ, _SHAPED_S),
    ),
]
