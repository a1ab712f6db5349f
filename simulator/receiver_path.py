"""From the antenna of one station to its int16 samples: noise, arrivals, passband, S-meter, gain."""

from __future__ import annotations

import zlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from simulator.emission import Arrival
from simulator.frame import S_METER_MIN_DBM
from simulator.gnss import NS_PER_S
from simulator.scenario import SAMPLES_PER_FRAME, StationSpec

FULL_SCALE = 32767
GAIN_OFFSET_DB = 8.73
"""dBm = dBFS + 8.73 - manGain, with 0 dBFS at a magnitude of 32767 and the default S-meter calibration."""
ADC_CLIP_DBM = -14.0
TAP_COUNT = 513
_FFT_LENGTH = 2 * SAMPLES_PER_FRAME
_S_METER_TIME_S = 0.010
_AGC_TARGET = 10 ** (-6 / 20)


class AntennaSignal:
    """The complex signal at a station's antenna, a function of the sample number and the tuning alone.

    It is made in blocks of 512 samples whose noise has a counter-based generator of its own, so any stretch
    can be made again.
    """

    _CACHED_BLOCKS = 16

    def __init__(self, spec: StationSpec, arrivals: list[Arrival], seed: int) -> None:
        self._spec = spec
        self._arrivals = arrivals
        self._key = [seed, zlib.crc32(spec.id.encode())]
        self._noise_amplitude = float(np.sqrt(10 ** (spec.noise_dbm_per_hz / 10) * spec.sample_rate_hz / 2))
        self._blocks: OrderedDict[tuple[int, float], NDArray[np.complex128]] = OrderedDict()

    def samples(self, first_sample: int, sample_count: int, dial_hz: float) -> NDArray[np.complex128]:
        """A stretch of the signal before any filter.

        Args:
            first_sample: running sample number of the station; may be negative.
            sample_count: how many samples.
            dial_hz: the tuned frequency in Hz, before the station's own and its hidden offset are added.

        Returns:
            complex128, shape (sample_count,), in sqrt(mW); 0 Hz is the tuned frequency.
        """
        first_block = first_sample // SAMPLES_PER_FRAME
        last_block = (first_sample + sample_count - 1) // SAMPLES_PER_FRAME
        run = np.concatenate([self._block(block, dial_hz) for block in range(first_block, last_block + 1)])
        begin = first_sample - first_block * SAMPLES_PER_FRAME
        return run[begin : begin + sample_count]

    def _block(self, block: int, dial_hz: float) -> NDArray[np.complex128]:
        key = (block, dial_hz)
        samples = self._blocks.get(key)
        if samples is None:
            samples = self._blocks[key] = self._make_block(block, dial_hz)
            if len(self._blocks) > self._CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return samples

    def _make_block(self, block: int, dial_hz: float) -> NDArray[np.complex128]:
        spec = self._spec
        # Block -1 is needed by the filter of the first frame; a counter has no sign.
        generator = np.random.Generator(np.random.Philox(key=self._key, counter=[0, 0, 0, block + (1 << 32)]))
        noise = generator.standard_normal(2 * SAMPLES_PER_FRAME).view(np.complex128)
        samples = self._noise_amplitude * noise
        number = np.arange(block * SAMPLES_PER_FRAME, (block + 1) * SAMPLES_PER_FRAME)
        for tone in spec.tone:
            if abs(tone.offset_hz) < spec.sample_rate_hz / 2:
                cycles = np.mod(number * (tone.offset_hz / spec.sample_rate_hz), 1.0)
                samples += 10 ** (tone.dbm / 20) * np.exp(2j * np.pi * cycles)
        centre_hz = dial_hz + spec.converter_offset_hz + spec.freq_offset_khz * 1e3
        time_s = number / spec.sample_rate_hz
        for arrival in self._arrivals:
            signal = arrival.baseband(time_s, centre_hz, spec.sample_rate_hz)
            if signal is not None:
                samples += signal
        return samples


class Passband:
    """A linear-phase band filter of 513 taps whose delay is taken out."""

    def __init__(self, low_cut_hz: float, high_cut_hz: float, sample_rate_hz: float) -> None:
        number = np.arange(TAP_COUNT) - TAP_COUNT // 2
        width = max(high_cut_hz - low_cut_hz, 0.0) / sample_rate_hz
        centre = (high_cut_hz + low_cut_hz) / 2 / sample_rate_hz
        taps = width * np.sinc(width * number) * np.blackman(TAP_COUNT) * np.exp(2j * np.pi * centre * number)
        self._response = np.fft.fft(taps, _FFT_LENGTH)

    def frame(self, signal: AntennaSignal, first_sample: int, dial_hz: float) -> NDArray[np.complex128]:
        """The 512 filtered samples from `first_sample` on; complex128 in sqrt(mW)."""
        # Overlap-save: of 1024 samples the last 512 are free of wrap-around, 256 samples of delay later.
        around = signal.samples(first_sample - TAP_COUNT // 2, _FFT_LENGTH, dial_hz)
        filtered = np.fft.ifft(np.fft.fft(around) * self._response)
        return np.asarray(filtered[_FFT_LENGTH - SAMPLES_PER_FRAME :])


class SMeter:
    """The exponential mean over 10 ms of the level in dB, after the passband and before any gain."""

    def __init__(self, sample_rate_hz: float) -> None:
        keep = 1 - 1 / (_S_METER_TIME_S * sample_rate_hz)
        self._weights = (1 - keep) * keep ** np.arange(SAMPLES_PER_FRAME - 1, -1, -1)
        self._carry = keep**SAMPLES_PER_FRAME
        self._level_dbm = S_METER_MIN_DBM

    def update(self, samples: NDArray[np.complex128]) -> float:
        """Takes one frame in sqrt(mW) and returns the level in dBm at its end."""
        power_mw = np.maximum(samples.real**2 + samples.imag**2, 1e-20)
        self._level_dbm = float(self._carry * self._level_dbm + self._weights @ (10 * np.log10(power_mw)))
        return self._level_dbm


class Agc:
    """Keeps the peaks near -6 dBFS: down at once, up again with the decay time."""

    def __init__(self, sample_rate_hz: float) -> None:
        self._frame_s = SAMPLES_PER_FRAME / sample_rate_hz
        self._gain: float | None = None

    def gains(self, samples: NDArray[np.complex128], threshold_db: float, decay_s: float) -> NDArray[np.float64]:
        """The factor from sqrt(mW) to full scale for each sample of a frame; float64, shape (n,)."""
        peak = float(np.abs(samples).max())
        # Signals below the threshold get the gain that the threshold gets, so they stay weak.
        floor = 10 ** (threshold_db / 20)
        wanted = _AGC_TARGET / max(peak, floor)
        before = wanted if self._gain is None else min(self._gain, wanted)
        rise = 1 - np.exp(-self._frame_s / decay_s)
        self._gain = min(wanted, before + (wanted - before) * rise)
        return np.linspace(before, self._gain, samples.size)


def fixed_gain(man_gain_db: float) -> float:
    """The factor from sqrt(mW) to full scale with AGC off and this manGain."""
    return float(10 ** ((man_gain_db - GAIN_OFFSET_DB) / 20))


def to_int16(samples: NDArray[np.complex128]) -> NDArray[np.int16]:
    """Interleaved I, Q of samples where magnitude 1 is full scale; what is too big wraps, as on a real one."""
    interleaved = np.ascontiguousarray(samples).view(np.float64) * FULL_SCALE
    return np.rint(interleaved).astype(np.int64).astype(np.int16)


def sample_time_ns(start_unix_ns: int, sample: int, sample_rate_hz: float) -> int:
    """True UTC time of a sample number in ns since the Unix epoch."""
    return start_unix_ns + round(sample * (NS_PER_S / sample_rate_hz))
