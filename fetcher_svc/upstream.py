"""One connection to a receiver, shared by every stream that wants the same tuning, and made again when it breaks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import structlog

from fetcher_svc.backoff import TRIAL_DELAY_S, reconnect_delay_s
from fetcher_svc.cutter import Described
from fetcher_svc.feed import Feed, UpstreamState
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Connection, Facts, Frame, Notice, Receiver, Tuning
from fetcher_svc.run_tracker import Loss
from fetcher_svc.station import Station
from fetcher_svc.timeline import Placed, Timeline
from heimdall.clock import Clock, SteadyClock
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.errors import HeimdallError

_log = structlog.get_logger(__name__)

STEADY_S: Final = 10.0
"""Streaming time after which the count of failures in a row begins anew."""
RATE_CHANGE_LIMIT: Final = 1e-3
"""Relative change of the announced rate at a reconnect that means another format; ppm are the clock's own drift."""


class Upstream:
    """Connects, streams and reconnects until it is cancelled or can not go on."""

    def __init__(
        self, config: ReceiverConfig, receiver: Receiver, tuning: Tuning, station: Station, clock: Clock
    ) -> None:
        """Connects to nothing yet.

        Args:
            config: The receiver's entry in receivers.toml.
            receiver: The receiver.
            tuning: What to set it to, checked.
            station: Says when it may be connected, and takes note of failures and successes.
            clock: Host clock; read once, so that a step of it does not reach the samples of any connection.
        """
        self._log = _log.bind(receiver_id=config.receiver_id)
        self._config = config
        self._receiver = receiver
        self._tuning = tuning
        self._station = station
        self._feeds: list[Feed] = []
        self._timeline = Timeline(SteadyClock(clock))
        self._state = UpstreamState.CONNECTING
        self._facts: Facts | None = None
        self._described: Described | None = None
        self._attempt_count = 0
        self.closing = False
        self.waiting = False
        """Whether it holds no connection because it waits before it makes the next one."""

    @property
    def feed_count(self) -> int:
        """Streams that share it."""
        return len(self._feeds)

    def add(self, feed: Feed) -> None:
        """Lets a stream share in, from the next frame on."""
        feed.timeline = self._timeline
        feed.attempt_count = self._attempt_count
        feed.change_state(self._state)
        if self._described is not None:
            feed.put(self._described)
        self._feeds.append(feed)

    def remove(self, feed: Feed) -> None:
        """Lets a stream go; one that is not there is let go already."""
        if feed in self._feeds:
            self._feeds.remove(feed)

    async def run(self) -> None:
        """Serves the streams until cancelled, or until the receiver ends it for good and every stream knows why.

        The station's leave to begin has been got by whoever runs it.
        """
        try:
            await self._run()
        finally:
            self._station.leave(self)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        cause: HeimdallError | None = None
        failure_count = 0
        while True:
            connected_at = loop.time()
            error = await self._connect_and_stream(cause)
            steady = self._state is UpstreamState.STREAMING and loop.time() - connected_at >= STEADY_S
            failure_count = 1 if steady else failure_count + 1
            cause = cause if self._state is not UpstreamState.STREAMING and cause is not None else error
            delay_s = None if self._described is None else _delay_s(error, failure_count)
            self._log.warning(
                "upstream_failed", reason=error.reason_name, message=error.message, reconnect_delay_s=delay_s
            )
            if delay_s is None:
                self.fail(error)
                return
            self._change_state(UpstreamState.RECONNECTING)
            self._notify(error)
            self.waiting = True
            await asyncio.sleep(delay_s)
            await self._wait_for_turn(error)
            self.waiting = False

    def fail(self, error: HeimdallError) -> None:
        """Tells every stream that no more samples will come, and takes no new ones."""
        self.closing = True
        for feed in self._feeds:
            feed.fail(error)

    async def _connect_and_stream(self, cause: HeimdallError | None) -> HeimdallError:
        """Makes one connection and serves it to its end; returns why it ended."""
        try:
            await self._ask_full_station()
            self._attempt_count += 1
            for feed in self._feeds:
                feed.attempt_count += 1
            connection = await self._receiver.connect(self._tuning, self._count_connect, self._timeline.clock)
        except HeimdallError as error:
            await self._station.failed(self, error)
            return error
        self._log.info("upstream_connected", attempt=self._attempt_count, server=connection.facts.server_version)
        try:
            failure = await self._serve(connection, cause)
            # Before the socket is closed: that takes a while, and what the station said must not be lost in it.
            await self._station.failed(self, failure)
            return failure
        finally:
            await connection.close()

    async def _count_connect(self) -> None:
        await self._station.count_connect(self._config.receiver_id)

    async def _ask_full_station(self) -> None:
        """After the rest that a full station got, asks it first whether it still is; that takes none of its channels.

        Raises:
            HeimdallError: If it is, or does not answer.
        """
        error = self._station.last_error
        # The page of a station with a password counts only channels without.
        if error is None or error.reason != ErrorReason.ERROR_REASON_UPSTREAM_BUSY or self._config.has_password:
            return
        if not self._station.is_on_trial:
            return
        try:
            probe = await self._receiver.probe()
        except HeimdallError as failure:
            if failure.reason != ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR:
                raise
            # It answers, with a page that says nothing; then only a connect can tell.
            return
        if probe.is_full:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_BUSY,
                f"all channels of the station are taken; its status page says {probe.used_channel_count} "
                f"of {probe.channel_count}",
                metadata={"used_channel_count": probe.used_channel_count, "channel_count": probe.channel_count},
            )

    async def _wait_for_turn(self, error: HeimdallError) -> None:
        """Waits until the station may be connected again, and tells the streams if that is not at once."""
        told = ""
        while not self._station.try_begin(self):
            hold = self._station.find_hold(self._config.receiver_id)
            if hold is None:
                hold = self._station.trial_hold(self._config.receiver_id)
            if hold.metadata["cause"] != told:
                told = hold.metadata["cause"]
                self._log.warning("upstream_held", cause=told, message=hold.message)
                # Where the streams' own failure is what the station rests for, that stays the cause.
                self._notify(hold, is_cause=told != error.reason_name)
            await self._station.wait_change(TRIAL_DELAY_S if hold.retry_delay_s is None else hold.retry_delay_s)

    async def _serve(self, connection: Connection, cause: HeimdallError | None) -> HeimdallError:
        try:
            self._check_format(connection.facts)
            self._take_facts(connection.facts)
            self._timeline.begin_run(connection.facts, connection.round_trip_s, cause)
            return await self._stream(connection)
        except HeimdallError as error:
            return error

    async def _stream(self, connection: Connection) -> HeimdallError:
        while True:
            try:
                item = await connection.read()
            except HeimdallError as error:
                # Before the first segment a broken connection is an error of the call, not a run of few samples.
                if self._described is not None:
                    self._publish(self._timeline.end_run())
                return error
            if isinstance(item, Frame):
                self._publish(self._timeline.push(item))
            elif isinstance(item, Facts):
                self._take_facts(item)
                self._describe()
            elif isinstance(item, Notice):
                self._log.warning("upstream_notice", reason=item.error.reason_name, message=item.error.message)
                if item.frame_lost:
                    self._timeline.note_lost_frame(item.error)
                self._notify(item.error)

    def _publish(self, pieces: list[Placed | Loss]) -> None:
        if not pieces:
            return
        if self._state is not UpstreamState.STREAMING:
            self._station.succeeded(self)
            self._change_state(UpstreamState.STREAMING)
        self._describe()
        for piece in pieces:
            for feed in self._feeds:
                feed.put(piece)

    def _describe(self) -> None:
        base = self._timeline.base
        if self._facts is None or base is None:
            return
        before = self._described
        if before is not None and before.facts is self._facts and before.base is base:
            return
        described = Described(self._facts, base)
        if described == before:
            return
        self._described = described
        for feed in self._feeds:
            feed.put(described)

    def _take_facts(self, facts: Facts) -> None:
        """Notes what the receiver does now; the announced rate stays that of the first connection."""
        # Each connect announces the clock's latest estimate. To a consumer another rate is another format.
        self._facts = facts if self._facts is None else replace(facts, sample_rate_hz=self._facts.sample_rate_hz)

    def _check_format(self, facts: Facts) -> None:
        """Refuses a reconnected receiver that became another one."""
        before = self._facts
        if before is None:
            return
        change = abs(facts.sample_rate_hz / before.sample_rate_hz - 1)
        if facts.sample_format is not before.sample_format or change > RATE_CHANGE_LIMIT:
            raise HeimdallError(
                ErrorReason.ERROR_REASON_UPSTREAM_FORMAT_CHANGED,
                f"the receiver came back with {facts.sample_rate_hz:g} Hz {facts.sample_format.value}; "
                f"it had {before.sample_rate_hz:g} Hz {before.sample_format.value}",
                metadata={"before_hz": before.sample_rate_hz, "after_hz": facts.sample_rate_hz},
            )

    def _change_state(self, state: UpstreamState) -> None:
        self._state = state
        for feed in self._feeds:
            feed.change_state(state)

    def _notify(self, error: HeimdallError, *, is_cause: bool = True) -> None:
        for feed in self._feeds:
            feed.notify(error, is_cause=is_cause)


def _delay_s(error: HeimdallError, failure_count: int) -> float | None:
    """Returns how long to wait before the next connect; None if there is none."""
    # The station is left alone for a reason that began while the connect was under way.
    if error.reason == ErrorReason.ERROR_REASON_RECEIVER_BACKING_OFF:
        return 0.0
    return reconnect_delay_s(error, failure_count)
