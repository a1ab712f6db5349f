"""What a recording holds apart from its samples: the events that it was written from, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from heimdall.common.v1.acquisition_pb2 import AcquisitionSpec
from heimdall.common.v1.error_pb2 import ErrorDetail
from heimdall.common.v1.iq_pb2 import End, IqEvent, Segment, TimeSolution
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.errors import HeimdallError
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from storage_svc.objects import Stretch
from storage_svc.spool import SAMPLE_BYTES, journal
from storage_svc.spool.journal import RecordKind
from storage_svc.spool.progress import Progress
from storage_svc.timing import announced_solution


@dataclass
class Contents:
    """The events of one recording, without samples."""

    receiver: Receiver = field(default_factory=Receiver)
    """The receiver as it was when the acquisition began."""
    spec: AcquisitionSpec = field(default_factory=AcquisitionSpec)
    """What was asked for."""
    events: list[IqEvent] = field(default_factory=list)
    """Segments, blocks and gaps in order; blocks without their samples."""
    stretches: list[Stretch] = field(default_factory=list)
    """Length and checksum of the samples of each block; empty if the events come from metadata, which has none."""
    notices: list[ErrorDetail] = field(default_factory=list)
    """What the receiver said or what went wrong on the way."""
    time_solution: TimeSolution | None = None
    """The newest time solution; None if none came."""
    end: End | None = None
    """How the stream ended; None while it is being written."""

    def solution(self) -> TimeSolution | None:
        """Returns the best relation of index and time that there is; None without a block."""
        if self.time_solution is not None:
            return self.time_solution
        segment: Segment | None = None
        for event in self.events:
            if event.HasField("segment"):
                segment = event.segment
            elif event.HasField("block") and segment is not None:
                return announced_solution(segment, event.block)
        return None

    def check(self) -> None:
        """Refuses what no recording can hold.

        Raises:
            ValueError: If an event does not start where the one before it ended, or has a value that can not be.
        """
        progress = Progress()
        try:
            for event in self.events:
                size_bytes = event.block.sample_count * progress.sample_bytes
                progress.check_stored(event, size_bytes, self.receiver.receiver_id)
                progress.apply(event)
            if self.time_solution is not None:
                progress.check_time_solution(self.time_solution, "time_solution")
        except HeimdallError as error:
            raise ValueError(f"at sample {progress.next_index}: {error.message}") from error


def read_journal(path: Path) -> Contents:
    """Returns what the journal of a spooled recording vouches for. Blocks: runs in a thread.

    Args:
        path: The journal, whose first record is an opening.

    Raises:
        OSError: If it can not be read.
        ValueError: If its checksums hold and its records are none of a recording.
    """
    content = path.read_bytes()
    try:
        contents = _read_records(content)
    except DecodeError as error:
        raise ValueError(f"a record holds no message of its kind: {error}") from error
    contents.check()
    return contents


def _read_records(content: bytes) -> Contents:
    contents = Contents()
    sample_bytes = 0
    for record in journal.read_records(content):
        if record.kind is RecordKind.OPEN:
            opening = WriteRecordingRequest.Open.FromString(journal.decode_open(record.payload)[1])
            first, again = contents.receiver.receiver_id, opening.receiver.receiver_id
            if not first:
                contents.receiver, contents.spec = opening.receiver, opening.spec
            elif again != first:
                raise ValueError(f"its opening is of {first!r}, and a later one of {again!r}")
        elif record.kind is RecordKind.FINISH:
            contents.end = End.FromString(journal.decode_finish(record.payload)[1])
            if contents.end.HasField("time_solution"):
                contents.time_solution = contents.end.time_solution
        else:
            crc32c, message = journal.decode_event(record.payload)
            event = IqEvent.FromString(message)
            if event.HasField("segment"):
                # One of another format is refused by the check of the whole.
                sample_bytes = SAMPLE_BYTES.get(event.segment.sample_format, 0)
            elif event.HasField("block"):
                contents.stretches.append(Stretch(event.block.sample_count * sample_bytes, crc32c))
            if event.HasField("status"):
                contents.notices.extend(event.status.notices)
                if contents.events and event.status.HasField("time_solution"):
                    contents.time_solution = event.status.time_solution
            else:
                contents.events.append(event)
    return contents
