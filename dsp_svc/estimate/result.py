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


@dataclass(frozen=True)
class Quantity:
    """One estimated number in the unit that its field names."""

    value: float | None
    """The estimate, or None when it is absent."""
    sigma: float | None
    """The 1-sigma statistical uncertainty in the unit of the value, or None when it is not known."""
    validity: Validity
    """How far the value may be trusted."""
    reason: str
    """Why the value is absent or only a limit; empty for a valid one."""
    method: str
    """The estimator and its parameters."""

    @classmethod
    def valid(cls, value: float, sigma: float | None, method: str) -> Quantity:
        """Make a trusted estimate."""
        return cls(value, sigma, Validity.VALID, "", method)

    @classmethod
    def upper_limit(cls, value: float, reason: str, method: str) -> Quantity:
        """Make a bound that the true quantity does not exceed."""
        return cls(value, None, Validity.UPPER_LIMIT, reason, method)

    @classmethod
    def absent(cls, reason: str, method: str) -> Quantity:
        """Make an estimate without a value."""
        return cls(None, None, Validity.ABSENT, reason, method)
