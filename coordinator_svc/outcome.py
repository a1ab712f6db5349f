"""What became of a receiver and of an acquisition, concluded from the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import Gap, GapReason
from heimdall.common.v1.measurement_pb2 import Measurement
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError, reason_name

_DURABLE = (Recording.STATE_SPOOLED, Recording.STATE_STORED)

OUTCOME_TERMINAL = frozenset(
    {
        ReceiverOutcome.STATE_SUCCEEDED,
        ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED,
        ReceiverOutcome.STATE_FAILED,
        ReceiverOutcome.STATE_CANCELLED,
    }
)
"""States in which an outcome does not change any more."""


class GapCount:
    """Counts all gaps of one receiver, of which the outcome lists the first only."""

    def __init__(self, max_listed: int) -> None:
        """Starts with none.

        Args:
            max_listed: Most gaps that the outcome lists.
        """
        self._max_listed = max_listed
        self._lost_by_reason = Counter[str]()
        self._causes = dict[ErrorReason.ValueType, ErrorDetail]()

    def add(self, gap: Gap, outcome: ReceiverOutcome) -> None:
        """Counts a gap and enters it into the outcome."""
        self._lost_by_reason[GapReason.Name(gap.reason).removeprefix("GAP_REASON_")] += gap.lost_sample_count
        if gap.HasField("cause"):
            self._causes.setdefault(gap.cause.reason, gap.cause)
        outcome.gap_count += 1
        outcome.lost_sample_count += gap.lost_sample_count
        if len(outcome.gaps) < self._max_listed:
            outcome.gaps.append(gap)

    def causes(self) -> list[ErrorDetail]:
        """Returns one failure of each kind that led to a gap."""
        return list(self._causes.values())

    def loss(self, outcome: ReceiverOutcome) -> HeimdallError:
        """Returns the problem that the gaps of an outcome are."""
        parts = ", ".join(f"{count} {reason}" for reason, count in self._lost_by_reason.items())
        detail = f" ({parts})" if parts else ""
        return HeimdallError(
            ErrorReason.ERROR_REASON_SAMPLES_LOST,
            f"{outcome.lost_sample_count} of {outcome.expected_sample_count} samples are missing in "
            f"{outcome.gap_count} gap{'' if outcome.gap_count == 1 else 's'}{detail}",
            metadata={
                "lost_sample_count": outcome.lost_sample_count,
                "expected_sample_count": outcome.expected_sample_count,
                "gap_count": outcome.gap_count,
                **{f"lost_{reason.lower()}": count for reason, count in self._lost_by_reason.items()},
            },
        )


def conclude_receiver(
    outcome: ReceiverOutcome,
    *,
    failures: Sequence[HeimdallError],
    gaps: GapCount,
    measurement_failure: HeimdallError | None,
    cancelled: bool,
) -> None:
    """Brings the outcome of one receiver to its terminal state, with its problems, the weightiest first.

    Args:
        outcome: Counters, recording and measurement are filled in already.
        failures: Why the stream or the recording came to an end before its time, the weightiest first.
        gaps: The gaps.
        measurement_failure: Why there is no measurement; None if there is one, or nothing to measure.
        cancelled: Whether the caller cancelled.
    """
    problems = [failure.to_detail() for failure in failures]
    known = {problem.reason for problem in problems}
    problems += [cause for cause in gaps.causes() if cause.reason not in known]
    if outcome.lost_sample_count:
        problems.append(gaps.loss(outcome).to_detail())
    if outcome.HasField("recording") and not outcome.recording.complete and not problems:
        problems.append(outcome.recording.incomplete_cause)
    if measurement_failure is not None:
        problems.append(_measurement_problem(measurement_failure).to_detail())
    durable = outcome.recording.state in _DURABLE
    if cancelled:
        outcome.state = ReceiverOutcome.STATE_CANCELLED
    elif outcome.stored_sample_count == 0:
        outcome.state = ReceiverOutcome.STATE_FAILED
    elif durable and outcome.recording.complete and outcome.HasField("measurement") and not problems:
        outcome.state = ReceiverOutcome.STATE_SUCCEEDED
    else:
        outcome.state = ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED
    del outcome.problems[:]
    outcome.problems.extend(problems)


def conclude_acquisition(acquisition: Acquisition, min_receivers: int, stopped: HeimdallError | None) -> None:
    """Brings an acquisition to its terminal state; every outcome is terminal already.

    Args:
        acquisition: The report; its state and error are set.
        min_receivers: Number of receivers that must have stored a sample.
        stopped: Why it was ended before its time; None if it was not.
    """
    outcomes = acquisition.outcomes
    stored_count = sum(outcome.stored_sample_count > 0 for outcome in outcomes)
    acquisition.ClearField("error")
    if all(outcome.state == ReceiverOutcome.STATE_SUCCEEDED for outcome in outcomes):
        acquisition.state = Acquisition.STATE_SUCCEEDED
        return
    faults = [
        f"{outcome.receiver_id} ({reason_name(outcome.problems[0].reason)})"
        for outcome in outcomes
        if outcome.problems and outcome.state != ReceiverOutcome.STATE_SUCCEEDED
    ]
    if any(outcome.state == ReceiverOutcome.STATE_CANCELLED for outcome in outcomes):
        acquisition.state = Acquisition.STATE_CANCELLED
        reason, text = ErrorReason.ERROR_REASON_CANCELLED, "the acquisition was cancelled"
    elif stored_count < min_receivers:
        acquisition.state = Acquisition.STATE_FAILED
        reason = ErrorReason.ERROR_REASON_TOO_FEW_RECEIVERS
        text = f"{stored_count} of {len(outcomes)} receivers stored samples, {min_receivers} must: {', '.join(faults)}"
    else:
        acquisition.state = Acquisition.STATE_PARTIALLY_SUCCEEDED
        reason = next(outcome.problems[0].reason for outcome in outcomes if outcome.problems)
        text = f"{len(faults)} of {len(outcomes)} receivers are not complete: {', '.join(faults)}"
    if stopped is not None and acquisition.state != Acquisition.STATE_FAILED:
        reason, text = stopped.reason, stopped.message
    error = HeimdallError(
        reason, text, metadata={"stored_receiver_count": stored_count, "receiver_count": len(outcomes)}
    )
    acquisition.error.CopyFrom(error.to_detail())


def without_arrays(summary: Measurement) -> None:
    """Takes out of a summary what makes it large: a report of many receivers must fit into one message."""
    summary.ClearField("spectrum")
    summary.ClearField("products")


def _measurement_problem(failure: HeimdallError) -> HeimdallError:
    if failure.reason == ErrorReason.ERROR_REASON_MEASUREMENT_MISSING:
        return failure
    return HeimdallError(
        ErrorReason.ERROR_REASON_MEASUREMENT_MISSING,
        f"the measurement is missing: {failure.message}",
        metadata={"cause": failure.reason_name, **failure.metadata},
    )
