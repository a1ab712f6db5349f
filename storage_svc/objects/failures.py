"""What a failed request to an object store means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import ParseError

from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as RequestTimeoutError

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

FAILURES: Final = (MinioException, HTTPError, OSError, ParseError, UnicodeDecodeError)
"""What the client raises when the store is away, refuses, or answers what no object store answers."""

_REFUSED: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"})
"""Codes of S3 for wrong credentials, or credentials that do not allow it."""


def unavailable(error: Exception, what: str, key: str, timeout_s: float) -> HeimdallError:
    """Returns BACKEND_UNAVAILABLE with the cause as a person has to know it.

    Args:
        error: The failure, one of FAILURES.
        what: What was being done, such as "read".
        key: With which object, or with what else.
        timeout_s: The time limit of a request in s.
    """
    facts = {"backend": "objects", "key": key}
    if isinstance(error, S3Error):
        facts["code"] = error.code or ""
    return HeimdallError(
        ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE,
        f"the object store could not {what} {key}: {_cause(error, timeout_s)}",
        metadata=facts,
    )


def _cause(error: Exception, timeout_s: float) -> str:
    if isinstance(error, S3Error):
        if error.code in _REFUSED:
            return f"it refuses minio.access_key or minio.secret_key ({error.code}: {error.message})"
        return f"{error.code}: {error.message}"
    if isinstance(error, SSLError):
        return f"no TLS with it: {error}; minio.ca_file names the certificates to trust"
    # The latter is a kind of the former, and knows better.
    if isinstance(error, RequestTimeoutError) and not isinstance(error, NewConnectionError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, (ParseError, UnicodeDecodeError)):
        return f"minio.endpoint does not answer as an object store does: {error}"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return str(error) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields a failure and what it was made of, from the outside in."""
    yield error
    inner = [error.__cause__, error.__context__, *error.args]
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)
            return
