"""One receiver's stream of samples: order, window grid, results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsp_svc.estimate.calibration import Calibration
from dsp_svc.estimate.measure import Plan
from dsp_svc.estimate.psd import Welch, default_segment_length
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.samples import BadSamplesError
from dsp_svc.estimate.snr import Band
from dsp_svc.messages import fill_numbers
from dsp_svc.meter import Meter, StretchNumbers
from dsp_svc.requests import StreamConfig, StreamSegment, check_length, check_rate, read_segment
from heimdall.common.v1 import iq_pb2, measurement_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import BadFieldError, FieldViolation, InvalidFieldsError

MAX_RUN_SAMPLES = 1 << 18
"""A window longer than this is measured in runs, which bounds the memory of a stream at any sample rate."""


@dataclass(frozen=True)
class Run:
    """Consecutive samples of one window that wait to be measured."""

    data: bytearray
    """Whole I,Q pairs."""
    first_index: int
    """The index of the first of them."""
    passband: Band
    """What the receiver's filter let through."""
    calibration: Calibration | None
    """What turns their levels into dBm; None if that is not known."""
    window: Window
    """The window that they belong to, as it stands after them."""
    completes_window: bool
    """Whether the window is full."""
    breaks_window: bool
    """Whether the window ends here without being full."""


@dataclass(frozen=True)
class Window:
    """A stretch of the grid."""

    first_index: int
    """The index of its first sample."""
    first_unix_ns: int
    """The UTC of that sample in ns since 1970."""
    sample_count: int
    """The samples that it has so far."""
    overloaded_count: int
    """Those of them that the receiver marked as overloaded."""
    passband: Band
    """What every filter that its samples came through let through."""


class Session:
    """The state of one stream.

    `accept` is cheap and checks an event; what it returns is measured by `measure` and `summarise`, which compute
    and belong on another thread. The caller does one thing at a time, in the order of the events.
    """

    def __init__(self, config: StreamConfig) -> None:
        """Starts a stream that nothing was received of.

        Args:
            config: What to measure.
        """
        self._config = config
        self._segment: StreamSegment | None = None
        self._meter: Meter | None = None
        self._passband = Band(0.0, 0.0)
        self._calibration: Calibration | None = None
        self._shared_passband = Band(0.0, 0.0)
        self._next_index = 0
        self._lost_count = 0
        self._first_index: int | None = None
        self._first_unix_ns = 0
        self._overloaded_count = 0
        self._solution: iq_pb2.TimeSolution | None = None
        self._window: Window | None = None
        self._data = bytearray()

    def accept(self, event: iq_pb2.IqEvent) -> Iterator[Run]:
        """Takes one event; an end is given to `summarise` once its runs are measured.

        Args:
            event: The next event of the stream.

        Yields:
            The runs of samples that are ready to be measured, each to be measured before the next is asked for.

        Raises:
            HeimdallError: The event is out of order or has fields that can not be.
        """
        kind = event.WhichOneof("event")
        if kind is None:
            raise InvalidFieldsError([FieldViolation("event", "is empty or of a kind that this version does not know")])
        if kind == "segment":
            yield from self._open(event.segment)
        elif kind == "heartbeat":
            return
        elif self._segment is None:
            raise BadFieldError(
                ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE,
                f"event.{kind}",
                f"a {kind} came before the segment that describes it",
            )
        elif kind == "block":
            yield from self._take(event.block, self._segment)
        elif kind == "gap":
            yield from self._skip(event.gap)
        elif kind == "status":
            if event.status.HasField("time_solution"):
                check_rate("event.status.time_solution", event.status.time_solution, self._segment)
                self._solution = event.status.time_solution
        else:
            self._check_index("event.end.end_sample_index", event.end.end_sample_index)
            if event.end.HasField("time_solution"):
                check_rate("event.end.time_solution", event.end.time_solution, self._segment)
            yield from self._break()

    def measure(self, run: Run) -> measurement_pb2.Measurement | None:
        """Measures a run of samples.

        Args:
            run: What `accept` gave.

        Returns:
            The window's numbers if the run completes it.

        Raises:
            HeimdallError: A float sample is not finite.
        """
        segment, meter = self._opened()
        if run.data:
            try:
                meter.add(run.data, run.first_index, run.passband, run.calibration)
            except BadSamplesError as error:
                raise InvalidFieldsError([FieldViolation("event.block.samples", str(error))]) from error
        result = None
        if run.completes_window:
            window = run.window
            stretch = meter.window(window.passband, self._rate_hz(segment))
            result = self._measurement(segment, stretch, self._rate_hz(segment), window.overloaded_count)
            result.scope = measurement_pb2.MEASUREMENT_SCOPE_WINDOW
            result.first_sample_index = window.first_index
            result.first_sample_unix_ns = window.first_unix_ns
        if run.completes_window or run.breaks_window:
            meter.end_window()
        return result

    def summarise(self, end: iq_pb2.End) -> measurement_pb2.Measurement:
        """Measures the whole stream.

        Args:
            end: The event that closed it.

        Returns:
            The numbers of all samples, with the final sample rate and time.
        """
        segment, meter = self._opened()
        if end.HasField("time_solution"):
            self._solution = end.time_solution
        rate_hz = self._rate_hz(segment)
        stretch = meter.summary(self._shared_passband, rate_hz)
        result = self._measurement(segment, stretch, rate_hz, self._overloaded_count)
        result.scope = measurement_pb2.MEASUREMENT_SCOPE_SUMMARY
        result.lost_sample_count = self._lost_count
        if self._first_index is not None:
            result.first_sample_index = self._first_index
            result.first_sample_unix_ns = self._first_unix_ns
            if end.HasField("time_solution"):
                after = self._first_index - end.time_solution.reference_sample_index
                result.first_sample_unix_ns = end.time_solution.reference_unix_ns + round(after * 1e9 / rate_hz)
        return result

    def _opened(self) -> tuple[StreamSegment, Meter]:
        if self._segment is None or self._meter is None:
            raise BadFieldError(ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, "event", "the stream has no segment yet")
        return self._segment, self._meter

    def _open(self, message: iq_pb2.Segment) -> Iterator[Run]:
        """Takes a segment; what came before it is measured as what it was."""
        segment = read_segment(message)
        self._check_index("event.segment.first_sample_index", segment.first_sample_index)
        if message.receiver_id != self._config.receiver_id:
            text = f"{message.receiver_id!r} is not the {self._config.receiver_id!r} of the config"
            raise InvalidFieldsError([FieldViolation("event.segment.receiver_id", text)])
        if self._segment is None:
            bin_count = self._config.spectrum_bin_count
            self._meter = Meter(
                Plan(
                    segment.coding,
                    segment.sample_rate_hz,
                    Welch(default_segment_length(segment.sample_rate_hz)),
                    Welch(bin_count) if bin_count else None,
                    self._config.metrics,
                )
            )
            self._shared_passband = segment.passband
        else:
            _check_unchanged(self._segment, segment)
            self._shared_passband = _common(self._shared_passband, segment.passband)
            if self._window is not None:
                if self._data:
                    yield self._run(self._window, completes=False, breaks=False)
                self._window = replace(self._window, passband=_common(self._window.passband, segment.passband))
        self._segment = segment
        self._passband = segment.passband
        self._calibration = segment.calibration

    def _take(self, block: iq_pb2.Block, segment: StreamSegment) -> Iterator[Run]:
        if block.sample_count < 1:
            text = f"{block.sample_count} must be 1 or more"
            raise InvalidFieldsError([FieldViolation("event.block.sample_count", text)])
        check_length("event.block.samples", len(block.samples), block.sample_count, segment.coding)
        self._check_index("event.block.first_sample_index", block.first_sample_index)
        if self._first_index is None:
            self._first_index, self._first_unix_ns = block.first_sample_index, block.first_sample_unix_ns
        if block.overload:
            self._overloaded_count += block.sample_count
        size = segment.coding.sample_size_bytes
        window_length = max(1, round(self._config.window_s * segment.sample_rate_hz))
        samples, taken = memoryview(block.samples), 0
        while taken < block.sample_count:
            window = self._window
            if window is None:
                after_ns = round(taken * 1e9 / self._rate_hz(segment))
                window = Window(self._next_index, block.first_sample_unix_ns + after_ns, 0, 0, self._passband)
            room = MAX_RUN_SAMPLES - len(self._data) // size
            count = min(block.sample_count - taken, window_length - window.sample_count, room)
            self._data += samples[taken * size : (taken + count) * size]
            taken += count
            self._next_index += count
            window = replace(
                window,
                sample_count=window.sample_count + count,
                overloaded_count=window.overloaded_count + (count if block.overload else 0),
            )
            self._window = window
            full = window.sample_count == window_length
            if full or len(self._data) == MAX_RUN_SAMPLES * size:
                yield self._run(window, completes=full, breaks=False)

    def _skip(self, gap: iq_pb2.Gap) -> Iterator[Run]:
        if gap.lost_sample_count < 1:
            text = f"{gap.lost_sample_count} must be 1 or more"
            raise InvalidFieldsError([FieldViolation("event.gap.lost_sample_count", text)])
        self._check_index("event.gap.first_lost_index", gap.first_lost_index)
        yield from self._break()
        self._next_index += gap.lost_sample_count
        self._lost_count += gap.lost_sample_count

    def _break(self) -> Iterator[Run]:
        """Hands out what a window has that will never be full; it counts for the summary only."""
        if self._window is not None:
            yield self._run(self._window, completes=False, breaks=True)

    def _run(self, window: Window, *, completes: bool, breaks: bool) -> Run:
        segment, _ = self._opened()
        data, self._data = self._data, bytearray()
        first_index = self._next_index - len(data) // segment.coding.sample_size_bytes
        if completes or breaks:
            self._window = None
        return Run(data, first_index, self._passband, self._calibration, window, completes, breaks)

    def _check_index(self, field: str, index: int) -> None:
        if index != self._next_index:
            text = f"{index} is not {self._next_index}, where the stream stands; send a gap for what is lost"
            raise BadFieldError(
                ErrorReason.ERROR_REASON_INDEX_MISMATCH, field, text, index=index, expected_index=self._next_index
            )

    def _rate_hz(self, segment: StreamSegment) -> float:
        if self._solution is not None and self._solution.sample_rate_hz:
            return self._solution.sample_rate_hz
        return segment.sample_rate_hz

    def _measurement(
        self, segment: StreamSegment, stretch: StretchNumbers, rate_hz: float, overloaded_count: int
    ) -> measurement_pb2.Measurement:
        source = segment.time_source if self._solution is None else self._solution.source
        result = measurement_pb2.Measurement(
            acquisition_id=self._config.acquisition_id,
            receiver_id=self._config.receiver_id,
            center_frequency_hz=segment.center_frequency_hz,
            sample_rate_hz=rate_hz,
            time_source=source,
        )
        if stretch.sample_count:
            overload = Quantity.valid(overloaded_count / stretch.sample_count, None, "receiver-flag")
        else:
            overload = Quantity.absent(Reason.NO_SAMPLES, "receiver-flag")
        result.sample_count = stretch.sample_count
        fill_numbers(result, stretch.numbers, stretch.products, overload)
        return result


def _common(first: Band, second: Band) -> Band:
    return Band(max(first.low_hz, second.low_hz), min(first.high_hz, second.high_hz))


def _check_unchanged(before: StreamSegment, after: StreamSegment) -> None:
    wrong = [
        FieldViolation(f"event.segment.{name}", f"{new} is not the {old} of the stream; a change ends the stream")
        for name, old, new in (
            ("sample_rate_hz", before.sample_rate_hz, after.sample_rate_hz),
            ("center_frequency_hz", before.center_frequency_hz, after.center_frequency_hz),
            ("sample_format", before.coding.sample_format.name, after.coding.sample_format.name),
            ("full_scale", before.coding.full_scale, after.coding.full_scale),
            ("zero_offset", before.coding.zero_offset, after.coding.zero_offset),
        )
        if old != new
    ]
    if wrong:
        raise InvalidFieldsError(wrong)
