"""The address of a PostgreSQL database, taken apart as asyncpg does; what asyncpg would misread is refused."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from heimdall.runtime.settings import SettingsError

_SCHEMES: Final = ("postgresql", "postgres")
_MAX_PORT: Final = 65535
_HOST: Final = re.compile(r"(?:\[[^\[\]]+\]|[^\s:\[\]]+)(?::(?P<port>[0-9]{0,5}))?")
"""A name, an IPv4 address, an IPv6 address in brackets, and perhaps a port; or the folder of a socket."""
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_RIGHT: Final = (
    "right is postgresql://user@host:5432/database, with each / ? # @ % [ ] in user and password written as "
    "%2F %3F %23 %40 %25 %5B %5D; the password may be in timescale.password or timescale.password_file instead"
)


class Dsn(NamedTuple):
    """What an address says; the password is left out."""

    place: str
    """Host and port, several with commas between, or the folder of a socket."""
    user: str
    """Whom to connect as; empty if it does not say."""
    database: str
    """The database; empty if it does not say."""


def read_dsn(dsn: str) -> Dsn:
    """Takes an address apart.

    Raises:
        SettingsError: If it can not be right. The text holds nothing of the address: with a character that is not
            percent-encoded, any part of it may be one of the password.
    """
    # Checked before any parser sees it, and raised where no exception of one is around, whose text may show a part.
    if re.search(r"[\t\r\n]", dsn):
        raise _refusal("has a tab or the end of a line in it, which a URL can only have percent-encoded")
    scheme, mark, rest = dsn.partition("://")
    if not mark or scheme.lower() not in _SCHEMES:
        raise _refusal("does not begin with postgresql:// or postgres://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, _, place = authority.rpartition("@")
    if "#" in rest or rest.count("@") > authority.count("@") or re.search(r"[@\[\]]", login):
        raise _refusal("has one of / ? # @ [ ] in user, password or behind the host that is not percent-encoded")
    if _STRAY_PERCENT.search(login):
        raise _refusal("has a % in user or password that is not percent-encoded")
    parts = _split(dsn)
    if parts is None:
        raise _refusal("is no URL, or has options behind the ? that are not of the form name=value&name=value")
    path, options = parts
    if "/" in path:
        raise _refusal("has a / in user, password or database that is not percent-encoded")
    place = place or options.get("host", "")
    if not all(_is_host(host) for host in place.split(",")):
        raise _refusal(f"does not name a host, or has a port that is no number from 1 to {_MAX_PORT}")
    if not all(_is_port(port) for port in options.get("port", "5432").split(",")):
        raise _refusal(f"has an option port that is no number from 1 to {_MAX_PORT}")
    user = unquote(login.partition(":")[0]) or options.get("user", "")
    return Dsn(place, user, unquote(path) or options.get("dbname", "") or options.get("database", ""))


def _split(dsn: str) -> tuple[str, dict[str, str]] | None:
    """Returns the path without its first slash, and the options; None if asyncpg could not read them."""
    try:
        parts = urlsplit(dsn)
        options = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        return None
    return parts.path.removeprefix("/"), dict(options)


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and (not match["port"] or _is_port(match["port"]))


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and 1 <= int(text) <= _MAX_PORT


def _refusal(problem: str) -> SettingsError:
    return SettingsError(f"timescale.dsn: {problem}; {_RIGHT}")
