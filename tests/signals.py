"""Signals whose truth is known, made independently of the estimators."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex64]
Shape = int | tuple[int, ...]


def white_noise(rng: np.random.Generator, shape: Shape, power: float = 1.0) -> Complex:
    """Circular white Gaussian noise of a mean power."""
    sizes = (shape,) if isinstance(shape, int) else shape
    parts = rng.standard_normal((*sizes[:-1], 2 * sizes[-1]), dtype=np.float32)
    parts *= np.float32(np.sqrt(power / 2.0))
    return parts.view(np.complex64)


def tone(count: int, cycles: float, amplitude: float = 1.0, phase: float = 0.0) -> Complex:
    """A complex tone; the phase is in turns."""
    turns = cycles * np.arange(count, dtype=np.float64) + phase
    return np.asarray(amplitude * np.exp(2j * np.pi * (turns % 1.0)), dtype=np.complex64)


def flat_signal(rng: np.random.Generator, count: int, low_cycles: float, high_cycles: float, power: float) -> Complex:
    """Gaussian noise of a mean power that fills a band evenly and nothing else."""
    frequencies = np.fft.fftfreq(count)
    inside = (frequencies >= low_cycles) & (frequencies <= high_cycles)
    lines = np.zeros(count, dtype=np.complex64)
    lines[inside] = white_noise(rng, int(np.count_nonzero(inside)))
    signal = np.fft.ifft(lines)
    return np.asarray(signal * np.sqrt(power / np.mean(np.abs(signal) ** 2)), dtype=np.complex64)


def root_raised_cosine(count: int, symbol_cycles: float, roll_off: float) -> npt.NDArray[np.float64]:
    """The amplitude response at `fftfreq(count)` of a root raised cosine filter, 1 in its flat part."""
    frequencies = np.abs(np.fft.fftfreq(count)) / symbol_cycles
    if roll_off == 0.0:
        return np.asarray(frequencies <= 0.5, dtype=np.float64)
    place = np.clip((frequencies - (1.0 - roll_off) / 2.0) / roll_off, 0.0, 1.0)
    return np.asarray(np.cos(np.pi / 2.0 * place), dtype=np.float64)


def psk(
    rng: np.random.Generator, order: int, count: int, samples_a_symbol: int, roll_off: float, cycles: float
) -> Complex:
    """Phase keying of mean power 1 with root raised cosine pulses, of random symbols, timing and phase."""
    symbols = np.exp(2j * np.pi * rng.integers(0, order, count // samples_a_symbol + 1) / order)
    pulses = np.zeros(count, dtype=np.complex128)
    places = rng.integers(samples_a_symbol) + samples_a_symbol * np.arange(len(symbols))
    kept = places < count
    pulses[places[kept]] = symbols[kept]
    shaped = np.fft.ifft(np.fft.fft(pulses) * root_raised_cosine(count, 1.0 / samples_a_symbol, roll_off))
    shaped /= np.sqrt(np.mean(np.abs(shaped) ** 2))
    return np.asarray(shaped * tone(count, cycles, 1.0, rng.uniform()), dtype=np.complex64)


def fsk(rng: np.random.Generator, count: int, samples_a_symbol: int, deviation_cycles: float, cycles: float) -> Complex:
    """Two-tone frequency keying of magnitude 1 with continuous phase, of random symbols, timing and phase."""
    symbols = rng.choice([-1.0, 1.0], count // samples_a_symbol + 2)
    keyed = np.repeat(symbols, samples_a_symbol)[rng.integers(samples_a_symbol) :][:count]
    turns = np.cumsum(cycles + deviation_cycles * keyed) + rng.uniform()
    return np.asarray(np.exp(2j * np.pi * (turns % 1.0)), dtype=np.complex64)
