from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.carrier import Averages, carrier_offset_hz, derotated_averages, join, thin
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


def long_carrier(rng: np.random.Generator, cycles: float, snr: float, runs: range) -> list[Averages]:
    """Makes the averages of a carrier of amplitude 1 in white noise, 16 a run, without making its samples."""
    found = []
    for run in runs:
        counts = np.full(16, 750)
        centres = run * 12_000 + 750.0 * np.arange(16, dtype=np.float64) + 374.5
        noise = rng.standard_normal(16) + 1j * rng.standard_normal(16)
        sums = counts * np.sinc(750 * cycles) * np.exp(2j * np.pi * ((cycles * centres) % 1.0))
        found.append(Averages(sums + noise * np.sqrt(counts / snr / 2.0), centres, counts))
    return found


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


@pytest.mark.parametrize("lost", [range(0), range(100, 400)], ids=["whole", "with a gap"])
def test_ten_minutes_in_few_averages_reach_the_bound(rng: np.random.Generator, lost: range) -> None:
    snr, most = 0.01, 512
    seconds = [second for second in range(600) if second not in lost]
    index = np.concatenate([second * 12_000 + np.arange(12_000.0) for second in seconds])
    bound_hz = 12_000 * np.sqrt(1.0 / (2 * snr * np.sum((index - index.mean()) ** 2))) / (2 * np.pi)
    errors, sigmas = [], []
    for _ in range(20):
        # So far off that averages of a second would hold nothing of it.
        true_cycles, coarse = (3.0 + rng.uniform(-1, 1)) / 12_000, 0.0
        kept = join(long_carrier(rng, true_cycles, snr, range(1)))
        for second in seconds[1:]:
            (run,) = long_carrier(rng, true_cycles - coarse, snr, range(second, second + 1))
            kept = join([kept, run])
            if len(kept.sums) > 2 * most:
                kept, coarse = thin(kept, coarse, most)
                assert most // 4 < len(kept.sums) <= most
        assert kept.counts.sum() == 12_000 * len(seconds)
        offset = carrier_offset_hz(kept, coarse, 12_000.0)
        assert offset.value is not None
        assert offset.sigma is not None
        errors.append(offset.value - true_cycles * 12_000)
        sigmas.append(offset.sigma)
    assert 0.6 < np.sqrt(np.mean(np.square(errors))) / bound_hz < 1.5
    assert 0.8 < np.median(sigmas) / bound_hz < 1.3


def test_few_averages_of_noise_are_refused_as_many_are(rng: np.random.Generator) -> None:
    noise = join(long_carrier(rng, 0.3, 0.01, range(600)))
    assert carrier_offset_hz(noise, 0.0, RATE_HZ).reason is Reason.NOT_COHERENT
    assert carrier_offset_hz(*thin(noise, 0.0, 256), RATE_HZ).reason is Reason.NOT_COHERENT
