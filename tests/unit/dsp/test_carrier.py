from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.carrier import Averages, carrier_offset_hz, derotated_averages, join
from dsp_svc.estimate.result import Quantity, Reason

RATE_HZ = 12_001.0843
WINDOW = 12_001
Make = Callable[..., Any]


def measure(samples: Any, runs: list[tuple[int, int]], coarse: float, places: list[int] | None = None) -> Quantity:
    """Measures the runs (first, count) of a record, put at other places if those are given."""
    parts = [
        derotated_averages(samples[first : first + count], place, coarse, 12_000.0)
        for (first, count), place in zip(runs, places or [first for first, _ in runs], strict=True)
    ]
    return carrier_offset_hz(join(parts), coarse, RATE_HZ)


def seconds(first: int, count: int) -> list[tuple[int, int]]:
    return [(second * WINDOW, WINDOW) for second in range(first, first + count)]


def test_scatter_reaches_the_bound_over_a_gap(rng: np.random.Generator, white_noise: Make, tone: Make) -> None:
    # Eight seconds, of which the three in the middle are lost.
    runs = seconds(0, 2) + seconds(5, 3)
    count = 8 * WINDOW
    index = np.concatenate([np.arange(first, first + length) for first, length in runs])
    spread = np.sum((index - index.mean()) ** 2)
    snr = 0.01
    bound_hz = RATE_HZ * np.sqrt(1.0 / (2 * snr * spread)) / (2 * np.pi)
    errors, scaled = [], []
    for _ in range(60):
        cycles = 0.1 + rng.uniform(-1, 1) / RATE_HZ
        samples = tone(count, cycles, np.sqrt(snr), rng.uniform()) + white_noise(count)
        offset = measure(samples, runs, 0.1)
        assert offset.value is not None
        assert offset.sigma is not None
        errors.append(offset.value - cycles * RATE_HZ)
        scaled.append(errors[-1] / offset.sigma)
    assert 0.75 < np.sqrt(np.mean(np.square(errors))) / bound_hz < 1.3
    assert 0.5 < np.mean(np.square(scaled)) < 1.6


def test_a_gap_counts_with_its_length(tone: Make) -> None:
    runs = seconds(0, 2) + seconds(5, 2)
    samples = tone(7 * WINDOW, 0.2 + 0.3 / RATE_HZ)
    offset = measure(samples, runs, 0.2)
    assert offset.value == pytest.approx(0.2 * RATE_HZ + 0.3, abs=1e-6)
    # The same samples pushed together are another signal: its phase jumps where the gap was.
    joined = measure(samples, runs, 0.2, [0, WINDOW, 2 * WINDOW, 3 * WINDOW])
    assert joined.value is None or abs(joined.value - 0.2 * RATE_HZ - 0.3) > 0.01


def test_dips_of_the_carrier_do_not_matter(tone: Make, white_noise: Make) -> None:
    # Like a time signal: 100 ms at 15 % of the amplitude every second.
    count = 20 * WINDOW
    keyed = np.where(np.arange(count) % WINDOW < 1_200, np.float32(0.15), np.float32(1.0))
    samples = tone(count, 1e-6) * keyed + white_noise(count, 1e-2)
    offset = measure(samples, seconds(0, 20), 3e-7)
    assert offset.value == pytest.approx(1e-6 * RATE_HZ, abs=1e-4)


def test_a_carrier_that_loses_its_phase_is_refused(rng: np.random.Generator, tone: Make) -> None:
    samples = np.concatenate([tone(750, 0.1, 1.0, rng.uniform()) for _ in range(160)])
    assert measure(samples, [(0, len(samples))], 0.1).reason is Reason.NOT_COHERENT


def test_noise_is_refused(white_noise: Make) -> None:
    assert measure(white_noise(5 * WINDOW), seconds(0, 5), 0.1).reason is Reason.NOT_COHERENT


def test_too_few_averages_are_refused() -> None:
    few = Averages(np.ones(7, np.complex128), np.arange(7.0), np.ones(7, np.int64))
    assert carrier_offset_hz(few, 0.0, RATE_HZ).reason is Reason.TOO_FEW_SAMPLES


@pytest.mark.parametrize("count", [1, 15, 16, 17, 1_000, 12_001])
def test_every_sample_is_in_one_average(tone: Make, count: int) -> None:
    averages = derotated_averages(tone(count, 0.25), 1_000, 0.25, 12_000.0)
    assert averages.counts.sum() == count
    assert np.sum(averages.counts * averages.centres) == pytest.approx(np.arange(1_000, 1_000 + count).sum())
    # The phase refers to the recording's index 0; index 1000 is 250 whole turns later.
    np.testing.assert_allclose(averages.sums, averages.counts, rtol=1e-4, atol=1e-4)


def test_averages_are_at_most_a_tenth_of_a_second(tone: Make) -> None:
    assert derotated_averages(tone(120_000, 0.1), 0, 0.1, 12_000.0).counts.max() <= 1_200
