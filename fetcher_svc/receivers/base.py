"""What every driver offers: a receiver that can be probed and connected, and a connection that yields frames."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from fetcher_svc.gnss import StampQuality
from heimdall.clock import Clock
from heimdall.errors import HeimdallError

Permit: TypeAlias = Callable[[], Awaitable[None]]
"""Asked before every socket that is opened for samples, redirects included; raises HeimdallError if it must not be."""


class SampleFormat(Enum):
    """Layout of one complex sample in bytes, I first."""

    CI16_LE = "ci16_le"
    CU8 = "cu8"
    CF32_LE = "cf32_le"

    @property
    def byte_count(self) -> int:
        """Bytes of one complex sample."""
        return {SampleFormat.CI16_LE: 4, SampleFormat.CU8: 2, SampleFormat.CF32_LE: 8}[self]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a receiver is set to; equal tunings share one connection."""

    center_frequency_hz: float
    """Radio frequency at 0 Hz of the baseband, converter included."""
    automatic_gain: bool = False
    """Whether the receiver controls its gain."""
    gain_db: float | None = None
    """Fixed gain on the receiver's own scale; None under automatic gain."""
    passband_low_hz: float | None = None
    """Lower filter edge relative to the centre; None: as wide as the receiver can."""
    passband_high_hz: float | None = None
    """Upper filter edge relative to the centre; None: as wide as the receiver can."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns levels into power at a reference plane: dBm = dBFS + offset."""

    offset_db: float
    uncertainty_db: float
    """1-sigma uncertainty of the offset."""
    source: str
    """How it was found, for people."""
    date: datetime.date | None
    """Day on which it was found, in UTC; None if it follows from what the receiver says of itself."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the receiver really does, as far as it says."""

    center_frequency_hz: float
    sample_rate_hz: float
    """As announced; the measured rate comes from the stamps."""
    sample_format: SampleFormat
    full_scale: float
    zero_offset: float
    automatic_gain: bool
    gain_db: float | None
    passband_low_hz: float | None
    passband_high_hz: float | None
    attenuation_db: float | None
    server_version: str
    frame_sample_count: int | None
    """Samples in each frame where the protocol fixes it; None where frames vary."""
    calibration: Calibration | None = None
    """What 0 dBFS is in dBm at this gain; None if that is not known."""


@dataclass(slots=True)
class Frame:
    """Consecutive samples as one message of the receiver carried them."""

    samples: bytes
    """Interleaved I and Q in the format of the facts."""
    sample_count: int
    sequence: int | None
    """The receiver's frame counter; None where the protocol has none."""
    stamp_ns: int | None
    """UTC of the first sample in ns since 1970 as the receiver says; None without a stamp."""
    stamp_age_s: int
    """Age of the receiver's GNSS solution in s."""
    stamp_quality: StampQuality
    arrival_unix_ns: int
    """UTC in ns since 1970 when the frame came, by the clock that the connection was made with."""
    overload: bool = False
    """Whether the receiver's converter was overloaded."""
    level_dbm: float | None = None
    """Level as the receiver says; None if it does not."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the receiver said, or a fault that did not end the connection."""

    error: HeimdallError
    frame_lost: bool = False
    """Whether it cost a frame, which the next frame's counter will show."""


@dataclass(frozen=True, slots=True)
class Probe:
    """How a receiver answered when asked how it is. None: it does not say."""

    round_trip_s: float
    reported_name: str
    server_version: str
    in_service: bool
    used_channel_count: int | None
    channel_count: int | None
    gnss_satellite_count: int | None
    gnss_stamps_enabled: bool | None
    latitude_deg: float | None
    longitude_deg: float | None
    altitude_m: float | None
    attributes: Mapping[str, str]

    @property
    def is_full(self) -> bool:
        """Whether it says that all its channels are taken."""
        used, count = self.used_channel_count, self.channel_count
        return used is not None and count is not None and used >= count


class Connection(Protocol):
    """A tuned, streaming connection to a receiver."""

    @property
    def facts(self) -> Facts:
        """What the receiver does now."""
        ...

    @property
    def round_trip_s(self) -> float:
        """How long the receiver took to answer the connect, in s."""
        ...

    async def read(self) -> Frame | Facts | Notice:
        """Returns the next frame, changed facts or a notice.

        Raises:
            HeimdallError: If the connection ended, stalled or was ended by the receiver, with the cause.
        """
        ...

    async def close(self) -> None:
        """Ends the connection and frees the receiver's channel; a second call does nothing."""
        ...


class Receiver(Protocol):
    """One remote radio behind one protocol."""

    def check(self, tuning: Tuning) -> Tuning:
        """Returns the tuning with the receiver's defaults filled in.

        Raises:
            HeimdallError: If the receiver can not be set so, naming the bad field.
        """
        ...

    async def connect(self, tuning: Tuning, permit: Permit, clock: Clock) -> Connection:
        """Connects, logs in and tunes.

        Args:
            tuning: What to set the receiver to, checked.
            permit: Asked before every socket.
            clock: Dates the arrival of frames; a step of it would look like lost or surplus samples.

        Raises:
            HeimdallError: If the receiver refuses or can not be reached, with the cause; or what the permit raised.
        """
        ...

    async def probe(self) -> Probe:
        """Asks the receiver how it is without taking one of its channels.

        Raises:
            HeimdallError: If it does not answer.
        """
        ...
