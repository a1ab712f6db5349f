from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.cli.quantities import parse_duration_ns, parse_frequency_hz, parse_time


@pytest.mark.parametrize(
    ("text", "expected_hz"),
    [
        ("145.5MHz", 145_500_000.0),
        ("145.5 MHz", 145_500_000.0),
        ("7100kHz", 7_100_000.0),
        ("77500", 77_500.0),
        ("77500Hz", 77_500.0),
        ("77.5kHz", 77_500.0),
        ("1.2GHz", 1_200_000_000.0),
        (".1MHz", 100_000.0),
        # In binary floating point 1.1 * 1e9 and 144.39 * 1e6 are off by an ulp.
        ("1.1GHz", 1_100_000_000.0),
        ("144.39MHz", 144_390_000.0),
        ("77500.125", 77_500.125),
    ],
)
def test_a_frequency_is_scaled_exactly(text: str, expected_hz: float) -> None:
    assert parse_frequency_hz(text) == expected_hz


@pytest.mark.parametrize(
    "text",
    ["", "MHz", "145,5MHz", "145.5mhz", "145.5MHZ", "145.5mHz", "145.5e6", "-145MHz", "+1kHz", "0", "0.0MHz", "1 2MHz",
     "1.2.3", "5.", "inf", "nan", "0x10", "1_000", "١٤٥", "145.5MHz ", "9" * 41],
)  # fmt: skip
def test_anything_else_is_refused_as_a_frequency_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a frequency") as refused:
        parse_frequency_hz(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("5", 5_000_000_000),
        ("5s", 5_000_000_000),
        ("250ms", 250_000_000),
        ("2m", 120_000_000_000),
        ("30min", 1_800_000_000_000),
        ("1h", 3_600_000_000_000),
        ("7d", 604_800_000_000_000),
        ("0.1s", 100_000_000),
        ("1.000000001", 1_000_000_001),
        ("0.000001ms", 1),
    ],
)
def test_a_duration_is_exact_to_the_nanosecond(text: str, expected_ns: int) -> None:
    assert parse_duration_ns(text) == expected_ns


@pytest.mark.parametrize("text", ["", "s", "0", "0ms", "-1s", "1w", "5 5", "1e3", "0.0000000001", "five", "1S"])
def test_anything_else_is_refused_as_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration_ns(text)


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("2026-01-31T12:00:00Z", 1_769_860_800_000_000_000),
        ("2026-01-31T13:00:00+01:00", 1_769_860_800_000_000_000),
        ("2026-01-31T12:00:00.000000001Z", 1_769_860_800_000_000_001),
        ("+10s", 1_010_000_000_000),
        ("-1m", 940_000_000_000),
    ],
)
def test_a_time_is_absolute_or_counted_from_now(text: str, expected_ns: int) -> None:
    assert parse_time(text, Timestamp(seconds=1000)).ToNanoseconds() == expected_ns


@pytest.mark.parametrize("text", ["", "now", "2026-01-31", "2026-01-31T12:00:00", "12:00", "+", "+0s", "-1w"])
def test_anything_else_is_refused_as_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_time(text, Timestamp(seconds=1000))
