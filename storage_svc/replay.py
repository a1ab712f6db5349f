"""Replays a stored recording as the events that it was written from."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, End, EndReason, IqEvent, Segment
from heimdall.errors import HeimdallError
from heimdall.timing import NS_PER_S
from storage_svc.contents import Contents
from storage_svc.spool import SAMPLE_BYTES

MAX_BLOCK_BYTES: Final = 256 * 1024
"""Most sample bytes in a replayed block."""

_BLOCKS_PER_S: Final = 4
_READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True)
class SampleRange:
    """The part of a recording to replay."""

    first: int
    """First sample index, inclusive."""
    end: int
    """End, exclusive; above the first."""


@dataclass(frozen=True)
class _Step:
    """An event to send, and how many samples have to be put into it."""

    event: IqEvent
    size_bytes: int = 0


def recording_range(contents: Contents) -> SampleRange:
    """Returns the range of everything that a recording holds or has lost."""
    end = 0
    for event in contents.events:
        if event.HasField("block"):
            end = event.block.first_sample_index + event.block.sample_count
        elif event.HasField("gap"):
            end = event.gap.first_lost_index + event.gap.lost_sample_count
    return SampleRange(0, end)


async def replay(
    contents: Contents,
    wanted: SampleRange,
    read: Callable[[int, int], Awaitable[bytes]],
    *,
    data_sha512: str | None,
) -> AsyncIterator[IqEvent]:
    """Yields the segment in force, then blocks and gaps inside the range, then one end.

    Args:
        contents: What the recording holds.
        wanted: The part to replay.
        read: Returns bytes of the samples, given offset and size in bytes.
        data_sha512: Checksum of all samples, compared when all of them are replayed; None if there is none.

    Raises:
        HeimdallError: CHECKSUM_MISMATCH if samples are missing or not those that were stored.
    """
    whole = recording_range(contents)
    wanted = SampleRange(wanted.first, min(wanted.end, whole.end))
    skipped_bytes, steps = _plan(contents, wanted)
    checksum = hashlib.sha512() if data_sha512 and wanted == whole else None
    offset_bytes = skipped_bytes
    batch: list[_Step] = []
    batch_bytes = 0
    for step in steps:
        batch.append(step)
        batch_bytes += step.size_bytes
        if batch_bytes >= _READ_BYTES:
            async for event in _fill(batch, offset_bytes, batch_bytes, read, checksum):
                yield event
            offset_bytes, batch, batch_bytes = offset_bytes + batch_bytes, [], 0
    async for event in _fill(batch, offset_bytes, batch_bytes, read, checksum):
        yield event
    if checksum is not None and checksum.hexdigest() != data_sha512:
        raise _mismatch("the samples do not match their SHA-512", {"expected_sha512": data_sha512})
    yield IqEvent(end=_end(contents, wanted, whole))


async def _fill(
    steps: list[_Step],
    offset_bytes: int,
    size_bytes: int,
    read: Callable[[int, int], Awaitable[bytes]],
    checksum: hashlib._Hash | None,
) -> AsyncIterator[IqEvent]:
    """Yields the events of some steps with their samples, which lie one after the other."""
    content = await read(offset_bytes, size_bytes) if size_bytes else b""
    if len(content) != size_bytes:
        raise _mismatch(
            f"the samples end after {offset_bytes + len(content)} bytes", {"missing_bytes": size_bytes - len(content)}
        )
    if checksum is not None:
        await asyncio.to_thread(checksum.update, content)
    place = 0
    for step in steps:
        if step.size_bytes:
            step.event.block.samples = content[place : place + step.size_bytes]
            place += step.size_bytes
        yield step.event


def _plan(contents: Contents, wanted: SampleRange) -> tuple[int, Iterator[_Step]]:
    """Returns the bytes of samples before the range, and the events inside it."""
    skipped = 0
    sample_bytes = 0
    for event in contents.events:
        if event.HasField("segment"):
            sample_bytes = SAMPLE_BYTES[event.segment.sample_format]
        elif event.HasField("block"):
            block = event.block
            skipped += min(max(wanted.first - block.first_sample_index, 0), block.sample_count)
    return skipped * sample_bytes, _steps(contents, wanted)


def _steps(contents: Contents, wanted: SampleRange) -> Iterator[_Step]:
    segment: Segment | None = None
    unsent: list[Segment] = []
    for event in contents.events:
        if event.HasField("segment"):
            segment = event.segment
            # Of the segments up to the start of the range only the last is still in force.
            if segment.first_sample_index <= wanted.first:
                unsent = []
            if segment.first_sample_index < wanted.end:
                unsent.append(segment)
        elif segment is not None:
            for step in _parts(event, segment, wanted):
                yield from (_Step(IqEvent(segment=waiting)) for waiting in unsent)
                unsent = []
                yield step
    yield from (_Step(IqEvent(segment=waiting)) for waiting in unsent)


def _parts(event: IqEvent, segment: Segment, wanted: SampleRange) -> Iterator[_Step]:
    """Yields what of a block or gap lies inside the range."""
    if event.HasField("block"):
        for block in _cut(event.block, segment, wanted):
            yield _Step(IqEvent(block=block), block.sample_count * SAMPLE_BYTES[segment.sample_format])
        return
    lost = _overlap(event.gap.first_lost_index, event.gap.lost_sample_count, wanted)
    if lost:
        part = IqEvent(gap=event.gap)
        part.gap.first_lost_index = max(event.gap.first_lost_index, wanted.first)
        part.gap.lost_sample_count = lost
        yield _Step(part)


def _cut(block: Block, segment: Segment, wanted: SampleRange) -> Iterator[Block]:
    """Yields the parts of a block inside the range, none longer than the producers' limits."""
    longest = max(
        1,
        min(
            MAX_BLOCK_BYTES // SAMPLE_BYTES[segment.sample_format],
            int(segment.sample_rate_hz / _BLOCKS_PER_S),
        ),
    )
    first = max(block.first_sample_index, wanted.first)
    end = min(block.first_sample_index + block.sample_count, wanted.end)
    if first == block.first_sample_index and end - first == block.sample_count <= longest:
        yield block
        return
    for index in range(first, end, longest):
        count = min(longest, end - index)
        distance = index - block.first_sample_index
        yield Block(
            first_sample_index=index,
            first_sample_unix_ns=block.first_sample_unix_ns + round(distance * NS_PER_S / segment.sample_rate_hz),
            sample_count=count,
            stamps=[stamp for stamp in block.stamps if index <= stamp.sample_index < index + count],
            overload=block.overload,
        )


def _end(contents: Contents, wanted: SampleRange, whole: SampleRange) -> End:
    """Returns the end as it was written, with the counts of the range."""
    end = End()
    if contents.end is not None and wanted.end == whole.end:
        end.CopyFrom(contents.end)
    else:
        end.reason = EndReason.END_REASON_STOPPED
    if contents.time_solution is not None:
        end.time_solution.CopyFrom(contents.time_solution)
    received = lost = 0
    for event in contents.events:
        if event.HasField("block"):
            received += _overlap(event.block.first_sample_index, event.block.sample_count, wanted)
        elif event.HasField("gap"):
            lost += _overlap(event.gap.first_lost_index, event.gap.lost_sample_count, wanted)
    end.end_sample_index = max(wanted.first, wanted.end)
    end.received_sample_count, end.lost_sample_count = received, lost
    return end


def _overlap(first: int, count: int, wanted: SampleRange) -> int:
    return max(0, min(first + count, wanted.end) - max(first, wanted.first))


def _mismatch(text: str, facts: dict[str, object]) -> HeimdallError:
    return HeimdallError(
        ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH, f"{text}; the recording is damaged", metadata=facts
    )
