"""What an emitter sends, as a function of time, and what of it arrives at one station."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.geometry import SPEED_OF_LIGHT_M_S, ecef_m, free_space_loss_db, velocity_ecef_m_s
from simulator.scenario import EmitterSpec, StationSpec

_NOISE_TABLE_LENGTH = 1 << 18
_NOISE_OVERSAMPLING = 16


class Modulation:
    """The complex envelope of one emitter, a function of the time of emission.

    Of magnitude one for cw and fm, of unit carrier for am, of unit mean power for noise. The noise repeats
    itself after `2**18 / 16 / bandwidth_hz` seconds (5.5 s at 3 kHz).
    """

    def __init__(self, spec: EmitterSpec, seed: int) -> None:
        self._spec = spec
        self._table = _noise_table(spec, seed) if spec.modulation == "noise" else None

    def at(self, emit_time_s: NDArray[np.float64]) -> NDArray[np.complex128]:
        """The envelope at times of emission, in s since the start of the simulation; same shape."""
        spec = self._spec
        if self._table is not None:
            return _interpolate(self._table, emit_time_s * (_NOISE_OVERSAMPLING * spec.bandwidth_hz))
        tone_phase = 2 * np.pi * np.mod(emit_time_s * spec.tone_hz, 1.0)
        if spec.modulation == "am":
            return (1 + spec.depth * np.cos(tone_phase)).astype(np.complex128)
        if spec.modulation == "fm":
            return np.exp(1j * (spec.deviation_hz / spec.tone_hz) * np.sin(tone_phase))
        return np.ones(emit_time_s.shape, dtype=np.complex128)


def _noise_table(spec: EmitterSpec, seed: int) -> NDArray[np.complex128]:
    """One period of band-limited Gaussian noise of unit power, made in the frequency domain."""
    generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(spec.id.encode())]))
    line_count = _NOISE_TABLE_LENGTH // _NOISE_OVERSAMPLING
    lines = generator.standard_normal((line_count, 2)).view(np.complex128)[:, 0]
    spectrum = np.zeros(_NOISE_TABLE_LENGTH, dtype=np.complex128)
    spectrum[np.arange(line_count) - line_count // 2] = lines
    table = np.fft.ifft(spectrum)
    return np.asarray(table / np.sqrt(np.mean(np.abs(table) ** 2)))


def _interpolate(table: NDArray[np.complex128], position: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Periodic cubic (Catmull-Rom) interpolation; at 16x oversampling its error is below -60 dB."""
    index = np.floor(position).astype(np.int64)
    x = position - index
    before, left, right, after = (table[(index + k) % table.size] for k in (-1, 0, 1, 2))
    return np.asarray(
        left
        + 0.5
        * x
        * (right - before + x * (2 * before - 5 * left + 4 * right - after + x * (3 * (left - right) + after - before)))
    )


@dataclass(frozen=True)
class _Path:
    """Position and velocity of the emitter relative to the station, earth-fixed."""

    offset_m: NDArray[np.float64]
    velocity_m_s: NDArray[np.float64]

    def distance_m(self, time_s: float) -> float:
        return float(np.linalg.norm(self.offset_m + time_s * self.velocity_m_s))


class Arrival:
    """One emitter as one station receives it: delayed, weakened, and shifted by its motion."""

    def __init__(self, emitter: EmitterSpec, station: StationSpec, modulation: Modulation) -> None:
        place = (emitter.latitude_deg, emitter.longitude_deg)
        self._emitter = emitter
        self._modulation = modulation
        self._path = _Path(
            ecef_m(*place, emitter.altitude_m)
            - ecef_m(station.latitude_deg, station.longitude_deg, station.altitude_m),
            velocity_ecef_m_s(*place, emitter.velocity_east_m_s, emitter.velocity_north_m_s),
        )
        self.level_dbm(0.0)

    def delay_s(self, time_s: float) -> float:
        """Time of flight in s at a time since the start of the simulation: the chord over c."""
        return self._path.distance_m(time_s) / SPEED_OF_LIGHT_M_S

    def level_dbm(self, time_s: float) -> float:
        """Level at the station's antenna in dBm, isotropic, free space."""
        distance_m = self._path.distance_m(time_s)
        return self._emitter.power_dbm - free_space_loss_db(distance_m, self._emitter.frequency_hz)

    def baseband(
        self, time_s: NDArray[np.float64], centre_hz: float, sample_rate_hz: float
    ) -> NDArray[np.complex128] | None:
        """The signal around a tuned frequency, or None if its carrier lies outside the sampled band.

        Args:
            time_s: sample times in s since the start of the simulation, shape (n,), a run of < 0.1 s (the
                flight time is taken as linear over it).
            centre_hz: the radio frequency that appears at 0 Hz.
            sample_rate_hz: the sample rate in Hz.

        Returns:
            complex128, shape (n,), in sqrt(mW).
        """
        offset_hz = self._emitter.frequency_hz - centre_hz
        if abs(offset_hz) >= sample_rate_hz / 2:
            return None
        first_s, last_s = float(time_s[0]), float(time_s[-1])
        delay_s = np.linspace(self.delay_s(first_s), self.delay_s(last_s), time_s.size)
        cycles = np.mod(offset_hz * time_s - self._emitter.frequency_hz * delay_s, 1.0)
        amplitude = 10 ** (self.level_dbm(first_s) / 20)
        return np.asarray(amplitude * np.exp(2j * np.pi * cycles) * self._modulation.at(time_s - delay_s))
