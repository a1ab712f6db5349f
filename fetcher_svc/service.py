"""The fetcher's calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2

from fetcher_svc.admission import ReceiverSlots
from fetcher_svc.gnss import StampRule
from fetcher_svc.inventory import ReceiverConfig, load_receivers, read_password
from fetcher_svc.memory import StationMemory, open_memory
from fetcher_svc.messages import (
    event_message,
    order_from_open,
    probe_message,
    receiver_message,
    window_from_message,
)
from fetcher_svc.receivers import DriverTools, build_receiver
from fetcher_svc.receivers.http import open_session
from fetcher_svc.session import StreamSession
from fetcher_svc.station import Station
from heimdall.clock import Clock, SystemClock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.iq_pb2 import IqEvent
from heimdall.errors import BadFieldError, FieldViolation, HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2, fetcher_pb2_grpc
from heimdall.runtime.server import ServerContext, ServiceDefinition
from heimdall.runtime.settings import MeshSettings, Settings
from heimdall.runtime.streams import heartbeat_now, receive, with_heartbeats

_log = structlog.get_logger(__name__)

FULL_NAME: Final = fetcher_pb2.DESCRIPTOR.services_by_name["FetcherService"].full_name

_QUEUE_LENGTH: Final = 4
_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class FetcherServicer(fetcher_pb2_grpc.FetcherServiceServicer):
    """Answers the calls of the contract."""

    def __init__(
        self, receivers: Mapping[str, ReceiverSlots], *, mesh: MeshSettings, ring_bytes: int, clock: Clock
    ) -> None:
        """Takes the receivers.

        Args:
            receivers: Each receiver by its id, in the order of receivers.toml.
            mesh: Heartbeat and idle times.
            ring_bytes: Most sample bytes held for one slow caller.
            clock: Host clock.
        """
        self._receivers = receivers
        self._mesh = mesh
        self._ring_bytes = ring_bytes
        self._clock = clock
        self._sessions = set[StreamSession]()

    def hand_over(self) -> None:
        """Ends every stream with what was received, so that nothing of it is lost when the process ends."""
        text = "the fetcher is stopping and could not wait for the end of the window; resume the stream"
        for session in self._sessions:
            session.hand_over(HeimdallError(ErrorReason.ERROR_REASON_DRAINING, text))

    async def ListReceivers(  # noqa: N802 (name of the contract)
        self, request: fetcher_pb2.ListReceiversRequest, context: _Context
    ) -> fetcher_pb2.ListReceiversResponse:
        """Lists the receivers in the order of receivers.toml."""
        now_ns = self._clock.unix_ns()
        return fetcher_pb2.ListReceiversResponse(
            receivers=[receiver_message(slots, now_ns) for slots in self._receivers.values()]
        )

    async def ProbeReceiver(  # noqa: N802
        self, request: fetcher_pb2.ProbeReceiverRequest, context: _Context
    ) -> fetcher_pb2.ProbeReceiverResponse:
        """Asks a receiver how it is; one that does not answer is an answer."""
        slots = self._find(request.receiver_id, "receiver_id")
        receiver = receiver_message(slots, self._clock.unix_ns())
        try:
            return probe_message(await slots.receiver.probe(), receiver)
        except HeimdallError as error:
            receiver.last_error.CopyFrom(error.to_detail())
            return fetcher_pb2.ProbeReceiverResponse(receiver=receiver, reachable=False)

    async def StreamIq(  # noqa: N802
        self, request_iterator: AsyncIterator[fetcher_pb2.StreamIqRequest], context: _Context
    ) -> AsyncGenerator[fetcher_pb2.StreamIqResponse, None]:
        """Streams one receiver."""
        requests = receive(request_iterator, self._mesh.idle_timeout_s)
        opening = await anext(requests, None)
        kind = None if opening is None else opening.WhichOneof("request")
        if opening is None or kind != "open":
            raise _unexpected(kind, "the first message must be open")
        slots = self._find(opening.open.receiver_id, "open.receiver_id")
        order = order_from_open(opening.open)
        order = replace(order, tuning=slots.receiver.check(order.tuning))
        session = StreamSession(slots, order, ring_bytes=self._ring_bytes, clock=self._clock)
        answers: asyncio.Queue[fetcher_pb2.StreamIqResponse | None] = asyncio.Queue(_QUEUE_LENGTH)
        reader = asyncio.create_task(self._read(requests, session))
        worker = asyncio.create_task(self._work(session, slots.config, answers))
        log = _log.bind(receiver_id=slots.config.receiver_id, acquisition_id=opening.open.acquisition_id)
        self._sessions.add(session)
        reader.add_done_callback(lambda done: _tell_failure(done, session, log))
        log.info("stream_opened", center_frequency_hz=order.tuning.center_frequency_hz)
        try:
            async for answer in with_heartbeats(answers, _heartbeat, self._mesh.heartbeat_interval_s):
                yield answer
            await worker
        finally:
            self._sessions.discard(session)
            # The worker goes first: with it the receiver is let go.
            worker.cancel()
            reader.cancel()
            await asyncio.gather(worker, reader, return_exceptions=True)
            log.info("stream_closed")

    async def _read(self, requests: AsyncIterator[fetcher_pb2.StreamIqRequest], session: StreamSession) -> None:
        """Hands the caller's wishes to the session until the caller half-closes."""
        async for request in requests:
            match request.WhichOneof("request"):
                case "heartbeat":
                    continue
                case "stop":
                    session.stop()
                case "window" if not session.has_window:
                    session.set_window(window_from_message(request.window, self._clock.unix_ns()))
                case kind:
                    raise _unexpected(kind, "after open come window, once, and stop")
        session.close_requests()

    async def _work(
        self,
        session: StreamSession,
        config: ReceiverConfig,
        answers: asyncio.Queue[fetcher_pb2.StreamIqResponse | None],
    ) -> None:
        try:
            async with aclosing(session.events()) as events:
                async for event in events:
                    await answers.put(event_message(event, config))
        except Exception:  # whatever it is, the reader of the queue must wake up to raise it
            await answers.put(None)
            raise
        await answers.put(None)

    def _find(self, receiver_id: str, field: str) -> ReceiverSlots:
        slots = self._receivers.get(receiver_id)
        if slots is None:
            text = f"no receiver has the id {receiver_id!r}; ListReceivers names all"
            raise HeimdallError(
                ErrorReason.ERROR_REASON_RECEIVER_NOT_FOUND,
                text,
                metadata={"receiver_id": receiver_id},
                violations=[FieldViolation(field, text)],
            )
        return slots


def define(settings: Settings, clock: Clock | None = None) -> ServiceDefinition:
    """Returns what the runtime needs to run the fetcher.

    Args:
        settings: All settings.
        clock: Host clock; default: the system's.
    """
    host_clock = SystemClock() if clock is None else clock

    @asynccontextmanager
    async def setup(context: ServerContext) -> AsyncIterator[None]:
        fetcher = settings.fetcher
        configs, passwords = await asyncio.to_thread(_load, settings)

        async def tell_writable(writable: bool) -> None:
            status = health_pb2.HealthCheckResponse
            await context.health.set(f"{FULL_NAME}/state", status.SERVING if writable else status.NOT_SERVING)

        async with (
            open_session() as session,
            open_memory(fetcher.state_file, host_clock, tell_writable) as memory,
            context.background(memory.write_steadily(), "state_file"),
        ):
            tools = DriverTools(
                session=session,
                stamp_rule=StampRule(fetcher.clock_limit_s, fetcher.gps_utc_offset_s),
                user_name=fetcher.user_name,
            )
            stations = _stations(configs, memory, host_clock)
            receivers = {
                config.receiver_id: ReceiverSlots(
                    config, build_receiver(config, password, tools), stations[_key(config)], host_clock
                )
                for config, password in zip(configs, passwords, strict=True)
            }
            servicer = FetcherServicer(receivers, mesh=settings.mesh, ring_bytes=fetcher.ring_bytes, clock=host_clock)
            fetcher_pb2_grpc.add_FetcherServiceServicer_to_server(servicer, context.server)
            context.drain.at_expiry(servicer.hand_over)
            _log.info("receivers_loaded", receiver_count=len(receivers), file=str(fetcher.receivers_file))
            try:
                yield
            finally:
                await asyncio.gather(*(slots.close() for slots in receivers.values()))

    return ServiceDefinition(
        name="fetcher",
        full_name=FULL_NAME,
        port=settings.fetcher.port,
        max_stream_count=settings.fetcher.max_stream_count,
        setup=setup,
    )


def _load(settings: Settings) -> tuple[tuple[ReceiverConfig, ...], list[str]]:
    configs = load_receivers(settings.fetcher.receivers_file)
    return configs, [read_password(config) for config in configs]


def _key(config: ReceiverConfig) -> str:
    """Returns what receivers at one station have in common; the names of hosts have no case."""
    return config.url.lower()


def _stations(configs: tuple[ReceiverConfig, ...], memory: StationMemory, clock: Clock) -> dict[str, Station]:
    """Returns the stations by their URL; of several receivers at one, the one with the lowest limit sets it."""
    limits = dict[str, int]()
    for config in configs:
        url = _key(config)
        limits[url] = min(limits.get(url, config.max_connects_per_hour), config.max_connects_per_hour)
    return {url: Station(url, limit, memory, clock) for url, limit in limits.items()}


def _tell_failure(
    reader: asyncio.Task[None], session: StreamSession, log: structlog.typing.FilteringBoundLogger
) -> None:
    """Ends the stream of a caller whose messages can not be read on, whatever the cause."""
    if reader.cancelled() or (error := reader.exception()) is None:
        return
    if isinstance(error, HeimdallError) and error.reason == ErrorReason.ERROR_REASON_STREAM_IDLE:
        log.warning("caller_silent", message=error.message)
        session.hand_over(error)
    else:
        session.fail(error)


def _heartbeat() -> fetcher_pb2.StreamIqResponse:
    return fetcher_pb2.StreamIqResponse(event=IqEvent(heartbeat=heartbeat_now()))


def _unexpected(kind: str | None, instead: str) -> HeimdallError:
    text = f"{'is missing or empty' if kind is None else 'can not come here'}; {instead}"
    return BadFieldError(ErrorReason.ERROR_REASON_UNEXPECTED_MESSAGE, kind or "request", text)
