"""Power at the plane of a receiver's calibration, in dBm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dsp_svc.estimate.levels import Moments
from dsp_svc.estimate.result import Quantity, Reason, Validity

THERMAL_NOISE_DBM_PER_HZ = -173.98
"""k T at 290 K: no receiver's noise, seen at its input, is below it."""
_RECORD_METHOD = "calibration-record"
_DERIVED_METHOD = "calibration-derived"
_SURE = 3.0  # sigmas by which the noise must fall short before the record is disbelieved


@dataclass(frozen=True)
class Calibration:
    """What turns levels into dBm: dBm = dBFS + offset."""

    offset_db: float
    """The offset in dB."""
    uncertainty_db: float
    """Its 1-sigma uncertainty in dB."""
    derived: bool
    """Whether it follows from what the receiver says of itself instead of from a measurement."""


@dataclass(frozen=True)
class ReferenceEnergy:
    """Energy at the reference plane; sums of separate runs add up to those of both, whatever their gains."""

    sample_count: int
    """The calibrated samples that it rests on."""
    milliwatts: float
    """The sum over them of |x|² 10^(offset / 10): divided by their number, the mean power in mW."""
    uncertainty_db: float
    """The largest uncertainty of the records used, in dB."""
    derived: bool
    """Whether any of the records was derived."""

    @classmethod
    def none(cls) -> ReferenceEnergy:
        """Make the empty sum."""
        return cls(0, 0.0, 0.0, False)

    def __add__(self, other: ReferenceEnergy) -> ReferenceEnergy:
        return ReferenceEnergy(
            self.sample_count + other.sample_count,
            self.milliwatts + other.milliwatts,
            max(self.uncertainty_db, other.uncertainty_db),
            self.derived or other.derived,
        )


def reference_energy(sums: Moments, calibration: Calibration | None) -> ReferenceEnergy:
    """Scale the energy of a run to the reference plane.

    Args:
        sums: The sums over the samples of the run.
        calibration: The record that held during the run; None without one.

    Returns:
        The sum; that of an uncalibrated run is empty.

    Examples:
        >>> run = Moments(100, 1.0, 0.01, 0.01, 0j)
        >>> round(reference_energy(run, Calibration(-40.0, 1.0, False)).milliwatts, 6)
        0.0001
    """
    if calibration is None:
        return ReferenceEnergy.none()
    milliwatts = sums.energy * 10.0 ** (calibration.offset_db / 10.0)
    return ReferenceEnergy(sums.sample_count, milliwatts, calibration.uncertainty_db, calibration.derived)


def power_dbm(reference: ReferenceEnergy, sums: Moments, noise_dbfs_per_hz: Quantity | None = None) -> Quantity:
    """Express a mean power in dBm.

    P = 10 log10(sum |x|² 10^(offset / 10) / n).

    Args:
        reference: The energy at the reference plane.
        sums: The sums over all samples of the same stretch, calibrated or not.
        noise_dbfs_per_hz: The noise density of the stretch, which gives a wrong record away; None if it was not
            looked for.

    Returns:
        The power in dBm with the uncertainty of the record as sigma. Absent without samples or when all are zero;
        when any sample is uncalibrated; and when the record would put the receiver's noise three of its sigmas
        below k T at 290 K, -174 dBm/Hz, which no receiver can have.

    References:
        H. Nyquist, "Thermal agitation of electric charge in conductors", Physical Review 32, 1928, for k T.

    Examples:
        >>> run = Moments(100, 1.0, 0.01, 0.01, 0j)
        >>> found = power_dbm(reference_energy(run, Calibration(-40.0, 1.0, False)), run)
        >>> found.value, found.sigma, found.method
        (-60.0, 1.0, 'calibration-record')
    """
    method = _DERIVED_METHOD if reference.derived else _RECORD_METHOD
    if sums.sample_count == 0:
        return Quantity.absent(Reason.NO_SAMPLES, method)
    if reference.sample_count < sums.sample_count:
        return Quantity.absent(Reason.NOT_CALIBRATED, "")
    if reference.milliwatts == 0.0:
        return Quantity.absent(Reason.ALL_ZERO, method)
    value = 10.0 * math.log10(reference.milliwatts / sums.sample_count)
    noise = noise_dbfs_per_hz
    if noise is not None and noise.validity is Validity.VALID and noise.value is not None:
        noise_dbm_per_hz = noise.value + 10.0 * math.log10(reference.milliwatts / sums.energy)
        if noise_dbm_per_hz < THERMAL_NOISE_DBM_PER_HZ - _SURE * reference.uncertainty_db:
            return Quantity.absent(Reason.CALIBRATION_IMPLAUSIBLE, method)
    return Quantity.valid(value, reference.uncertainty_db, method)
