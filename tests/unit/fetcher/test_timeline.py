"""One axis over all connections, and whose clock gives the times."""

from __future__ import annotations

import pytest

from fetcher_svc.gnss import StampQuality
from fetcher_svc.run_tracker import Loss, LossReason
from fetcher_svc.timeline import Placed, TimeBase, Timeline
from heimdall.clock import SteadyClock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from tests.clock import SetClock
from tests.unit.fetcher.frames import DELAY_NS, FRAME_COUNT, RATE_HZ, Station, facts

LOST = HeimdallError(ErrorReason.ERROR_REASON_UPSTREAM_CONNECTION_LOST, "gone")


def run(timeline: Timeline, station: Station, count: int, cause: HeimdallError | None = None) -> list[Placed | Loss]:
    timeline.begin_run(facts(), 0.02, cause)
    pieces = [piece for frame in station.frames(count) for piece in timeline.push(frame)]
    return [*pieces, *timeline.end_run()]


def test_first_frames_are_back_dated_from_the_third() -> None:
    pieces = run(Timeline(), station := Station(), 20)
    assert len(pieces) == 20
    for index, piece in enumerate(pieces):
        assert isinstance(piece, Placed)
        assert piece.position == index * FRAME_COUNT
        assert piece.unix_ns == pytest.approx(station.time_ns(piece.position), abs=2)
        assert piece.stamp_good is (index >= 2)


def test_no_base_before_three_stamps_agree() -> None:
    timeline, station = Timeline(), Station()
    timeline.begin_run(facts(), 0.02)
    for frame in station.frames(4):
        assert timeline.push(frame) == []
        assert timeline.base is None
    assert len(timeline.push(station.frame())) == 5
    assert timeline.base is TimeBase.GNSS


@pytest.mark.parametrize("missing", [1, 12_345, 1_000_000])
def test_reconnect_is_counted_by_time(missing: int) -> None:
    timeline, station = Timeline(), Station(rate_hz=RATE_HZ * (1 + 30e-6))
    first = run(timeline, station, 50)
    station.reconnect(missing)
    second = run(timeline, station, 20, LOST)
    assert second[0] == Loss(50 * FRAME_COUNT, missing, False, LossReason.RECONNECT, LOST)
    assert [piece.run for piece in [*first, *second] if isinstance(piece, Placed)] == [0] * 50 + [1] * 20
    placed = second[1]
    assert isinstance(placed, Placed)
    assert placed.position == 50 * FRAME_COUNT + missing
    assert placed.unix_ns == pytest.approx(station.time_ns(placed.position), abs=20)


@pytest.mark.parametrize("quality", [StampQuality.NO_FIX, StampQuality.FAR_FROM_HOST])
def test_untrusted_stamps_give_arrival_times(quality: StampQuality) -> None:
    timeline, station = Timeline(), Station(quality=quality)
    pieces = run(timeline, station, 30)
    assert timeline.base is TimeBase.ARRIVAL
    assert timeline.quality is quality
    for piece in pieces:
        assert isinstance(piece, Placed)
        assert not piece.stamp_good
        assert piece.unix_ns == pytest.approx(station.time_ns(piece.position) + DELAY_NS, abs=1000)


def test_arrival_time_is_that_of_the_fastest_early_frame_and_stays() -> None:
    timeline, station = Timeline(), Station()
    timeline.begin_run(facts(), 0.02)
    pieces: list[Placed | Loss] = []
    for index in range(40):
        late_ns = {3: 10_000_000, 20: 0}.get(index, 35_000_000)
        pieces += timeline.push(station.frame(stamped=False, late_ns=late_ns))
    last = pieces[-1]
    assert isinstance(last, Placed)
    assert last.unix_ns == pytest.approx(station.time_ns(last.position) + DELAY_NS + 10_000_000, abs=1000)
    # Round trip 20 ms, spread 35 ms, 100 ms of the receiver's own and 10 ms to the fastest frame, added as squares.
    assert timeline.arrival_sigma_ns == pytest.approx(108.3e6, rel=0.002)


def test_reconnect_without_trusted_time_is_counted_by_arrival() -> None:
    timeline, station = Timeline(), Station(quality=StampQuality.NO_FIX)
    run(timeline, station, 50)
    station.reconnect(24_000)
    second = run(timeline, station, 20, LOST)
    assert second[0] == Loss(50 * FRAME_COUNT, 24_000, False, LossReason.RECONNECT, LOST)


def test_trusted_receiver_that_comes_back_without_fix() -> None:
    timeline, station = Timeline(), Station()
    run(timeline, station, 50)
    station.quality = StampQuality.NO_FIX
    station.reconnect(24_000)
    second = run(timeline, station, 20, LOST)
    assert isinstance(second[0], Loss)
    assert second[0].count == pytest.approx(24_000, abs=2)
    assert timeline.base is TimeBase.ARRIVAL


@pytest.mark.parametrize("step_s", [-3600.0, -5.0, 5.0])
def test_a_step_of_the_host_clock_counts_as_uncertainty_of_arrival_times(step_s: float) -> None:
    host = SetClock()
    timeline = Timeline(SteadyClock(host))
    run(timeline, Station(quality=StampQuality.NO_FIX), 30)
    before_ns = timeline.arrival_sigma_ns
    assert 0.1e9 < before_ns < 0.2e9
    host.step(step_s)
    assert timeline.arrival_sigma_ns == pytest.approx(abs(step_s) * 1e9, rel=1e-3)


def test_a_clock_that_is_put_right_begins_a_run_of_its_own() -> None:
    timeline, station = Timeline(), Station()
    pieces = run(timeline, station, 40)
    station.start_ns += 60_000
    pieces += [piece for frame in station.frames(10) for piece in timeline.push(frame)]
    station.reconnect(6000)
    pieces += run(timeline, station, 20, LOST)
    placed = [piece for piece in pieces if isinstance(piece, Placed)]
    assert [piece.run for piece in placed] == [0] * 40 + [1] * 10 + [2] * 20
    assert all(piece.unix_ns == pytest.approx(station.time_ns(piece.position), abs=2) for piece in placed[40:])


def test_a_reconnect_never_joins_samples() -> None:
    timeline, station = Timeline(), Station()
    run(timeline, station, 50)
    station.reconnect(0)
    second = run(timeline, station, 20, LOST)
    assert isinstance(second[0], Loss)
    assert second[0].count == 1


def test_a_short_connection_is_placed_too() -> None:
    timeline, station = Timeline(), Station()
    run(timeline, station, 50)
    station.reconnect(6000)
    second = run(timeline, station, 2, LOST)
    station.reconnect(6000)
    third = run(timeline, station, 20, LOST)
    assert [type(piece) for piece in second] == [Loss, Placed, Placed]
    assert isinstance(second[0], Loss)
    assert second[0].count == pytest.approx(6000, abs=2)
    assert isinstance(third[0], Loss)
    assert third[0].count == pytest.approx(6000, abs=2)


def test_positions_of_times() -> None:
    (placed,) = [p for p in run(Timeline(), Station(), 5)[:1] if isinstance(p, Placed)]
    for k in range(0, 2000, 7):
        assert placed.position_at(placed.time_at(k)) == k
        assert placed.position_at(placed.time_at(k) + 1) == k + 1
        assert placed.position_at(placed.time_at(k) - 1) == k


def test_what_a_short_connection_is_off_ends_with_it() -> None:
    timeline, station = Timeline(), Station()
    run(timeline, station, 50)
    station.reconnect(6000)
    timeline.begin_run(facts(), 0.02, LOST)
    # Two frames are no stamp to go by, and they were 50 ms late.
    for frame in (station.frame(late_ns=50_000_000), station.frame(late_ns=50_000_000)):
        assert timeline.push(frame) == []
    (short, *_) = timeline.end_run()
    assert isinstance(short, Loss)
    assert short.count == pytest.approx(6000 + 600, abs=2)
    station.reconnect(6000)
    (loss, first, *_) = run(timeline, station, 20, LOST)
    assert isinstance(loss, Loss)
    assert isinstance(first, Placed)
    # 50 frames, the two of the short connection, and what was lost around them, by the receiver's own clock.
    assert first.position == pytest.approx(52 * FRAME_COUNT + 2 * 6000, abs=1)
