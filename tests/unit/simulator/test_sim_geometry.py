"""Geometry against published positions and the truth table of the real recordings."""

from __future__ import annotations

import numpy as np
import pytest

from simulator import EmitterSpec, StationSpec
from simulator.emission import Arrival, Modulation
from simulator.geometry import SPEED_OF_LIGHT_M_S, ecef_m, free_space_loss_db, velocity_ecef_m_s


def test_ecef_on_the_axes_of_the_ellipsoid() -> None:
    np.testing.assert_allclose(ecef_m(0, 0, 0), [6_378_137.0, 0, 0], atol=1e-3)
    np.testing.assert_allclose(ecef_m(0, 90, 100), [0, 6_378_237.0, 0], atol=1e-3)
    np.testing.assert_allclose(ecef_m(-90, 0, 0), [0, 0, -6_356_752.3142], atol=1e-3)


def test_velocity_is_the_derivative_of_the_position() -> None:
    north_m = 1e-5 * np.pi / 180 * 6_367_382.0  # meridian arc of 1e-5 degrees at 45 degrees north
    moved = ecef_m(45.00001, 8, 0) - ecef_m(45, 8, 0)
    np.testing.assert_allclose(velocity_ecef_m_s(45, 8, 0, north_m), moved, atol=1e-4)


def test_free_space_loss() -> None:
    # ITU-R P.525: 32.4 + 20 log f(MHz) + 20 log d(km).
    assert free_space_loss_db(100e3, 145.5e6) == pytest.approx(32.4 + 43.257 + 40, abs=0.06)
    with pytest.raises(ValueError, match="distance is 0"):
        free_space_loss_db(0.0, 1e6)


def arrival(latitude_deg: float, longitude_deg: float) -> Arrival:
    dcf77 = EmitterSpec(
        id="dcf77",
        latitude_deg=50.0155,
        longitude_deg=9.0108,
        altitude_m=0,
        frequency_hz=77_500,
        power_dbm=75,
    )
    station = StationSpec(id="a", latitude_deg=latitude_deg, longitude_deg=longitude_deg, altitude_m=0)
    return Arrival(dcf77, station, Modulation(dcf77, seed=1))


def test_delay_differences_of_the_real_network() -> None:
    hb9odp, jo51xl, pa0rdt = (
        arrival(*place).delay_s(0.0) for place in ((46.499351, 8.798828), (51.466044, 11.977189), (51.500500, 3.600690))
    )
    # The table gives geodesics; chords of 400 km are up to 0.25 us shorter.
    assert (hb9odp - jo51xl) * 1e6 == pytest.approx(423.55, abs=0.2)
    assert (hb9odp - pa0rdt) * 1e6 == pytest.approx(-81.83, abs=0.2)
    assert hb9odp * SPEED_OF_LIGHT_M_S == pytest.approx(391_295, abs=80)
