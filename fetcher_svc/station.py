"""One station: whether it may be connected now, for all receivers and slots that we have there."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from fetcher_svc.backoff import TRIAL_DELAY_S, ConnectCount, KeptRest, Rest
from fetcher_svc.memory import StationMemory
from fetcher_svc.state_file import Memento
from heimdall.clock import Clock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)

CONNECT_LIMIT_CAUSE: Final = "MAX_CONNECTS_PER_HOUR"
"""The cause of a refusal that no failure led to: a key of receivers.toml."""
_NS: Final = 1e9


class Station:
    """What is known of one station. Receivers with the same URL share it: who said no is the station.

    Every connect passes try_begin, count_connect and then one of failed, succeeded and leave. While a rest is over and
    nothing has succeeded since, one connect at a time is under way; the others wait for its outcome.
    """

    def __init__(self, url: str, max_connects_per_hour: int, memory: StationMemory, clock: Clock) -> None:
        """Goes on where an earlier process left.

        Args:
            url: Where it is; its key in the memory.
            max_connects_per_hour: Most connects within any hour.
            memory: Keeps all this across a restart.
            clock: Host clock, which the memory's times belong to.
        """
        self._url = url
        self._memory = memory
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._rest = Rest()
        self._connects = ConnectCount(max_connects_per_hour)
        self._begun: dict[object, float] = {}
        self._trial: object | None = None
        self._changed = asyncio.Event()
        memento = memory.adopt(self)
        if memento is not None:
            self._recall(memento)

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    @property
    def last_error(self) -> HeimdallError | None:
        """Why the last connect failed; None if it did not."""
        return self._rest.last_error

    @property
    def is_on_trial(self) -> bool:
        """Whether a rest is over and no connect has succeeded since."""
        return self._rest.is_on_trial(self._loop.time())

    @property
    def is_tried(self) -> bool:
        """Whether a connect is under way whose outcome decides for all."""
        return self._trial is not None and self.is_on_trial

    def find_hold(self, receiver_id: str) -> HeimdallError | None:
        """Returns why, and by its retry delay how long, the station is left alone; None if it is not.

        Args:
            receiver_id: Name of the receiver that is asked for.
        """
        now_s = self._loop.time()
        try:
            self._rest.check(receiver_id, now_s)
        except HeimdallError as hold:
            rest: HeimdallError | None = hold
        else:
            rest = None
        wait_s = self._connects.wait_s(now_s)
        return rest if wait_s <= self._rest.remaining_s(now_s) else self._full(receiver_id, wait_s)

    def trial_hold(self, receiver_id: str) -> HeimdallError:
        """Returns what a stream is told that did not hear in time how somebody else's connect ended."""
        error = self._rest.last_error
        cause = "" if error is None else f" after: {error.message}"
        return HeimdallError(
            ErrorReason.ERROR_REASON_RECEIVER_BACKING_OFF,
            f"{receiver_id} is being tried by another stream{cause}",
            metadata={
                "receiver_id": receiver_id,
                "remaining_s": TRIAL_DELAY_S,
                "cause": "" if error is None else error.reason_name,
            },
            retry_delay_s=TRIAL_DELAY_S,
        )

    def try_begin(self, owner: object) -> bool:
        """Begins a connect if one may begin now; returns whether it did.

        Args:
            owner: Who connects; it has to end the connect by failed, succeeded or leave.
        """
        now_s = self._loop.time()
        if self.is_tried or self._rest.remaining_s(now_s) > 0 or self._connects.wait_s(now_s) > 0:
            return False
        self._begun[owner] = now_s
        if self._rest.is_on_trial(now_s):
            self._trial = owner
        return True

    async def count_connect(self, receiver_id: str) -> None:
        """Counts a socket that is about to be opened, and returns once that is kept.

        Raises:
            HeimdallError: RECEIVER_BACKING_OFF if there were too many within the last hour.
        """
        now_s = self._loop.time()
        wait_s = self._connects.wait_s(now_s)
        if wait_s > 0:
            raise self._full(receiver_id, wait_s)
        self._connects.add(now_s)
        await self._memory.keep(self)

    async def failed(self, owner: object, error: HeimdallError) -> None:
        """Notes that a connect or the connection that it led to failed, and returns once that is kept."""
        now_s = self._loop.time()
        noted = self._rest.failed(error, now_s)
        self.leave(owner)
        if noted:
            rest_s = self._rest.remaining_s(now_s)
            if rest_s > 0:
                _log.warning("station_left_alone", url=self._url, rest_s=round(rest_s, 1), reason=error.reason_name)
            await self._memory.keep(self)

    def succeeded(self, owner: object) -> None:
        """Notes that samples came."""
        begun_s = self._begun.get(owner)
        if begun_s is not None and self._rest.succeeded(begun_s):
            self._memory.keep_soon(self)
        self.leave(owner)

    def leave(self, owner: object) -> None:
        """Ends a connect, if it is still under way, without a verdict."""
        self._begun.pop(owner, None)
        if self._trial is owner:
            self._trial = None
        self.tell_change()

    def tell_change(self) -> None:
        """Wakes whoever waits for something to change here."""
        self._changed.set()

    async def wait_change(self, timeout_s: float) -> bool:
        """Waits until something changes here; returns whether it did within a time."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def memento(self) -> Memento:
        """Returns what has to outlive the process, by the host clock as it is now."""
        now_s, now_ns = self._loop.time(), self._clock.unix_ns()
        kept = self._rest.keep(now_s)
        return Memento(
            url=self._url,
            rest_end_unix_ns=now_ns + round((0.0 if kept is None else kept.remaining_s) * _NS),
            rest_length_ns=0 if kept is None else round(kept.length_s * _NS),
            rest_count=0 if kept is None else kept.rest_count,
            error=None if kept is None else kept.error,
            connect_unix_ns=tuple(now_ns - round((now_s - time_s) * _NS) for time_s in self._connects.times_s(now_s)),
        )

    def _recall(self, memento: Memento) -> None:
        """Takes over what an earlier process knew, whatever the host clock did meanwhile.

        A clock that was set back makes a rest no longer than it was in all, and a connect no younger than now.
        """
        now_s, now_ns = self._loop.time(), self._clock.unix_ns()
        if memento.error is not None:
            length_s = memento.rest_length_ns / _NS
            remaining_s = min(max(0.0, (memento.rest_end_unix_ns - now_ns) / _NS), length_s)
            self._rest.resume(KeptRest(memento.error, remaining_s, length_s, memento.rest_count), now_s)
        for unix_ns in memento.connect_unix_ns:
            self._connects.add(now_s - max(0.0, (now_ns - unix_ns) / _NS))

    def _full(self, receiver_id: str, wait_s: float) -> HeimdallError:
        count = len(self._connects.times_s(self._loop.time()))
        return HeimdallError(
            ErrorReason.ERROR_REASON_RECEIVER_BACKING_OFF,
            f"{receiver_id} is left alone for another {wait_s:.0f} s: {count} connects within the last hour, "
            f"{self._connects.limit} are allowed (max_connects_per_hour in receivers.toml)",
            metadata={
                "receiver_id": receiver_id,
                "remaining_s": round(wait_s, 1),
                "cause": CONNECT_LIMIT_CAUSE,
                "connect_count": count,
                "limit": self._connects.limit,
            },
            retry_delay_s=wait_s,
        )
