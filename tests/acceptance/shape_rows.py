"""Kurtosis and spectral flatness of noise, carriers and pulses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import scipy.special

from dsp_svc.estimate.flatness import flatness
from dsp_svc.estimate.kurtosis import kurtosis
from dsp_svc.estimate.levels import moments
from dsp_svc.estimate.psd import Taper, Welch, periodograms
from dsp_svc.estimate.result import Quantity
from tests.acceptance.table import Check, Row, at_most
from tests.signals import Complex, tone, white_noise

TRIALS: Final = 400
ALARM_TRIALS: Final = 10_000
_COUNT: Final = 16_384
_SNR: Final = 10.0
_DUTY: Final = 0.25
_BINS: Final = 256
_SEGMENTS: Final = _COUNT // _BINS
# Segments without taper or overlap: their bins are independent, and a carrier on a bin is in that bin alone.
_WELCH: Final = Welch(_BINS, Taper.BOXCAR, 0.0)

Make = Callable[[np.random.Generator], Complex]


def _noise(rng: np.random.Generator) -> Complex:
    return white_noise(rng, _COUNT)


def _carrier(rng: np.random.Generator) -> Complex:
    return tone(_COUNT, 32 / _BINS, np.sqrt(_SNR), rng.uniform()) + white_noise(rng, _COUNT)


def _pulsed(rng: np.random.Generator) -> Complex:
    """Noise that is on for a quarter of the time, for whole segments."""
    samples = white_noise(rng, _COUNT)
    samples.reshape(4, -1)[1:] = 0.0
    return samples


def _kurtosis(samples: Complex) -> Quantity:
    return kurtosis(moments(samples))


def _flatness(samples: Complex) -> Quantity:
    return flatness(periodograms(samples, _WELCH).spectrum(1.0), np.ones(_BINS, dtype=np.bool_))


def _log_bias(averages: float) -> float:
    """The mean of the logarithm of a Gamma(K)/K variable."""
    return float(scipy.special.digamma(averages) - np.log(averages))


def _flatness_of_a_carrier() -> float:
    """One bin of all is 1 + N SNR, the others are 1; what scatters is divided out but in that bin."""
    in_bin = 1.0 + _BINS * _SNR
    geometric = np.exp(np.log(in_bin) / _BINS - _log_bias(_SEGMENTS) / _BINS)
    return float(geometric / (1.0 + _SNR))


def _mean_check(rng: np.random.Generator, make: Make, of: Callable[[Complex], Quantity], truth: float) -> list[Check]:
    values = np.array([of(make(rng)).value for _ in range(TRIALS)], dtype=np.float64)
    error = (np.mean(values) - truth) / (np.std(values) / np.sqrt(TRIALS))
    return [
        Check(f"mean (truth {truth:.4f})", float(np.mean(values)), 0.0, np.inf, 3),
        at_most("error in standard errors", float(error), 3.0, 1),
    ]


def _alarm_check(rng: np.random.Generator, count: int, of: Callable[[Complex], Quantity], truth: float) -> list[Check]:
    noise = white_noise(rng, (ALARM_TRIALS, count))
    alarms = 0
    for trial in noise:
        found = of(trial)
        if found.value is None or found.sigma is None:
            return [Check("no value", float("nan"), 0.0, 0.0)]
        alarms += abs(found.value - truth) > 4.0 * found.sigma
    return [Check("share of false alarms", alarms / ALARM_TRIALS, 0.0, 0.001, 4)]


_MEAN: Final = "mean within 3 standard errors"
_ALARMS: Final = "beyond 4 sigma at most once in 1000"

ROWS: Final = [
    *(
        Row(
            metric,
            condition,
            _MEAN,
            TRIALS,
            partial(_mean_check, make=make, of=of, truth=truth),
        )
        for metric, condition, make, of, truth in (
            ("kurtosis", "noise, 16,384 samples", _noise, _kurtosis, 2.0),
            # The power 1 + z of a carrier and noise has the fourth moment S² + 4 S + 2.
            ("kurtosis", "carrier 10 dB over noise", _carrier, _kurtosis, (_SNR**2 + 4 * _SNR + 2) / (_SNR + 1) ** 2),
            ("kurtosis", "noise on for a quarter of the time", _pulsed, _kurtosis, 2.0 / _DUTY),
            ("flatness", "noise, 64 averages of 256 bins", _noise, _flatness, 1.0),
            ("flatness", "carrier 10 dB over noise", _carrier, _flatness, _flatness_of_a_carrier()),
            (
                "flatness",
                "noise on for a quarter of the time",
                _pulsed,
                _flatness,
                float(np.exp(_log_bias(_DUTY * _SEGMENTS) - _log_bias(_SEGMENTS))),
            ),
        )
    ),
    Row("kurtosis", "noise, 4096 samples", _ALARMS, ALARM_TRIALS, lambda rng: _alarm_check(rng, 4096, _kurtosis, 2.0)),
    Row(
        "flatness",
        "noise, 16 averages of 256 bins",
        _ALARMS,
        ALARM_TRIALS,
        lambda rng: _alarm_check(rng, 4096, _flatness, 1.0),
    ),
]
