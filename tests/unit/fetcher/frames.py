"""A receiver's frames, made by hand: what a station would send at known times."""

from __future__ import annotations

from dataclasses import dataclass

from fetcher_svc.gnss import StampQuality
from fetcher_svc.receivers.base import Facts, Frame, SampleFormat

RATE_HZ = 12_000.0
FRAME_COUNT = 512
START_NS = 1_700_000_000_000_000_000
DELAY_NS = 60_000_000


def facts(rate_hz: float = RATE_HZ, frame_sample_count: int | None = FRAME_COUNT) -> Facts:
    return Facts(
        center_frequency_hz=7.1e6,
        sample_rate_hz=rate_hz,
        sample_format=SampleFormat.CI16_LE,
        full_scale=32768.0,
        zero_offset=0.0,
        automatic_gain=False,
        gain_db=50.0,
        passband_low_hz=-5000.0,
        passband_high_hz=5000.0,
        attenuation_db=None,
        server_version="KiwiSDR_v1.711",
        frame_sample_count=frame_sample_count,
    )


@dataclass
class Station:
    """A sample clock that runs on, and a connection that numbers frames."""

    rate_hz: float = RATE_HZ
    sample: int = 0
    sequence: int = 0
    start_ns: int = START_NS
    quality: StampQuality = StampQuality.GOOD
    age_s: int = 1

    def time_ns(self, sample: int) -> int:
        return self.start_ns + round(sample * 1e9 / self.rate_hz)

    def skip(self, sample_count: int) -> None:
        self.sample += sample_count

    def lose_frames(self, count: int) -> None:
        self.sample += count * FRAME_COUNT
        self.sequence += count

    def reconnect(self, sample_count: int) -> None:
        self.sample += sample_count
        self.sequence = 0

    def frame(self, *, stamp_error_ns: int = 0, stamped: bool = True, late_ns: int = 0) -> Frame:
        """Returns the next frame; its samples hold the running sample number, low and high half."""
        self.sequence += 1
        first = self.sample
        self.sample += FRAME_COUNT
        stamp_ns: int | None = self.time_ns(first) + stamp_error_ns
        quality = self.quality
        if self.sequence <= 2:
            stamp_ns, quality = None, StampQuality.LEADING
        elif not stamped:
            stamp_ns, quality = None, StampQuality.ABSENT
        return Frame(
            samples=sample_bytes(first, FRAME_COUNT),
            sample_count=FRAME_COUNT,
            sequence=self.sequence,
            stamp_ns=stamp_ns,
            stamp_age_s=self.age_s,
            stamp_quality=quality,
            arrival_unix_ns=self.time_ns(self.sample) + DELAY_NS + late_ns,
        )

    def frames(self, count: int) -> list[Frame]:
        return [self.frame() for _ in range(count)]


def sample_bytes(first: int, count: int) -> bytes:
    """Returns 4 bytes a sample that hold its number."""
    return b"".join(number.to_bytes(4, "little") for number in range(first, first + count))
