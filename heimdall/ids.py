"""Ids of acquisitions and receivers. They become object keys and URL paths, so what does not match is never used."""

from __future__ import annotations

import re
from typing import Final

ID_PATTERN: Final = "[a-z0-9][a-z0-9-]{0,62}"
"""Regular expression that every id matches in full."""

_ID: Final = re.compile(ID_PATTERN)


def is_id(text: str) -> bool:
    """Returns whether a text can be the id of an acquisition or receiver."""
    return _ID.fullmatch(text) is not None
