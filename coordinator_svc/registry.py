"""The acquisitions that run now: how they are accepted, once each, and how they end with the process."""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, Final

import structlog

from coordinator_svc.acquisition import AcquisitionRun, Job
from coordinator_svc.backoff import is_transport_failure
from coordinator_svc.directory import OwnedReceiver, ReceiverDirectory
from coordinator_svc.peers import Peers
from coordinator_svc.recovery import Recovery, restarted
from coordinator_svc.tasks import end
from coordinator_svc.validation import (
    Plan,
    check_known,
    check_request_id,
    check_spec,
    make_plan,
    out_of_range,
    refuse_if_bad,
    refuse_if_none_in_range,
)
from coordinator_svc.window import NS
from heimdall.client import TERMINAL_STATES
from heimdall.clock import Clock, SteadyClock
from heimdall.common.v1.acquisition_pb2 import Acquisition, AcquisitionSpec, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError
from heimdall.runtime.drain import Drain
from heimdall.runtime.settings import Settings

_log = structlog.get_logger(__name__)

REQUEST_NAMESPACE: Final = uuid.UUID("6f0e2b1c-2f6b-5c39-9d0a-5b8f6a4e7d13")
"""Namespace in which the UUIDv5 of a request_id is the acquisition_id. Never to be changed: repeats rest on it."""

_SHUT_DOWN_S: Final = 3.0
"""Time to close what still runs when the process ends."""


class Registry:
    """Accepts acquisitions and owns their tasks."""

    def __init__(
        self, peers: Peers, directory: ReceiverDirectory, settings: Settings, drain: Drain, clock: Clock
    ) -> None:
        """Starts with none.

        Args:
            peers: The services.
            directory: Which fetcher owns which receiver.
            settings: All settings.
            drain: Told of every acquisition, so that a stopping coordinator waits for it.
            clock: Host clock.
        """
        self._peers = peers
        self._directory = directory
        self._settings = settings
        self._drain = drain
        self._clock = clock
        self._recovery = Recovery(peers, settings.mesh, clock)
        self._runs = dict[str, AcquisitionRun]()
        self._starting = dict[str, asyncio.Task[Acquisition]]()
        self._settling = dict[str, asyncio.Task[None]]()
        self._tasks = set[asyncio.Task[None]]()
        self._recovered = False
        drain.at_expiry(self._shut_down)

    def get(self, acquisition_id: str) -> AcquisitionRun | None:
        """Returns an acquisition that runs here now."""
        return self._runs.get(acquisition_id)

    async def recover(self) -> None:
        """Settles what an earlier coordinator left unfinished; new acquisitions are refused until that is done."""
        await self._recovery.settle_all()
        self._recovered = True

    async def start(self, spec: AcquisitionSpec, request_id: str) -> Acquisition:
        """Accepts an acquisition, or returns the one that was started under this request_id.

        Args:
            spec: What to acquire.
            request_id: The caller's own id; empty if it gave none.

        Returns:
            A snapshot of the acquisition, which is stored.

        Raises:
            HeimdallError: Why it is not accepted.
        """
        refuse_if_bad(check_request_id(request_id))
        acquisition_id = str(uuid.uuid5(REQUEST_NAMESPACE, request_id) if request_id else uuid.uuid4())
        while (other := self._starting.get(acquisition_id)) is not None:
            await asyncio.wait({other})
        run = self._runs.get(acquisition_id)
        if run is not None:
            return _same(run.report.snapshot(), spec)
        # Accepting goes on if the caller goes away: what is stored has to run.
        task = asyncio.create_task(self._start(acquisition_id, spec, request_id), context=contextvars.Context())
        self._starting[acquisition_id] = task
        task.add_done_callback(lambda done: self._start_done(acquisition_id, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends what still runs, keeping what was received."""
        await end(*self._starting.values())
        self._shut_down()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_SHUT_DOWN_S)
        await end(*self._tasks)

    def _shut_down(self) -> None:
        for run in self._runs.values():
            run.shut_down(_SHUT_DOWN_S)

    async def _start(self, acquisition_id: str, spec: AcquisitionSpec, request_id: str) -> Acquisition:
        if (settling := self._settling.get(acquisition_id)) is not None:
            await end(settling)
        with ExitStack() as stack:
            stack.enter_context(self._drain.work())
            try:
                plan, receivers = await self._check(spec)
            except HeimdallError:
                # The repeat of an accepted request is not refused for what has changed since.
                stored = await self._find(acquisition_id) if request_id else None
                if stored is None:
                    raise
                return _same(stored, spec)
            clock = SteadyClock(self._clock)
            acquisition = self._new(acquisition_id, spec, request_id, plan, clock.unix_ns())
            try:
                await self._peers.archive.put(acquisition, 0)
            except HeimdallError as error:
                if error.reason != ErrorReason.ERROR_REASON_REVISION_CONFLICT:
                    if is_transport_failure(error):
                        # It may be stored all the same, and then nobody runs it.
                        settling = self._own(self._recovery.settle_one(acquisition_id, restarted()))
                        self._settling[acquisition_id] = settling
                        settling.add_done_callback(lambda _: self._settling.pop(acquisition_id, None))
                    raise
                acquisition = _same(await self._peers.archive.get(acquisition_id), spec)
                if acquisition.state in TERMINAL_STATES:
                    return acquisition
                # Stored by an earlier try whose answer was lost, so nobody runs it.
            run = AcquisitionRun(Job(acquisition, plan, receivers, clock), self._peers, self._settings)
            self._runs[acquisition_id] = run
            snapshot = run.report.snapshot()
            self._own(self._run(run, stack.pop_all()))
        _log.info(
            "acquisition_accepted",
            acquisition_id=acquisition_id,
            request_id=request_id,
            center_frequency_hz=spec.tuning.center_frequency_hz,
            duration_s=plan.duration_ns / NS,
            receiver_count=len(receivers),
        )
        return snapshot

    async def _check(self, spec: AcquisitionSpec) -> tuple[Plan, list[OwnedReceiver]]:
        limits = self._settings.coordinator
        if not self._recovered:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE,
                "the coordinator still settles what was unfinished when it started, or waits for storage to do so",
            )
        violations = check_spec(spec, limits, self._clock.unix_ns())
        known = await self._directory.lookup(spec.receiver_ids[: limits.max_receiver_count])
        unknown = check_known(spec.receiver_ids, known)
        unreachable = self._directory.unreachable
        if unknown and unreachable and not violations:
            names = ", ".join(receiver_id for receiver_id in spec.receiver_ids if receiver_id not in known)
            raise HeimdallError(
                ErrorReason.ERROR_REASON_SERVICE_UNAVAILABLE,
                f"{names}: not known, and a fetcher that may own it does not answer: {', '.join(unreachable)}",
                metadata={"receiver_ids": names, "fetchers": ", ".join(unreachable)},
            )
        refuse_if_bad([*violations, *unknown])
        receivers = [known[receiver_id] for receiver_id in spec.receiver_ids]
        refusals = [refusal for owned in receivers if (refusal := out_of_range(spec.tuning, owned.receiver))]
        refuse_if_none_in_range(spec.tuning, refusals, len(receivers))
        if len(self._runs) + len(self._starting) > limits.max_acquisition_count:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_OVERLOADED,
                f"{limits.max_acquisition_count} acquisitions are running, which is the limit; repeat later",
                metadata={"limit": limits.max_acquisition_count},
            )
        return make_plan(spec, limits), receivers

    def _new(
        self, acquisition_id: str, spec: AcquisitionSpec, request_id: str, plan: Plan, now_unix_ns: int
    ) -> Acquisition:
        acquisition = Acquisition(
            acquisition_id=acquisition_id,
            spec=spec,
            request_id=request_id,
            state=Acquisition.STATE_ACCEPTED,
            revision=1,
            outcomes=[
                ReceiverOutcome(receiver_id=receiver_id, state=ReceiverOutcome.STATE_PENDING)
                for receiver_id in spec.receiver_ids
            ],
        )
        acquisition.create_time.FromNanoseconds(now_unix_ns)
        acquisition.update_time.FromNanoseconds(now_unix_ns)
        latest_start_unix_ns = max(now_unix_ns + round(plan.max_wait_s * NS), plan.start_unix_ns or 0)
        allowance_ns = round(self._settings.coordinator.finish_allowance_s * NS)
        acquisition.deadline_time.FromNanoseconds(latest_start_unix_ns + plan.duration_ns + allowance_ns)
        return acquisition

    async def _find(self, acquisition_id: str) -> Acquisition | None:
        try:
            return await self._peers.archive.get(acquisition_id)
        except HeimdallError as error:
            _log.debug("earlier_request_not_found", acquisition_id=acquisition_id, reason=error.reason_name)
            return None

    async def _run(self, run: AcquisitionRun, work: ExitStack) -> None:
        with work:
            try:
                await run.run()
            except Exception as error:  # noqa: BLE001 (outermost boundary of an acquisition: it has to end all the same)
                await self._settle_crashed(run, error)
            finally:
                del self._runs[run.acquisition_id]

    async def _settle_crashed(self, run: AcquisitionRun, error: Exception) -> None:
        """Brings an acquisition to its end that a fault of ours broke off, and tells those who watch."""
        incident = uuid.uuid4().hex[:12]
        _log.error("acquisition_crashed", acquisition_id=run.acquisition_id, incident=incident, exc_info=error)
        cause = HeimdallError(
            ErrorReason.ERROR_REASON_INTERNAL,
            f"internal error; the coordinator's log has it as incident {incident}",
            metadata={"incident": incident},
        )
        await self._recovery.settle_one(run.acquisition_id, cause)
        run.report.end(await self._peers.archive.get(run.acquisition_id))

    def _start_done(self, acquisition_id: str, task: asyncio.Task[Acquisition]) -> None:
        del self._starting[acquisition_id]
        # A caller that went away does not read why its acquisition was not accepted.
        if not task.cancelled() and not isinstance(error := task.exception(), HeimdallError | None):
            _log.error("acquisition_start_crashed", acquisition_id=acquisition_id, exc_info=error)

    def _own(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(job, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("acquisition_crashed", exc_info=error)


def _same(earlier: Acquisition, spec: AcquisitionSpec) -> Acquisition:
    """Returns the acquisition that a repeated request asks for.

    Raises:
        HeimdallError: ACQUISITION_EXISTS if it was started from another spec.
    """
    if earlier.spec == spec:
        return earlier
    raise HeimdallError(
        ErrorReason.ERROR_REASON_ACQUISITION_EXISTS,
        f"request_id {earlier.request_id!r} was used for {earlier.acquisition_id} with another spec; "
        "repeat that spec, or use a new request_id",
        metadata={"request_id": earlier.request_id, "acquisition_id": earlier.acquisition_id},
    )
