"""Settles acquisitions that nobody runs any more, from what storage holds of them."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import Final

import structlog

from coordinator_svc.backoff import Backoff, is_transport_failure
from coordinator_svc.outcome import GapCount, conclude_acquisition, conclude_receiver, without_arrays
from coordinator_svc.peers import Peers
from coordinator_svc.record import StoredRecord
from coordinator_svc.storage_link import close_abandoned
from coordinator_svc.window import Window
from heimdall.client import TERMINAL_STATES
from heimdall.clock import Clock
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Measurement
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import MeshSettings
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest

_log = structlog.get_logger(__name__)

RUNNING_STATES: Final = tuple(
    state
    for state in Acquisition.State.values()
    if state != Acquisition.STATE_UNSPECIFIED and state not in TERMINAL_STATES
)
"""States of acquisitions that somebody has to bring to an end."""

_PAGE_SIZE: Final = 100


class Recovery:
    """Brings acquisitions to a terminal state without running them."""

    def __init__(self, peers: Peers, settings: MeshSettings, clock: Clock) -> None:
        """Takes the means.

        Args:
            peers: The services.
            settings: Heartbeats and idle times.
            clock: Host clock.
        """
        self._peers = peers
        self._settings = settings
        self._clock = clock

    async def settle_all(self) -> None:
        """Settles every acquisition that storage has as unfinished; tries until storage answers."""
        backoff = Backoff()
        while True:
            try:
                await self._settle_found()
            except HeimdallError as error:
                delay_s = max(backoff.next_delay_s(), error.retry_delay_s or 0.0)
                _log.warning(
                    "recovery_waits", reason=error.reason_name, message=error.message, retry_in_s=round(delay_s, 3)
                )
                await asyncio.sleep(delay_s)
            else:
                return

    async def settle_one(self, acquisition_id: str, cause: HeimdallError) -> None:
        """Settles one acquisition, if storage has it as unfinished; tries until storage answers.

        Args:
            acquisition_id: The acquisition.
            cause: Why nobody runs it any more.
        """
        backoff = Backoff()
        while True:
            try:
                found = await self._peers.archive.get(acquisition_id)
                if found.state not in TERMINAL_STATES:
                    await self._settle(found, cause)
            except HeimdallError as error:
                if error.reason == ErrorReason.ERROR_REASON_ACQUISITION_NOT_FOUND:
                    return
                await asyncio.sleep(max(backoff.next_delay_s(), error.retry_delay_s or 0.0))
            else:
                return

    async def _settle_found(self) -> None:
        found, token = list[Acquisition](), ""
        while True:
            page, token = await self._peers.archive.page(RUNNING_STATES, _PAGE_SIZE, token)
            found += page
            if not token:
                break
        for acquisition in found:
            await self._settle(acquisition, restarted())

    async def _settle(self, acquisition: Acquisition, cause: HeimdallError) -> None:
        acquisition_id = acquisition.acquisition_id
        unclosed = dict[str, HeimdallError]()
        for recording in (await self._peers.archive.recordings(acquisition_id)).values():
            if recording.state == Recording.STATE_WRITING:
                failure = await self._close(acquisition, recording, cause)
                if failure is not None:
                    unclosed[recording.receiver_id] = failure
        recordings = await self._peers.archive.recordings(acquisition_id)
        summaries = await self._peers.archive.summaries(acquisition_id)
        for outcome in acquisition.outcomes:
            receiver_id = outcome.receiver_id
            failures = [cause, *([unclosed[receiver_id]] if receiver_id in unclosed else [])]
            _conclude(outcome, recordings.get(receiver_id), summaries.get(receiver_id), failures)
        revision = acquisition.revision
        conclude_acquisition(acquisition, acquisition.spec.min_receivers or 1, cause)
        acquisition.revision += 1
        # The clock may have been set back since the coordinator that is gone last looked at it.
        acquisition.end_time.FromNanoseconds(max(self._clock.unix_ns(), acquisition.update_time.ToNanoseconds()))
        acquisition.update_time.CopyFrom(acquisition.end_time)
        await StoredRecord(self._peers.archive, revision).save_terminal(acquisition)
        _log.info(
            "acquisition_settled",
            acquisition_id=acquisition_id,
            state=Acquisition.State.Name(acquisition.state).removeprefix("STATE_"),
            accepted=acquisition.create_time.ToDatetime(UTC).isoformat(),
        )

    async def _close(
        self, acquisition: Acquisition, recording: Recording, cause: HeimdallError
    ) -> HeimdallError | None:
        """Finishes a recording whose writer is gone; what its window still lacked becomes a gap.

        Returns:
            Why storage refuses; it then finishes the recording itself once it has waited long enough for a writer.

        Raises:
            HeimdallError: If storage is away, and this is worth another try.
        """
        window = Window(recording.window_start_unix_ns, recording.window_end_unix_ns)
        opening = WriteRecordingRequest.Open(
            acquisition_id=acquisition.acquisition_id,
            receiver=Receiver(receiver_id=recording.receiver_id),
            spec=acquisition.spec,
            window_start_unix_ns=window.start_unix_ns,
            window_end_unix_ns=window.end_unix_ns,
            resumed=True,
        )
        try:
            await close_abandoned(self._peers.storage, opening, recording, cause, self._settings, self._clock.unix_ns())
        except HeimdallError as error:
            if error.reason == ErrorReason.ERROR_REASON_RECORDING_FINISHED:
                return None
            away = is_transport_failure(error) or error.retry_delay_s is not None
            if away and error.reason != ErrorReason.ERROR_REASON_INTERNAL:
                raise
            # One recording that can not be closed must not keep the coordinator from serving.
            _log.warning(
                "recording_not_closed",
                acquisition_id=acquisition.acquisition_id,
                receiver_id=recording.receiver_id,
                reason=error.reason_name,
                message=error.message,
            )
            return error
        return None


def restarted() -> HeimdallError:
    """Returns the failure of an acquisition whose coordinator went away."""
    text = "the coordinator was restarted while the acquisition ran; this is what storage held of it"
    return HeimdallError(ErrorReason.ERROR_REASON_COORDINATOR_RESTARTED, text)


def _conclude(
    outcome: ReceiverOutcome,
    recording: Recording | None,
    summary: Measurement | None,
    failures: list[HeimdallError],
) -> None:
    """Fills one outcome from what storage holds; one that had failed before the restart keeps its cause."""
    failed_before = outcome.state == ReceiverOutcome.STATE_FAILED
    if failed_before and recording is None:
        return
    if recording is not None:
        outcome.recording.CopyFrom(recording)
        outcome.stored_sample_count = outcome.received_sample_count = recording.sample_count
        outcome.lost_sample_count, outcome.gap_count = recording.lost_sample_count, recording.gap_count
        outcome.expected_sample_count = recording.sample_count + recording.lost_sample_count
        outcome.first_sample_unix_ns = recording.first_sample_unix_ns
        outcome.last_sample_unix_ns = recording.last_sample_unix_ns
        if recording.HasField("time_solution"):
            outcome.time_solution.CopyFrom(recording.time_solution)
        if recording.complete:
            failures = []
    missing = HeimdallError(
        ErrorReason.ERROR_REASON_MEASUREMENT_MISSING, "the coordinator was restarted before the measurement was stored"
    )
    if summary is not None:
        outcome.measurement.CopyFrom(summary)
        without_arrays(outcome.measurement)
    outcome.ClearField("stream_state")
    conclude_receiver(
        outcome,
        failures=failures,
        gaps=GapCount(0),
        measurement_failure=missing if summary is None and recording is not None else None,
        cancelled=False,
    )
