"""Which fetcher owns which receiver, learned from the fetchers themselves."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from coordinator_svc.peers import ask
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2

if TYPE_CHECKING:
    from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceAsyncStub

_log = structlog.get_logger(__name__)

_MAX_AGE_S: Final = 10.0
"""Age up to which an answer of the fetchers is used without asking again."""


@dataclass(frozen=True)
class OwnedReceiver:
    """One receiver and its fetcher."""

    receiver: Receiver
    """The receiver as its fetcher described it."""
    target: str
    """Address of the fetcher that owns it."""


class ReceiverDirectory:
    """Asks every fetcher for its receivers, remembers the answers for a short time."""

    def __init__(self, fetchers: Mapping[str, FetcherServiceAsyncStub]) -> None:
        self._fetchers = fetchers
        self._known = dict[str, dict[str, OwnedReceiver]]()
        self._unreachable = dict[str, HeimdallError]()
        self._asked_s = -float("inf")
        self._asking: asyncio.Task[None] | None = None

    @property
    def unreachable(self) -> Mapping[str, HeimdallError]:
        """Fetchers that did not answer when they were last asked, and why."""
        return self._unreachable

    def known(self) -> dict[str, OwnedReceiver]:
        """Returns every receiver that is known, by id; also those of a fetcher that is away now."""
        found = dict[str, OwnedReceiver]()
        for target in self._fetchers:
            for receiver_id, owned in self._known.get(target, {}).items():
                found.setdefault(receiver_id, owned)
        return found

    async def lookup(self, receiver_ids: Iterable[str]) -> dict[str, OwnedReceiver]:
        """Returns every known receiver; asks the fetchers if one of these ids is new or the answers are old."""
        age_s = asyncio.get_running_loop().time() - self._asked_s
        known = self.known()
        if age_s > _MAX_AGE_S or not known.keys() >= set(receiver_ids):
            await self.refresh()
            known = self.known()
        return known

    async def refresh(self) -> None:
        """Asks every fetcher at once; callers that come meanwhile share the answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), context=contextvars.Context())
        await asyncio.shield(self._asking)

    async def close(self) -> None:
        """Ends a question that is still open."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask_one(target) for target in self._fetchers))
        self._asked_s = asyncio.get_running_loop().time()

    async def _ask_one(self, target: str) -> None:
        request = fetcher_pb2.ListReceiversRequest()
        try:
            answer = await ask(self._fetchers[target].ListReceivers(request), f"fetcher {target}")
        except HeimdallError as error:
            if target not in self._unreachable:
                _log.warning("fetcher_unreachable", target=target, reason=error.reason_name, message=error.message)
            self._unreachable[target] = error
            return
        self._unreachable.pop(target, None)
        self._known[target] = {receiver.receiver_id: OwnedReceiver(receiver, target) for receiver in answer.receivers}
