"""The real grpcurl against the mesh, as an operator without our code uses it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.built_tools import built_tool
from tests.integration.mesh import Mesh, running_mesh, station
from tests.integration.service_process import FULL_NAMES, ready_process

_WAIT_S = 40.0
_METHODS = {
    "coordinator": {"StartAcquisition", "GetAcquisition", "ListAcquisitions", "WatchAcquisition", "CancelAcquisition"},
    "fetcher": {"ListReceivers", "ProbeReceiver", "StreamIq"},
    "dsp": {"Process", "ComputeSpectrum"},
    "storage": {"WriteRecording", "ReadRecording", "ListRecordings", "WriteMeasurements", "QueryMeasurements"},
}


@pytest.fixture(scope="module")
def grpcurl_path() -> Path:
    return built_tool("grpcurl")


@pytest.fixture
async def mesh(tmp_path: Path, grpcurl_path: Path) -> AsyncIterator[Mesh]:
    async with running_mesh(tmp_path, [station("alfa"), station("bravo")]) as running:
        yield running


async def grpcurl(path: Path, *arguments: str) -> tuple[int, str]:
    """Runs grpcurl without TLS and returns its exit status and what it printed, errors included."""
    process = await asyncio.create_subprocess_exec(
        path,
        "-plaintext",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_WAIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def answers(path: Path, target: str, method: str, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls a method and returns its answers, of which a stream has several."""
    status, output = await grpcurl(path, "-d", json.dumps(request), target, method)
    assert status == 0, output
    decoder, found, position = json.JSONDecoder(), list[dict[str, Any]](), 0
    while position < len(output.rstrip()):
        answer, position = decoder.raw_decode(output, position)
        found.append(answer)
        position += len(output[position:]) - len(output[position:].lstrip())
    return found


async def test_it_lists_and_describes_every_service(grpcurl_path: Path, mesh: Mesh) -> None:
    for name, full_name in FULL_NAMES.items():
        target = mesh.target(name)
        _, listed = await grpcurl(grpcurl_path, target, "list")
        assert {full_name, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= set(listed.split())
        _, listed = await grpcurl(grpcurl_path, target, "list", full_name)
        assert {f"{full_name}.{method}" for method in _METHODS[name]} <= set(listed.split())
        status, described = await grpcurl(grpcurl_path, target, "describe", full_name)
        assert status == 0
        assert "rpc " in described
    status, described = await grpcurl(grpcurl_path, mesh.target("storage"), "describe", "heimdall.common.v1.IqEvent")
    assert status == 0
    assert ".heimdall.common.v1.Segment segment = 1;" in described


async def test_the_descriptor_set_serves_those_without_reflection(
    grpcurl_path: Path, mesh: Mesh, repo_root: Path
) -> None:
    protoset = str(repo_root / "heimdall" / "heimdall.protoset")
    status, output = await grpcurl(
        grpcurl_path, "-protoset", protoset, mesh.target("coordinator"), f"{FULL_NAMES['coordinator']}/GetLimits"
    )
    assert status == 0, output
    assert json.loads(output)["maxDuration"] == "300s"


async def test_health_checks_answer_for_every_name(grpcurl_path: Path, mesh: Mesh) -> None:
    for name, full_name in FULL_NAMES.items():
        for service in ("", full_name):
            check = await answers(grpcurl_path, mesh.target(name), "grpc.health.v1.Health/Check", {"service": service})
            assert check == [{"status": "SERVING"}]
    status, output = await grpcurl(
        grpcurl_path, "-d", '{"service": "nothing"}', mesh.target("dsp"), "grpc.health.v1.Health/Check"
    )
    assert status != 0
    assert "NotFound" in output


@pytest.mark.parametrize("name", sorted(FULL_NAMES))
async def test_a_health_watch_sees_the_service_go(grpcurl_path: Path, tmp_path: Path, name: str) -> None:
    variables = {"HEIMDALL_MESH_DRAIN_NOTICE_S": "0.5"}
    async with ready_process(name, tmp_path, variables) as service:
        request = json.dumps({"service": FULL_NAMES[name]})
        watch = await asyncio.create_subprocess_exec(
            grpcurl_path,
            "-plaintext",
            "-d",
            request,
            await service.address(),
            "grpc.health.v1.Health/Watch",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert watch.stdout is not None
        seen = ""
        async with asyncio.timeout(_WAIT_S):
            while '"SERVING"' not in seen:
                seen += (await watch.stdout.readline()).decode()
            service.process.send_signal(signal.SIGTERM)
            seen += (await watch.stdout.read()).decode()
            await watch.wait()
        assert '"NOT_SERVING"' in seen
        assert await service.ended() == 0


async def test_it_starts_and_watches_an_acquisition(grpcurl_path: Path, mesh: Mesh) -> None:
    target, service = mesh.target("coordinator"), FULL_NAMES["coordinator"]
    spec = {"tuning": {"centerFrequencyHz": 7_100_000}, "duration": "1s", "receiverIds": ["alfa", "bravo"]}
    (started,) = await answers(grpcurl_path, target, f"{service}/StartAcquisition", {"spec": spec})
    acquisition_id = started["acquisition"]["acquisitionId"]
    snapshots = await answers(grpcurl_path, target, f"{service}/WatchAcquisition", {"acquisitionId": acquisition_id})
    final = snapshots[-1]["acquisition"]
    assert final["state"] == "STATE_SUCCEEDED", final
    revisions = [int(snapshot["acquisition"]["revision"]) for snapshot in snapshots]
    assert revisions == sorted(set(revisions))
    for outcome in final["outcomes"]:
        # int64 is text in protobuf JSON; 12,000 samples a second, give or take the rate's own error.
        assert abs(int(outcome["storedSampleCount"]) - 12_000) <= 1
        assert "lostSampleCount" not in outcome


async def test_it_cancels_an_acquisition(grpcurl_path: Path, mesh: Mesh) -> None:
    target, service = mesh.target("coordinator"), FULL_NAMES["coordinator"]
    spec = {"tuning": {"centerFrequencyHz": 7_100_000}, "duration": "60s", "receiverIds": ["alfa"]}
    (started,) = await answers(grpcurl_path, target, f"{service}/StartAcquisition", {"spec": spec})
    wanted = {"acquisitionId": started["acquisition"]["acquisitionId"]}
    (cancelled,) = await answers(grpcurl_path, target, f"{service}/CancelAcquisition", wanted)
    assert cancelled["acquisition"]["state"] == "STATE_CANCELLED"


async def test_bad_fields_are_told_in_full(grpcurl_path: Path, mesh: Mesh) -> None:
    spec = {"tuning": {"centerFrequencyHz": 5}, "duration": "0s", "receiverIds": ["alfa"]}
    status, output = await grpcurl(
        grpcurl_path,
        "-d",
        json.dumps({"spec": spec}),
        mesh.target("coordinator"),
        f"{FULL_NAMES['coordinator']}/StartAcquisition",
    )
    assert status != 0
    assert "InvalidArgument" in output
    assert "spec.tuning.center_frequency_hz" in output
    assert "spec.duration" in output
    assert "INVALID_FIELD" in output
    assert "Traceback" not in output
