"""The health of backends: told when it changes, by using each of them, and never twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from storage_svc import backends

_Status = health_pb2.HealthCheckResponse


class Backend:
    """Works, fails or hangs as the test says."""

    def __init__(self) -> None:
        self.works = True
        self.answering = asyncio.Event()
        self.answering.set()
        self.running = self.most_running = self.count = 0

    async def ping(self) -> None:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.answering.wait()
        finally:
            self.running -= 1
            self.count += 1
        if not self.works:
            raise HeimdallError(ErrorReason.ERROR_REASON_BACKEND_UNAVAILABLE, "it is away")


@asynccontextmanager
async def watched(health: HealthServicer, **named: Backend) -> AsyncIterator[None]:
    pings = {name: backend.ping for name, backend in named.items()}
    task = asyncio.create_task(backends.watch_backends(health, "svc", pings))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> HealthServicer:
    monkeypatch.setattr(backends, "_PING_INTERVAL_S", 0.01)
    monkeypatch.setattr(backends, "_PING_TIMEOUT_S", 0.05)
    return HealthServicer()


def status_of(health: HealthServicer, name: str) -> int:
    known: dict[str, int] = vars(health)["_server_status"]
    return known.get(name, _Status.UNKNOWN)


async def until(health: HealthServicer, name: str, status: int) -> None:
    async with asyncio.timeout(10):
        while status_of(health, f"svc/{name}") != status:  # noqa: ASYNC110 (nothing announces it here)
            await asyncio.sleep(0.005)


async def test_failing_and_working_again_is_told(health: HealthServicer) -> None:
    one, other = Backend(), Backend()
    async with watched(health, one=one, other=other):
        await until(health, "one", _Status.SERVING)
        one.works = False
        await until(health, "one", _Status.NOT_SERVING)
        await until(health, "other", _Status.SERVING)
        one.works = True
        await until(health, "one", _Status.SERVING)


async def test_hanging_backend_is_used_once_and_holds_up_no_other(health: HealthServicer) -> None:
    one, other = Backend(), Backend()
    async with watched(health, one=one, other=other):
        await until(health, "one", _Status.SERVING)
        one.answering.clear()
        await until(health, "one", _Status.NOT_SERVING)
        seen = other.count
        async with asyncio.timeout(10):
            while other.count < seen + 5:  # noqa: ASYNC110 (nothing announces it here)
                await asyncio.sleep(0.005)
        one.answering.set()
        await until(health, "one", _Status.SERVING)
        one.answering.clear()
        await until(health, "one", _Status.NOT_SERVING)
    assert one.most_running == 1
    assert one.running == 0


async def test_what_is_no_failure_of_a_backend_ends_the_watch(health: HealthServicer) -> None:
    async def crash() -> None:
        raise LookupError("a fault of ours")

    async with asyncio.timeout(10):
        with pytest.raises(LookupError):
            await backends.watch_backends(health, "svc", {"one": crash})
