"""A call that this service answers, as something that can be ended even while it waits for its caller."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import Final, Self

from heimdall.errors import HeimdallError

_current: Final[ContextVar[RunningCall | None]] = ContextVar("running_call", default=None)


class RunningCall:
    """One call while its handler runs; an async context manager around the handler, in the handler's task.

    A handler whose caller does not read waits in a write for ever and would not see that it has to end.
    """

    def __init__(self) -> None:
        self._limit: asyncio.Timeout | None = None
        self._failure: HeimdallError | None = None

    async def __aenter__(self) -> Self:
        _current.set(self)
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        limit, self._limit = self._limit, None
        if limit is None:
            return
        try:
            await limit.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._failure is None:
                raise
            raise self._failure from None

    def end(self, failure: HeimdallError, *, within_s: float = 0.0) -> None:
        """Ends the handler with a failure, wherever it waits, unless it ends by itself before.

        Args:
            failure: Why; the first one stays.
            within_s: How long it may take to end by itself.
        """
        if self._limit is None or self._limit.expired():
            return
        due_s = asyncio.get_running_loop().time() + within_s
        already_due_s = self._limit.when()
        self._failure = self._failure or failure
        self._limit.reschedule(due_s if already_due_s is None else min(due_s, already_due_s))


def end_current(failure: HeimdallError, *, within_s: float) -> None:
    """Ends the call on whose behalf the current task runs, if there is one; arguments as of RunningCall.end."""
    call = _current.get()
    if call is not None:
        call.end(failure, within_s=within_s)
