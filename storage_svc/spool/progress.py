"""How far one recording is, and which event may come next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Self

from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import Block, Gap, GapReason, IqEvent, SampleFormat, Segment, TimeSolution
from heimdall.errors import BadFieldError, FieldViolation, InvalidFieldsError
from heimdall.timing import unix_ns_at
from storage_svc.timing import announced_solution

SAMPLE_BYTES: Final[Mapping[SampleFormat.ValueType, int]] = MappingProxyType(
    {
        SampleFormat.SAMPLE_FORMAT_CI16_LE: 4,
        SampleFormat.SAMPLE_FORMAT_CU8: 2,
        SampleFormat.SAMPLE_FORMAT_CF32_LE: 8,
    }
)
"""Bytes of one complex sample in each format that can be stored."""

MAX_BLOCK_BYTES: Final = 1024 * 1024
"""Most sample bytes in one block."""

_MAX_RATE_HZ: Final = 1e12
"""Highest sample rate and frequency that SigMF can state."""

_MAX_SPAN_S: Final = 1e9
"""Longest recording, 31 years; with the next bound it keeps every sample time within 64-bit nanoseconds."""

_MAX_UNIX_NS: Final = 4 * 10**18
"""Latest sample time, in the year 2096."""


@dataclass
class Progress:
    """Counts what a recording holds so far. `check` says whether an event fits, `apply` takes it in."""

    segment: Segment | None = None
    """The segment in force."""
    opening_segment: Segment | None = None
    """The first segment."""
    next_index: int = 0
    """Index after the last block or gap."""
    sample_count: int = 0
    """Samples held."""
    lost_sample_count: int = 0
    """Samples lost, all gaps together."""
    gap_count: int = 0
    """Number of gaps."""
    time_solution: TimeSolution | None = None
    """The newest time solution that came."""
    first_block: Block | None = None
    """The first block, without its samples."""
    last_block: Block | None = None
    """The last block, without its samples."""

    def copy(self) -> Self:
        """Returns a copy that `apply` on the original does not change."""
        return replace(self)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample; 0 before the segment."""
        return 0 if self.segment is None else SAMPLE_BYTES[self.segment.sample_format]

    @property
    def data_size_bytes(self) -> int:
        """Bytes of all samples held."""
        return self.sample_count * self.sample_bytes

    @property
    def sample_span_unix_ns(self) -> tuple[int, int]:
        """UTC of the first and last sample held in ns since 1970, by the newest solution; zeros without a sample."""
        if self.segment is None or self.first_block is None or self.last_block is None:
            return 0, 0
        first_index = self.first_block.first_sample_index
        last_index = self.last_block.first_sample_index + self.last_block.sample_count - 1
        if self.time_solution is not None:
            return unix_ns_at(self.time_solution, first_index), unix_ns_at(self.time_solution, last_index)
        return self.first_block.first_sample_unix_ns, unix_ns_at(
            announced_solution(self.segment, self.last_block), last_index
        )

    def check(self, event: IqEvent, samples_size_bytes: int, receiver_id: str) -> None:
        """Refuses an event that can not come next.

        Args:
            event: The event; the samples of a block may have been taken out.
            samples_size_bytes: Length of the block's samples.
            receiver_id: The receiver that the recording belongs to.

        Raises:
            HeimdallError: UNEXPECTED_MESSAGE, INDEX_MISMATCH, UNKNOWN_SAMPLE_FORMAT, BLOCK_TOO_LARGE,
                BLOCK_LENGTH_MISMATCH or INVALID_FIELD, naming the field.
        """
        kind = event.WhichOneof("event")
        if kind == "segment":
            self._check_segment(event.segment, receiver_id)
        elif kind == "status":
            if event.status.HasField("time_solution"):
                self.check_time_solution(event.status.time_solution, "event.status.time_solution")
        elif kind == "block":
            self._require_segment("block")
            self._check_block(event.block, samples_size_bytes)
        elif kind == "gap":
            self._require_segment("gap")
            self._check_gap(event.gap)
        elif kind == "end":
            raise BadFieldError(
                ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE,
                "event.end",
                "can not be written as an event; send it in finish.end",
            )
        elif kind is None:
            raise InvalidFieldsError([FieldViolation("event", "is empty; set one of segment, block, gap, status")])

    def check_stored(self, event: IqEvent, samples_size_bytes: int, receiver_id: str) -> None:
        """Refuses an event that can not have been stored next; arguments as of `check`.

        Raises:
            HeimdallError: As `check`, and for what a writer may send and nobody keeps.
        """
        self.check(event, samples_size_bytes, receiver_id)
        if event.HasField("heartbeat"):
            text = "is kept by nobody; segments, blocks, gaps and statuses are stored"
            raise BadFieldError(ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, "event.heartbeat", text)
        if event.block.samples:
            text = f"has {len(event.block.samples)} bytes; samples are stored apart from their block"
            raise InvalidFieldsError([FieldViolation("event.block.samples", text)])
        if event.HasField("segment"):
            self._check_index("event.segment.first_sample_index", event.segment.first_sample_index)

    def apply(self, event: IqEvent) -> None:
        """Takes in an event that `check` let pass."""
        kind = event.WhichOneof("event")
        if kind == "segment":
            self.segment = event.segment
            self.opening_segment = self.opening_segment or event.segment
        elif kind == "block":
            self.next_index += event.block.sample_count
            self.sample_count += event.block.sample_count
            self.first_block = self.first_block or event.block
            self.last_block = event.block
        elif kind == "gap":
            self.next_index += event.gap.lost_sample_count
            self.lost_sample_count += event.gap.lost_sample_count
            self.gap_count += 1
        elif kind == "status" and self.segment is not None and event.status.HasField("time_solution"):
            # Before the segment there is no sample that a time could belong to.
            self.time_solution = event.status.time_solution

    def repeats_segment(self, segment: Segment) -> bool:
        """Returns whether a segment says nothing new, as the one that a resuming writer sends again."""
        if self.segment is None:
            return False
        now, then = Segment(), Segment()
        now.CopyFrom(segment)
        then.CopyFrom(self.segment)
        for copy in (now, then):
            copy.ClearField("first_sample_index")
            copy.ClearField("available_from_unix_ns")
        return now == then

    def check_time_solution(self, solution: TimeSolution, field: str) -> None:
        """Refuses a time solution from which no time can be computed.

        Args:
            solution: The time solution.
            field: Its path in the request.

        Raises:
            InvalidFieldsError: If a part of it can not be.
        """
        rate_hz = solution.sample_rate_hz
        bad = []
        if not 0 < rate_hz <= _MAX_RATE_HZ:
            bad.append(("sample_rate_hz", f"is {rate_hz}, must be above 0"))
        elif self.segment is not None and not 0.5 <= rate_hz / self.segment.sample_rate_hz <= 2:
            text = f"is {rate_hz}, must be near the announced {self.segment.sample_rate_hz}"
            bad.append(("sample_rate_hz", text))
        if not 0 < solution.reference_unix_ns <= _MAX_UNIX_NS:
            text = f"is {solution.reference_unix_ns}, must be the UTC in ns since 1970"
            bad.append(("reference_unix_ns", text))
        if abs(solution.reference_sample_index) > _MAX_SPAN_S * rate_hz:
            text = f"is {solution.reference_sample_index}, must be within {_MAX_SPAN_S:g} s of index 0"
            bad.append(("reference_sample_index", text))
        if bad:
            raise InvalidFieldsError([FieldViolation(f"{field}.{name}", text) for name, text in bad])

    @property
    def _max_index(self) -> int:
        rate_hz = 0.0 if self.segment is None else self.segment.sample_rate_hz
        return min(int(_MAX_SPAN_S * rate_hz), 1 << 62)

    def _require_segment(self, kind: str) -> None:
        if self.segment is None:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE,
                f"event.{kind}",
                "came before any event.segment; a segment opens every stream",
            )

    def _check_segment(self, segment: Segment, receiver_id: str) -> None:
        if segment.sample_format not in SAMPLE_BYTES:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_UNKNOWN_SAMPLE_FORMAT,
                "event.segment.sample_format",
                f"is {segment.sample_format}, must be CI16_LE, CU8 or CF32_LE",
                sample_format=segment.sample_format,
            )
        bad = []
        if segment.receiver_id != receiver_id:
            bad.append(("receiver_id", f"is {segment.receiver_id!r}, must be that of open: {receiver_id!r}"))
        for name in ("sample_rate_hz", "center_frequency_hz", "full_scale"):
            value = getattr(segment, name)
            if not 0 < value <= _MAX_RATE_HZ:
                bad.append((name, f"is {value}, must be above 0 and at most {_MAX_RATE_HZ:g}"))
        if self.segment is not None:
            for name in ("sample_rate_hz", "sample_format"):
                old, new = getattr(self.segment, name), getattr(segment, name)
                if old != new:
                    bad.append((name, f"changed from {old} to {new}; a change of it ends the stream instead"))
        if bad:
            raise InvalidFieldsError([FieldViolation(f"event.segment.{name}", text) for name, text in bad])
        if not self.repeats_segment(segment):
            self._check_index("event.segment.first_sample_index", segment.first_sample_index)

    def _check_block(self, block: Block, samples_size_bytes: int) -> None:
        if samples_size_bytes > MAX_BLOCK_BYTES:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_BLOCK_TOO_LARGE,
                "event.block.samples",
                f"has {samples_size_bytes} bytes, must have at most {MAX_BLOCK_BYTES}",
                size_bytes=samples_size_bytes,
                limit=MAX_BLOCK_BYTES,
            )
        if block.sample_count < 1:
            raise InvalidFieldsError(
                [FieldViolation("event.block.sample_count", f"is {block.sample_count}, must be 1 or more")]
            )
        expected = block.sample_count * self.sample_bytes
        if samples_size_bytes != expected:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_BLOCK_LENGTH_MISMATCH,
                "event.block.samples",
                f"has {samples_size_bytes} bytes, must have {expected}: sample_count {block.sample_count} times "
                f"{self.sample_bytes}",
                size_bytes=samples_size_bytes,
                expected_size_bytes=expected,
            )
        self._check_index("event.block.first_sample_index", block.first_sample_index)
        bad = []
        if not 0 < block.first_sample_unix_ns <= _MAX_UNIX_NS:
            bad.append(("first_sample_unix_ns", f"is {block.first_sample_unix_ns}, must be the UTC in ns since 1970"))
        if self.next_index + block.sample_count > self._max_index:
            bad.append(("sample_count", f"is {block.sample_count}, must end before index {self._max_index}"))
        previous = block.first_sample_index - 1
        for number, stamp in enumerate(block.stamps):
            if not previous < stamp.sample_index < block.first_sample_index + block.sample_count:
                text = f"is {stamp.sample_index}, must ascend and lie inside the block"
                bad.append((f"stamps[{number}].sample_index", text))
                break
            previous = stamp.sample_index
        if bad:
            raise InvalidFieldsError([FieldViolation(f"event.block.{name}", text) for name, text in bad])

    def _check_gap(self, gap: Gap) -> None:
        bad = []
        if not 1 <= gap.lost_sample_count <= self._max_index - self.next_index:
            text = f"is {gap.lost_sample_count}, must be 1 or more and end before index {self._max_index}"
            bad.append(("lost_sample_count", text))
        if gap.reason == GapReason.GAP_REASON_UNSPECIFIED:
            bad.append(("reason", "is not set; say why the samples are missing"))
        if bad:
            raise InvalidFieldsError([FieldViolation(f"event.gap.{name}", text) for name, text in bad])
        self._check_index("event.gap.first_lost_index", gap.first_lost_index)

    def _check_index(self, field: str, index: int) -> None:
        if index != self.next_index:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_INDEX_MISMATCH,
                field,
                f"is {index}, must be {self.next_index}: every event starts where the one before it ended",
                index=index,
                next_sample_index=self.next_index,
            )
