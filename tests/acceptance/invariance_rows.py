"""What must not change a number, or change it in one way only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dsp_svc.estimate.levels import moments, power_dbfs
from dsp_svc.estimate.noise import noise_floor, passband_bins
from dsp_svc.estimate.offset import Tone, find_tone
from dsp_svc.estimate.psd import Welch, periodograms
from dsp_svc.estimate.snr import signal_to_noise
from tests.acceptance.table import Check, Row, at_most
from tests.signals import Complex, tone, white_noise

TRIALS: Final = 400
_RATE_HZ: Final = 12_000.0
_COUNT: Final = 12_000
_LONG: Final = 120_000


@dataclass(frozen=True)
class _Numbers:
    level_db: float
    noise_db: float
    snr_db: float
    offset_hz: float


def _numbers(samples: Complex) -> _Numbers:
    spectrum = periodograms(samples, Welch(512)).spectrum(_RATE_HZ)
    noise = noise_floor(spectrum, passband_bins(spectrum, -_RATE_HZ, _RATE_HZ))
    snr = signal_to_noise(spectrum, noise, len(samples) / _RATE_HZ)
    found = find_tone(samples)
    values = (power_dbfs(moments(samples)).value, noise.estimate.value, snr.snr_db.value)
    level, floor, ratio = (float("nan") if value is None else value for value in values)
    return _Numbers(
        level, floor, ratio, found.cycles_per_sample * _RATE_HZ if isinstance(found, Tone) else float("nan")
    )


def _signal(rng: np.random.Generator, count: int) -> Complex:
    return tone(count, rng.uniform(-0.5, 0.5), 0.1, rng.uniform()) + white_noise(rng, count, 1e-3)


def _scaled(rng: np.random.Generator) -> list[Check]:
    pairs = []
    for _ in range(TRIALS):
        samples = _signal(rng, _COUNT)
        pairs.append((_numbers(samples), _numbers(samples * np.float32(1e-3))))
    return [
        at_most("level, dB off", _largest([b.level_db - a.level_db + 60 for a, b in pairs]), 1e-4, 4),
        at_most("noise floor, dB off", _largest([b.noise_db - a.noise_db + 60 for a, b in pairs]), 1e-4, 4),
        at_most("SNR, dB off", _largest([b.snr_db - a.snr_db for a, b in pairs]), 1e-4, 4),
        at_most("offset, mHz off", _largest([1e3 * (b.offset_hz - a.offset_hz) for a, b in pairs]), 0.1),
    ]


def _with_impulse(rng: np.random.Generator) -> list[Check]:
    moved = []
    for _ in range(TRIALS):
        samples = _signal(rng, _LONG)
        before = noise_db(samples)
        samples[rng.integers(_LONG)] += np.complex64(1.0)
        moved.append(noise_db(samples) - before)
    return [at_most("largest change, dB", _largest(moved), 0.1, 2)]


def noise_db(samples: Complex) -> float:
    """The noise floor of all of the baseband."""
    spectrum = periodograms(samples, Welch(512)).spectrum(_RATE_HZ)
    value = noise_floor(spectrum, passband_bins(spectrum, -_RATE_HZ, _RATE_HZ)).estimate.value
    return float("nan") if value is None else value


def _conjugated(rng: np.random.Generator) -> list[Check]:
    sums = []
    for _ in range(TRIALS):
        samples = _signal(rng, _COUNT)
        sums.append(_numbers(samples).offset_hz + _numbers(np.conj(samples)).offset_hz)
    return [at_most("sum of both offsets, mHz", 1e3 * _largest(sums), 0.1)]


def _largest(values: list[float]) -> float:
    return float(np.max(np.abs(values)))


ROWS: Final = [
    Row(
        "invariance",
        "tone 10 dB over noise, scaled by 0.001",
        "level and noise floor fall by 60 dB; SNR and offset stay",
        TRIALS,
        _scaled,
    ),
    Row(
        "invariance",
        "tone 10 dB over noise, 10 s, with one impulse 30 dB over the noise",
        "the noise floor moves by less than 0.1 dB",
        TRIALS,
        _with_impulse,
    ),
    Row("invariance", "tone 10 dB over noise, conjugated", "the offset flips its sign", TRIALS, _conjugated),
]
