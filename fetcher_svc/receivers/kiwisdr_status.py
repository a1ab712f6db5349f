"""How a KiwiSDR is, from its page /status."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from fetcher_svc.receivers import kiwisdr_wire as wire
from fetcher_svc.receivers.base import Probe
from fetcher_svc.receivers.http import cause_of
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

STATUS_LIMIT_S: Final = 5.0
_MAX_STATUS_BYTES: Final = 256 * 1024
_MAX_INTEGER: Final = (1 << 31) - 1


async def read_status(session: aiohttp.ClientSession, base_url: str) -> Probe:
    """Asks a station how it is; takes at most 5 s and none of its channels.

    Args:
        session: HTTP session of the service.
        base_url: Where the station is, as http://host:port.

    Raises:
        HeimdallError: If it does not answer, or not with a status page.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with (
            asyncio.timeout(STATUS_LIMIT_S),
            session.get(f"{base_url}/status", headers={"Connection": "close"}) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_chunked(_MAX_STATUS_BYTES):
                body += chunk
                if len(body) > _MAX_STATUS_BYTES:
                    raise _unreachable(base_url, f"the page is longer than {_MAX_STATUS_BYTES} bytes")
            status = answer.status
    except TimeoutError:
        raise _unreachable(base_url, f"no answer within {STATUS_LIMIT_S:g} s") from None
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        # A UnicodeError is a host name that can not be looked up; a redirect may hold one.
        raise _unreachable(base_url, cause_of(error)) from error
    if status == 404:
        raise HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_NOT_FOUND,
            f"{base_url}/status answered HTTP 404: its proxy knows no such station, or it is offline",
            metadata={"url": base_url, "http_status": status},
        )
    if status != 200:
        raise _unreachable(base_url, f"HTTP {status}")
    return to_probe(wire.parse_status(body.decode("utf-8", errors="replace")), loop.time() - started)


def to_probe(pairs: dict[str, str], round_trip_s: float) -> Probe:
    """Returns what the keys of a status page say.

    Args:
        pairs: The page, key by key.
        round_trip_s: How long the answer took.

    Raises:
        HeimdallError: If the page has no status, so it is none of a KiwiSDR.
    """
    if "status" not in pairs:
        raise HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
            "the answer of /status has no line status=; is this a KiwiSDR?",
        )
    channel = _integer(pairs, "tdoa_ch")
    position = wire.parse_position(pairs.get("gps", ""))
    return Probe(
        round_trip_s=round_trip_s,
        reported_name=pairs.get("name", ""),
        server_version=pairs.get("sw_version", ""),
        in_service=pairs["status"] in ("active", "private") and pairs.get("offline", "no") == "no",
        used_channel_count=_integer(pairs, "users"),
        channel_count=_integer(pairs, "users_max"),
        gnss_satellite_count=_integer(pairs, "gps_good"),
        gnss_stamps_enabled=None if channel is None else channel != -1,
        latitude_deg=position[0] if position else None,
        longitude_deg=position[1] if position else None,
        altitude_m=_number(pairs, "asl"),
        attributes=pairs,
    )


def _number(pairs: dict[str, str], key: str) -> float | None:
    """Returns a number of the page; None if it is absent or no number, for the page is only advice."""
    try:
        return wire.parse_number(dict(pairs), key)
    except wire.WireError:
        return None


def _integer(pairs: dict[str, str], key: str) -> int | None:
    """Returns a whole number of the page; None if it is absent or none that the contract can carry."""
    number = _number(pairs, key)
    return None if number is None or not abs(number) <= _MAX_INTEGER else int(number)


def _unreachable(base_url: str, cause: str) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_UPSTREAM_UNREACHABLE,
        f"{base_url}/status does not answer: {cause}",
        metadata={"url": base_url, "error": cause},
    )
