from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.measure import Plan
from dsp_svc.estimate.psd import Welch
from dsp_svc.estimate.snr import Band
from dsp_svc.meter import Meter
from heimdall.samples import SampleCoding, SampleFormat

RATE_HZ = 1_000
PASSBAND = Band(-400.0, 400.0)


def test_a_long_stream_keeps_its_carrier_in_bounded_memory(white_noise: Callable[..., Any]) -> None:
    meter = Meter(Plan(SampleCoding(SampleFormat.CF32_LE, 1.0, 0.0), float(RATE_HZ), Welch(256), None))
    cycles = 0.1234567
    noise = white_noise(RATE_HZ, 0.1)
    kept_bytes = list[int]()
    for second in range(600):
        index = second * RATE_HZ + np.arange(RATE_HZ)
        samples = np.exp(2j * np.pi * ((cycles * index) % 1.0)) + np.roll(noise, 7 * second)
        meter.add(samples.astype(np.complex64).tobytes(), index[0], PASSBAND)
        meter.end_window()
        kept_bytes.append(len(pickle.dumps(meter)))
    # A sum, a place and a size of 32 bytes together for each of 1024 averages, a spectrum of 256 lines, its taper and
    # what is kept of that, and 127 products of opposite lines.
    assert max(kept_bytes) < 1024 * 32 + 4 * 256 * 8 + 127 * 16 + 4096
    offset = meter.summary(PASSBAND, RATE_HZ).numbers.frequency_offset_hz
    assert offset.value == pytest.approx(cycles * RATE_HZ, abs=2e-5)
    assert offset.sigma is not None
    assert offset.sigma < 1e-5
