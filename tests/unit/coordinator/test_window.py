"""The window begins when the last of those that answered can deliver."""

from __future__ import annotations

import random

import pytest

from coordinator_svc.backoff import Backoff
from coordinator_svc.window import Window, choose_window

MS = 1_000_000
NOW = 1_790_000_000_123_456_789


@pytest.mark.parametrize(
    ("available", "start"),
    [
        ([NOW], 1_790_000_000_124 * MS),
        ([NOW - 5 * MS, NOW, NOW - 900 * MS], 1_790_000_000_124 * MS),
        ([1_790_000_000_200 * MS], 1_790_000_000_200 * MS),
        # One receiver's clock is 40 s ahead, within what is trusted: the others do not wait for it.
        ([NOW, NOW + 40_000 * MS], 1_790_000_000_124 * MS),
        # It has nobody to hold up.
        ([NOW + 40_000 * MS], 1_790_000_040_124 * MS),
        # The host's clock is behind, and with it that of a receiver whose times are the host's: waiting costs nothing.
        ([NOW, NOW + 5_000 * MS], 1_790_000_005_124 * MS),
        # The host's clock is far behind those of all receivers.
        ([NOW + 40_000 * MS, NOW + 40_100 * MS], 1_790_000_040_224 * MS),
        # One receiver's clock is far behind: it waits, and not the others for the time that it will be.
        ([NOW - 40_000 * MS, NOW, NOW + 100 * MS], 1_790_000_000_224 * MS),
        # All clocks are behind the host's.
        ([NOW - 7_000 * MS, NOW - 6_500 * MS], 1_789_999_993_624 * MS),
    ],
)
def test_start_is_the_latest_first_sample_on_a_whole_millisecond(available: list[int], start: int) -> None:
    assert choose_window(available, 5_000 * MS, NOW) == Window(start, start + 5_000 * MS)


def test_sample_count_of_a_window() -> None:
    assert Window(NOW, NOW + 5_000 * MS).sample_count(12_000.0) == 60_000
    assert Window(NOW, NOW + 20_000 * MS).sample_count(11_998.902) == 239_978


def test_backoff_jitters_between_its_bounds_and_starts_again() -> None:
    random.seed(7)
    backoff = Backoff()
    for bound_s in (0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        assert 0.2 <= backoff.next_delay_s() <= bound_s
    backoff.succeeded()
    assert backoff.next_delay_s() <= 0.4
