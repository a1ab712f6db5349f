"""One WriteRecording stream: a reader that takes events in, and acknowledgements as they become durable."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import aclosing

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import BadFieldError, HeimdallError
from heimdall.runtime.settings import MeshSettings
from heimdall.runtime.streams import heartbeat_now, receive
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest, WriteRecordingResponse
from storage_svc.recordings import Recordings, RecordingWriter
from storage_svc.requests import check_finish, check_open


async def write_recording(
    recordings: Recordings, requests: AsyncIterator[WriteRecordingRequest], mesh: MeshSettings
) -> AsyncIterator[WriteRecordingResponse]:
    """Answers one WriteRecording call.

    Args:
        recordings: The recordings of this service.
        requests: The caller's messages.
        mesh: Times of heartbeats and idleness.

    Yields:
        opened, then acknowledgements and heartbeats, then the finished recording unless the caller half-closed.

    Raises:
        HeimdallError: Why the stream can not go on; what was accepted before stays.
    """
    async with aclosing(receive(requests, mesh.idle_timeout_s)) as messages:
        opening = _opening(await anext(messages, None))
        writer = await recordings.open(opening)
        try:
            acknowledged = writer.durable_index
            yield WriteRecordingResponse(opened=WriteRecordingResponse.Opened(next_sample_index=acknowledged))
            reader = asyncio.create_task(_read(recordings, writer, messages), context=contextvars.copy_context())
            reader.add_done_callback(lambda _: writer.changed.set())
            try:
                while True:
                    try:
                        async with asyncio.timeout(mesh.heartbeat_interval_s):
                            await writer.changed.wait()
                    except TimeoutError:
                        yield WriteRecordingResponse(heartbeat=heartbeat_now())
                        continue
                    writer.changed.clear()
                    if writer.durable_index > acknowledged:
                        acknowledged = writer.durable_index
                        yield WriteRecordingResponse(ack=WriteRecordingResponse.Ack(next_sample_index=acknowledged))
                    if reader.done():
                        break
                    if writer.failure is not None:
                        raise writer.failure
                recording = reader.result()
                if recording is not None:
                    yield WriteRecordingResponse(recording=recording)
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
        finally:
            await recordings.release(writer)


async def _read(
    recordings: Recordings, writer: RecordingWriter, messages: AsyncIterator[WriteRecordingRequest]
) -> Recording | None:
    """Takes events in until finish, and returns the recording; None after a half-close."""
    async for message in messages:
        kind = message.WhichOneof("request")
        if kind == "event":
            await writer.accept(message.event)
        elif kind == "finish":
            check_finish(message.finish)
            return await recordings.finish(writer, message.finish)
        else:
            raise _unexpected(kind, "send an event or finish")
    await writer.commit()
    return None


def _opening(message: WriteRecordingRequest | None) -> WriteRecordingRequest.Open:
    kind = None if message is None else message.WhichOneof("request")
    if message is None or kind != "open":
        raise _unexpected(kind, "the first message must be open")
    check_open(message.open)
    return message.open


def _unexpected(kind: str | None, instead: str) -> HeimdallError:
    text = f"{'is missing or empty' if kind is None else 'can not come here'}; {instead}"
    return BadFieldError(ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, kind or "request", text)
