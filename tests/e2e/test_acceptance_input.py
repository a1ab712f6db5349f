"""Bad input to a running mesh: what its author is told, that nothing comes of it, and that no process minds."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import MethodDescriptorProto

from heimdall.local import SERVICE_NAMES
from heimdall.runtime.options import MAX_MESSAGE_BYTES
from heimdall.runtime.settings import load_settings
from tests.conftest import REPO_ROOT
from tests.e2e.live_mesh import LiveMesh

_WAIT_S = 10.0
_NO_MESSAGE = b"\xff\xff\xff\xff"


def _methods(name: str) -> list[tuple[str, MethodDescriptorProto]]:
    """Returns path and description of each method of a service, from the shipped descriptor set."""
    shipped = (REPO_ROOT / "heimdall" / "heimdall.protoset").read_bytes()
    return [
        (f"/{file.package}.{service.name}/{method.name}", method)
        for file in descriptor_pb2.FileDescriptorSet.FromString(shipped).file
        if file.package == f"heimdall.{name}.v1"
        for service in file.service
        for method in service.method
    ]


def _target(mesh: LiveMesh, name: str) -> str:
    section = load_settings(mesh.folder / "heimdall.toml").mesh
    return section.fetcher_targets[0] if name == "fetcher" else str(getattr(section, f"{name}_target"))


async def _call(channel: grpc.aio.Channel, path: str, method: MethodDescriptorProto, sent: bytes) -> None:
    """Calls a method with these bytes as its only request, and reads one answer."""
    if method.client_streaming:
        both: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
        stream = both(timeout=_WAIT_S)
        await stream.write(sent)
        await stream.read()
    elif method.server_streaming:
        down: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
        await down(sent, timeout=_WAIT_S).read()
    else:
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        await unary(sent, timeout=_WAIT_S)


@pytest.mark.parametrize(
    ("sent", "code"),
    [(_NO_MESSAGE, grpc.StatusCode.UNKNOWN), (bytes(MAX_MESSAGE_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED)],
    ids=["no message", "too long"],
)
async def test_what_can_not_be_a_message_gets_grpcs_own_code_and_no_process_minds(
    live_mesh: LiveMesh, sent: bytes, code: grpc.StatusCode
) -> None:
    before = live_mesh.process_ids()
    log = live_mesh.folder / "up.log"
    logged_before = len(log.read_text())
    for name in SERVICE_NAMES:
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(_target(live_mesh, name), options=options) as channel:
            methods = _methods(name)
            assert len(methods) >= 2
            for path, method in methods:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await _call(channel, path, method, sent)
                assert caught.value.code() == code, path
    assert live_mesh.run("health").returncode == 0
    assert live_mesh.process_ids() == before
    logged = log.read_text()[logged_before:]
    assert "Traceback" not in logged
    assert "level=error" not in logged


def test_a_bad_request_is_one_line_that_names_the_field_and_leaves_nothing(live_mesh: LiveMesh) -> None:
    good = {"frequency": "7100kHz", "--duration": "1s", "--receiver": "good"}
    wrong = [
        ({"frequency": "7100khz"}, "'FREQUENCY'", "7100kHz"),
        ({"frequency": "7.1"}, "spec.tuning.center_frequency_hz", "from 1000"),
        ({"--duration": "1 minute"}, "'--duration'", "2m"),
        ({"--duration": "301s"}, "spec.duration", "at most 300 s"),
        ({"--receiver": "nobody"}, "spec.receiver_ids[0]", "known are: full, good"),
        ({"--receiver": "Good"}, "spec.receiver_ids[0]", "[a-z0-9]"),
        ({"--max-wait": "2m"}, "spec.max_wait", "at most 60 s"),
        ({"--start-time": "-1m"}, "spec.start_time", "5 s in the past"),
        ({"--min-receivers": "2"}, "spec.min_receivers", "from 1 to"),
    ]
    for change, field, remedy in wrong:
        frequency, *options = (good | change).items()
        ran = live_mesh.run("acquire", frequency[1], *(word for option in options for word in option))
        assert (ran.returncode, ran.stdout) == (2, ""), change
        (line,) = ran.stderr.splitlines()
        assert line.startswith("error: ")
        assert field in line
        assert remedy in line
    for command in (["acquisitions", "list"], ["recordings", "list"], ["measurements"]):
        assert live_mesh.run(*command, "--json").stdout == ""
    assert not any((live_mesh.folder / "data" / "spool").iterdir())
    assert "Traceback" not in (live_mesh.folder / "up.log").read_text()
