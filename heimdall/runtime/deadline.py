"""The deadline of the call being served, for the calls that are made on its behalf. gRPC for Python passes none on."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final

_deadline: Final[ContextVar[float | None]] = ContextVar("heimdall_deadline", default=None)

MARGIN_S: Final = 0.05
"""Part of the caller's time that is kept back to answer in."""


def set_deadline(remaining_s: float | None) -> None:
    """Remembers how long the caller of the current task still waits; None for no limit."""
    _deadline.set(None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s)


def remaining_s() -> float | None:
    """Returns how long a call made now may take, in s; None without a deadline, never below 0."""
    deadline = _deadline.get()
    if deadline is None:
        return None
    return max(0.0, deadline - asyncio.get_running_loop().time() - MARGIN_S)
