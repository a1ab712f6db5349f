"""Events and receivers as messages of the contract, and the contract's requests as orders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time
from types import MappingProxyType
from typing import Final

from fetcher_svc.admission import ReceiverSlots
from fetcher_svc.cutter import Block, Gap, GapReason, Resume, Segment, Window
from fetcher_svc.feed import UpstreamState
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Calibration, Probe, SampleFormat, Tuning
from fetcher_svc.session import Ending, EndReason, Event, Opening, Order, Progress
from fetcher_svc.solution import Degradation, TimeSolution
from fetcher_svc.station import CONNECT_LIMIT_CAUSE
from fetcher_svc.timeline import TimeBase
from heimdall.common.v1 import iq_pb2, receiver_pb2
from heimdall.errors import FieldViolation, InvalidFieldsError
from heimdall.fetcher.v1 import fetcher_pb2

DRIVER_VERSION: Final = "1"
"""Raised whenever a driver changes what it delivers."""
DEFAULT_WAIT_S: Final = 5.0
MAX_WAIT_S: Final = 60.0
MAX_WINDOW_DISTANCE_NS: Final = 86_400 * 1_000_000_000
"""A window that starts further from now is a wrong unit or epoch."""

_FORMATS: Final[Mapping[SampleFormat, iq_pb2.SampleFormat.ValueType]] = MappingProxyType(
    {
        SampleFormat.CI16_LE: iq_pb2.SAMPLE_FORMAT_CI16_LE,
        SampleFormat.CU8: iq_pb2.SAMPLE_FORMAT_CU8,
        SampleFormat.CF32_LE: iq_pb2.SAMPLE_FORMAT_CF32_LE,
    }
)
_SOURCES: Final[Mapping[TimeBase, iq_pb2.TimeSource.ValueType]] = MappingProxyType(
    {TimeBase.GNSS: iq_pb2.TIME_SOURCE_GNSS, TimeBase.ARRIVAL: iq_pb2.TIME_SOURCE_HOST_ARRIVAL}
)
_STATES: Final[Mapping[UpstreamState, iq_pb2.StreamState.ValueType]] = MappingProxyType(
    {state: iq_pb2.StreamState.Value(f"STREAM_STATE_{state.name}") for state in UpstreamState}
)
_GAP_REASONS: Final[Mapping[GapReason, iq_pb2.GapReason.ValueType]] = MappingProxyType(
    {reason: iq_pb2.GapReason.Value(f"GAP_REASON_{reason.name}") for reason in GapReason}
)
_RESUME_GAP_REASONS: Final[Mapping[iq_pb2.GapReason.ValueType, GapReason]] = MappingProxyType(
    {
        iq_pb2.GAP_REASON_UNSPECIFIED: GapReason.SERVICE_RESTART,
        iq_pb2.GAP_REASON_SERVICE_RESTART: GapReason.SERVICE_RESTART,
        iq_pb2.GAP_REASON_BACKPRESSURE: GapReason.BACKPRESSURE,
    }
)
"""What a caller can know of the samples between a broken stream and the next; the rest only the fetcher sees."""
_END_REASONS: Final[Mapping[EndReason, iq_pb2.EndReason.ValueType]] = MappingProxyType(
    {reason: iq_pb2.EndReason.Value(f"END_REASON_{reason.name}") for reason in EndReason}
)
_DEGRADATIONS: Final[Mapping[Degradation, iq_pb2.TimeDegradation.ValueType]] = MappingProxyType(
    {reason: iq_pb2.TimeDegradation.Value(f"TIME_DEGRADATION_{reason.name}") for reason in Degradation}
)


def order_from_open(message: fetcher_pb2.StreamIqRequest.Open) -> Order:
    """Returns what a caller opens a stream with; the tuning is yet to be checked by the receiver.

    Raises:
        InvalidFieldsError: If a field can not be; names every bad one.
    """
    bad: list[FieldViolation] = []
    tuning = message.tuning
    if tuning.gain_mode not in receiver_pb2.GainMode.values():
        bad.append(FieldViolation("open.tuning.gain_mode", f"has the unknown value {tuning.gain_mode}"))
    max_wait_s = DEFAULT_WAIT_S
    if message.HasField("max_wait"):
        max_wait_s = message.max_wait.seconds + message.max_wait.nanos / 1e9
        if not 0 <= max_wait_s <= MAX_WAIT_S:
            bad.append(FieldViolation("open.max_wait", f"must be 0 to {MAX_WAIT_S:g} s; got {max_wait_s:g}"))
    resume: Resume | None = None
    if message.resume:
        gap_reason = _RESUME_GAP_REASONS.get(message.resume_gap_reason)
        if gap_reason is None:
            text = f"must be SERVICE_RESTART or BACKPRESSURE; got {_gap_reason_name(message.resume_gap_reason)}"
            bad.append(FieldViolation("open.resume_gap_reason", text))
            gap_reason = GapReason.SERVICE_RESTART
        resume = Resume(message.resume_sample_index, message.resume_origin_unix_ns, gap_reason)
        if resume.sample_index < 0:
            bad.append(FieldViolation("open.resume_sample_index", f"must be 0 or more; got {resume.sample_index}"))
        if resume.origin_unix_ns <= 0:
            bad.append(
                FieldViolation(
                    "open.resume_origin_unix_ns",
                    f"must be the UTC of index 0 in ns since 1970; got {resume.origin_unix_ns}",
                )
            )
    if bad:
        raise InvalidFieldsError(bad)
    return Order(
        tuning=Tuning(
            center_frequency_hz=tuning.center_frequency_hz,
            automatic_gain=tuning.gain_mode == receiver_pb2.GAIN_MODE_AUTOMATIC,
            gain_db=tuning.gain_db if tuning.HasField("gain_db") else None,
            passband_low_hz=tuning.passband_low_hz if tuning.HasField("passband_low_hz") else None,
            passband_high_hz=tuning.passband_high_hz if tuning.HasField("passband_high_hz") else None,
        ),
        max_wait_s=max_wait_s,
        give_up_unix_ns=message.give_up_time.ToNanoseconds() if message.HasField("give_up_time") else None,
        resume=resume,
    )


def _gap_reason_name(reason: iq_pb2.GapReason.ValueType) -> str:
    known = reason in iq_pb2.GapReason.values()
    return iq_pb2.GapReason.Name(reason).removeprefix("GAP_REASON_") if known else str(reason)


def window_from_message(message: fetcher_pb2.StreamIqRequest.Window, now_unix_ns: int) -> Window:
    """Returns the window that a caller wants; a start of 0 means the first sample, an end of 0 means until stop.

    Raises:
        InvalidFieldsError: If the window can not be.
    """
    start_ns, end_ns = message.start_unix_ns, message.end_unix_ns
    bad: list[FieldViolation] = []
    if start_ns and abs(start_ns - now_unix_ns) > MAX_WINDOW_DISTANCE_NS:
        bad.append(
            FieldViolation(
                "window.start_unix_ns",
                f"must be UTC in ns since 1970 within a day of now ({now_unix_ns}); got {start_ns}",
            )
        )
    if end_ns and end_ns <= start_ns:
        bad.append(FieldViolation("window.end_unix_ns", f"must be after the start {start_ns}; got {end_ns}"))
    if bad:
        raise InvalidFieldsError(bad)
    return Window(start_ns or None, end_ns or None)


def receiver_message(slots: ReceiverSlots, now_unix_ns: int) -> receiver_pb2.Receiver:
    """Returns a receiver as the contract shows it.

    Args:
        slots: The receiver.
        now_unix_ns: Host clock in ns since 1970.
    """
    config, error = slots.config, slots.station.last_error
    message = receiver_pb2.Receiver(
        receiver_id=config.receiver_id,
        display_name=config.name,
        driver=config.driver,
        position=position_message(config),
        min_frequency_hz=config.min_frequency_hz,
        max_frequency_hz=config.max_frequency_hz,
        converter_offset_hz=config.converter_offset_hz,
        slot_count=config.slots,
        used_slot_count=slots.used_count,
        state=receiver_pb2.Receiver.STATE_ACTIVE if slots.used_count else receiver_pb2.Receiver.STATE_IDLE,
    )
    hold = slots.station.find_hold(config.receiver_id)
    if hold is not None and hold.retry_delay_s is not None and not slots.is_connected:
        message.state = receiver_pb2.Receiver.STATE_BACKING_OFF
        message.retry_time.FromNanoseconds(now_unix_ns + round(hold.retry_delay_s * 1e9))
        if hold.metadata["cause"] == CONNECT_LIMIT_CAUSE:
            # No failure made it wait, so none says why.
            error = hold
    if error is not None:
        message.last_error.CopyFrom(error.to_detail())
    return message


def position_message(config: ReceiverConfig) -> receiver_pb2.Position:
    """Returns where a receiver is."""
    return receiver_pb2.Position(
        latitude_deg=config.latitude_deg, longitude_deg=config.longitude_deg, altitude_m=config.altitude_m
    )


def probe_message(probe: Probe, receiver: receiver_pb2.Receiver) -> fetcher_pb2.ProbeReceiverResponse:
    """Returns how a receiver answered."""
    message = fetcher_pb2.ProbeReceiverResponse(
        receiver=receiver,
        reachable=True,
        reported_name=probe.reported_name,
        server_version=probe.server_version,
        in_service=probe.in_service,
        used_channel_count=probe.used_channel_count,
        channel_count=probe.channel_count,
        gnss_satellite_count=probe.gnss_satellite_count,
        gnss_stamps_enabled=probe.gnss_stamps_enabled,
        attributes=probe.attributes,
    )
    message.round_trip.FromNanoseconds(round(probe.round_trip_s * 1e9))
    if probe.latitude_deg is not None and probe.longitude_deg is not None and probe.altitude_m is not None:
        message.reported_position.latitude_deg = probe.latitude_deg
        message.reported_position.longitude_deg = probe.longitude_deg
        message.reported_position.altitude_m = probe.altitude_m
    return message


def event_message(event: Event, config: ReceiverConfig) -> fetcher_pb2.StreamIqResponse:
    """Returns an event of a stream as the contract carries it."""
    match event:
        case Block():
            return _answer(iq_pb2.IqEvent(block=_block(event)))
        case Gap():
            return _answer(iq_pb2.IqEvent(gap=_gap(event)))
        case Opening():
            return _answer(iq_pb2.IqEvent(segment=_segment(event.segment, config, event.available_from_unix_ns)))
        case Segment():
            return _answer(iq_pb2.IqEvent(segment=_segment(event, config, None)))
        case Progress():
            return _answer(iq_pb2.IqEvent(status=_status(event)))
        case Ending():
            return _answer(iq_pb2.IqEvent(end=_end(event)))


def _answer(event: iq_pb2.IqEvent) -> fetcher_pb2.StreamIqResponse:
    return fetcher_pb2.StreamIqResponse(event=event)


def _segment(segment: Segment, config: ReceiverConfig, available_from_unix_ns: int | None) -> iq_pb2.Segment:
    facts = segment.described.facts
    return iq_pb2.Segment(
        receiver_id=config.receiver_id,
        first_sample_index=segment.first_index,
        center_frequency_hz=facts.center_frequency_hz,
        sample_rate_hz=facts.sample_rate_hz,
        sample_format=_FORMATS[facts.sample_format],
        full_scale=facts.full_scale,
        zero_offset=facts.zero_offset,
        gain_mode=receiver_pb2.GAIN_MODE_AUTOMATIC if facts.automatic_gain else receiver_pb2.GAIN_MODE_MANUAL,
        gain_db=facts.gain_db,
        passband_low_hz=facts.passband_low_hz,
        passband_high_hz=facts.passband_high_hz,
        attenuation_db=facts.attenuation_db,
        position=position_message(config),
        driver=config.driver,
        driver_version=DRIVER_VERSION,
        server_version=facts.server_version,
        sample_origin=iq_pb2.SAMPLE_ORIGIN_RAW_IQ,
        time_source=_SOURCES[segment.described.base],
        available_from_unix_ns=available_from_unix_ns or 0,
        calibration=None if facts.calibration is None else _calibration(facts.calibration),
    )


def _calibration(calibration: Calibration) -> iq_pb2.Calibration:
    message = iq_pb2.Calibration(
        offset_db=calibration.offset_db,
        uncertainty_db=calibration.uncertainty_db,
        source=calibration.source,
        derived=calibration.date is None,
    )
    if calibration.date is not None:
        message.calibration_time.FromDatetime(datetime.combine(calibration.date, time()))
    return message


def _block(block: Block) -> iq_pb2.Block:
    return iq_pb2.Block(
        first_sample_index=block.first_index,
        first_sample_unix_ns=block.unix_ns,
        sample_count=block.sample_count,
        samples=block.samples,
        stamps=[
            iq_pb2.Stamp(sample_index=stamp.index, unix_ns=stamp.unix_ns, age_s=stamp.age_s) for stamp in block.stamps
        ],
        overload=block.overload,
    )


def _gap(gap: Gap) -> iq_pb2.Gap:
    return iq_pb2.Gap(
        first_lost_index=gap.first_index,
        lost_sample_count=gap.count,
        exact=gap.exact,
        reason=_GAP_REASONS[gap.reason],
        cause=None if gap.cause is None else gap.cause.to_detail(),
    )


def _status(progress: Progress) -> iq_pb2.Status:
    return iq_pb2.Status(
        time_solution=_solution(progress.solution),
        receiver_level_dbm=progress.level_dbm,
        state=_STATES[progress.state],
        notices=[notice.to_detail() for notice in progress.notices],
    )


def _end(ending: Ending) -> iq_pb2.End:
    return iq_pb2.End(
        end_sample_index=ending.end_index,
        reason=_END_REASONS[ending.reason],
        error=None if ending.error is None else ending.error.to_detail(),
        time_solution=_solution(ending.solution),
        received_sample_count=ending.received_count,
        lost_sample_count=ending.lost_count,
        attempt_count=ending.attempt_count,
    )


def _solution(solution: TimeSolution | None) -> iq_pb2.TimeSolution | None:
    if solution is None:
        return None
    return iq_pb2.TimeSolution(
        source=_SOURCES[solution.base],
        reference_sample_index=solution.reference_index,
        reference_unix_ns=solution.reference_unix_ns,
        sample_rate_hz=solution.sample_rate_hz,
        sample_rate_sigma_hz=solution.sample_rate_sigma_hz,
        time_sigma_ns=solution.time_sigma_ns,
        rms_ns=solution.rms_ns,
        stamp_used_count=solution.used_count,
        stamp_dropped_count=solution.dropped_count,
        degradation=iq_pb2.TIME_DEGRADATION_UNSPECIFIED
        if solution.degradation is None
        else _DEGRADATIONS[solution.degradation],
        degradation_message=solution.message,
    )
