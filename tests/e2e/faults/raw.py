"""Calls of any method with any bytes, and what channelz tells of the calls that a service has open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from heimdall.coordinator.v1 import coordinator_pb2
from heimdall.dsp.v1 import dsp_pb2
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.fetcher.v1 import fetcher_pb2
from heimdall.runtime.options import CHANNEL_OPTIONS
from heimdall.runtime.streams import ClientStream
from heimdall.storage.v1 import storage_pb2

_FILES = {"coordinator": coordinator_pb2, "fetcher": fetcher_pb2, "dsp": dsp_pb2, "storage": storage_pb2}


@dataclass(frozen=True)
class Method:
    """One method of one of the services."""

    service: str
    """Short name of the service."""
    path: str
    """As in the request of HTTP/2."""
    takes_stream: bool
    """Whether its requests are a stream."""
    gives_stream: bool
    """Whether its answers are a stream."""

    def __str__(self) -> str:
        return self.path.rpartition("/")[2]


def all_methods() -> list[Method]:
    """Returns every method of every service."""
    return [
        Method(name, f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming)
        for name, file in _FILES.items()
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def method(name: str) -> Method:
    """Returns a method by its name, which no other has."""
    (found,) = (one for one in all_methods() if str(one) == name)
    return found


def raw_channel(target: str) -> grpc.aio.Channel:
    """Opens a channel without any of the mesh's own limits, deadlines and repeats."""
    # Without its own pool a channel shares the connection of another one of this process.
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(target, options=options)


async def start(
    channel: grpc.aio.Channel, method: Method, messages: Sequence[Message | bytes], timeout_s: float = 60.0
) -> Any:
    """Starts a call and sends messages, and no end of them; whoever starts it cancels it.

    Args:
        channel: To the service.
        method: The method.
        messages: What is sent; one if the method does not take a stream.
        timeout_s: Deadline of the call.
    """
    requests = [_encoded(message) for message in messages]
    kind = f"{'stream' if method.takes_stream else 'unary'}_{'stream' if method.gives_stream else 'unary'}"
    begin = getattr(channel, kind)(method.path)
    if not method.takes_stream:
        return begin(requests[0], timeout=timeout_s)
    call = begin(timeout=timeout_s)
    # Whoever reads gets the same failure.
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for request in requests:
            await call.write(request)
    return call


@asynccontextmanager
async def opened(
    channel: grpc.aio.Channel, method: Method, messages: Sequence[Message | bytes], timeout_s: float = 60.0
) -> AsyncIterator[ClientStream[bytes, bytes]]:
    """Opens a stream as start does; its receive tells the peer's own failure, which gRPC may replace by another."""
    call = await start(channel, method, [] if method.takes_stream else messages, timeout_s)
    never_s = 60 + timeout_s
    async with ClientStream[bytes, bytes](
        call, peer=method.service, make_heartbeat=bytes, heartbeat_interval_s=never_s, idle_timeout_s=never_s
    ) as stream:
        with suppress(HeimdallError):
            for message in messages if method.takes_stream else ():
                await stream.send(_encoded(message))
        yield stream


async def send(
    channel: grpc.aio.Channel, method: Method, messages: Sequence[Message | bytes], timeout_s: float = 10.0
) -> HeimdallError | None:
    """Calls a method with any messages and reads its answers to the end.

    Args:
        channel: To the service.
        method: The method.
        messages: What is sent; one if the method does not take a stream, which else is left open.
        timeout_s: Deadline of the call.

    Returns:
        Why the call failed; None if it succeeded.
    """
    try:
        if method.takes_stream:
            async with opened(channel, method, messages, timeout_s) as stream:
                while await stream.receive() is not None:
                    continue
        else:
            call = await start(channel, method, messages, timeout_s)
            try:
                await (count_rest(call) if method.gives_stream else call)
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error, method.service)
            finally:
                call.cancel()
    except HeimdallError as error:
        return error
    return None


def code_name(error: HeimdallError) -> str:
    """Returns the name of the gRPC code that a call failed with."""
    return error.metadata.get("code", error.code.name)


async def count_rest(call: Any) -> int:
    """Reads a call to its end; returns how many answers came."""
    count = 0
    while await call.read():
        count += 1
    return count


async def open_call_count(target: str) -> int:
    """Returns how many calls a service has open now, those of health watches included."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        stub: Any = channelz_pb2_grpc.ChannelzStub(channel)  # type: ignore[arg-type]  # its stubs know no aio
        answer = await stub.GetServers(channelz_pb2.GetServersRequest(), timeout=5)
    (server,) = answer.server
    # This very question is open too.
    return int(server.data.calls_started - server.data.calls_succeeded - server.data.calls_failed) - 1


def _encoded(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
