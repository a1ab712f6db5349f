from __future__ import annotations

from fractions import Fraction

import pytest

from heimdall.common.v1.iq_pb2 import TimeSolution
from heimdall.timing import unix_ns_at, utc_text
from storage_svc.timing import first_index_at

SOLUTION = TimeSolution(
    reference_sample_index=1000, reference_unix_ns=1_700_000_000_000_000_000, sample_rate_hz=11_998.90209
)


@pytest.mark.parametrize("index", [-5, 0, 1, 999, 1000, 1001, 123_457, 3_600_000])
def test_time_of_a_sample_is_exact_to_the_nanosecond(index: int) -> None:
    exact = 1_700_000_000_000_000_000 + Fraction(index - 1000) * 10**9 / Fraction(11_998.90209)
    assert abs(unix_ns_at(SOLUTION, index) - exact) <= Fraction(51, 100)


@pytest.mark.parametrize("index", [0, 1, 999, 1000, 1001, 123_457, 3_600_000])
def test_first_index_is_the_first_not_before(index: int) -> None:
    unix_ns = unix_ns_at(SOLUTION, index)
    assert first_index_at(SOLUTION, unix_ns) == index
    assert first_index_at(SOLUTION, unix_ns + 1) == index + 1
    assert first_index_at(SOLUTION, unix_ns - 1) == index


def test_text_of_a_time() -> None:
    assert utc_text(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"
    assert utc_text(0) == "1970-01-01T00:00:00.000000000Z"
