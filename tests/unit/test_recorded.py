"""Events as arrays; expected values are worked out with struct, one component at a time."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
import pytest

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, End, Gap, GapReason, IqEvent, SampleFormat, Segment, TimeSolution
from heimdall.errors import HeimdallError
from heimdall.recorded import recorded_samples, sample_runs

START_NS = 1_700_000_000_000_000_000
RATE_HZ = 1000.0


def segment(sample_format: SampleFormat.ValueType, full_scale: float, zero: float = 0.0, **values: Any) -> IqEvent:
    return IqEvent(
        segment=Segment(
            center_frequency_hz=7.1e6,
            sample_rate_hz=RATE_HZ,
            sample_format=sample_format,
            full_scale=full_scale,
            zero_offset=zero,
            **values,
        )
    )


CI16 = segment(SampleFormat.SAMPLE_FORMAT_CI16_LE, 32768.0)


def block(first: int, samples: bytes, count: int, *, overload: bool = False) -> IqEvent:
    unix_ns = START_NS + first * 1_000_000
    return IqEvent(
        block=Block(
            first_sample_index=first,
            first_sample_unix_ns=unix_ns,
            sample_count=count,
            samples=samples,
            overload=overload,
        )
    )


def ci16(first: int, count: int, **values: Any) -> IqEvent:
    """Samples whose I is their index and whose Q is -1."""
    return block(
        first, b"".join(struct.pack("<2h", index, -1) for index in range(first, first + count)), count, **values
    )


def gap(first: int, count: int) -> IqEvent:
    return IqEvent(gap=Gap(first_lost_index=first, lost_sample_count=count, reason=GapReason.GAP_REASON_SEQUENCE))


def end(index: int, **values: Any) -> IqEvent:
    return IqEvent(end=End(end_sample_index=index, **values))


async def stream(events: Sequence[IqEvent]) -> AsyncGenerator[IqEvent, None]:
    for event in events:
        yield event


@pytest.mark.parametrize(
    ("opening", "samples", "expected"),
    [
        (CI16, struct.pack("<4h", -32768, 32767, 1, 0), [-1 + 1j * 32767 / 32768, 1 / 32768]),
        (segment(SampleFormat.SAMPLE_FORMAT_CU8, 127.5, 127.5), bytes([0, 255, 127, 128]), [-1 + 1j, (-1 + 1j) / 255]),
        (segment(SampleFormat.SAMPLE_FORMAT_CU8, 128.0, 128.0), bytes([128, 192, 0, 64]), [0.5j, -1 - 0.5j]),
        (segment(SampleFormat.SAMPLE_FORMAT_CF32_LE, 1.0), struct.pack("<4f", 0.25, -3, 0, 1), [0.25 - 3j, 1j]),
    ],
)
async def test_each_format_is_scaled_to_full_scale(opening: IqEvent, samples: bytes, expected: list[complex]) -> None:
    found = await recorded_samples(stream([opening, block(0, samples, 2), end(2)]))
    (run,) = found.runs
    assert run.samples.dtype == np.complex64
    np.testing.assert_allclose(run.samples, expected, rtol=1e-6)
    assert run.segment == opening.segment
    assert found.center_frequency_hz == 7.1e6


async def test_runs_end_at_gaps_and_at_changed_segments() -> None:
    changed = segment(SampleFormat.SAMPLE_FORMAT_CI16_LE, 32768.0, gain_db=20.0, first_sample_index=14)
    events = [
        CI16,
        gap(0, 3),
        ci16(3, 2, overload=True),
        ci16(5, 2),
        gap(7, 4),
        ci16(11, 3),
        changed,
        ci16(14, 1),
        gap(15, 5),
    ]
    found = await recorded_samples(stream([*events, end(20)]))
    assert [(run.first_sample_index, run.end_sample_index, run.overload) for run in found.runs] == [
        (3, 7, True),
        (11, 14, False),
        (14, 15, False),
    ]
    for run in found.runs:
        np.testing.assert_array_equal(run.samples.real * 32768, range(run.first_sample_index, run.end_sample_index))
    assert [run.segment for run in found.runs] == [CI16.segment, CI16.segment, changed.segment]
    assert found.segments == (CI16.segment, changed.segment)
    assert found.gaps == (gap(0, 3).gap, gap(7, 4).gap, gap(15, 5).gap)
    assert (found.first_sample_index, found.end_sample_index) == (0, 20)
    filled = found.filled_with_nan()
    assert filled.shape == (20,)
    lost = [0, 1, 2, 7, 8, 9, 10, 15, 16, 17, 18, 19]
    assert np.flatnonzero(np.isnan(filled.real) & np.isnan(filled.imag)).tolist() == lost
    np.testing.assert_array_equal(np.delete(filled, lost), np.concatenate([run.samples for run in found.runs]))


async def test_an_array_of_a_part_begins_where_the_part_does() -> None:
    found = await recorded_samples(stream([CI16, ci16(100, 2), gap(102, 1), ci16(103, 1), end(104)]))
    codes = found.filled_with_nan().real * 32768
    np.testing.assert_array_equal(codes, [100, 101, np.nan, 103])


async def test_times_follow_the_final_solution_or_else_the_blocks() -> None:
    events = [CI16, ci16(10, 2), gap(12, 988), ci16(1000, 2)]
    unfitted = await recorded_samples(stream([*events, end(1002)]))
    assert [run.first_sample_unix_ns - START_NS for run in unfitted.runs] == [10_000_000, 1_000_000_000]
    assert unfitted.sample_rate_hz == RATE_HZ
    # 1000 samples at 1000.5 Hz after sample 0 at 7 ns: 1000 / 1000.5 s = 999.500249875 ms.
    solution = TimeSolution(reference_sample_index=0, reference_unix_ns=START_NS + 7, sample_rate_hz=1000.5)
    fitted = await recorded_samples(stream([*events, end(1002, time_solution=solution)]))
    assert [run.first_sample_unix_ns - START_NS for run in fitted.runs] == [9_995_002 + 7, 999_500_250 + 7]
    assert fitted.sample_rate_hz == 1000.5


async def test_large_recordings_come_block_by_block() -> None:
    runs = [run async for run in sample_runs(stream([CI16, ci16(0, 2), ci16(2, 3), gap(5, 4), ci16(9, 1), end(10)]))]
    assert [(run.first_sample_index, run.first_sample_unix_ns - START_NS, run.samples.size) for run in runs] == [
        (0, 0, 2),
        (2, 2_000_000, 3),
        (9, 9_000_000, 1),
    ]


@pytest.mark.parametrize(
    ("events", "reason", "text"),
    [
        ([ci16(0, 2)], ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, "came before any segment"),
        ([CI16, ci16(0, 2), ci16(3, 2)], ErrorReason.ERROR_REASON_INDEX_MISMATCH, "at sample 3, must begin at 2"),
        ([CI16, gap(0, 2), ci16(1, 2)], ErrorReason.ERROR_REASON_INDEX_MISMATCH, "at sample 1, must begin at 2"),
        ([CI16, block(0, bytes(7), 2)], ErrorReason.ERROR_REASON_BLOCK_LENGTH_MISMATCH, "7 bytes are not 2 samples"),
        ([segment(9, 1.0)], ErrorReason.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT, "9 is none of CI16_LE, CU8, CF32_LE"),  # type: ignore[arg-type]
        ([segment(1, 0.0)], ErrorReason.ERROR_REASON_INVALID_FIELD, "full_scale must be finite and above 0"),  # type: ignore[arg-type]
        ([CI16, end(0)], ErrorReason.ERROR_REASON_INVALID_FIELD, "no sample and no gap"),
    ],
)
async def test_what_is_no_recording_is_refused(events: list[IqEvent], reason: ErrorReason.ValueType, text: str) -> None:
    with pytest.raises(HeimdallError, match=text) as caught:
        await recorded_samples(stream(events))
    assert caught.value.reason == reason
