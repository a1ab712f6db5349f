"""Windows cut from the axis: nothing overlaps, nothing is missing, every byte is the receiver's own."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from fetcher_svc.cutter import Block, Cutter, Described, Gap, GapReason, Resume, Segment, Window
from fetcher_svc.run_tracker import Loss, LossReason
from fetcher_svc.timeline import Placed, TimeBase, Timeline
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from tests.unit.fetcher.frames import FRAME_COUNT, RATE_HZ, START_NS, Station, facts, sample_bytes

SECOND = 1_000_000_000


def pieces_of(station: Station, count: int, timeline: Timeline | None = None) -> list[Placed | Loss]:
    timeline = Timeline() if timeline is None else timeline
    timeline.begin_run(facts(), 0.02)
    return [piece for frame in station.frames(count) for piece in timeline.push(frame)] + timeline.end_run()


def cut(cutter: Cutter, pieces: list[Placed | Loss]) -> list[Block | Gap | Segment]:
    return [event for piece in pieces for event in cutter.push(piece)]


def assert_whole(events: list[Block | Gap | Segment], expected: int, origin: int = 0) -> None:
    """Blocks and gaps follow one another from 0 to the end, and each block holds the samples of its index."""
    index = 0
    for event in events:
        if isinstance(event, Segment):
            continue
        assert event.first_index == index
        if isinstance(event, Block):
            assert event.sample_count >= 1
            assert event.samples == sample_bytes(origin + index, event.sample_count)
            index += event.sample_count
        else:
            assert event.count >= 1
            index += event.count
    assert index == expected


def between(station: Station, sample: int) -> int:
    """Returns a time just before a sample, by half the distance of two samples."""
    return START_NS + round((sample - 0.5) * 1e9 / station.rate_hz)


def gaps(events: list[Block | Gap | Segment]) -> list[tuple[int, int, GapReason]]:
    return [(event.first_index, event.count, event.reason) for event in events if isinstance(event, Gap)]


def test_window_begins_with_the_first_sample_at_or_after_its_start() -> None:
    # 12 kHz: sample 6000 is at 0.5 s exactly, sample 18000 at 1.5 s is the first that is not in the window.
    cutter = Cutter(Window(START_NS + SECOND // 2, START_NS + 3 * SECOND // 2), 4)
    events = cut(cutter, pieces_of(Station(), 60))
    assert cutter.complete
    assert_whole(events, 12_000, origin=6000)
    first = events[0]
    assert isinstance(first, Block)
    assert first.unix_ns == START_NS + SECOND // 2
    assert (cutter.received_count, cutter.lost_count, cutter.next_index) == (12_000, 0, 12_000)


@pytest.mark.parametrize(("shift_ns", "origin"), [(0, 6000), (1, 6001), (-1, 6000), (83_333, 6001), (-83_334, 5999)])
def test_edges_to_the_ns(shift_ns: int, origin: int) -> None:
    start_ns = START_NS + SECOND // 2 + shift_ns
    events = cut(Cutter(Window(start_ns, start_ns + SECOND), 4), pieces_of(Station(), 60))
    assert_whole(events, 12_000, origin=origin)


def test_neighbouring_windows_share_no_sample_and_leave_none() -> None:
    pieces = pieces_of(Station(rate_hz=RATE_HZ * (1 + 13e-6)), 100)
    edges = [START_NS + offset_ns for offset_ns in (100_000_000, 777_777_777, 1_234_567_891, 3 * SECOND)]
    total = 0
    for start_ns, end_ns in pairwise(edges):
        cutter = Cutter(Window(start_ns, end_ns), 4)
        events = cut(cutter, pieces)
        assert cutter.origin is not None
        assert_whole(events, cutter.next_index, origin=cutter.origin)
        total += cutter.next_index
    whole = Cutter(Window(edges[0], edges[-1]), 4)
    cut(whole, pieces)
    assert total == whole.next_index


def test_blocks_last_at_most_250_ms() -> None:
    events = cut(Cutter(Window(), 4), pieces_of(Station(), 50))
    counts = [event.sample_count for event in events if isinstance(event, Block)]
    assert set(counts) == {5 * FRAME_COUNT}


def test_blocks_hold_at_most_256_kib() -> None:
    (placed,) = [piece for piece in pieces_of(Station(), 5)[:1] if isinstance(piece, Placed)]
    frame = placed.frame
    frame.samples, frame.sample_count = bytes(4 * 100_000), 100_000
    big = Placed(0, START_NS, 10e6, 0, False, frame)
    cutter = Cutter(Window(), 4)
    blocks = [event for event in [*cutter.push(big), *cutter.flush()] if isinstance(event, Block)]
    assert [len(block.samples) for block in blocks] == [262_144, 400_000 - 262_144]
    assert [block.first_index for block in blocks] == [0, 65_536]


def test_last_block_leaves_with_the_frame_that_holds_the_end() -> None:
    cutter = Cutter(Window(START_NS, START_NS + SECOND), 4)
    for piece in pieces_of(Station(), 60):
        cutter.push(piece)
        assert isinstance(piece, Placed)
        assert cutter.complete is (piece.end >= 12_000)
        if cutter.complete:
            break


@pytest.mark.parametrize("start_offset_ns", [0, SECOND // 2])
def test_stamps_travel_with_their_samples(start_offset_ns: int) -> None:
    station = Station()
    events = cut(Cutter(Window(START_NS + start_offset_ns), 4), pieces_of(station, 40))
    origin = start_offset_ns * 12_000 // SECOND
    stamps = [stamp for event in events if isinstance(event, Block) for stamp in event.stamps]
    assert stamps
    for stamp in stamps:
        assert stamp.index >= 0
        assert stamp.unix_ns == station.time_ns(origin + stamp.index)
        assert (origin + stamp.index) % FRAME_COUNT == 0
        assert stamp.age_s == 1


def test_losses_become_gaps() -> None:
    station, timeline = Station(), Timeline()
    timeline.begin_run(facts(), 0.02)
    pieces: list[Placed | Loss] = []
    for lost_frame_count, skipped_count in ((5, 0), (0, 340), (0, 0)):
        pieces += [piece for frame in station.frames(10) for piece in timeline.push(frame)]
        station.lose_frames(lost_frame_count)
        station.skip(skipped_count)
    cutter = Cutter(Window(START_NS, START_NS + 3 * SECOND // 2), 4)
    events = cut(cutter, pieces)
    assert_whole(events, 18_000)
    assert gaps(events) == [(5120, 2560, GapReason.SEQUENCE), (12_800, 340, GapReason.TIMESTAMP)]
    assert cutter.lost_count == 2900


def test_window_that_starts_or_ends_inside_a_loss() -> None:
    pieces: list[Placed | Loss] = []
    station, timeline = Station(), Timeline()
    timeline.begin_run(facts(), 0.02)
    pieces += [piece for frame in station.frames(10) for piece in timeline.push(frame)]
    station.lose_frames(10)
    pieces += [piece for frame in station.frames(10) for piece in timeline.push(frame)]
    # Lost: samples 5120 to 10239.
    inside = Cutter(Window(between(station, 6000), between(station, 10_500)), 4)
    events = cut(inside, pieces)
    assert gaps(events) == [(0, 4240, GapReason.SEQUENCE)]
    assert_whole(events, 4500, origin=6000)
    ends = Cutter(Window(between(station, 5000), between(station, 8000)), 4)
    events = cut(ends, pieces)
    assert gaps(events) == [(120, 2880, GapReason.SEQUENCE)]
    assert_whole(events, 3000, origin=5000)
    within = Cutter(Window(between(station, 6000), between(station, 7000)), 4)
    events = cut(within, pieces)
    assert gaps(events) == [(0, 1000, GapReason.SEQUENCE)]
    assert_whole(events, 1000, origin=6000)


def test_late_start_is_a_gap() -> None:
    events = cut(Cutter(Window(START_NS - SECOND, START_NS + SECOND), 4), pieces_of(Station(), 60))
    assert gaps(events) == [(0, 12_000, GapReason.LATE_START)]
    assert_whole(events, 24_000, origin=-12_000)


def test_window_that_is_over_is_one_gap() -> None:
    cutter = Cutter(Window(START_NS - 3 * SECOND, START_NS - SECOND), 4)
    events = cut(cutter, pieces_of(Station(), 10))
    assert gaps(events) == [(0, 24_000, GapReason.LATE_START)]
    assert_whole(events, 24_000)
    assert cutter.complete


def test_early_end_is_a_gap_with_its_cause() -> None:
    cause = HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_KICKED, "kicked")
    pieces = pieces_of(Station(), 10)
    cutter = Cutter(Window(START_NS, START_NS + SECOND), 4)
    last = pieces[-1]
    assert isinstance(last, Placed)
    events = [*cut(cutter, pieces), *cutter.finish(last, cause)]
    assert_whole(events, 12_000)
    assert gaps(events) == [(5120, 12_000 - 5120, GapReason.EARLY_END)]
    assert isinstance(events[-1], Gap)
    assert events[-1].cause is cause


def test_end_before_the_window_began() -> None:
    pieces = pieces_of(Station(), 10)
    cutter = Cutter(Window(START_NS + SECOND, START_NS + 2 * SECOND), 4)
    last = pieces[-1]
    assert isinstance(last, Placed)
    events = [*cut(cutter, pieces), *cutter.finish(last, None)]
    assert gaps(events) == [(0, 12_000, GapReason.EARLY_END)]


def test_resumed_stream_goes_on_at_its_index() -> None:
    pieces = pieces_of(Station(), 60)
    # Index 0 was one second before this connection's first sample.
    resume = Resume(sample_index=11_000, origin_unix_ns=START_NS - SECOND)
    cutter = Cutter(Window(START_NS - SECOND, START_NS + SECOND), 4, resume)
    events = cut(cutter, pieces)
    assert gaps(events) == [(11_000, 1000, GapReason.SERVICE_RESTART)]
    first = events[1]
    assert isinstance(first, Block)
    assert (first.first_index, first.unix_ns) == (12_000, START_NS)
    assert cutter.next_index == 24_000


def test_resumed_stream_takes_the_reason_of_its_hole_from_the_caller() -> None:
    resume = Resume(sample_index=11_000, origin_unix_ns=START_NS - SECOND, gap_reason=GapReason.BACKPRESSURE)
    cutter = Cutter(Window(START_NS - SECOND, START_NS + SECOND), 4, resume)
    assert gaps(cut(cutter, pieces_of(Station(), 60))) == [(11_000, 1000, GapReason.BACKPRESSURE)]


def test_resumed_stream_does_not_send_samples_again() -> None:
    resume = Resume(sample_index=7000, origin_unix_ns=START_NS)
    cutter = Cutter(Window(START_NS, START_NS + SECOND), 4, resume)
    events = cut(cutter, pieces_of(Station(), 60))
    first = events[0]
    assert isinstance(first, Block)
    assert first.first_index == 7000
    assert first.samples == sample_bytes(7000, first.sample_count)
    assert cutter.received_count == 5000


@pytest.mark.parametrize("overlap_count", [0, 1, 6000])
def test_samples_after_a_break_are_never_joined_by_arrival_times(overlap_count: int) -> None:
    """By the clock nothing is missing, or samples come again: it is not exact, or was set back since."""
    resume = Resume(sample_index=6000 + overlap_count, origin_unix_ns=START_NS - SECOND // 2)
    cutter = Cutter(Window(START_NS - SECOND // 2, START_NS + SECOND), 4, resume, exact_times=False)
    events = cut(cutter, pieces_of(Station(), 60))
    assert gaps(events) == [(6000 + overlap_count, 1, GapReason.SERVICE_RESTART)]
    first = events[1]
    assert isinstance(first, Block)
    assert (first.first_index, first.unix_ns) == (6001 + overlap_count, START_NS)
    assert first.samples == sample_bytes(0, first.sample_count)
    assert cutter.received_count == 12_000


def test_new_description_splits_blocks() -> None:
    pieces = pieces_of(Station(), 12)
    described = Described(facts(), TimeBase.GNSS)
    cutter = Cutter(Window(), 4)
    events = cut(cutter, pieces[:7]) + cutter.push(described) + cut(cutter, pieces[7:]) + cutter.flush()
    (segment,) = [event for event in events if isinstance(event, Segment)]
    assert segment.first_index == 7 * FRAME_COUNT
    assert_whole(events, 12 * FRAME_COUNT)


@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_losses_and_windows_is_whole(seed: int) -> None:
    rng = random.Random(seed)
    station, timeline = Station(rate_hz=RATE_HZ * (1 + rng.uniform(-4e-5, 4e-5))), Timeline()
    timeline.begin_run(facts(), 0.02)
    pieces: list[Placed | Loss] = []
    for _ in range(8):
        pieces += [piece for frame in station.frames(rng.randint(6, 30)) for piece in timeline.push(frame)]
        match rng.randint(0, 3):
            case 0:
                station.lose_frames(rng.randint(1, 20))
            case 1:
                station.skip(rng.randint(48, 1000))
            case 2:
                pieces += timeline.end_run()
                station.reconnect(rng.randint(1, 5000))
                timeline.begin_run(facts(), 0.02)
    pieces += [piece for frame in station.frames(10) for piece in timeline.push(frame)]
    first, last = sorted(rng.sample(range(-1000, station.sample - 1000), 2))
    start_ns, end_ns = between(station, first), between(station, last)
    cutter = Cutter(Window(start_ns, end_ns), 4)
    events = cut(cutter, pieces)
    assert cutter.complete
    assert_whole(events, last - first, origin=first)
    assert cutter.received_count + cutter.lost_count == last - first


def test_loss_reasons_are_gap_reasons() -> None:
    assert {reason.value for reason in LossReason} <= {reason.value for reason in GapReason}
