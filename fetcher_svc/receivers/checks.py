"""Checks of a wanted tuning against receivers.toml, the same for every driver."""

from __future__ import annotations

import math
from dataclasses import replace

from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Tuning
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import FieldViolation, HeimdallError, InvalidFieldsError


def check_tuning(config: ReceiverConfig, tuning: Tuning, *, max_gain_db: float, whole_gain: bool) -> Tuning:
    """Returns the tuning with the receiver's default gain filled in.

    Args:
        config: The receiver.
        tuning: What the caller wants.
        max_gain_db: Highest gain on the receiver's scale.
        whole_gain: Whether the gain must be a whole number of dB.

    Raises:
        InvalidFieldsError: If a number can not be; names every bad field.
        HeimdallError: FREQUENCY_OUT_OF_RANGE if the receiver can not be tuned there.
    """
    bad: list[FieldViolation] = []
    if not math.isfinite(tuning.center_frequency_hz) or not 1e3 <= tuning.center_frequency_hz <= 6e9:
        bad.append(
            FieldViolation(
                "open.tuning.center_frequency_hz",
                f"must be 1e3 to 6e9 Hz; got {tuning.center_frequency_hz:g}",
            )
        )
    gain_db = tuning.gain_db
    if gain_db is not None:
        if tuning.automatic_gain:
            bad.append(FieldViolation("open.tuning.gain_db", f"must be absent under automatic gain; got {gain_db:g}"))
        elif not 0 <= gain_db <= max_gain_db or (whole_gain and gain_db != math.floor(gain_db)):
            kind = "a whole number from" if whole_gain else "from"
            bad.append(
                FieldViolation("open.tuning.gain_db", f"must be {kind} 0 to {max_gain_db:g} dB; got {gain_db:g}")
            )
    low_hz, high_hz = tuning.passband_low_hz, tuning.passband_high_hz
    for name, value in (("passband_low_hz", low_hz), ("passband_high_hz", high_hz)):
        if value is not None and not math.isfinite(value):
            bad.append(FieldViolation(f"open.tuning.{name}", f"must be finite; got {value:g}"))
    if low_hz is not None and high_hz is not None and not high_hz - low_hz >= 1:
        bad.append(
            FieldViolation("open.tuning.passband_high_hz", f"must be 1 Hz or more above {low_hz:g}; got {high_hz:g}")
        )
    if bad:
        raise InvalidFieldsError(bad)
    if not config.min_frequency_hz <= tuning.center_frequency_hz <= config.max_frequency_hz:
        text = (
            f"{config.receiver_id} tunes from {config.min_frequency_hz:.0f} to {config.max_frequency_hz:.0f} Hz; "
            f"got {tuning.center_frequency_hz:.3f}"
        )
        raise HeimdallError(
            ErrorReason.ERROR_REASON_FREQUENCY_OUT_OF_RANGE,
            text,
            metadata={
                "receiver_id": config.receiver_id,
                "center_frequency_hz": tuning.center_frequency_hz,
                "min_frequency_hz": config.min_frequency_hz,
                "max_frequency_hz": config.max_frequency_hz,
            },
            violations=[FieldViolation("open.tuning.center_frequency_hz", text)],
        )
    if tuning.automatic_gain or gain_db is not None:
        return tuning
    return replace(tuning, gain_db=float(config.gain_db))
