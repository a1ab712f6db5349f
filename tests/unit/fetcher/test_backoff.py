"""When a receiver is tried again, and when it is left alone."""

from __future__ import annotations

import pytest

from fetcher_svc.backoff import BREAKER_DELAY_S, Rest, reconnect_delay_s
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
        rest.failed(error(R.ERROR_REASON_UPSTREAM_UNREACHABLE), at_s)
        rest.check("torino", at_s)
    rest.failed(error(R.ERROR_REASON_UPSTREAM_UNREACHABLE), 120.0)
    assert BREAKER_DELAY_S <= rest.remaining_s(120.0) <= 1.25 * BREAKER_DELAY_S
    # One try after the rest; it fails, and the rest doubles.
    rest.failed(error(R.ERROR_REASON_UPSTREAM_UNREACHABLE), 160.0)
    assert 2 * BREAKER_DELAY_S <= rest.remaining_s(160.0) <= 2.5 * BREAKER_DELAY_S
    # However long the rest was, one more try that fails is enough for the next.
    rest.failed(error(R.ERROR_REASON_UPSTREAM_UNREACHABLE), 240.0)
    assert 4 * BREAKER_DELAY_S <= rest.remaining_s(240.0) <= 5 * BREAKER_DELAY_S


def test_success_clears_all() -> None:
    rest = Rest()
    for at_s in (0.0, 1.0, 2.0):
        rest.failed(error(R.ERROR_REASON_UPSTREAM_UNREACHABLE), at_s)
    assert rest.succeeded(begun_s=2.0)
    rest.check("torino", 2.0)
    assert rest.last_error is None


def test_the_callers_own_mistakes_do_not_count() -> None:
    rest = Rest()
    for at_s in (0.0, 1.0, 2.0, 3.0):
        rest.failed(error(R.ERROR_REASON_FREQUENCY_OUT_OF_RANGE), at_s)
    rest.check("torino", 3.0)
    assert rest.last_error is None
