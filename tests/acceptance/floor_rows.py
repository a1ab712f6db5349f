"""The noise floor under signals, on spectra of independent bins with the Gamma law."""

from __future__ import annotations

from functools import partial
from typing import Final
from unittest import mock

import numpy as np
import scipy.special

from dsp_svc.estimate import noise
from dsp_svc.estimate.psd import Spectrum, Welch
from tests.acceptance.table import Check, Row

TRIALS: Final = 600
_BINS: Final = 512
_RATE_HZ: Final = 12_000.0


def _floor_db(spectrum: Spectrum) -> float:
    density = noise.noise_floor(spectrum, np.ones(_BINS, dtype=np.bool_)).density
    return float("nan") if density is None else 10 * np.log10(density)


def _measure(rng: np.random.Generator, averages: int, occupied: float) -> list[Check]:
    plain, iterated = np.zeros(TRIALS), np.zeros(TRIALS)
    for trial in range(TRIALS):
        density = rng.gamma(averages, 1.0 / averages, _BINS)
        density[100 : 100 + round(occupied * _BINS)] *= 1000.0
        spectrum = Spectrum(Welch(_BINS), density, _RATE_HZ, float(averages))
        iterated[trial] = _floor_db(spectrum)
        with mock.patch.object(noise, "_MAX_ITERATIONS", 1):
            plain[trial] = _floor_db(spectrum)
    expected_db = _bias_db(averages, occupied)
    bias_db, plain_db = (10 * np.log10(np.mean(10 ** (found / 10))) for found in (iterated, plain))
    limit_db = 0.05 if occupied == 0.0 else expected_db / 2
    scatter_db = 4.34 / np.sqrt(averages * _BINS * (1.0 - occupied))
    return [
        Check("bias, dB", bias_db, -limit_db, limit_db),
        Check("without the iteration, dB", plain_db, expected_db - 0.1, expected_db + 0.1),
        Check("scatter over that of the mean", float(np.std(iterated)) / scatter_db, 0.0, 1.6, 2),
    ]


def _bias_db(averages: int, occupied: float) -> float:
    """The bias of the 0.25 quantile when a fraction of the bins is far above it."""
    above, below = (scipy.special.gammaincinv(averages, q) for q in (0.25 / (1.0 - occupied), 0.25))
    return float(10 * np.log10(above / below))


def _target(averages: int, occupied: float) -> str:
    if occupied == 0.0:
        return "bias below 0.05 dB; scatter below 1.6 times that of the mean"
    expected_db = _bias_db(averages, occupied)
    return (
        f"bias below {expected_db / 2:.2f} dB, half of the quantile's own {expected_db:.2f} dB; that within 0.1 dB; "
        "scatter below 1.6 times that of the mean"
    )


ROWS: Final = [
    Row(
        "noise floor",
        f"K = {averages}, {occupied:.0%} of {_BINS} bins 30 dB up",
        _target(averages, occupied),
        TRIALS,
        partial(_measure, averages=averages, occupied=occupied),
    )
    for averages in (4, 10, 50)
    for occupied in (0.0, 0.2, 0.4)
]
