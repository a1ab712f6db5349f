"""The figures of a soak: what grows is seen, whatever way it grows, and what only goes up and down is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks.soak_figures import evaluate, greatest_rise, half_minutes, read_vitals

MIB = 2**20
START_NS = 1_700_000_000_000_000_000


def log(resident_mib: list[float], at: int = 0, **counts: int) -> list[str]:
    """Makes a log with one reading every 2 s, and other lines between them."""
    lines = []
    for number, level in enumerate(resident_mib, at):
        time = datetime.fromtimestamp(START_NS / 1e9 + number * 2.0, UTC).isoformat()
        facts = {"open_file_count": 20, "thread_count": 9, "task_count": 40, **counts}
        lines.append(json.dumps({"event": "upstream_connected", "timestamp": time}))
        lines.append(json.dumps({"event": "vitals", "timestamp": time, "resident_bytes": int(level * MIB), **facts}))
    return lines


def test_a_steady_leak_is_seen_in_rise_and_slope() -> None:
    minutes = np.arange(0, 13, 1 / 30)
    figures = evaluate(read_vitals(log(list(60 + 0.12 * minutes)), START_NS), 13)
    assert figures.rise_mib == pytest.approx(1.2, abs=0.01)
    assert figures.slope_mib == pytest.approx(1.2, abs=0.01)
    assert figures.first_resident_mib == pytest.approx(60 + 0.12 * 2.25, abs=0.01)
    assert figures.last_resident_mib == pytest.approx(60 + 0.12 * 12.75, abs=0.01)
    assert (figures.tasks.last, figures.tasks.rise, figures.open_files.rise) == (40, 0, 0)


def test_a_step_is_seen_in_the_rise_though_hardly_in_the_slope() -> None:
    minutes = np.arange(0, 13, 1 / 30)
    figures = evaluate(read_vitals(log(list(np.where(minutes < 11.5, 60.0, 61.5))), START_NS), 13)
    assert figures.rise_mib == pytest.approx(1.5, abs=0.01)
    assert figures.slope_mib < 0.5


def test_what_happens_before_minute_2_or_lasts_for_moments_does_not_count() -> None:
    minutes = np.arange(0, 13, 1 / 30)
    level = np.where(minutes < 1.9, 10.0, 60.0) + np.where(np.arange(len(minutes)) % 5 == 0, 8.0, 0.0)
    figures = evaluate(read_vitals(log(list(level)), START_NS), 13)
    assert figures.rise_mib == 0
    assert figures.slope_mib == pytest.approx(0, abs=0.01)


def test_a_task_that_stays_counts_and_one_that_passes_does_not() -> None:
    def tasks(counts: list[int]) -> tuple[int, int]:
        lines = [
            line for number, count in enumerate(counts) for line in log([60.0] * 5, task_count=count, at=number * 5)
        ]
        level = evaluate(read_vitals(lines, START_NS), 13).tasks
        return level.last, level.rise

    passing = [40 + number % 2 for number in range(78)]
    assert tasks(passing) == (40, 0)
    assert tasks([*passing[:60], *(count + 1 for count in passing[60:])]) == (41, 1)


def test_a_rise_counts_within_ten_minutes_only() -> None:
    assert greatest_rise(np.array([5.0, 4.0, 4.5, 3.0])) == 0.5
    assert greatest_rise(np.array([5.0, 4.0, 3.0])) == 0.0
    # Half-minutes: the last is 20 after the second and 21 after the first.
    assert greatest_rise(np.array([0.0, *[1.0] * 20, 3.0])) == 2.0


def test_what_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 0 lines"):
        read_vitals([], START_NS)
    minutes = np.array([2.1, 3.1])
    with pytest.raises(ValueError, match="half a minute is without vitals"):
        half_minutes(minutes, minutes, 3.5)
    with pytest.raises(ValueError, match="too short"):
        half_minutes(minutes, minutes, 2.6)
