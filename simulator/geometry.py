"""Where stations and emitters are, how far apart, and what the way costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPEED_OF_LIGHT_M_S = 299_792_458.0
_SEMI_MAJOR_AXIS_M = 6_378_137.0
_FLATTENING = 1 / 298.257223563


def ecef_m(latitude_deg: float, longitude_deg: float, altitude_m: float) -> NDArray[np.float64]:
    """Earth-centred, earth-fixed position of a geodetic one.

    Formula: WGS-84 (NIMA TR8350.2, section 4): N = a / sqrt(1 - e^2 sin^2 lat).

    Args:
        latitude_deg: geodetic latitude in degrees.
        longitude_deg: longitude in degrees, east positive.
        altitude_m: height above the ellipsoid in m.

    Returns:
        float64 array of shape (3,): x, y, z in m.
    """
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    eccentricity_squared = _FLATTENING * (2 - _FLATTENING)
    radius_m = _SEMI_MAJOR_AXIS_M / np.sqrt(1 - eccentricity_squared * np.sin(latitude) ** 2)
    return np.array(
        [
            (radius_m + altitude_m) * np.cos(latitude) * np.cos(longitude),
            (radius_m + altitude_m) * np.cos(latitude) * np.sin(longitude),
            (radius_m * (1 - eccentricity_squared) + altitude_m) * np.sin(latitude),
        ]
    )


def velocity_ecef_m_s(
    latitude_deg: float, longitude_deg: float, east_m_s: float, north_m_s: float
) -> NDArray[np.float64]:
    """Velocity in the earth-fixed frame of a horizontal motion at a place.

    Returns:
        float64 array of shape (3,): x, y, z in m/s.
    """
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    east = np.array([-np.sin(longitude), np.cos(longitude), 0.0])
    north = np.array([-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)])
    return east_m_s * east + north_m_s * north


def free_space_loss_db(distance_m: float, frequency_hz: float) -> float:
    """Free-space path loss between isotropic antennas, 20 log10(4 pi d f / c) in dB (ITU-R P.525).

    Args:
        distance_m: distance in m, greater than zero.
        frequency_hz: frequency in Hz.

    Raises:
        ValueError: the distance is not greater than zero.
    """
    if not distance_m > 0:
        raise ValueError(f"distance is {distance_m} m: an emitter cannot stand in a station's antenna")
    return float(20 * np.log10(4 * np.pi * distance_m * frequency_hz / SPEED_OF_LIGHT_M_S))
