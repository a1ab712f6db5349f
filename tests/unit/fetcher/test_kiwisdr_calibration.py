"""What 0 dBFS of a KiwiSDR is in dBm."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any
from urllib.parse import quote

import pytest

from fetcher_svc.receivers.base import Calibration, Tuning
from fetcher_svc.receivers.kiwisdr_calibration import attenuated, s_meter_correction_db
from tests.unit.fetcher.test_kiwisdr_setup import ALL, AUDIO, LOGIN, RATE, set_up

RECORD: dict[str, Any] = {
    "offset_db": -40.7,
    "gain_db": 50,
    "uncertainty_db": 0.5,
    "source": "generator at the antenna socket",
    "date": date(2026, 5, 1),
}


def config_message(**config: Any) -> bytes:
    return b"MSG load_cfg=" + quote(json.dumps(config), safe="").encode()


def found(*more: bytes, tuning: Tuning | None = None, **changes: Any) -> Calibration | None:
    return set_up((*ALL, *more), tuning, **changes).facts().calibration


def test_formula_gives_the_offset_at_fixed_gain() -> None:
    # A full-scale tone at a gain of 50 and the default correction of -13 dB is -41.3 dBm (measured elsewhere).
    made = found(config_message(S_meter_cal=-13, rx_name="x"))
    assert made is not None
    assert made.offset_db == pytest.approx(-41.3, abs=0.05)
    assert (made.uncertainty_db, made.date) == (3.0, None)
    assert "S_meter_cal of -13 dB" in made.source


def test_gain_correction_and_attenuation_move_the_offset() -> None:
    made = found(config_message(S_meter_cal=-10.5), b"MSG rf_attn=6.0", tuning=Tuning(7.1e6, gain_db=30))
    assert made is not None
    assert made.offset_db == pytest.approx(-41.27 + 20 + 2.5 + 6)


def test_an_attenuation_that_can_not_be_takes_the_calibration_away() -> None:
    there = config_message(S_meter_cal=-13)
    assert found(there, b"MSG rf_attn=1e300") is None
    assert found(b"MSG rf_attn=-1e300", calibration=RECORD) is None
    made = found(there)
    assert made is not None
    assert attenuated(made, 31.5) == replace(made, offset_db=made.offset_db + 31.5)
    assert attenuated(made, 1e9) is None


def test_record_wins_and_follows_the_gain() -> None:
    made = found(config_message(S_meter_cal=-13), tuning=Tuning(7.1e6, gain_db=47), calibration=RECORD)
    assert made is not None
    assert made.offset_db == pytest.approx(-37.7)
    assert (made.uncertainty_db, made.source, made.date) == (0.5, RECORD["source"], RECORD["date"])


def test_nothing_is_derived_under_automatic_gain() -> None:
    tuning = Tuning(7.1e6, automatic_gain=True)
    assert found(config_message(S_meter_cal=-13), tuning=tuning) is None
    assert found(tuning=tuning, calibration=RECORD) is None


def test_nothing_is_derived_behind_a_converter() -> None:
    there = config_message(S_meter_cal=-13)
    assert found(there, tuning=Tuning(123.1e6, gain_db=50), converter_offset_hz=116e6) is None
    announced = set_up((RATE, LOGIN, AUDIO, b"MSG freq_offset=116000.0", there), Tuning(123.1e6, gain_db=50))
    assert announced.facts().calibration is None
    assert found(tuning=Tuning(123.1e6, gain_db=50), converter_offset_hz=116e6, calibration=RECORD) is not None


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "%7B",
        "[]",
        "5",
        "{}",
        "null",
        quote('{"S_meter_cal": "-13"}'),
        quote('{"S_meter_cal": true}'),
        quote('{"S_meter_cal": NaN}'),
        quote('{"S_meter_cal": 1e9}'),
        quote('{"S_meter_cal": 1' + "0" * 400 + "}"),
        "[" * 100_000,
    ],
)
def test_a_correction_that_can_not_be_read_is_none(value: str | None) -> None:
    assert s_meter_correction_db(value) is None
    assert found() is None
