"""The replay of recorded files: when each frame is due, with one shift in time for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.frame import NO_STAMP, Stamp
from simulator.gnss import NS_PER_S, WEEK_NS, gps_time_ns, stamp_of_week_ns, week_start_unix_ns
from simulator.kiwi_wav import KiwiWav, KiwiWavError
from simulator.scenario import SAMPLES_PER_FRAME

_LEAD_NS = 2 * NS_PER_S
_STALE_NS = 60 * NS_PER_S
"""A stamp this far off the line through the others is an old one."""


@dataclass(frozen=True)
class Recording:
    """A file with the time of its frames."""

    wav: KiwiWav
    start_week_ns: NDArray[np.int64]
    """Time of each frame's first sample in ns of the GPS week, counted on beyond a week's end; frames with
    a zero or stale stamp are dated from their neighbours."""
    sample_rate_hz: float
    """From the median distance of stamps, or the file's header where there are too few stamps."""

    @property
    def frame_ns(self) -> int:
        """Length of a frame in ns."""
        return round(SAMPLES_PER_FRAME * NS_PER_S / self.sample_rate_hz)


def date_frames(wav: KiwiWav) -> Recording:
    """Finds out when each frame of a file begins.

    Raises:
        KiwiWavError: no frame of the file has a stamp, or the stamps contradict each other.
    """
    stamp_ns = wav.gps_second.astype(np.int64) * NS_PER_S + wav.gps_nanosecond
    stamped = np.flatnonzero(stamp_ns)
    if not stamped.size:
        raise KiwiWavError(f"{wav.path}: no frame has a stamp, so nothing says when to send it")
    header_step_ns = SAMPLES_PER_FRAME * NS_PER_S / wav.header_rate_hz
    steps_ns = np.diff(stamp_ns[stamped])[np.diff(stamped) == 1]
    steps_ns = steps_ns[np.abs(steps_ns - header_step_ns) < 0.01 * header_step_ns]
    step_ns = float(np.median(steps_ns)) if steps_ns.size >= 3 else header_step_ns

    reference = int(stamped[stamped.size // 2])
    line_ns = np.rint((np.arange(wav.frame_count) - reference) * step_ns).astype(np.int64)
    line_ns += stamp_ns[reference]
    deviation_ns = (stamp_ns[stamped] - line_ns[stamped] + WEEK_NS // 2) % WEEK_NS - WEEK_NS // 2
    fresh = np.abs(deviation_ns - np.median(deviation_ns)) < _STALE_NS
    dated = stamped[fresh]
    if not dated.size:
        raise KiwiWavError(
            f"{wav.path}: its {stamped.size} stamps lie more than {_STALE_NS // NS_PER_S} s off any common line, "
            "so nothing says which of them to send it by"
        )
    # A frame without a usable stamp takes its date from the next one that has one, the last ones from before.
    anchor = dated[np.minimum(np.searchsorted(dated, np.arange(wav.frame_count)), dated.size - 1)]
    deviation_at = np.zeros(wav.frame_count, dtype=np.int64)
    deviation_at[dated] = deviation_ns[fresh]
    return Recording(wav, line_ns + deviation_at[anchor], SAMPLES_PER_FRAME * NS_PER_S / step_ns)


class Replay:
    """All files of a scenario, moved together by one whole number of seconds."""

    def __init__(self, recordings: dict[str, Recording]) -> None:
        self._recordings = recordings
        self._week_turns: dict[str, int] = {}
        self.shift_s: int | None = None
        """Added to the GPS seconds of the files' stamps (modulo the week); None until a client came."""
        self.unix_shift_s: int | None = None
        """Added to the GPS seconds of the files' stamps to get UTC, in s since the Unix epoch."""

    def recording(self, station_id: str) -> Recording:
        """The recording of one station."""
        return self._recordings[station_id]

    def start(self, now_unix_ns: int) -> None:
        """Chooses the shift so that the earliest file begins about 2 s from now; only the first call counts."""
        if self.shift_s is not None:
            return
        starts = {name: int(recording.start_week_ns[0]) for name, recording in self._recordings.items()}
        first = next(iter(starts.values()))
        self._week_turns = {name: round((first - start) / WEEK_NS) for name, start in starts.items()}
        earliest_ns = min(start + self._week_turns[name] * WEEK_NS for name, start in starts.items())
        wanted_ns = gps_time_ns(now_unix_ns) % WEEK_NS + _LEAD_NS
        self.shift_s = round((wanted_ns - earliest_ns) / NS_PER_S)
        self.unix_shift_s = self.shift_s + week_start_unix_ns(now_unix_ns) // NS_PER_S

    def start_unix_ns(self, station_id: str, frame: int) -> int:
        """True UTC time of a frame's first sample in this replay, in ns since the Unix epoch.

        Raises:
            RuntimeError: the replay has not started.
        """
        if self.unix_shift_s is None:
            raise RuntimeError("the replay has no shift before its first client came: call start first")
        start_ns = int(self._recordings[station_id].start_week_ns[frame])
        return start_ns + self._week_turns[station_id] * WEEK_NS + self.unix_shift_s * NS_PER_S

    def stamp(self, station_id: str, frame: int) -> Stamp:
        """The file's stamp of a frame plus the shift; a zero stamp stays zero, a stale one stays stale.

        Raises:
            RuntimeError: the replay has not started.
        """
        if self.shift_s is None:
            raise RuntimeError("the replay has no shift before its first client came: call start first")
        wav = self._recordings[station_id].wav
        stamp_ns = int(wav.gps_second[frame]) * NS_PER_S + int(wav.gps_nanosecond[frame])
        if not stamp_ns:
            return NO_STAMP
        return stamp_of_week_ns(stamp_ns + self.shift_s * NS_PER_S, int(wav.age_s[frame]))
