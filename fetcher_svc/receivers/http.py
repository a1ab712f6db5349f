"""The HTTP session that drivers share."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

MAX_REDIRECT_COUNT: Final = 3


class RedirectError(Exception):
    """The station sends its users elsewhere."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


def open_session() -> aiohttp.ClientSession:
    """Returns a session that keeps no cookies, follows at most three redirects and repeats nothing by itself.

    It follows none of a WebSocket but raises RedirectError: a driver counts them together with those of its protocol.
    The caller closes it.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_on_redirect)
    trace.on_connection_create_start.append(_refuse_repeat)
    return aiohttp.ClientSession(
        trace_configs=[trace],
        cookie_jar=aiohttp.DummyCookieJar(),
        # Drivers set their own deadlines; a stream has none. Connections are not kept: stations count them.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
    )


def cause_of(error: Exception) -> str:
    """Returns why a request failed as the operating system puts it; the library's own text names TLS without need."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    number = error.os_error.errno
    # Failures of the resolver have negative numbers and a text of their own; several failures together have none.
    return os.strerror(number) if number is not None and number > 0 else error.os_error.strerror or str(error.os_error)


async def _refuse_repeat(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceConnectionCreateStartParams
) -> None:
    # A station that ends the connection instead of an answer would be asked a second time at once by aiohttp itself.
    context.connection_count = getattr(context, "connection_count", 0) + 1
    if context.connection_count > 1 + getattr(context, "redirect_count", 0):
        raise aiohttp.ServerDisconnectedError("the connection was ended instead of an answer")


async def _on_redirect(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    location = params.response.headers.get("Location")
    if "Upgrade" in params.headers and location is not None:
        params.response.close()
        raise RedirectError(_absolute(str(params.url), location))
    # A trace context lives for one request.
    context.redirect_count = getattr(context, "redirect_count", 0) + 1
    if context.redirect_count > MAX_REDIRECT_COUNT:
        params.response.close()
        raise HeimdallError(
            ErrorReason.ERROR_REASON_UPSTREAM_REDIRECT_LOOP,
            f"{params.url} redirects more than {MAX_REDIRECT_COUNT} times",
            metadata={"url": params.url},
        )


def _absolute(url: str, location: str) -> str:
    """Returns where a redirect leads.

    Raises:
        HeimdallError: If that is nowhere.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if parts.scheme in ("http", "https") and parts.hostname:
            return target
        cause = "http://host:port was expected"
    except ValueError as error:
        cause = str(error)
    raise HeimdallError(
        ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        f"{url} redirects to {location!r}: {cause}",
        metadata={"url": url, "redirect": location},
    )
