"""What the tests of the estimators share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

Signal = npt.NDArray[np.complex64]


@pytest.fixture
def rng() -> np.random.Generator:
    """A fixed sequence for every test by itself, whatever order they run in."""
    return np.random.default_rng(20_200_813)


@pytest.fixture
def white_noise(rng: np.random.Generator) -> Callable[[int, float], Signal]:
    """Makes circular white noise of a given power."""

    def make(count: int, power: float = 1.0) -> Signal:
        noise = rng.standard_normal(count) + 1j * rng.standard_normal(count)
        return np.asarray(noise * np.sqrt(power / 2.0), dtype=np.complex64)

    return make


@pytest.fixture
def flat_signal(rng: np.random.Generator) -> Callable[[int, float, float, float, float], Signal]:
    """Makes noise of a given power that fills a band and nothing else."""

    def make(count: int, rate_hz: float, low_hz: float, high_hz: float, power: float) -> Signal:
        lines = rng.standard_normal(count) + 1j * rng.standard_normal(count)
        frequencies = np.fft.fftfreq(count, 1.0 / rate_hz)
        signal = np.fft.ifft(np.where((frequencies >= low_hz) & (frequencies <= high_hz), lines, 0.0))
        return np.asarray(signal * np.sqrt(power / np.mean(np.abs(signal) ** 2)), dtype=np.complex64)

    return make


@pytest.fixture
def tone() -> Callable[..., Signal]:
    """Makes a complex tone."""

    def make(count: int, cycles: float, amplitude: float = 1.0, phase: float = 0.0) -> Signal:
        turns = cycles * np.arange(count, dtype=np.float64) + phase
        return np.asarray(amplitude * np.exp(2j * np.pi * (turns % 1.0)), dtype=np.complex64)

    return make
