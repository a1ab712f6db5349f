"""What turns the levels of a KiwiSDR's samples into dBm."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers import kiwisdr_wire as wire
from fetcher_svc.receivers.base import Calibration

CONFIG_KEY: Final = "load_cfg"
"""Key of the message with the public part of a station's configuration."""
_GAIN_OFFSET_DB: Final = 21.73
"""Level in dBm of 0 dBFS at a manual gain of 0, before the owner's correction; from the station's source."""
_DERIVED_UNCERTAINTY_DB: Final = 3.0
"""Our own guess: owners set the correction by ear, or never."""
_MAX_CORRECTION_DB: Final = 100.0
_MAX_ATTENUATION_DB: Final = 100.0


def s_meter_correction_db(config_value: str | None) -> float | None:
    """Returns S_meter_cal in dB from a station's public configuration; None if it does not say it readably.

    Args:
        config_value: URL-encoded JSON, as it came.
    """
    try:
        correction_db = json.loads(wire.decode(config_value))["S_meter_cal"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(correction_db, bool) or not isinstance(correction_db, (int, float)):
        return None
    return float(correction_db) if abs(correction_db) <= _MAX_CORRECTION_DB else None


def calibration(
    config: ReceiverConfig,
    gain_db: float | None,
    attenuation_db: float | None,
    correction_db: float | None,
    *,
    has_converter: bool,
) -> Calibration | None:
    """Returns what 0 dBFS is in dBm, dBm = dBFS + offset; None if that is not known.

    With a record in receivers.toml, offset = its offset + its gain - gain + attenuation: the manual gain is a factor on
    numbers, so it moves the scale by just its dB. Without one, what the station's source says of its S-meter is used,
    offset = 21.73 - gain + S_meter_cal + attenuation, but not behind a converter, whose gain nobody knows.

    Args:
        config: The station's entry in receivers.toml.
        gain_db: Manual gain; None under automatic gain, where levels mean nothing.
        attenuation_db: Attenuation in front of the receiver; None if it has none to report.
        correction_db: S_meter_cal of the station; None if it does not say.
        has_converter: Whether there is a converter in front of the station.
    """
    if gain_db is None:
        return None
    record = config.calibration
    if record is not None:
        offset_db = record.offset_db + record.gain_db - gain_db
        made = Calibration(offset_db, record.uncertainty_db, record.source, record.date)
    elif correction_db is None or has_converter:
        return None
    else:
        source = f"KiwiSDR gain formula with the station's own S_meter_cal of {correction_db:g} dB"
        made = Calibration(_GAIN_OFFSET_DB - gain_db + correction_db, _DERIVED_UNCERTAINTY_DB, source, None)
    return attenuated(made, attenuation_db or 0.0)


def attenuated(calibration: Calibration, more_db: float) -> Calibration | None:
    """Returns what holds with more attenuation in front of the receiver; None if no attenuator can do that."""
    if abs(more_db) > _MAX_ATTENUATION_DB:
        return None
    return replace(calibration, offset_db=calibration.offset_db + more_db)
