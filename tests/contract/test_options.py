"""Every channel and server option is one that the installed gRPC knows: it ignores others without a word."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from heimdall.runtime.options import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, SERVER_OPTIONS
from heimdall.runtime.settings import MeshSettings


@pytest.fixture(scope="module")
def binary() -> bytes:
    spec = find_spec("grpc._cython.cygrpc")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


@pytest.mark.parametrize("name", sorted({name for name, _ in (*CHANNEL_OPTIONS, *SERVER_OPTIONS)}))
def test_grpc_knows_the_option(binary: bytes, name: str) -> None:
    assert name.encode() + b"\0" in binary


def test_an_option_that_does_not_exist_would_be_noticed(binary: bytes) -> None:
    # The misspelling of min_ping_interval_without_data_ms that is found all over the web.
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms\0" not in binary


def test_no_option_is_given_twice() -> None:
    for options in (CHANNEL_OPTIONS, SERVER_OPTIONS):
        names = [name for name, _ in options]
        assert len(names) == len(set(names))


def test_both_ends_bound_messages_and_windows_alike() -> None:
    shared = {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.http2.bdp_probe": 0,
        "grpc.http2.lookahead_bytes": 524_288,
        "grpc.http2.max_frame_size": 1_048_576,
    }
    for options in (CHANNEL_OPTIONS, SERVER_OPTIONS):
        assert shared.items() <= dict(options).items()


def test_pings_end_a_dead_connection_as_soon_as_they_are_said_to() -> None:
    # Keepalive's own time-out is not acted upon (grpc/grpc#39239), and that of pings is a minute unless it is set.
    for options in (CHANNEL_OPTIONS, SERVER_OPTIONS):
        assert dict(options)["grpc.http2.ping_timeout_ms"] == dict(options)["grpc.keepalive_timeout_ms"]
    client = dict(CHANNEL_OPTIONS)
    idle_timeout_ms = MeshSettings().idle_timeout_s * 1000
    assert client["grpc.keepalive_time_ms"] + client["grpc.http2.ping_timeout_ms"] <= idle_timeout_ms


def test_the_server_tolerates_the_pings_of_our_clients() -> None:
    client, server = dict(CHANNEL_OPTIONS), dict(SERVER_OPTIONS)
    assert server["grpc.http2.min_ping_interval_without_data_ms"] < client["grpc.keepalive_time_ms"]
    assert server["grpc.so_reuseport"] == 0
    assert "grpc.max_connection_age_grace_ms" not in server
