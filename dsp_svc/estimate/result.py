"""What every estimator returns: a number with its uncertainty, or the reason why there is none."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Validity(enum.Enum):
    """How far a number may be trusted."""

    VALID = "valid"
    """The value is an unbiased estimate and sigma its 1-sigma uncertainty."""
    UPPER_LIMIT = "upper_limit"
    """The true quantity is at most the value."""
    ABSENT = "absent"
    """There is no value; the reason says why."""


class Reason(enum.StrEnum):
    """Why a number is absent, or only a limit."""

    NO_SAMPLES = "NO_SAMPLES"
    """No sample was received."""
    ALL_ZERO = "ALL_ZERO"
    """Every sample is zero: the receiver sent nothing that it received."""
    TOO_FEW_SAMPLES = "TOO_FEW_SAMPLES"
    """No unbroken run is long enough for this method."""
    PASSBAND_TOO_NARROW = "PASSBAND_TOO_NARROW"
    """The receiver's passband holds too few bins."""
    PASSBAND_OCCUPIED = "PASSBAND_OCCUPIED"
    """Signals leave too few bins of the passband to the noise."""
    QUANTISATION_NOISE = "QUANTISATION_NOISE"
    """What is left of the noise is the rounding of the samples."""
    NO_NOISE_FLOOR = "NO_NOISE_FLOOR"
    """The noise floor that this number rests on is not known."""
    NO_SIGNAL = "NO_SIGNAL"
    """Nothing stands out of the noise."""
    NO_LINE = "NO_LINE"
    """No spectral line is strong enough to be told from noise."""
    NOT_COHERENT = "NOT_COHERENT"
    """The line does not keep its phase over the recording."""
    SNR_TOO_LOW = "SNR_TOO_LOW"
    """The emission is too weak against the noise for this method."""
    RESOLUTION = "RESOLUTION"
    """The emission is narrower than what the spectrum's bins can tell."""
    NO_EXTREME_CODE = "NO_EXTREME_CODE"
    """The format of the samples has no largest code, so that nothing shows an overload."""
    STRADDLES_CENTER = "STRADDLES_CENTER"
    """The strongest emission lies on both sides of the tuned centre, on its own mirror image."""
    MIRROR_OUTSIDE_PASSBAND = "MIRROR_OUTSIDE_PASSBAND"
    """The receiver's filter takes out what lies opposite the strongest emission."""
    NOT_TWO_TONES = "NOT_TWO_TONES"
    """The signal does not dwell on two frequencies."""
    NOT_CALIBRATED = "NOT_CALIBRATED"
    """The receiver has no calibration record."""
    CALIBRATION_IMPLAUSIBLE = "CALIBRATION_IMPLAUSIBLE"
    """The calibration record would put the receiver's noise below what physics allows."""
    SUMMARY_ONLY = "SUMMARY_ONLY"
    """The quantity needs many windows, so only the summary has it."""
    NOT_REQUESTED = "NOT_REQUESTED"
    """The quantity was not asked for."""
    NOT_MEASURED = "NOT_MEASURED"
    """This service does not measure the quantity."""


@dataclass(frozen=True)
class Quantity:
    """One estimated number in the unit that its field names."""

    value: float | None
    """The estimate, or None when it is absent."""
    sigma: float | None
    """The 1-sigma statistical uncertainty in the unit of the value, or None when it is not known."""
    validity: Validity
    """How far the value may be trusted."""
    reason: Reason | None
    """Why the value is absent or only a limit; None for a valid one."""
    method: str
    """The short name of the estimator; empty if there is none."""

    @classmethod
    def valid(cls, value: float, sigma: float | None, method: str) -> Quantity:
        """Make a trusted estimate."""
        return cls(value, sigma, Validity.VALID, None, method)

    @classmethod
    def upper_limit(cls, value: float, reason: Reason, method: str) -> Quantity:
        """Make a bound that the true quantity does not exceed."""
        return cls(value, None, Validity.UPPER_LIMIT, reason, method)

    @classmethod
    def absent(cls, reason: Reason, method: str) -> Quantity:
        """Make an estimate without a value."""
        return cls(None, None, Validity.ABSENT, reason, method)
