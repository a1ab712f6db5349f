"""When a receiver is tried again, and when it is left alone."""

from __future__ import annotations

import random

import pytest

from fetcher_svc.backoff import BREAKER_DELAY_S, ConnectCount, Rest, reconnect_delay_s
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

R = ErrorReason


def error(reason: R.ValueType, delay_s: float | None = None) -> HeimdallError:
    return HeimdallError(reason, "it failed", retry_delay_s=delay_s)


@pytest.mark.parametrize(
    ("reason", "count", "low_s", "high_s"),
    [
        (R.ERROR_REASON_UPSTREAM_CONNECTION_LOST, 1, 0.5, 0.625),
        (R.ERROR_REASON_UPSTREAM_CONNECTION_LOST, 2, 1, 1.25),
        (R.ERROR_REASON_UPSTREAM_CONNECTION_LOST, 4, 4, 5),
        (R.ERROR_REASON_UPSTREAM_CONNECTION_LOST, 100, 15, 18.75),
        (R.ERROR_REASON_UPSTREAM_UNREACHABLE, 1, 15, 18.75),
        (R.ERROR_REASON_UPSTREAM_UNREACHABLE, 2, 30, 37.5),
        (R.ERROR_REASON_UPSTREAM_UNREACHABLE, 100, 600, 750),
    ],
)
def test_reconnect_delay_doubles_with_jitter(reason: R.ValueType, count: int, low_s: float, high_s: float) -> None:
    delays = {reconnect_delay_s(error(reason), count) for _ in range(50)}
    assert len(delays) > 1
    assert all(delay is not None and low_s <= delay <= high_s for delay in delays)


def test_station_that_starts_sets_its_own_delay() -> None:
    delay_s = reconnect_delay_s(error(R.ERROR_REASON_UPSTREAM_NOT_READY, 60), 1)
    assert delay_s is not None
    assert 60 <= delay_s <= 75


@pytest.mark.parametrize(
    "reason",
    [
        R.ERROR_REASON_UPSTREAM_KICKED,
        R.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT,
        R.ERROR_REASON_UPSTREAM_PASSWORD_REFUSED,
        R.ERROR_REASON_CONVERTER_OFFSET_MISMATCH,
        R.ERROR_REASON_UPSTREAM_FORMAT_CHANGED,
    ],
)
def test_some_failures_end_the_stream(reason: R.ValueType) -> None:
    assert reconnect_delay_s(error(reason), 1) is None


def test_grave_failure_means_rest_at_once() -> None:
    rest = Rest()
    rest.check("torino", 100.0)
    rest.failed(error(R.ERROR_REASON_UPSTREAM_KICKED), 100.0)
    with pytest.raises(HeimdallError, match="torino is left alone") as caught:
        rest.check("torino", 100.0 + 1799)
    assert caught.value.reason_name == "RECEIVER_BACKING_OFF"
    assert caught.value.metadata["cause"] == "UPSTREAM_KICKED"
    rest.check("torino", 100.0 + 1.25 * 1800)


def test_ordinary_failures_mean_rest_after_three_within_a_minute() -> None:
    rest = Rest()
    for at_s in (0.0, 100.0, 110.0):
        rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), at_s)
        rest.check("torino", at_s)
    rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), 120.0)
    assert BREAKER_DELAY_S <= rest.remaining_s(120.0) <= 1.25 * BREAKER_DELAY_S
    # One try after the rest; it fails, and the rest doubles.
    rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), 160.0)
    assert 2 * BREAKER_DELAY_S <= rest.remaining_s(160.0) <= 2.5 * BREAKER_DELAY_S
    # However long the rest was, one more try that fails is enough for the next.
    rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), 240.0)
    assert 4 * BREAKER_DELAY_S <= rest.remaining_s(240.0) <= 5 * BREAKER_DELAY_S


def test_success_clears_all() -> None:
    rest = Rest()
    for at_s in (0.0, 1.0, 2.0):
        rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), at_s)
    assert rest.succeeded(begun_s=2.0)
    rest.check("torino", 2.0)
    assert rest.last_error is None


def test_success_of_an_earlier_connect_says_nothing_about_a_later_failure() -> None:
    """Two slots: one connects at 10 s, the other is kicked at 11 s, then samples come over the first."""
    rest = Rest()
    rest.failed(error(R.ERROR_REASON_UPSTREAM_KICKED), 11.0)
    assert not rest.succeeded(begun_s=10.0)
    assert rest.remaining_s(12.0) >= 1799
    assert rest.last_error is not None


def test_connects_that_were_under_way_when_a_rest_began_do_not_prolong_it() -> None:
    rest = Rest()
    for _ in range(5):
        rest.failed(error(R.ERROR_REASON_UPSTREAM_BUSY), 100.0)
    assert 15 <= rest.remaining_s(100.0) <= 18.75
    # The next one after the rest does.
    rest.failed(error(R.ERROR_REASON_UPSTREAM_BUSY), 119.0)
    assert 30 <= rest.remaining_s(119.0) <= 37.5


def test_a_lesser_failure_does_not_hide_why_a_station_rests() -> None:
    rest = Rest()
    rest.failed(error(R.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT), 0.0)
    rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), 1.0)
    with pytest.raises(HeimdallError) as caught:
        rest.check("torino", 2.0)
    assert caught.value.metadata["cause"] == "UPSTREAM_ADDRESS_LIMIT"


def test_rests_double_up_to_ten_minutes() -> None:
    rest, now_s = Rest(), 0.0
    for _ in range(3):
        rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), now_s)
    for wanted_s in (30, 60, 120, 240, 480, 600, 600):
        remaining_s = rest.remaining_s(now_s)
        assert wanted_s <= remaining_s <= min(1.25 * wanted_s, wanted_s + 30)
        assert not rest.is_on_trial(now_s)
        now_s += remaining_s
        assert rest.is_on_trial(now_s)
        rest.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), now_s)


@pytest.mark.parametrize(
    ("reason", "asked_s"),
    [(R.ERROR_REASON_UPSTREAM_KICKED, 1800), (R.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT, 86_400)],
)
def test_long_rests_are_hardly_longer_than_asked_for(reason: R.ValueType, asked_s: float) -> None:
    for _ in range(50):
        rest = Rest()
        rest.failed(error(reason), 0.0)
        assert asked_s <= rest.remaining_s(0.0) <= asked_s + 30


def test_rest_goes_on_in_another_process() -> None:
    before, after = Rest(), Rest()
    assert before.keep(0.0) is None
    for at_s in (1000.0, 1001.0, 1002.0):
        before.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), at_s)
    kept = before.keep(1010.0)
    assert kept is not None
    assert 22 <= kept.remaining_s <= 29.5
    after.resume(kept, 5.0)
    assert after.remaining_s(5.0) == pytest.approx(kept.remaining_s)
    assert after.last_error is not None
    # It is the second rest, not a first one.
    after.failed(error(R.ERROR_REASON_UPSTREAM_CONNECTION_LOST), 40.0)
    assert 60 <= after.remaining_s(40.0) <= 75


def test_no_hour_has_more_connects_than_allowed() -> None:
    """Somebody who insists at random times for a day: every hour, wherever it begins, holds the bound."""
    chance, count, made = random.Random(7), ConnectCount(5), list[float]()
    now_s = 0.0
    while now_s < 86_400:
        now_s += chance.expovariate(1 / 60)
        wait_s = count.wait_s(now_s)
        if wait_s == 0:
            count.add(now_s)
            made.append(now_s)
        else:
            # What it says is when the next one is allowed, and not a moment earlier.
            assert count.wait_s(now_s + wait_s - 0.001) > 0
    for first_s in made:
        assert sum(first_s <= at_s < first_s + 3600 for at_s in made) <= 5
    assert len(made) >= 5 * 23


def test_the_wait_for_room_ends_an_hour_after_the_connect_that_makes_it() -> None:
    count = ConnectCount(2)
    count.add(0.0)
    count.add(1000.0)
    assert count.wait_s(1500.0) == pytest.approx(2100)
    assert count.wait_s(3600.0) == 0
    # A limit that was lowered meanwhile: both have to go.
    lower = ConnectCount(1)
    lower.add(0.0)
    lower.add(1000.0)
    assert lower.wait_s(1500.0) == pytest.approx(3100)


def test_the_callers_own_mistakes_do_not_count() -> None:
    rest = Rest()
    for at_s in (0.0, 1.0, 2.0, 3.0):
        rest.failed(error(R.ERROR_REASON_FREQUENCY_OUT_OF_RANGE), at_s)
    rest.check("torino", 3.0)
    assert rest.last_error is None
