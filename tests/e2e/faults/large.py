"""A recording of many megabytes, written to storage by a caller of its own."""

from __future__ import annotations

import random
from typing import Final

from heimdall.common.v1.iq_pb2 import Block, IqEvent
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1.storage_pb2 import ReadRecordingRequest
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from tests.integration.storage.support import WINDOW_START_UNIX_NS, Writer, end_at, opening, segment

LARGE: Final = ReadRecordingRequest(acquisition_id="large", receiver_id="rx-1")
"""Asks for the recording."""
LARGE_BLOCK_COUNT: Final = 128
_BLOCK_SAMPLES: Final = 65_000
_RATE_HZ: Final = 4.0 * _BLOCK_SAMPLES


async def write_large_recording(target: str) -> None:
    """Writes LARGE_BLOCK_COUNT blocks of 260 kB, 33 MB in all."""
    samples = random.Random(1).randbytes(4 * _BLOCK_SAMPLES)
    async with open_channel("storage", target) as channel, Writer(StorageServiceStub(channel)) as writer:
        await writer.open(opening(LARGE.acquisition_id, LARGE.receiver_id))
        await writer.send(segment(sample_rate_hz=_RATE_HZ))
        for number in range(LARGE_BLOCK_COUNT):
            block = Block(
                first_sample_index=number * _BLOCK_SAMPLES,
                first_sample_unix_ns=WINDOW_START_UNIX_NS + number * 250_000_000,
                sample_count=_BLOCK_SAMPLES,
                samples=samples,
            )
            await writer.send(IqEvent(block=block))
        await writer.finish(end_at(LARGE_BLOCK_COUNT * _BLOCK_SAMPLES))
