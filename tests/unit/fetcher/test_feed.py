"""The bounded ring between a receiver and a slow caller."""

from __future__ import annotations

from fetcher_svc.cutter import Block, Cutter, Described, Gap, GapReason, Window
from fetcher_svc.feed import MAX_NOTICE_COUNT, Feed, UpstreamState
from fetcher_svc.run_tracker import Loss, LossReason
from fetcher_svc.timeline import Placed, TimeBase, Timeline
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from tests.unit.fetcher.frames import FRAME_COUNT, Station, facts, sample_bytes

FRAME_BYTES = 4 * FRAME_COUNT


def placed(count: int, station: Station | None = None) -> list[Placed | Loss]:
    timeline = Timeline()
    timeline.begin_run(facts(), 0.02)
    return [piece for frame in (station or Station()).frames(count) for piece in timeline.push(frame)]


def drain(feed: Feed) -> list[Placed | Loss | Described]:
    pieces = []
    while (piece := feed.take()) is not None:
        pieces.append(piece)
    return pieces


async def test_ring_keeps_everything_that_fits() -> None:
    feed = Feed(20 * FRAME_BYTES)
    pieces = placed(20)
    for piece in pieces:
        feed.put(piece)
    assert drain(feed) == pieces
    assert feed.take() is None


async def test_full_ring_drops_the_oldest_and_says_so() -> None:
    feed = Feed(10 * FRAME_BYTES)
    for piece in placed(50):
        feed.put(piece)
    pieces = drain(feed)
    assert pieces[0] == Loss(0, 41 * FRAME_COUNT, True, LossReason.BACKPRESSURE)
    assert [piece.position for piece in pieces[1:] if isinstance(piece, Placed)] == [
        n * FRAME_COUNT for n in range(41, 50)
    ]


async def test_dropped_samples_are_a_gap_of_the_window() -> None:
    feed, cutter = Feed(10 * FRAME_BYTES), Cutter(Window(), 4)
    pieces = placed(40)
    events = []
    for piece in pieces[:5]:
        feed.put(piece)
        while (taken := feed.take()) is not None:
            events += cutter.push(taken)
    for piece in pieces[5:]:
        feed.put(piece)
    for taken in drain(feed):
        events += cutter.push(taken)
    events += cutter.flush()
    (gap,) = [event for event in events if isinstance(event, Gap)]
    assert (gap.first_index, gap.count, gap.exact, gap.reason) == (
        5 * FRAME_COUNT,
        26 * FRAME_COUNT,
        True,
        GapReason.BACKPRESSURE,
    )
    index = 0
    for event in events:
        assert isinstance(event, Gap | Block)
        assert event.first_index == index
        if isinstance(event, Block):
            assert event.samples == sample_bytes(index, event.sample_count)
        index += event.sample_count if isinstance(event, Block) else event.count
    assert index == 40 * FRAME_COUNT


async def test_a_loss_keeps_its_own_reason_when_its_neighbours_are_dropped() -> None:
    feed, station = Feed(6 * FRAME_BYTES), Station()
    timeline = Timeline()
    timeline.begin_run(facts(), 0.02)
    pieces = [piece for frame in station.frames(8) for piece in timeline.push(frame)]
    station.lose_frames(4)
    pieces += [piece for frame in station.frames(12) for piece in timeline.push(frame)]
    for piece in pieces:
        feed.put(piece)
    found = [(p.position, p.count, p.reason) for p in drain(feed) if isinstance(p, Loss)]
    assert found == [
        (0, 8 * FRAME_COUNT, LossReason.BACKPRESSURE),
        (8 * FRAME_COUNT, 4 * FRAME_COUNT, LossReason.SEQUENCE),
        (12 * FRAME_COUNT, 7 * FRAME_COUNT, LossReason.BACKPRESSURE),
    ]


async def test_losses_before_the_first_frame_are_not_this_streams() -> None:
    feed = Feed(10 * FRAME_BYTES)
    feed.put(Loss(0, 100, True, LossReason.SEQUENCE))
    feed.put(Described(facts(), TimeBase.GNSS))
    assert feed.take() is None
    assert feed.described is not None


async def test_stamps_are_counted() -> None:
    feed = Feed(100 * FRAME_BYTES)
    for piece in placed(30):
        feed.put(piece)
    assert len(feed.fit) == 28
    assert feed.dropped_stamp_count == 2


async def test_notices_are_bounded_and_told_once() -> None:
    feed = Feed(FRAME_BYTES)
    for number in range(MAX_NOTICE_COUNT + 5):
        feed.notify(HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_STALLED, f"{number}"))
    assert [notice.message for notice in feed.take_news()] == [str(n) for n in range(5, MAX_NOTICE_COUNT + 5)]
    assert not feed.has_news
    feed.change_state(UpstreamState.STREAMING)
    assert feed.has_news
    assert feed.take_news() == []
    assert not feed.has_news
