from __future__ import annotations

import pytest

from heimdall.cli import text
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import TimeDegradation, TimeSolution, TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate


@pytest.mark.parametrize(
    ("frequency_hz", "expected"),
    [
        (145.5e6, "145.5 MHz"),
        (77_500.0, "77.5 kHz"),
        (1.2e9, "1.2 GHz"),
        (144_000_000.001, "144.000000001 MHz"),
        (500.0, "500 Hz"),
        (0.0, "0 Hz"),
        (-1500.0, "-1.5 kHz"),
    ],
)
def test_a_frequency_reads_in_its_largest_unit(frequency_hz: float, expected: str) -> None:
    assert text.frequency(frequency_hz) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        # Two digits of sigma decide how many decimals the value is worth.
        (Estimate(value=12.34567, sigma=0.0123, validity=Estimate.VALIDITY_VALID), "+12.346 ± 0.012"),
        (Estimate(value=-3.21, sigma=1.5, validity=Estimate.VALIDITY_VALID), "-3.2 ± 1.5"),
        (Estimate(value=1234.0, sigma=56.0, validity=Estimate.VALIDITY_VALID), "+1234 ± 56"),
        (Estimate(value=27.25, validity=Estimate.VALIDITY_VALID), "+27.2"),
        (Estimate(value=0.0, validity=Estimate.VALIDITY_VALID), "+0.0"),
        (Estimate(value=2.0, sigma=0.5, validity=Estimate.VALIDITY_UPPER_LIMIT, reason="NO_SIGNAL"), "<= +2.0"),
        (Estimate(validity=Estimate.VALIDITY_ABSENT, reason="NO_SIGNAL"), "-"),
        (Estimate(), "-"),
    ],
)
def test_an_estimate_shows_what_it_is_worth_and_never_an_invented_number(number: Estimate, expected: str) -> None:
    assert text.estimate(number, digits=1, signed=True) == expected


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        (TimeSolution(source=TimeSource.TIME_SOURCE_GNSS, time_sigma_ns=34.4), "GNSS ± 34.4 ns"),
        (TimeSolution(source=TimeSource.TIME_SOURCE_GNSS), "GNSS"),
        (
            TimeSolution(
                source=TimeSource.TIME_SOURCE_HOST_ARRIVAL,
                time_sigma_ns=52_000_000,
                degradation=TimeDegradation.TIME_DEGRADATION_NO_GNSS_FIX,
            ),
            "host arrival ± 52 ms (NO_GNSS_FIX)",
        ),
        (TimeSolution(), "-"),
    ],
)
def test_time_quality_names_the_clock_its_sigma_and_what_degrades_it(solution: TimeSolution, expected: str) -> None:
    assert text.time_quality(solution) == expected


@pytest.mark.parametrize(
    ("length_ns", "expected"),
    [(0.0, "0 ns"), (999.0, "999 ns"), (1500.0, "1.5 us"), (2_500_000.0, "2.5 ms"), (5e9, "5 s")],
)
def test_a_span_has_three_digits(length_ns: float, expected: str) -> None:
    assert text.span(length_ns) == expected


@pytest.mark.parametrize(
    ("length_ns", "expected"), [(5_000_000_000, "5 s"), (250_000_000, "0.25 s"), (100_000_000_000, "100 s")]
)
def test_seconds_keep_every_digit(length_ns: int, expected: str) -> None:
    assert text.seconds(length_ns) == expected


def test_utc_is_cut_not_rounded_and_absent_for_zero() -> None:
    assert text.utc(1_769_860_799_999_999_999) == "2026-01-31T11:59:59.999Z"
    assert text.utc(0) == "-"


def test_an_enum_reads_without_its_prefix_and_an_unknown_value_as_its_number() -> None:
    assert text.enum_label(Acquisition(state=Acquisition.STATE_PARTIALLY_SUCCEEDED), "state") == "PARTIALLY_SUCCEEDED"
    assert text.enum_label(ReceiverOutcome.FromString(b"\x10\x63"), "state") == "99"
    degraded = TimeSolution(degradation=TimeDegradation.TIME_DEGRADATION_STAMPS_OFF)
    assert text.enum_label(degraded, "degradation") == "STAMPS_OFF"


def test_a_problem_reads_reason_first() -> None:
    detail = ErrorDetail(reason=ErrorReason.ERROR_REASON_UPSTREAM_BUSY, message="all 4 channels are taken")
    assert text.problem(detail) == "UPSTREAM_BUSY: all 4 channels are taken"
