"""A steady clock keeps to the host clock as it was once read."""

from __future__ import annotations

import time

import pytest

from heimdall.clock import SteadyClock, SystemClock
from tests.clock import SetClock


def test_a_steady_clock_begins_with_the_host_clock() -> None:
    before_ns = time.time_ns()
    read_ns = SteadyClock(SystemClock()).unix_ns()
    assert before_ns - 1_000_000 <= read_ns <= time.time_ns() + 1_000_000


@pytest.mark.parametrize("step_s", [-3600.0, -5.0, 5.0, 3600.0])
def test_a_step_of_the_host_clock_is_told_and_does_not_move_a_steady_one(step_s: float) -> None:
    host = SetClock()
    steady = SteadyClock(host)
    before_ns = steady.unix_ns()
    host.step(step_s)
    assert 0 <= steady.unix_ns() - before_ns < 1_000_000_000
    assert steady.step_ns == pytest.approx(step_s * 1e9, abs=1_000_000)
    assert SteadyClock(host).step_ns == pytest.approx(0, abs=1_000_000)
