"""The side branch of one receiver: the same events to DSP, its numbers to storage. It never holds up the samples."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import structlog

from coordinator_svc.backoff import Backoff, is_transport_failure
from coordinator_svc.outcome import without_arrays
from coordinator_svc.peers import Archive
from coordinator_svc.tasks import end, run_together
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import End, IqEvent
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.dsp.v1.dsp_pb2 import ProcessRequest, ProcessResponse
from heimdall.errors import HeimdallError
from heimdall.runtime.settings import MeshSettings
from heimdall.runtime.streams import ClientStream, heartbeat_now

if TYPE_CHECKING:
    from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceAsyncStub

_log = structlog.get_logger(__name__)

MAX_WAITING_BYTES: Final = 2 * 1024 * 1024
"""Size of the events of one receiver that wait for DSP; beyond it the measurement is given up."""

_BATCH_COUNT: Final = 16
"""Measurement windows that are stored together."""
_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Size at which they are stored however few they are; one with everything in it has 1 MiB."""

_MAX_UNSTORED_COUNT: Final = 256
"""Measurement windows that wait for storage; beyond it the oldest are dropped."""
_MAX_UNSTORED_BYTES: Final = 16 * 1024 * 1024
"""Their size; beyond it the oldest are dropped too."""

_Stream = ClientStream[ProcessRequest, ProcessResponse]


class Measurer:
    """Has one receiver's stream measured in the background and stores the numbers."""

    def __init__(
        self, stub: DspServiceAsyncStub, config: ProcessRequest.Config, archive: Archive, settings: MeshSettings
    ) -> None:
        """Prepares a measurement; sends nothing before start.

        Args:
            stub: The DSP service.
            config: What to measure, and for whom.
            archive: Where the numbers go.
            settings: Heartbeats and idle times.
        """
        self._stub = stub
        self._config = config
        self._archive = archive
        self._settings = settings
        self._waiting = deque[tuple[IqEvent, int]]()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: HeimdallError | None = None
        self._unstored = deque[tuple[Measurement, int]]()
        self._unstored_bytes = 0
        self._dropped_count = 0
        self._summary: Measurement | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await end(self._task)

    def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._measure())

    def offer(self, event: IqEvent) -> None:
        """Takes an event, never waits; gives the measurement up if DSP is too slow."""
        if self._failure is not None:
            return
        size_bytes = event.ByteSize()
        if self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
            text = f"DSP fell behind: {self._waiting_bytes} bytes wait for it, {MAX_WAITING_BYTES} is the limit"
            metadata = {"waiting_bytes": self._waiting_bytes, "limit": MAX_WAITING_BYTES}
            self._fail(HeimdallError(ErrorReason.ERROR_REASON_OVERLOADED, text, metadata=metadata))
            if self._task is not None:
                self._task.cancel()
            return
        self._waiting.append((event, size_bytes))
        self._waiting_bytes += size_bytes
        self._more.set()

    async def finish(self, ending: End) -> Measurement:
        """Waits for the summary and until everything measured is stored.

        Args:
            ending: How the stream of the receiver ended.

        Returns:
            The summary, without its spectrum and products.

        Raises:
            HeimdallError: Why there is no summary, or why it could not be stored.
        """
        self.offer(IqEvent(end=ending))
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()
        await self._store_rest()
        if self._failure is not None:
            raise self._failure
        if self._summary is None:
            raise _missing("DSP ended without a summary")
        if self._dropped_count:
            raise _missing(f"{self._dropped_count} measurement windows could not be stored")
        return self._summary

    def _fail(self, error: HeimdallError) -> None:
        self._failure = error
        self._waiting.clear()
        self._waiting_bytes = 0
        _log.warning(
            "measurement_lost",
            acquisition_id=self._config.acquisition_id,
            receiver_id=self._config.receiver_id,
            reason=error.reason_name,
            message=error.message,
        )

    async def _measure(self) -> None:
        try:
            async with ClientStream(
                self._stub.Process(),
                peer="dsp",
                make_heartbeat=lambda: ProcessRequest(event=IqEvent(heartbeat=heartbeat_now())),
                heartbeat_interval_s=self._settings.heartbeat_interval_s,
                idle_timeout_s=self._settings.idle_timeout_s,
            ) as stream:
                await run_together(self._send(stream), self._receive(stream))
        except HeimdallError as error:
            self._fail(error)

    async def _send(self, stream: _Stream) -> None:
        await stream.send(ProcessRequest(config=self._config))
        ended = False
        while not ended:
            while self._waiting:
                event, size_bytes = self._waiting.popleft()
                self._waiting_bytes -= size_bytes
                ended = event.HasField("end")
                await stream.send(ProcessRequest(event=event))
            if not ended:
                self._more.clear()
                await self._more.wait()
        await stream.close()

    async def _receive(self, stream: _Stream) -> None:
        while (answer := await stream.receive()) is not None:
            if not answer.HasField("measurement"):
                continue
            size_bytes = answer.measurement.ByteSize()
            self._unstored.append((answer.measurement, size_bytes))
            self._unstored_bytes += size_bytes
            if answer.measurement.scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY:
                self._summary = Measurement()
                self._summary.CopyFrom(answer.measurement)
                without_arrays(self._summary)
            elif len(self._unstored) >= _BATCH_COUNT or self._unstored_bytes >= _BATCH_BYTES:
                await self._store_while_running()

    async def _store_while_running(self) -> None:
        """Stores what is there; if storage is away it waits for the next time, within bounds."""
        try:
            await self._store()
        except HeimdallError as error:
            if not is_transport_failure(error) and error.retry_delay_s is None:
                raise
            while len(self._unstored) > _MAX_UNSTORED_COUNT or self._unstored_bytes > _MAX_UNSTORED_BYTES:
                self._unstored_bytes -= self._unstored.popleft()[1]
                self._dropped_count += 1

    async def _store_rest(self) -> None:
        """Stores what is left; tries until it succeeds or whoever waits gives up."""
        backoff = Backoff()
        while self._unstored:
            try:
                await self._store()
            except HeimdallError as error:
                if not is_transport_failure(error) and error.retry_delay_s is None:
                    self._failure = self._failure or error
                    return
                await asyncio.sleep(max(backoff.next_delay_s(), error.retry_delay_s or 0.0))

    async def _store(self) -> None:
        while self._unstored:
            batch, batch_bytes = list[Measurement](), 0
            for measurement, size_bytes in itertools.islice(self._unstored, _BATCH_COUNT):
                if batch and batch_bytes + size_bytes > _BATCH_BYTES:
                    break
                batch.append(measurement)
                batch_bytes += size_bytes
            await self._archive.write_measurements(batch)
            for _ in batch:
                self._unstored_bytes -= self._unstored.popleft()[1]


def _missing(text: str) -> HeimdallError:
    return HeimdallError(ErrorReason.ERROR_REASON_MEASUREMENT_MISSING, text)
