"""The line through the stamps, against NumPy's and against the real recordings."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from fetcher_svc.receivers.timefit import MAX_STAMP_COUNT, TimeFit

START_NS = 1_700_000_000_000_000_000
# From the README of the recordings: rate by GNSS, rms of the stamps about a 20 s line.
DCF77 = [("HB9ODP", 12001.0843, 2), ("JO51xl", 12001.0256, 1), ("pa0rdt", 12001.0861, 1)]


def stamps_of(path: Path) -> list[tuple[int, int]]:
    """Returns age and ns of the week of every frame of a Kiwi WAV: 36 bytes, then groups of 2074."""
    data = path.read_bytes()
    stamps = []
    for at in range(36, len(data) - 2073, 2074):
        age_s, _, second, nanosecond = struct.unpack_from("<BBII", data, at + 8)
        stamps.append((age_s, second * 10**9 + nanosecond))
    return stamps


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "rate_hz", "dropped"), DCF77)
def test_real_stamps_give_the_known_rate(realdata: Path, name: str, rate_hz: float, dropped: int) -> None:
    (path,) = (realdata / "kiwi-dcf77-2020").glob(f"*_{name}_iq.wav")
    stamps = stamps_of(path)
    frames_in_20_s = 469
    for first in range(max(2, dropped), len(stamps) - frames_in_20_s, 20):
        fit = TimeFit()
        for index in range(first, first + frames_in_20_s):
            fit.add(0, index * 512, stamps[index][1], stamps[index][0])
        line = fit.solve()
        assert line is not None
        assert line.rate_hz == pytest.approx(rate_hz, abs=0.001)
        assert abs(line.time_at(first * 512) - stamps[first][1]) <= 250
        assert 20 < line.rms_ns < 100
        assert line.used_count == frames_in_20_s


@pytest.mark.parametrize("seed", range(3))
def test_line_equals_numpys_least_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions = np.arange(200) * 512
    times = np.rint(positions * 1e9 / 11998.9 + rng.normal(0, 80, 200)).astype(np.int64)
    fit = TimeFit()
    for position, time_ns in zip(positions, times, strict=True):
        fit.add(0, int(position), START_NS + int(time_ns), 0)
    line = fit.solve()
    assert line is not None
    slope, intercept = np.polyfit(positions.astype(float), times.astype(float), 1)
    assert line.rate_hz == pytest.approx(1e9 / slope, rel=1e-11)
    assert line.time_at(0) - START_NS == pytest.approx(intercept, abs=1)
    residuals = times - intercept - slope * positions
    assert line.rms_ns == pytest.approx(np.sqrt(np.mean(residuals**2)), rel=1e-3)


def test_uncertainty_of_the_rate_is_honest() -> None:
    """Errors that last 2 s, as those of real receivers do: nearly all rates lie within 3 stated sigmas."""
    rng = np.random.default_rng(7)
    within = 0
    for _ in range(100):
        fit = TimeFit()
        for index in range(469):
            if index % 47 == 0:
                step_ns = rng.normal(0, 80)
            fit.add(0, index * 512, START_NS + round(index * 512e9 / 12_000 + step_ns), 0)
        line = fit.solve()
        assert line is not None
        within += abs(line.rate_hz - 12_000) < 3 * line.rate_sigma_hz
    assert within >= 97


def test_outliers_are_rejected_and_counted() -> None:
    fit = TimeFit()
    for index in range(100):
        error_ns = 20_000 if index in (10, 50, 51) else (-1) ** index * 40
        fit.add(0, index * 512, START_NS + round(index * 512e9 / 12_000) + error_ns, 0)
    line = fit.solve()
    assert line is not None
    assert (line.used_count, line.rejected_count) == (97, 3)
    assert line.rate_hz == pytest.approx(12_000, abs=1e-4)
    assert line.rms_ns == pytest.approx(40, abs=1)


def test_a_reconnect_with_another_phase_keeps_the_rate() -> None:
    fit = TimeFit()
    for run, offset_ns in ((0, 0), (1, 30_000)):
        for index in range(100):
            position = (run * 200 + index) * 512
            fit.add(run, position, START_NS + round(position * 1e9 / 12_000) + offset_ns, 0)
    line = fit.solve()
    assert line is not None
    assert line.rate_hz == pytest.approx(12_000, abs=1e-4)
    assert line.rms_ns < 2
    assert line.time_at(0) == pytest.approx(START_NS, abs=2)
    assert line.time_sigma_ns >= 30_000


def test_too_few_stamps_make_no_line() -> None:
    fit = TimeFit()
    for index in range(7):
        fit.add(0, index * 512, START_NS + index * 42_666_667, 0)
    assert fit.solve() is None
    fit.add(0, 7 * 512, START_NS + 7 * 42_666_667, 0)
    assert fit.solve() is not None


def test_only_the_newest_stamps_are_kept() -> None:
    fit = TimeFit()
    for index in range(MAX_STAMP_COUNT + 500):
        rate_hz = 11_000 if index < 500 else 12_000
        fit.add(0, index * 512, START_NS + round(index * 512e9 / rate_hz), 0)
    line = fit.solve()
    assert line is not None
    assert line.used_count == MAX_STAMP_COUNT
    assert line.rate_hz == pytest.approx(12_000, rel=1e-9)
