"""One heap for all threads of a process."""

from __future__ import annotations

import ctypes
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

_M_ARENA_MAX: Final = -8  # of glibc's malloc.h


def use_one_heap() -> bool:
    """Makes all threads allocate from the process's first heap, which has to come before threads start.

    By itself glibc gives a thread that finds the heap in use another one, up to eight for each core. A heap keeps the
    most that was ever in use at once between what is still in use, so many of them let a process creep up for hours.

    Returns:
        Whether the C library took it; another one than glibc has nothing to be told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError) as error:
        _log.debug("heap_not_limited", reason=str(error))
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    taken: bool = mallopt(_M_ARENA_MAX, 1) == 1
    if not taken:
        _log.debug("heap_not_limited", reason="mallopt refused M_ARENA_MAX")
    return taken
