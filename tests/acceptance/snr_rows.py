"""The signal-to-noise ratio of flat emissions in white noise."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np

from dsp_svc.estimate.snr import signal_to_noise
from tests.acceptance.mixtures import RATE_HZ, TRIALS, flat, mixtures
from tests.acceptance.table import Check, Row, at_most

_SNRS_DB: Final = (-5.0, 0.0, 5.0, 10.0, 20.0, 30.0, 40.0)


def _measure(rng: np.random.Generator, width_hz: float, seconds: float) -> list[Check]:
    errors: dict[float, list[float]] = {snr_db: [] for snr_db in _SNRS_DB}
    for mixture in mixtures(rng, flat(width_hz), round(seconds * RATE_HZ)):
        for snr_db, found_db in errors.items():
            power = 10 ** (snr_db / 10) * width_hz / RATE_HZ
            found = signal_to_noise(*mixture.at(power), seconds)
            value, bandwidth_hz = found.snr_db.value, found.bandwidth_hz.value
            # The ratio is stated for the band that was integrated: the same signal over more noise.
            truth_db = float("nan") if bandwidth_hz is None else 10 * np.log10(power * RATE_HZ / bandwidth_hz)
            found_db.append(float("nan") if value is None else value - truth_db)
    checks = []
    for snr_db, found_db in errors.items():
        limit_db = 0.45 if snr_db < 0 else 0.1 if snr_db >= 10 else np.inf
        checks.append(at_most(f"bias at {snr_db:g} dB", float(np.mean(found_db)), 0.1))
        checks.append(at_most("rms", float(np.sqrt(np.mean(np.square(found_db)))), limit_db))
    return checks


ROWS: Final = [
    Row(
        "SNR",
        f"flat signal {width_hz:g} Hz wide in 12 kHz, {seconds:g} s, B T = {width_hz * seconds:,.0f}, -5 to 40 dB",
        "bias below 0.1 dB; rms below 0.45 dB at -5 dB and below 0.1 dB from 10 dB on",
        TRIALS,
        partial(_measure, width_hz=width_hz, seconds=seconds),
    )
    for width_hz, seconds in ((500.0, 6.0), (1_500.0, 4.0), (2_000.0, 1.5), (3_000.0, 1.0))
]
