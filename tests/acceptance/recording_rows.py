"""The carrier of a transmitter whose frequency is known, over 20 s of real recordings."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from dsp_svc.estimate.carrier import Carrier
from dsp_svc.estimate.offset import Tone, find_tone
from tests.acceptance.table import Check, Row, recordings
from tests.kiwi_wav import read_codes

_FOLDER: Final = "kiwi-dcf77-2020"
_SECONDS: Final = 20


def _measure(_: np.random.Generator, name: str, dropped_groups: int, rate_hz: float, offset_mhz: float) -> list[Check]:
    root = recordings(Path(__file__).resolve().parents[2], os.environ.get("HEIMDALL_REALDATA"))
    (path,) = (root / _FOLDER).glob(f"*_{name}_iq.wav")
    codes = np.frombuffer(read_codes(path, dropped_groups), "<i2")
    samples = (codes.astype(np.float32) / np.float32(32768)).view(np.complex64)
    window = round(rate_hz)
    line = find_tone(samples[:window])
    if not isinstance(line, Tone):
        return [Check("no line", float("nan"), 0.0, 0.0)]
    carrier = Carrier(line.cycles_per_sample)
    for second in range(_SECONDS):
        carrier.add(samples[second * window : (second + 1) * window], second * window, rate_hz)
    found = carrier.offset_hz(rate_hz).value
    measured_mhz = float("nan") if found is None else 1e3 * found
    return [Check("offset, mHz", measured_mhz, offset_mhz - 0.3, offset_mhz + 0.3, 2)]


ROWS: Final = [
    Row(
        "long coherent offset",
        f"DCF77 at {name}, {_SECONDS} s, recording",
        f"{offset_mhz:.1f} mHz within 0.3 mHz",
        0,
        partial(_measure, name=name, dropped_groups=groups, rate_hz=rate_hz, offset_mhz=offset_mhz),
        _FOLDER,
    )
    for name, groups, rate_hz, offset_mhz in (
        ("HB9ODP", 2, 12_001.0843, -0.1),
        ("JO51xl", 1, 12_001.0256, 0.0),
        ("pa0rdt", 1, 12_001.0861, -0.6),
    )
]
