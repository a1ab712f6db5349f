"""One acquisition from its acceptance to its terminal state: wait, prepare, window, capture, finish."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from coordinator_svc.capture import Capture, CaptureOrder
from coordinator_svc.directory import OwnedReceiver
from coordinator_svc.outcome import OUTCOME_TERMINAL, conclude_acquisition
from coordinator_svc.peers import Peers
from coordinator_svc.record import StoredRecord
from coordinator_svc.report import Report
from coordinator_svc.stop import StopSignal
from coordinator_svc.tasks import end
from coordinator_svc.validation import Plan, out_of_range
from coordinator_svc.window import NS, Window, choose_window
from heimdall.clock import SteadyClock
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import Settings

_log = structlog.get_logger(__name__)

_MAX_LISTED_GAPS: Final = 1000
_MAX_LISTED_GAPS_IN_ALL: Final = 10_000
"""Keeps the report of many bad receivers well below the size of a message."""

_CANCEL_S: Final = 5.0
"""Time that storage has to finish the recordings of a cancelled acquisition."""

_CLOSE_SHARE: Final = 0.1
"""Part of the finish allowance that is kept back to close everything before the deadline."""

_CLOCK_CHECK_S: Final = 1.0
"""How often the host clock is looked at while an acquisition waits for its start."""


@dataclass(frozen=True)
class Job:
    """An acquisition that was accepted and stored."""

    acquisition: Acquisition
    """Its first report, as stored."""
    plan: Plan
    """What it asks for, with the defaults filled in."""
    receivers: Sequence[OwnedReceiver]
    """The receivers in the order of the spec."""
    clock: SteadyClock
    """UTC as it was known when the acquisition was accepted: its deadline and the times of its report go by it."""


class AcquisitionRun:
    """Runs one acquisition. Everything that fails becomes part of its report."""

    def __init__(self, job: Job, peers: Peers, settings: Settings) -> None:
        """Takes over an accepted acquisition.

        Args:
            job: The acquisition.
            peers: The services.
            settings: All settings.
        """
        loop = asyncio.get_running_loop()
        self.report: Final = Report(job.acquisition, job.clock)
        """The acquisition as it is now."""
        self._job = job
        self._peers = peers
        self._settings = settings
        self._stop = StopSignal()
        self._window: asyncio.Future[Window] = loop.create_future()
        self._record = StoredRecord(peers.archive, job.acquisition.revision)
        left_ns = job.acquisition.deadline_time.ToNanoseconds() - job.clock.unix_ns()
        self._deadline_s = loop.time() + max(0.0, left_ns / NS)
        self._alarms = list[asyncio.TimerHandle]()
        self._captures = self._make_captures()

    @property
    def acquisition_id(self) -> str:
        """The acquisition."""
        return self._job.acquisition.acquisition_id

    async def run(self) -> None:
        """Runs the acquisition to its terminal state and until that is stored."""
        loop = asyncio.get_running_loop()
        close_s = self._settings.coordinator.finish_allowance_s * _CLOSE_SHARE
        self._alarms.append(loop.call_at(self._deadline_s - close_s, self._deadline_reached))
        announcing: asyncio.Task[None] | None = None
        captures = list[asyncio.Task[None]]()
        try:
            await self._wait_until_due()
            self._set_state(Acquisition.STATE_PREPARING)
            captures = [asyncio.create_task(capture.run()) for capture in self._captures]
            await self._prepare()
            if self._choose_window():
                announcing = asyncio.create_task(self._record.save(self.report.snapshot()))
            if captures:
                await asyncio.wait(captures)
        finally:
            for alarm in self._alarms:
                alarm.cancel()
            await end(*captures)
            if announcing is not None:
                await self._stop_announcing(announcing)
        await self._finish()

    def cancel(self, *, discard: bool) -> None:
        """Ends the acquisition at the caller's wish; what was received is kept unless it is to be discarded."""
        error = HeimdallError(ErrorReason.ERROR_REASON_CANCELLED, "the caller cancelled the acquisition")
        self._end(error, within_s=_CANCEL_S, discard=discard)

    def shut_down(self, within_s: float) -> None:
        """Ends the acquisition because the coordinator stops; what was received is kept."""
        error = HeimdallError(ErrorReason.ERROR_REASON_DRAINING, "the coordinator stopped during the acquisition")
        self._end(error, within_s=within_s)

    def _make_captures(self) -> list[Capture]:
        """Prepares a capture for each receiver that can be tuned; the others get their outcome at once."""
        acquisition, plan = self._job.acquisition, self._job.plan
        max_listed_gaps = max(10, min(_MAX_LISTED_GAPS, _MAX_LISTED_GAPS_IN_ALL // len(self._job.receivers)))
        captures = []
        for index, owned in enumerate(self._job.receivers):
            outcome = self.report.outcome(index)
            refusal = out_of_range(acquisition.spec.tuning, owned.receiver)
            if refusal is not None:
                outcome.state = ReceiverOutcome.STATE_FAILED
                outcome.problems.append(refusal.to_detail())
                continue
            order = CaptureOrder(
                acquisition_id=acquisition.acquisition_id,
                spec=acquisition.spec,
                owned=owned,
                max_wait_s=plan.max_wait_s,
                give_up_s=self._deadline_s,
                max_listed_gaps=max_listed_gaps,
                clock=self._job.clock,
            )
            captures.append(
                Capture(
                    order,
                    self._peers,
                    self._settings,
                    outcome=outcome,
                    window=self._window,
                    on_state=self._receiver_changed,
                    on_progress=self.report.progressed,
                )
            )
        return captures

    async def _wait_until_due(self) -> None:
        """Waits, if the window lies in the future, until it is time to connect."""
        due = asyncio.create_task(self._reach_start())
        try:
            await self._stop.let_finish(due, grace_s=0.0)
        finally:
            await end(due)

    async def _reach_start(self) -> None:
        plan = self._job.plan
        if plan.start_unix_ns is None:
            return
        connect_unix_ns = plan.start_unix_ns - round(plan.max_wait_s * NS)
        while (left_ns := connect_unix_ns - self._latest_unix_ns()) > 0:  # noqa: ASYNC110 (setting a clock tells nobody)
            await asyncio.sleep(min(left_ns / NS, _CLOCK_CHECK_S))

    def _latest_unix_ns(self) -> int:
        """Returns UTC now, the later of two if the host clock was set since the acquisition was accepted.

        Which of them is right is not known. What comes too early has to wait; what comes too late loses samples.
        """
        return max(self._job.clock.unix_ns(), self._job.clock.host.unix_ns())

    async def _prepare(self) -> None:
        """Waits until every receiver streams or definitely does not, at most as long as the caller allows."""
        until_s = asyncio.get_running_loop().time() + self._job.plan.max_wait_s
        try:
            async with asyncio.timeout_at(until_s):
                for capture in self._captures:
                    await capture.answered.wait()
        except TimeoutError:
            return

    def _choose_window(self) -> bool:
        """Sets the window and tells everybody; returns False if there is nobody to tell."""
        plan = self._job.plan
        ready = [at for capture in self._captures if (at := capture.available_from_unix_ns) is not None]
        if self._stop.reason is not None:
            return False
        if not ready:
            what = f"no receiver was streaming after {plan.max_wait_s:g} s"
            self._give_up_on_silent(what, max_wait_s=plan.max_wait_s)
            return False
        window = choose_window(ready, plan.duration_ns, self._latest_unix_ns())
        if plan.start_unix_ns is not None:
            window = Window(plan.start_unix_ns, plan.start_unix_ns + plan.duration_ns)
        live = self.report.live
        live.window_start_unix_ns, live.window_end_unix_ns = window.start_unix_ns, window.end_unix_ns
        self._window.set_result(window)
        self._set_state(Acquisition.STATE_CAPTURING)
        due = [due_s for capture in self._captures if (due_s := capture.due_s(window.end_unix_ns)) is not None]
        give_up = partial(self._give_up_on_silent, "the receiver was not streaming before the window ended")
        self._alarms.append(asyncio.get_running_loop().call_at(max(due), give_up))
        _log.info(
            "window_chosen",
            acquisition_id=self.acquisition_id,
            start_unix_ns=window.start_unix_ns,
            ready_count=len(ready),
            receiver_count=len(self._captures),
        )
        return True

    def _give_up_on_silent(self, what: str, **facts: object) -> None:
        """Ends the captures of receivers that did not stream and from which nothing can come any more."""
        for capture in self._captures:
            if capture.available_from_unix_ns is None and not capture.answered.is_set():
                capture.give_up(what, **facts)

    def _receiver_changed(self) -> None:
        """Follows the receivers: once none of them takes in samples any more, the acquisition is finishing."""
        over = (*OUTCOME_TERMINAL, ReceiverOutcome.STATE_FINISHING)
        live = self.report.live
        if live.state == Acquisition.STATE_CAPTURING and all(outcome.state in over for outcome in live.outcomes):
            live.state = Acquisition.STATE_FINISHING
        self.report.changed()

    async def _finish(self) -> None:
        """Concludes, and tells the terminal state once it is stored, or at the deadline if storage is away."""
        final = self.report.snapshot()
        final.revision += 1
        conclude_acquisition(final, self._job.plan.min_receivers, self._stop.reason)
        final.end_time.FromNanoseconds(self.report.now_unix_ns())
        final.update_time.CopyFrom(final.end_time)
        saving = asyncio.create_task(self._record.save_terminal(final))
        try:
            left_s = self._deadline_s - asyncio.get_running_loop().time()
            await asyncio.wait({saving}, timeout=max(0.0, left_s))
            self.report.end(final)
            _log.info(
                "acquisition_ended",
                acquisition_id=self.acquisition_id,
                state=Acquisition.State.Name(final.state).removeprefix("STATE_"),
                stored=saving.done(),
                took_s=round((final.end_time.ToNanoseconds() - final.create_time.ToNanoseconds()) / NS, 3),
            )
            await saving
        finally:
            await end(saving)

    async def _stop_announcing(self, announcing: asyncio.Task[None]) -> None:
        """Lets the note that capturing began be stored, or drops it: the terminal state says it all."""
        await asyncio.wait({announcing}, timeout=0.0 if self._stop.reason is not None else 1.0)
        await end(announcing)

    def _deadline_reached(self) -> None:
        deadline = self.report.live.deadline_time.ToJsonString()
        text = f"the acquisition reached its deadline, {deadline}, before everything was in"
        error = HeimdallError(ErrorReason.ERROR_REASON_ACQUISITION_DEADLINE, text, metadata={"deadline_time": deadline})
        self._end(error, within_s=self._deadline_s - asyncio.get_running_loop().time())

    def _end(self, reason: HeimdallError, *, within_s: float, discard: bool = False) -> None:
        finish_by_s = min(self._deadline_s, asyncio.get_running_loop().time() + within_s)
        self._stop.set(reason, finish_by_s=finish_by_s, discard=discard)
        for capture in self._captures:
            capture.stop.set(reason, finish_by_s=finish_by_s, discard=discard)

    def _set_state(self, state: Acquisition.State.ValueType) -> None:
        self.report.live.state = state
        self.report.changed()
