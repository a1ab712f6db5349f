"""The `/status` page of a station."""

from __future__ import annotations

from datetime import UTC, datetime

from simulator.gnss import NS_PER_S
from simulator.scenario import StationSpec


def status_text(spec: StationSpec, users: int, uptime_s: float, now_unix_ns: int, *, offline: bool) -> str:
    """The page's `key=value` lines.

    Args:
        spec: the station.
        users: receiver channels in use.
        uptime_s: seconds since the station's boot.
        now_unix_ns: UTC now in ns since the Unix epoch.
        offline: whether the owner has taken the station down.
    """
    has_fix = spec.gnss != "no_fix"
    offset_hz = round(spec.freq_offset_khz * 1000)
    now = datetime.fromtimestamp(now_unix_ns // NS_PER_S, UTC)
    pairs: dict[str, object] = {"status": "offline" if offline else "private" if spec.password else "active"}
    if spec.password:
        pairs["auth"] = "password"
    pairs |= {
        "offline": "yes" if offline else "no",
        "name": f"Simulated KiwiSDR {spec.id}",
        "sdr_hw": "KiwiSDR v1.711 📶 GPS" if has_fix else "KiwiSDR v1.711",
        "op_email": "",
        "bands": f"{offset_hz}-{offset_hz + 30_000_000}",
        "freq_offset": f"{spec.freq_offset_khz:.3f}",
        "users": users,
        "users_max": spec.rx_chans,
        "preempt": 0,
        "avatar_ctime": 0,
        "gps": f"({spec.latitude_deg:.6f}, {spec.longitude_deg:.6f})",
        "gps_good": 9 if has_fix else 0,
        "fixes": round(uptime_s / 2) if has_fix else 0,
        "fixes_min": 30 if has_fix else 0,
        "fixes_hour": 1800 if has_fix else 0,
        "tdoa_id": "",
        "tdoa_ch": -1 if spec.gnss == "off" else spec.rx_chans,
        "asl": round(spec.altitude_m),
        "loc": spec.id,
        "sw_version": "KiwiSDR_v1.711",
        "antenna": "simulated",
        "snr": "30,30",
        "ant_connected": 1,
        "adc_ov": 0,
        "clk_ext_freq": 0,
        "clk_ext_gps": "0,0",
        "uptime": round(uptime_s),
        "gps_date": "0,0",
        "date": now.strftime("%a %b %d %H:%M:%S %Y"),
        "ip_blacklist": "",
        "dx_file": "",
    }
    return "".join(f"{key}={value}\n" for key, value in pairs.items())
