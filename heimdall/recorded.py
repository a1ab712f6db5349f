"""The samples of a recording as complex amplitudes, with their times and without joining them across a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, End, Gap, IqEvent, Segment
from heimdall.common.v1.iq_pb2 import SampleFormat as FormatNumber
from heimdall.errors import BadFieldError, FieldViolation, InvalidFieldsError
from heimdall.samples import SampleCoding, SampleFormat, Samples
from heimdall.timing import unix_ns_at

_FORMATS: Final = {FormatNumber.Value(f"SAMPLE_FORMAT_{known.name}"): known for known in SampleFormat}


@dataclass(frozen=True, eq=False)
class SampleRun:
    """Consecutive samples: none is missing between them, and one description holds for all of them."""

    segment: Segment
    """What the receiver did meanwhile: centre frequency, announced rate, gain, passband."""
    first_sample_index: int
    """Index of the first sample; 0 is the first sample of the window."""
    first_sample_unix_ns: int
    """UTC of the first sample in ns since 1970."""
    samples: Samples
    """Complex amplitudes, complex64; magnitude 1 is 0 dBFS."""
    overload: bool
    """Whether the receiver reported an overload of its converter meanwhile."""

    @property
    def end_sample_index(self) -> int:
        """Index after the last sample."""
        return self.first_sample_index + len(self.samples)


@dataclass(frozen=True, eq=False)
class RecordedSamples:
    """A recording, or a part of it. Runs and gaps together cover it without a hole."""

    segments: tuple[Segment, ...]
    """The descriptions that hold in it, in order; a changed gain or passband begins another, and another run."""
    sample_rate_hz: float
    """Fitted sample rate in Hz; the announced one if none was fitted."""
    first_sample_index: int
    """Index of its first sample, received or lost."""
    end_sample_index: int
    """Index after its last sample, received or lost."""
    runs: tuple[SampleRun, ...]
    """Its samples, in order. Their times follow the final time solution, where there is one."""
    gaps: tuple[Gap, ...]
    """What is missing, in order, each with its reason."""
    end: End
    """How the stream ended, with the final time solution."""

    @property
    def center_frequency_hz(self) -> float:
        """Radio frequency at 0 Hz of the baseband in Hz, as the first segment says."""
        return self.segments[0].center_frequency_hz

    def filled_with_nan(self) -> Samples:
        """Returns everything as one array that begins at first_sample_index; I and Q of a lost sample are NaN."""
        joined = np.full(self.end_sample_index - self.first_sample_index, complex(np.nan, np.nan), np.complex64)
        for run in self.runs:
            place = run.first_sample_index - self.first_sample_index
            joined[place : place + len(run.samples)] = run.samples
        return joined


@dataclass
class _OpenRun:
    """A run that still grows; its samples as they came."""

    segment: Segment
    coding: SampleCoding
    first_block: Block
    data: bytearray = field(default_factory=bytearray)
    overload: bool = False


async def sample_runs(events: AsyncIterable[IqEvent]) -> AsyncGenerator[SampleRun, None]:
    """Decodes the events of a recording block by block, which takes little memory.

    Args:
        events: A segment, then blocks and gaps in order, then one end.

    Yields:
        A run for each block, with the time that it had when it was made. An index that jumps is a gap.

    Raises:
        HeimdallError: If the events are none of a recording.
    """
    order = _Order()
    async for event in events:
        order.accept(event)
        if event.HasField("block"):
            block, samples = event.block, order.coding.decode(event.block.samples)
            yield SampleRun(
                order.segments[-1], block.first_sample_index, block.first_sample_unix_ns, samples, block.overload
            )


async def recorded_samples(events: AsyncIterable[IqEvent]) -> RecordedSamples:
    """Reads the events of a recording, or of a part of it, to their end.

    Args:
        events: A segment, then blocks and gaps in order, then one end.

    Raises:
        HeimdallError: If the events are none of a recording; INVALID_FIELD if there is neither a sample nor a gap.
    """
    order, runs, gaps, end = _Order(), list[_OpenRun](), list[Gap](), End()
    begins = True
    async for event in events:
        order.accept(event)
        if event.HasField("block"):
            if begins:
                runs.append(_OpenRun(order.segments[-1], order.coding, event.block))
            runs[-1].data += event.block.samples
            runs[-1].overload |= event.block.overload
            begins = False
        elif event.HasField("gap"):
            gaps.append(event.gap)
            begins = True
        elif event.HasField("segment"):
            begins = True
        elif event.HasField("end"):
            end = event.end
    if order.first_index is None:
        raise InvalidFieldsError([FieldViolation("range", "holds no sample and no gap of the recording")])
    fitted = end.HasField("time_solution")
    return RecordedSamples(
        segments=tuple(order.segments),
        sample_rate_hz=end.time_solution.sample_rate_hz if fitted else order.segments[0].sample_rate_hz,
        first_sample_index=order.first_index,
        end_sample_index=order.next_index,
        runs=tuple([await asyncio.to_thread(_close, run, end) for run in runs]),
        gaps=tuple(gaps),
        end=end,
    )


def _close(run: _OpenRun, end: End) -> SampleRun:
    index, unix_ns = run.first_block.first_sample_index, run.first_block.first_sample_unix_ns
    if end.HasField("time_solution"):
        unix_ns = unix_ns_at(end.time_solution, index)
    samples = run.coding.decode(run.data)
    run.data.clear()
    return SampleRun(run.segment, index, unix_ns, samples, run.overload)


class _Order:
    """Sees that what comes can be read, and that each event begins where the one before it ended."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.first_index: int | None = None
        self.next_index = 0
        self._coding: SampleCoding | None = None

    @property
    def coding(self) -> SampleCoding:
        """How samples read from here on."""
        if self._coding is None:
            raise BadFieldError(ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, "event", "came before any segment")
        return self._coding

    def accept(self, event: IqEvent) -> None:
        """Takes the next event."""
        if event.HasField("segment"):
            self._coding = _coding(event.segment)
            self.segments.append(event.segment)
        elif event.HasField("block"):
            _check_length(event.block, self.coding)
            self._advance(event.block.first_sample_index, event.block.sample_count)
        elif event.HasField("gap"):
            self._advance(event.gap.first_lost_index, event.gap.lost_sample_count)

    def _advance(self, first_index: int, count: int) -> None:
        if self.first_index is None:
            self.first_index = first_index
        elif first_index != self.next_index:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_INDEX_MISMATCH,
                "event",
                f"begins at sample {first_index}, must begin at {self.next_index}, where the one before it ended",
                index=first_index,
                expected_index=self.next_index,
            )
        self.next_index = first_index + count


def _coding(segment: Segment) -> SampleCoding:
    if segment.sample_format not in _FORMATS:
        raise BadFieldError(
            ErrorReason.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT,
            "event.segment.sample_format",
            f"{segment.sample_format} is none of {', '.join(known.name for known in SampleFormat)}",
            value=segment.sample_format,
        )
    try:
        return SampleCoding(_FORMATS[segment.sample_format], segment.full_scale, segment.zero_offset)
    except ValueError as error:
        raise InvalidFieldsError([FieldViolation("event.segment", str(error))]) from error


def _check_length(block: Block, coding: SampleCoding) -> None:
    if len(block.samples) != block.sample_count * coding.sample_size_bytes:
        raise BadFieldError(
            ErrorReason.ERROR_REASON_BLOCK_LENGTH_MISMATCH,
            "event.block.samples",
            f"{len(block.samples)} bytes are not {block.sample_count} samples of {coding.sample_size_bytes} bytes",
            byte_count=len(block.samples),
        )
