"""A recording made by hand, for the targets that read recordings back."""

from __future__ import annotations

import google_crc32c

from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import (
    Block,
    End,
    EndReason,
    Gap,
    GapReason,
    IqEvent,
    SampleFormat,
    Segment,
    Stamp,
    Status,
    TimeSolution,
    TimeSource,
)
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest

RECEIVER_ID = "rx-1"
TASK_ID = "task-1"
RATE_HZ = 12_000.0
START_NS = 1_700_000_000_000_000_000
BLOCK = 24


def opening(writer_epoch: int = 1) -> WriteRecordingRequest.Open:
    made = WriteRecordingRequest.Open(
        acquisition_id=TASK_ID,
        writer_epoch=writer_epoch,
        window_start_unix_ns=START_NS,
        window_end_unix_ns=START_NS + 5_000_000_000,
    )
    made.receiver.receiver_id = RECEIVER_ID
    made.receiver.display_name = "Receiver 1"
    made.receiver.position.latitude_deg = 45.0
    made.spec.tuning.center_frequency_hz = 77_500.0
    made.spec.duration.seconds = 5
    made.spec.start_time.seconds = START_NS // 10**9
    made.spec.receiver_ids.append(RECEIVER_ID)
    return made


def segment(**values: object) -> IqEvent:
    made = Segment(
        receiver_id=RECEIVER_ID,
        center_frequency_hz=77_500.0,
        sample_rate_hz=RATE_HZ,
        sample_format=SampleFormat.SAMPLE_FORMAT_CI16_LE,
        full_scale=32768.0,
        driver="kiwisdr",
        server_version="KiwiSDR_v1.711",
        passband_low_hz=-5000.0,
        time_source=TimeSource.TIME_SOURCE_GNSS,
    )
    for name, value in values.items():
        setattr(made, name, value)
    return IqEvent(segment=made)


def block(first: int, *, overload: bool = False) -> IqEvent:
    first_ns = START_NS + round(first * 1e9 / RATE_HZ)
    made = Block(first_sample_index=first, first_sample_unix_ns=first_ns, sample_count=BLOCK, overload=overload)
    made.stamps.append(Stamp(sample_index=first + 3, unix_ns=first_ns + 250_000, age_s=1))
    return IqEvent(block=made)


def gap(first: int, count: int) -> IqEvent:
    cause = ErrorDetail(code=14, reason=ErrorReason.ERROR_REASON_UPSTREAM_STALLED, message="slow", metadata={"s": "3"})
    cause.retry_delay.seconds = 3
    made = Gap(first_lost_index=first, lost_sample_count=count, reason=GapReason.GAP_REASON_SEQUENCE, cause=cause)
    return IqEvent(gap=made)


def solution() -> TimeSolution:
    return TimeSolution(
        source=TimeSource.TIME_SOURCE_GNSS,
        reference_unix_ns=START_NS,
        sample_rate_hz=12_000.25,
        time_sigma_ns=120.0,
        stamp_used_count=100,
    )


def status() -> IqEvent:
    notice = ErrorDetail(code=14, reason=ErrorReason.ERROR_REASON_UPSTREAM_STALLED, message="slow")
    return IqEvent(status=Status(time_solution=solution(), receiver_level_dbm=-60.1, notices=[notice]))


def events() -> list[IqEvent]:
    later = segment(first_sample_index=2 * BLOCK + 10, gain_db=3.0)
    return [
        segment(),
        block(0),
        status(),
        gap(BLOCK, 10),
        block(BLOCK + 10, overload=True),
        later,
        block(2 * BLOCK + 10),
    ]


def end() -> End:
    made = End(end_sample_index=3 * BLOCK + 10, reason=EndReason.END_REASON_WINDOW_COMPLETE, attempt_count=1)
    made.time_solution.CopyFrom(solution())
    return made


def samples_of(event: IqEvent) -> bytes:
    first, count = event.block.first_sample_index, event.block.sample_count
    return b"".join((first + number).to_bytes(4, "little") for number in range(count))


def crc32c(content: bytes) -> int:
    return int(google_crc32c.value(content))
