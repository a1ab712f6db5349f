"""A stopping service, asked by an operator's grpcurl."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.integration.built_tools import built_tool
from tests.integration.service_process import FULL_NAMES, ready_process

_WAIT_S = 20.0
_PARTS = {"storage": ("/objects", "/measurements", "/spool")}


async def _status(grpcurl: Path, address: str, health_name: str) -> str:
    """Returns what grpc.health.v1.Health/Check answers for a name."""
    process = await asyncio.create_subprocess_exec(
        grpcurl,
        "-plaintext",
        "-d",
        json.dumps({"service": health_name}),
        address,
        "grpc.health.v1.Health/Check",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(_WAIT_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return str(json.loads(output)["status"])


@pytest.mark.parametrize("name", sorted(FULL_NAMES))
async def test_every_health_name_is_not_serving_while_the_drain_lasts(name: str, tmp_path: Path) -> None:
    grpcurl = built_tool("grpcurl")
    health_names = ("", FULL_NAMES[name], *(FULL_NAMES[name] + part for part in _PARTS.get(name, ())))
    async with ready_process(name, tmp_path, {"HEIMDALL_MESH_DRAIN_NOTICE_S": "60"}) as service:
        address = await service.address()
        async with asyncio.timeout(_WAIT_S):
            for health_name in health_names:
                while await _status(grpcurl, address, health_name) != "SERVING":
                    continue
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_WAIT_S):
            while await _status(grpcurl, address, "") != "NOT_SERVING":
                continue
        for health_name in health_names:
            assert await _status(grpcurl, address, health_name) == "NOT_SERVING", health_name
        assert service.process.returncode is None
