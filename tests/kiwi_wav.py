"""Reading the WAV files of a KiwiSDR."""

from __future__ import annotations

from pathlib import Path

GROUP_BYTES = 2074
SAMPLES_A_GROUP = 512


def read_codes(path: Path, dropped_groups: int) -> bytes:
    """The I,Q codes of a Kiwi WAV: 36 bytes of header, then groups of a stamp, 18 bytes, and data, 8 + 2048."""
    body = path.read_bytes()[36:]
    groups = range(dropped_groups, len(body) // GROUP_BYTES)
    return b"".join(body[at * GROUP_BYTES + 26 : (at + 1) * GROUP_BYTES] for at in groups)
