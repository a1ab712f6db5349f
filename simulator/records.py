"""What a station remembers of its connections, for tests to compare with what a client got."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SentFrame:
    """One numbered frame."""

    connection: int
    """Number of the connection at its station, from 1."""
    sequence: int
    flags: int
    age_s: int
    gps_second: int
    gps_nanosecond: int
    payload: bytes
    """The 2048 bytes of samples as they went over the wire."""
    first_sample: int
    """Running sample number of the station; in a replay the sample number in the file."""
    true_unix_ns: int
    """True UTC time of the first sample, whatever the stamp says."""
    dropped: bool
    """Numbered, but never sent whole."""


@dataclass(frozen=True, slots=True)
class ReceivedCommand:
    """One command of a client."""

    connection: int
    """Number of the connection at its station, from 1."""
    monotonic_s: float
    """`time.monotonic()` at its arrival."""
    text: str
