"""Losses by counter and by stamp, and stamps that lie."""

from __future__ import annotations

import pytest

from fetcher_svc.gnss import StampQuality
from fetcher_svc.run_tracker import Loss, LossReason, RunTracker, Tracked
from heimdall.errors import HeimdallError
from tests.unit.fetcher.frames import FRAME_COUNT, RATE_HZ, Station, facts, sample_bytes


def feed(tracker: RunTracker, frames: list) -> list[Tracked | Loss]:  # type: ignore[type-arg]
    return [step for frame in frames for step in tracker.push(frame)]


def losses(steps: list[Tracked | Loss]) -> list[tuple[int, int, LossReason, bool]]:
    return [(step.position, step.count, step.reason, step.exact) for step in steps if isinstance(step, Loss)]


def assert_places_true(steps: list[Tracked | Loss], first_sample: int = 0) -> None:
    """Every frame lies at the place that its own samples tell, and nothing is missing between the steps."""
    end = 0
    for step in steps:
        assert step.position == end
        if isinstance(step, Loss):
            end += step.count
        else:
            assert step.frame.samples == sample_bytes(first_sample + step.position, FRAME_COUNT)
            end += FRAME_COUNT


def test_no_loss() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(60))
    assert len(steps) == 60
    assert_places_true(steps)
    holds = [step.stamp_holds for step in steps if isinstance(step, Tracked)]
    assert holds == [False, False, *[True] * 58]
    assert tracker.fitted
    assert tracker.rate_hz == pytest.approx(RATE_HZ, abs=1e-3)


def test_frames_are_settled_with_the_fifth() -> None:
    station, tracker = Station(), RunTracker(facts())
    assert [len(tracker.push(frame)) for frame in station.frames(7)] == [0, 0, 0, 0, 5, 1, 1]


def test_losses_before_each_of_several_frames() -> None:
    # A station in trouble drops a chunk now, and another before the next frame is out.
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    for count in (226, 48, 170):
        station.skip(count)
        steps += feed(tracker, station.frames(1))
    station.lose_frames(2)
    station.skip(85)
    steps += feed(tracker, station.frames(10))
    assert [(count, reason.name) for _, count, reason, _ in losses(steps)] == [
        (226, "TIMESTAMP"),
        (48, "TIMESTAMP"),
        (170, "TIMESTAMP"),
        (2 * FRAME_COUNT, "SEQUENCE"),
        (85, "TIMESTAMP"),
    ]
    assert_places_true(steps)


def test_loss_right_behind_a_stale_stamp() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    steps += feed(tracker, [station.frame(stamp_error_ns=-11_000_000_000_000)])
    station.skip(340)
    steps += feed(tracker, station.frames(5))
    assert losses(steps) == [(11 * FRAME_COUNT, 340, LossReason.TIMESTAMP, True)]
    assert_places_true(steps)


def test_wrong_stamps_one_after_the_other_move_nothing() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    steps += feed(tracker, [station.frame(stamp_error_ns=10_000_000 * number) for number in range(1, 5)])
    steps += feed(tracker, station.frames(5))
    assert losses(steps) == []
    assert_places_true(steps)
    assert [step.stamp_holds for step in steps if isinstance(step, Tracked)][10:15] == [*[False] * 4, True]


@pytest.mark.parametrize("count", [1, 5, 100])
def test_counter_jump(count: int) -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    station.lose_frames(count)
    steps += feed(tracker, station.frames(10))
    assert losses(steps) == [(10 * FRAME_COUNT, count * FRAME_COUNT, LossReason.SEQUENCE, True)]
    assert_places_true(steps)


@pytest.mark.parametrize("count", [48, 170, 340, 12_000])
@pytest.mark.parametrize("before", [3, 6, 40])
def test_stamp_jump_is_a_loss_once_confirmed(count: int, before: int) -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(before))
    station.skip(count)
    steps += feed(tracker, station.frames(10))
    assert losses(steps) == [(before * FRAME_COUNT, count, LossReason.TIMESTAMP, True)]
    assert_places_true(steps)
    assert all(step.stamp_holds for step in steps[3:] if isinstance(step, Tracked))


def test_both_kinds_at_once() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    station.lose_frames(2)
    station.skip(340)
    steps += feed(tracker, station.frames(10))
    assert losses(steps) == [
        (10 * FRAME_COUNT, 2 * FRAME_COUNT, LossReason.SEQUENCE, True),
        (12 * FRAME_COUNT, 340, LossReason.TIMESTAMP, True),
    ]
    assert_places_true(steps)


@pytest.mark.parametrize("error_ns", [-11_520_000_000_000, -500_000, 500_000, 3_600_000_000_000])
def test_one_wrong_stamp_moves_nothing(error_ns: int) -> None:
    station, tracker = Station(), RunTracker(facts())
    frames = [*station.frames(10), station.frame(stamp_error_ns=error_ns), *station.frames(10)]
    steps = feed(tracker, frames)
    assert losses(steps) == []
    assert_places_true(steps)
    assert [step.stamp_holds for step in steps if isinstance(step, Tracked)] == [
        *[False] * 2,
        *[True] * 8,
        False,
        *[True] * 10,
    ]


def test_stale_third_stamp_is_not_believed() -> None:
    station, tracker = Station(), RunTracker(facts())
    frames = [*station.frames(2), station.frame(stamp_error_ns=-11_520_000_000_000), *station.frames(5)]
    steps = feed(tracker, frames)
    assert losses(steps) == []
    assert_places_true(steps)
    assert [step.stamp_holds for step in steps if isinstance(step, Tracked)] == [False] * 3 + [True] * 5


@pytest.mark.parametrize("error_ns", [-1_000_000_000, 1_000_000_000])
def test_stamps_that_jump_without_a_pause_are_wrong_and_said_to_be(error_ns: int) -> None:
    """Real loss takes real time; stamps that run ahead of the arrivals, or back, are no loss."""
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(30))
    assert not tracker.disagreeing
    steps += feed(tracker, [station.frame(stamp_error_ns=error_ns) for _ in range(20)])
    steps += tracker.finish()
    assert losses(steps) == []
    assert_places_true(steps)
    assert tracker.disagreeing
    steps += feed(tracker, station.frames(5))
    assert not tracker.disagreeing


@pytest.mark.parametrize("step_ns", [-1_000_000, -60_000, 60_000, 1_000_000])
@pytest.mark.parametrize("before", [6, 40])
def test_a_clock_that_is_put_right_loses_nothing(step_ns: int, before: int) -> None:
    """60 us and 1 ms are 0.7 and 12 samples: what a holdover leaves behind, and less than a receiver can lose."""
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(before))
    steps += feed(tracker, [station.frame(stamp_error_ns=step_ns) for _ in range(40)])
    steps += tracker.finish()
    assert losses(steps) == []
    assert_places_true(steps)
    assert all(step.stamp_holds for step in steps[2:] if isinstance(step, Tracked))
    assert not tracker.disagreeing
    assert [step.line for step in steps if isinstance(step, Tracked)] == [0] * before + [1] * 40
    # The times go on from the step, at the rate that they had.
    last = 45 * FRAME_COUNT
    assert tracker.time_at(last) == pytest.approx(station.time_ns(last) + step_ns, abs=10)
    assert tracker.rate_hz == pytest.approx(RATE_HZ, rel=1e-8)


@pytest.mark.parametrize("error_ns", [-1_000_000_000, 1_000_000_000])
def test_a_contradiction_is_as_large_as_the_step(error_ns: int) -> None:
    station, tracker = Station(), RunTracker(facts())
    feed(tracker, station.frames(30))
    feed(tracker, [station.frame(stamp_error_ns=error_ns) for _ in range(5)])
    assert tracker.contradiction_ns == pytest.approx(error_ns, rel=1e-6)
    # Stamps far from the host clock are the wrong ones, and say nothing of the others.
    station.quality = StampQuality.FAR_FROM_HOST
    feed(tracker, [station.frame(stamp_error_ns=3600 * error_ns) for _ in range(5)])
    assert tracker.disagreeing
    assert tracker.contradiction_ns == 0.0
    station.quality = StampQuality.GOOD
    feed(tracker, station.frames(2))
    assert tracker.contradiction_ns == 0.0
    assert not tracker.disagreeing


def test_wrong_stamps_that_come_late_are_no_loss() -> None:
    """They jumped ahead without a pause; that the network holds some up afterwards does not make them right."""
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(30))
    steps += feed(tracker, [station.frame(stamp_error_ns=1_000_000_000) for _ in range(10)])
    steps += feed(tracker, [station.frame(stamp_error_ns=1_000_000_000, late_ns=1_200_000_000) for _ in range(5)])
    steps += feed(tracker, [station.frame(stamp_error_ns=1_000_000_000) for _ in range(10)])
    assert losses(steps) == []
    assert_places_true(steps)
    assert tracker.disagreeing
    # On the line of the earlier ones a loss is found as before.
    steps += feed(tracker, station.frames(5))
    station.skip(340)
    steps += feed(tracker, station.frames(5))
    assert losses(steps) == [(60 * FRAME_COUNT, 340, LossReason.TIMESTAMP, True)]
    assert_places_true(steps)


def test_jitter_below_half_a_sample_is_no_loss() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, [station.frame(stamp_error_ns=(-1) ** n * 15_000) for n in range(50)])
    assert losses(steps) == []


def test_stamps_without_fix_still_tell_losses() -> None:
    station, tracker = Station(quality=StampQuality.NO_FIX, age_s=255), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    station.skip(340)
    steps += feed(tracker, station.frames(10))
    assert losses(steps) == [(10 * FRAME_COUNT, 340, LossReason.TIMESTAMP, True)]
    assert tracker.quality is StampQuality.NO_FIX


def test_without_stamps_only_the_counter_tells() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, [station.frame(stamped=False) for _ in range(10)])
    station.lose_frames(3)
    steps += feed(tracker, [station.frame(stamped=False) for _ in range(3)])
    assert losses(steps) == [(10 * FRAME_COUNT, 3 * FRAME_COUNT, LossReason.SEQUENCE, True)]
    assert tracker.time_at(0) is None
    assert_places_true(steps)


def test_wrong_announced_rate_makes_no_loss() -> None:
    """50 ppm, as far as a KiwiSDR's clock may be off, over a hole of 100 frames."""
    station, tracker = Station(rate_hz=RATE_HZ * (1 + 50e-6)), RunTracker(facts())
    steps = feed(tracker, station.frames(6))
    station.lose_frames(100)
    steps += feed(tracker, station.frames(40))
    assert [loss[2] for loss in losses(steps)] == [LossReason.SEQUENCE]
    assert tracker.rate_hz == pytest.approx(station.rate_hz, rel=1e-8)


def test_loss_in_the_last_frame_is_not_joined() -> None:
    station, tracker = Station(), RunTracker(facts())
    steps = feed(tracker, station.frames(10))
    station.skip(340)
    steps += [*tracker.push(station.frame()), *tracker.finish()]
    assert losses(steps) == [(10 * FRAME_COUNT, 340, LossReason.TIMESTAMP, True)]


def test_counter_that_goes_back_is_refused() -> None:
    station, tracker = Station(), RunTracker(facts())
    feed(tracker, station.frames(10))
    station.sequence = 3
    with pytest.raises(HeimdallError, match="from 10 to 4"):
        tracker.push(station.frame())


def test_counter_may_wrap() -> None:
    station, tracker = Station(sequence=(1 << 32) - 6), RunTracker(facts())
    frames = station.frames(10)
    for frame in frames:
        frame.sequence = (frame.sequence or 0) % (1 << 32)
    assert losses(feed(tracker, frames)) == []
