"""Where the frames of one connection come from: the simulated radio, or a recorded file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.frame import Stamp, s_meter_raw
from simulator.gnss import NS_PER_S, GnssClock
from simulator.receiver_path import (
    ADC_CLIP_DBM,
    Agc,
    AntennaSignal,
    Passband,
    SMeter,
    fixed_gain,
    sample_time_ns,
    to_int16,
)
from simulator.replay import Replay
from simulator.scenario import SAMPLES_PER_FRAME, StationSpec


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the client asked for."""

    dial_hz: float
    low_cut_hz: float
    high_cut_hz: float
    agc: bool
    agc_threshold_db: float
    agc_decay_s: float
    man_gain_db: float


@dataclass(frozen=True, slots=True)
class Slot:
    """512 samples that are about to become a frame."""

    first_sample: int
    """Running sample number of the station, in a replay the sample number in the file."""
    true_unix_ns: int
    """True UTC time of the first sample."""
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Rendered:
    """The content of one frame."""

    samples: NDArray[np.int16]
    """Interleaved I, Q; shape (1024,)."""
    s_meter: int
    overflow: bool


class FrameSource(Protocol):
    """A run of samples with a time for each."""

    def next_due_unix_ns(self) -> int | None:
        """When the next frame leaves the station, UTC in ns; None at the end of a file."""

    def take(self) -> Slot:
        """The next 512 samples."""

    def skip(self, sample_count: int) -> None:
        """Loses samples before they are numbered."""

    def render(self, slot: Slot, tuning: Tuning) -> Rendered:
        """Makes the content of a frame."""


class RadioSource:
    """Samples of the simulated radio, from the moment of the call on; frames leave on chunk borders."""

    def __init__(
        self, spec: StationSpec, signal: AntennaSignal, clock: GnssClock, start_unix_ns: int, now_unix_ns: int
    ) -> None:
        self._spec = spec
        self._signal = signal
        self._clock = clock
        self._start_unix_ns = start_unix_ns
        elapsed = (now_unix_ns - start_unix_ns) / NS_PER_S * spec.sample_rate_hz
        self._next_sample = self._chunk_border(int(elapsed) + 1)
        self._passband: tuple[tuple[float, float], Passband] | None = None
        self._s_meter = SMeter(spec.sample_rate_hz)
        self._agc = Agc(spec.sample_rate_hz)

    def next_due_unix_ns(self) -> int:
        """When the chunk with the frame's last sample is complete."""
        return self._time_ns(self._chunk_border(self._next_sample + SAMPLES_PER_FRAME))

    def take(self) -> Slot:
        """The next 512 samples."""
        first_sample = self._next_sample
        self._next_sample += SAMPLES_PER_FRAME
        true_unix_ns = self._time_ns(first_sample)
        return Slot(first_sample, true_unix_ns, self._clock.stamp(true_unix_ns))

    def skip(self, sample_count: int) -> None:
        """Loses samples before they are numbered."""
        self._next_sample += sample_count

    def render(self, slot: Slot, tuning: Tuning) -> Rendered:
        """Noise and arrivals through passband, S-meter and gain."""
        samples = self._filter(tuning).frame(self._signal, slot.first_sample, tuning.dial_hz)
        level_dbm = self._s_meter.update(samples)
        if tuning.agc:
            gain = self._agc.gains(samples, tuning.agc_threshold_db, tuning.agc_decay_s)
        else:
            gain = np.array(fixed_gain(tuning.man_gain_db))
        peak_mw = float((samples.real**2 + samples.imag**2).max())
        overflow = peak_mw > 10 ** (ADC_CLIP_DBM / 10)
        return Rendered(to_int16(samples * gain), s_meter_raw(level_dbm), overflow)

    def _filter(self, tuning: Tuning) -> Passband:
        cuts = (tuning.low_cut_hz, tuning.high_cut_hz)
        if self._passband is None or self._passband[0] != cuts:
            self._passband = (cuts, Passband(*cuts, self._spec.sample_rate_hz))
        return self._passband[1]

    def _chunk_border(self, sample: int) -> int:
        return -(-sample // self._spec.chunk_sample_count) * self._spec.chunk_sample_count

    def _time_ns(self, sample: int) -> int:
        return sample_time_ns(self._start_unix_ns, sample, self._spec.sample_rate_hz)


class FileSource:
    """The frames of a recorded file, from the one that is due next; tuning and gain change nothing."""

    def __init__(self, station_id: str, replay: Replay, now_unix_ns: int) -> None:
        self._station_id = station_id
        self._replay = replay
        self._recording = replay.recording(station_id)
        self._next_frame = 0
        while (due := self.next_due_unix_ns()) is not None and due <= now_unix_ns:
            self._next_frame += 1

    def next_due_unix_ns(self) -> int | None:
        """When the frame's last sample has come: no sample leaves before its own time."""
        if self._next_frame >= self._recording.wav.frame_count:
            return None
        return self._replay.start_unix_ns(self._station_id, self._next_frame) + self._recording.frame_ns

    def take(self) -> Slot:
        """The next frame of the file."""
        frame = self._next_frame
        self._next_frame += 1
        return Slot(
            frame * SAMPLES_PER_FRAME,
            self._replay.start_unix_ns(self._station_id, frame),
            self._replay.stamp(self._station_id, frame),
        )

    def skip(self, sample_count: int) -> None:
        """Loses whole frames before they are numbered."""
        self._next_frame += sample_count // SAMPLES_PER_FRAME

    def render(self, slot: Slot, tuning: Tuning) -> Rendered:
        """The file's samples; it holds no S-meter, so that reads its lowest value."""
        return Rendered(self._recording.wav.samples[slot.first_sample // SAMPLES_PER_FRAME], 0, overflow=False)
