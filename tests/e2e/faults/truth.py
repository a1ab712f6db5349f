"""Holds a stored recording against what the simulated station really sent, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heimdall.client import HeimdallClient
from heimdall.common.v1.iq_pb2 import Block, Gap, GapReason, IqEvent
from simulator import SentFrame
from tests.integration.mesh import SAMPLE_RATE_HZ

FRAME_SAMPLES = 512
TIME_TOLERANCE_NS = round(1e9 / SAMPLE_RATE_HZ)
"""One sample: a stamp wanders by 200 ns, and a time is rounded to a sample."""


@dataclass(frozen=True)
class SentSamples:
    """Everything a station sent, over all its connections, by its own running sample number."""

    first: int
    samples: NDArray[np.int16]
    """Interleaved I and Q from sample number `first` on; shape (n, 2)."""
    is_sent: NDArray[np.bool_]
    """Whether the station sent that sample; shape (n,)."""
    first_unix_ns: int
    """True UTC of sample number `first`."""

    @classmethod
    def of(cls, frames: list[SentFrame]) -> SentSamples:
        """Lays the frames of a station side by side."""
        earliest = min(frames, key=lambda frame: frame.first_sample)
        end = max(frame.first_sample for frame in frames) + FRAME_SAMPLES
        count = end - earliest.first_sample
        samples = np.zeros((count, 2), dtype=np.int16)
        is_sent = np.zeros(count, dtype=np.bool_)
        for frame in frames:
            place = slice(
                frame.first_sample - earliest.first_sample, frame.first_sample - earliest.first_sample + FRAME_SAMPLES
            )
            samples[place] = np.frombuffer(frame.payload, dtype=">i2").reshape(-1, 2)
            is_sent[place] |= not frame.dropped
        return cls(earliest.first_sample, samples, is_sent, earliest.true_unix_ns)

    def number_at(self, unix_ns: int) -> int:
        """Returns the number of the sample that was taken nearest to a time."""
        return self.first + round((unix_ns - self.first_unix_ns) * SAMPLE_RATE_HZ / 1e9)

    def hold(self, block: Block, number: int) -> bool:
        """Returns whether a block is what was sent from a sample number on."""
        begin = number - self.first
        if begin < 0 or begin + block.sample_count > len(self.samples):
            return False
        place = slice(begin, begin + block.sample_count)
        stored = np.frombuffer(block.samples, dtype="<i2").reshape(-1, 2)
        return bool(self.is_sent[place].all() and np.array_equal(stored, self.samples[place]))

    def find(self, block: Block, begin: int, end: int) -> int | None:
        """Returns the sample number from which on a block is what was sent, among a range of them; None if nowhere."""
        begin, end = max(begin, self.first), min(end, self.first + len(self.samples))
        head = np.frombuffer(block.samples[:4], dtype="<i2")
        alike = (self.samples[begin - self.first : end - self.first] == head).all(axis=1)
        return next((begin + int(at) for at in np.flatnonzero(alike) if self.hold(block, begin + int(at))), None)

    def time_of(self, number: int) -> int:
        """Returns the true UTC of a sample in ns since 1970."""
        return self.first_unix_ns + round((number - self.first) * 1e9 / SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class StoredRecording:
    """A recording as it was read back and found true."""

    sample_count: int
    """Samples held, each of which the station sent."""
    gaps: list[Gap]
    """What is missing, in order."""
    end_index: int
    """Samples held and lost together."""
    missed_count: int
    """Samples of the window that the station sent to us and that are not held."""
    incomplete_reason: int
    """Reason of the error at the end; 0 if there is none."""
    late_ns: list[int]
    """For each block by how much later it is dated than it was taken."""

    @property
    def reasons(self) -> list[str]:
        """Why samples are missing, gap by gap."""
        return [GapReason.Name(gap.reason).removeprefix("GAP_REASON_") for gap in self.gaps]

    @property
    def lost_count(self) -> int:
        """Samples missing."""
        return sum(gap.lost_sample_count for gap in self.gaps)


async def check_recording(
    client: HeimdallClient, frames: list[SentFrame], acquisition_id: str, receiver_id: str, *, late_s: float = 0.0
) -> StoredRecording:
    """Reads a recording back and compares every sample of it with what the station sent at that time.

    Every block and gap must begin where the one before ended. A block must be what the station sent at the time that
    the block states, to within a sample. Indices count the station's samples; a gap that is not exact may err by one.

    Args:
        client: A client of the mesh.
        frames: `Station.sent`.
        acquisition_id: The acquisition.
        receiver_id: The receiver.
        late_s: How much later than taken blocks may be dated, and how far off the length of a gap that is not exact may
            be; for receivers whose times are those of arrival.

    Raises:
        AssertionError: If anything of it does not hold.
    """
    events = [event async for event in client.read_recording(acquisition_id, receiver_id)]
    assert events, "the recording is empty"
    assert events[0].HasField("segment")
    assert events[-1].HasField("end")
    return check_events(events, SentSamples.of(frames), late_s)


def check_events(events: list[IqEvent], sent: SentSamples, late_s: float = 0.0) -> StoredRecording:
    """Compares the events of a recording with what was sent; arguments and errors as of check_recording."""
    index = count = 0
    allowed = 1 + round(late_s * SAMPLE_RATE_HZ)
    gaps = list[Gap]()
    late_ns = list[int]()
    held = np.zeros(len(sent.samples), dtype=np.bool_)
    origin: int | None = None
    estimated = False
    window_begin: int | None = None
    for event in events:
        if event.HasField("block"):
            block = event.block
            assert block.first_sample_index == index
            about = sent.number_at(block.first_sample_unix_ns)
            number = sent.find(block, about - allowed, about + 2)
            assert number is not None, f"the block at {index} is not what was sent at {block.first_sample_unix_ns}"
            late_ns.append(block.first_sample_unix_ns - sent.time_of(number))
            if origin is not None:
                slip = number - origin - index
                assert abs(slip) <= (allowed if estimated else 0), f"the block at index {index} is shifted by {slip}"
            origin, estimated = number - index, False
            window_begin = origin if window_begin is None else window_begin
            held[number - sent.first : number - sent.first + block.sample_count] = True
            index += block.sample_count
            count += block.sample_count
        elif event.HasField("gap"):
            assert event.gap.first_lost_index == index
            assert event.gap.lost_sample_count > 0
            gaps.append(event.gap)
            index += event.gap.lost_sample_count
            estimated = estimated or not event.gap.exact
    end = events[-1].end
    assert end.end_sample_index == index
    assert end.received_sample_count == count
    begin = 0 if window_begin is None else max(0, window_begin - sent.first)
    missed = int((sent.is_sent & ~held)[begin : begin + index].sum())
    return StoredRecording(count, gaps, index, missed, end.error.reason, late_ns)
