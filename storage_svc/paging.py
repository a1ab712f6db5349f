"""Page tokens: the sort key of the last row sent, opaque to the caller, stable under inserts."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

from heimdall.errors import FieldViolation, InvalidFieldsError
from storage_svc.measurements import Cursor

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000


def page_size(value: int, field: str = "page_size") -> int:
    """Returns the size of a page, DEFAULT_PAGE_SIZE for 0.

    Raises:
        InvalidFieldsError: If it is not 0 to MAX_PAGE_SIZE.
    """
    if not 0 <= value <= MAX_PAGE_SIZE:
        raise InvalidFieldsError(
            [FieldViolation(field, f"is {value}, must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")]
        )
    return value or DEFAULT_PAGE_SIZE


def encode_token(cursor: Cursor) -> str:
    """Returns the token of the page after a row."""
    return base64.urlsafe_b64encode(json.dumps(cursor, separators=(",", ":")).encode()).decode()


def decode_token(token: str, shape: tuple[type, ...]) -> Cursor | None:
    """Returns the cursor inside a token; None for the first page.

    Args:
        token: What the caller sent.
        shape: Type of each part of the cursor.

    Raises:
        InvalidFieldsError: If it is not a token that a list of this kind gave out.
    """
    if not token:
        return None
    try:
        parts = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        parts = None
    if not isinstance(parts, list) or [type(part) for part in parts] != list(shape):
        raise InvalidFieldsError(
            [FieldViolation("page_token", f"is {token!r}, must be empty or the next_page_token of the page before")]
        )
    if any(isinstance(part, int) and abs(part) >= 1 << 63 for part in parts):
        raise InvalidFieldsError([FieldViolation("page_token", f"is {token!r}, which no list has given out")])
    return tuple(parts)
