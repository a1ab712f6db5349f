"""Every way in which a KiwiSDR refuses or ends a stream by message, and what it means. Data and one pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fetcher_svc.receivers.kiwisdr_wire import decode, shown
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

REDIRECT_KEY: Final = "redirect"
"""Not in the table: a redirect is followed, not reported."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one message means."""

    reason: ErrorReason.ValueType
    text: str
    retry_delay_s: float | None = None
    """Wait before another try where it differs from the reason's own."""


_BAD_PASSWORD: Final[Mapping[str, Refusal]] = MappingProxyType(
    {
        "1": Refusal(
            ErrorReason.ERROR_REASON_UPSTREAM_PASSWORD_REFUSED,
            "the password is wrong, or no channel without a password is free; set password_env or password_file",
        ),
        "2": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_NOT_READY, "the station is still starting", 10),
        "3": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_LOGIN_REFUSED, "no admin login from this address"),
        "4": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_LOGIN_REFUSED, "no admin password is set"),
        "5": Refusal(
            ErrorReason.ERROR_REASON_UPSTREAM_ONE_PER_ADDRESS, "the station allows one connection per address"
        ),
        "6": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_NOT_READY, "the station updates its database", 60),
        "7": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_LOGIN_REFUSED, "another admin is connected"),
    }
)

_DOWN: Final[Mapping[str, Refusal]] = MappingProxyType(
    {
        "0": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_DISABLED, "the owner took the station out of service"),
        "1": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_UPDATING, "the station updates its software"),
        "2": Refusal(ErrorReason.ERROR_REASON_UPSTREAM_UPDATING, "the station makes a backup"),
    }
)


def _login(value: str, streaming: bool) -> Refusal | None:
    if value == "0":
        return None
    unknown = Refusal(ErrorReason.ERROR_REASON_UPSTREAM_LOGIN_REFUSED, "the login was refused for an unknown cause")
    return _BAD_PASSWORD.get(value, unknown)


def _too_busy(value: str, streaming: bool) -> Refusal:
    if streaming:
        return Refusal(
            ErrorReason.ERROR_REASON_UPSTREAM_APP_LIMIT, "the station limits connections that are not browsers"
        )
    return Refusal(ErrorReason.ERROR_REASON_UPSTREAM_BUSY, "all channels of the station are taken")


def _down(value: str, streaming: bool) -> Refusal:
    return _DOWN.get(value, _DOWN["0"])


def _always(reason: ErrorReason.ValueType, text: str) -> Callable[[str, bool], Refusal]:
    refusal = Refusal(reason, text)
    return lambda value, streaming: refusal


_MEANINGS: Final[Mapping[str, Callable[[str, bool], Refusal | None]]] = MappingProxyType(
    {
        "badp": _login,
        "too_busy": _too_busy,
        "down": _down,
        "exclusive_use": _always(
            ErrorReason.ERROR_REASON_UPSTREAM_EXCLUSIVE_USE, "an extension uses the station exclusively"
        ),
        "wb_only": _always(
            ErrorReason.ERROR_REASON_UPSTREAM_WIDEBAND_ONLY, "the station serves wideband connections only"
        ),
        "ip_limit": _always(
            ErrorReason.ERROR_REASON_UPSTREAM_ADDRESS_LIMIT,
            "the daily quota of this address is used up; further tries lead to a blacklisting",
        ),
        "inactivity_timeout": _always(
            ErrorReason.ERROR_REASON_UPSTREAM_INACTIVITY_TIMEOUT, "nothing was tuned for too long"
        ),
        "kiwi_kick": _always(ErrorReason.ERROR_REASON_UPSTREAM_KICKED, "the owner ended the connection"),
        "password_timeout": _always(
            ErrorReason.ERROR_REASON_UPSTREAM_PASSWORD_TIMEOUT, "no valid login came within 20 s"
        ),
    }
)


def find_refusal(pairs: Mapping[str, str | None], *, streaming: bool) -> HeimdallError | None:
    """Returns the failure that a MSG stands for; None if it refuses nothing.

    Args:
        pairs: The decoded MSG.
        streaming: Whether samples came already, which changes what too_busy means.
    """
    for key, meaning in _MEANINGS.items():
        if key not in pairs:
            continue
        value = decode(pairs[key])
        refusal = meaning(value, streaming)
        if refusal is None:
            continue
        metadata = {"message": shown(f"{key}={value}" if value else key)}
        said = shown(decode(pairs.get("reason_disabled")))
        if said:
            metadata["reason_disabled"] = said
        detail = f' ("{said}")' if said else ""
        return HeimdallError(
            refusal.reason,
            f"{refusal.text}{detail}; it said {metadata['message']}",
            metadata=metadata,
            retry_delay_s=refusal.retry_delay_s,
        )
    return None
