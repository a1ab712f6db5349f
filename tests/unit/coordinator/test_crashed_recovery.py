"""A coordinator whose recovery crashes would never become ready; it ends instead."""

from __future__ import annotations

import asyncio

import pytest

from coordinator_svc.registry import Registry
from coordinator_svc.service import define
from heimdall.runtime.background import ServiceFailedError
from heimdall.runtime.server import running_server
from heimdall.runtime.settings import CoordinatorSettings, MeshSettings, Settings


async def test_crashed_recovery_ends_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(registry: Registry) -> None:
        raise KeyError("an acquisition that makes no sense")

    monkeypatch.setattr(Registry, "recover", crash)
    settings = Settings(
        coordinator=CoordinatorSettings(port=0), mesh=MeshSettings(drain_notice_s=0, drain_timeout_s=0.2)
    )
    failed = asyncio.Event()
    with pytest.raises(ServiceFailedError, match="recovery crashed: KeyError"):
        async with running_server(define(settings), settings, on_failure=failed.set), asyncio.timeout(10):
            await failed.wait()
