"""What a caller that insists does to a station: nothing. Every refusal of the protocol, and its wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from heimdall.common.v1 import iq_pb2, receiver_pb2
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2
from simulator import Fault, Scenario, Simulator
from tests.clock import SetClock
from tests.integration.fetcher_bench import (
    DIAL_HZ,
    Bench,
    collect,
    entry,
    mesh,
    next_of,
    reason,
    running_fetcher,
    send_window,
    station,
    until,
)

MINUTE_S = 60.0
HOUR_S = 3600.0
INSISTING = 20
"""How often the caller asks."""


@dataclass(frozen=True)
class Case:
    """A refusal, and what the protocol notes ask for after it."""

    name: str
    fault: dict[str, Any]
    reason: str
    least_s: float
    """Shortest wait before another connect."""
    most_s: float
    """Longest that is of use."""


AT_START = [
    Case("busy", {"kind": "too_busy"}, "UPSTREAM_BUSY", 15, MINUTE_S),
    Case("badp-1", {"kind": "badp", "code": 1}, "UPSTREAM_PASSWORD_REFUSED", MINUTE_S, 10 * MINUTE_S),
    Case("badp-2", {"kind": "badp", "code": 2}, "UPSTREAM_NOT_READY", 10, 20),
    Case("badp-3", {"kind": "badp", "code": 3}, "UPSTREAM_LOGIN_REFUSED", 5 * MINUTE_S, HOUR_S),
    Case("badp-4", {"kind": "badp", "code": 4}, "UPSTREAM_LOGIN_REFUSED", 5 * MINUTE_S, HOUR_S),
    Case("badp-5", {"kind": "badp", "code": 5}, "UPSTREAM_ONE_PER_ADDRESS", 10, 10 * MINUTE_S),
    Case("badp-6", {"kind": "badp", "code": 6}, "UPSTREAM_NOT_READY", MINUTE_S, 2 * MINUTE_S),
    Case("badp-7", {"kind": "badp", "code": 7}, "UPSTREAM_LOGIN_REFUSED", 5 * MINUTE_S, HOUR_S),
    Case("down-0", {"kind": "down", "code": 0}, "UPSTREAM_DISABLED", HOUR_S, 24 * HOUR_S),
    Case("down-1", {"kind": "down", "code": 1}, "UPSTREAM_UPDATING", 5 * MINUTE_S, 30 * MINUTE_S),
    Case("down-2", {"kind": "down", "code": 2}, "UPSTREAM_UPDATING", 5 * MINUTE_S, 30 * MINUTE_S),
    Case("exclusive", {"kind": "exclusive_use"}, "UPSTREAM_EXCLUSIVE_USE", MINUTE_S, 10 * MINUTE_S),
    Case("wideband", {"kind": "wb_only"}, "UPSTREAM_WIDEBAND_ONLY", 5 * MINUTE_S, HOUR_S),
    Case("ip-limit", {"kind": "ip_limit"}, "UPSTREAM_ADDRESS_LIMIT", 24 * HOUR_S, 25 * HOUR_S),
    Case("refused", {"kind": "refuse"}, "UPSTREAM_UNREACHABLE", 15, MINUTE_S),
    Case("http-404", {"kind": "http_404"}, "UPSTREAM_NOT_FOUND", 15, MINUTE_S),
]
IN_MID_STREAM = [
    Case("busy", {"kind": "too_busy"}, "UPSTREAM_APP_LIMIT", 10 * MINUTE_S, HOUR_S),
    Case("ip-limit", {"kind": "ip_limit"}, "UPSTREAM_ADDRESS_LIMIT", 24 * HOUR_S, 25 * HOUR_S),
    Case("inactivity", {"kind": "inactivity_timeout"}, "UPSTREAM_INACTIVITY_TIMEOUT", 10, 10 * MINUTE_S),
    Case("kick", {"kind": "kiwi_kick"}, "UPSTREAM_KICKED", 30 * MINUTE_S, HOUR_S),
    Case("password-timeout", {"kind": "password_timeout"}, "UPSTREAM_PASSWORD_TIMEOUT", 10, 10 * MINUTE_S),
    Case("down-0", {"kind": "down", "code": 0}, "UPSTREAM_DISABLED", HOUR_S, 24 * HOUR_S),
    Case("down-1", {"kind": "down", "code": 1}, "UPSTREAM_UPDATING", 5 * MINUTE_S, 30 * MINUTE_S),
    Case("exclusive", {"kind": "exclusive_use"}, "UPSTREAM_EXCLUSIVE_USE", MINUTE_S, 10 * MINUTE_S),
]


async def insist(bench: Bench, receiver_id: str = "a", **fields: Any) -> list[HeimdallError]:
    """Opens one stream after the other; returns how each was refused."""
    refusals = []
    for _ in range(INSISTING):
        with pytest.raises(HeimdallError) as caught:
            await bench.record(0.1, receiver_id, **fields)
        refusals.append(caught.value)
    return refusals


async def listed(bench: Bench, number: int = 0) -> Receiver:
    return (await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())).receivers[number]


def assert_left_alone(receiver: Receiver, case: Case, first_s: float, last_s: float) -> None:
    """The receiver is shown as backing off for as long as the case asks, from a failure between two moments on."""
    assert receiver.state == Receiver.STATE_BACKING_OFF
    assert receiver.last_error.reason == reason(case.reason)
    retry_s = receiver.retry_time.ToNanoseconds() / 1e9
    assert first_s + case.least_s <= retry_s <= last_s + case.most_s


def assert_told(refusals: list[HeimdallError], case: Case) -> None:
    """The first caller hears it from the station, all others from the fetcher, at once and with the cause."""
    names = [refusal.reason_name for refusal in refusals]
    assert names == [case.reason] + ["RECEIVER_BACKING_OFF"] * (INSISTING - 1)
    for refusal in refusals[1:]:
        assert refusal.metadata["cause"] == case.reason
        assert refusal.retry_delay_s is not None
        assert refusal.retry_delay_s == pytest.approx(float(refusal.metadata["remaining_s"]), abs=0.06)


@pytest.mark.parametrize("case", AT_START, ids=[case.name for case in AT_START])
async def test_refusal_at_the_start_is_obeyed(tmp_path: Path, case: Case) -> None:
    async with mesh(tmp_path, station(fault=[Fault.model_validate(case.fault)])) as (simulator, bench):
        first_s = time.time()
        refusals = await insist(bench)
        receiver = await listed(bench)
        assert len(simulator.stations["a"].connection_times) == 1
        assert_left_alone(receiver, case, first_s, time.time())
    assert_told(refusals, case)
    assert receiver.used_slot_count == 0


@pytest.mark.parametrize("case", IN_MID_STREAM, ids=[case.name for case in IN_MID_STREAM])
async def test_refusal_in_mid_stream_is_obeyed(tmp_path: Path, case: Case) -> None:
    fault = Fault.model_validate({**case.fault, "after_frame": 10})
    async with mesh(tmp_path, station(fault=[fault])) as (simulator, bench):
        first_s = time.time()
        # Some are worth waiting for: then the stream stays to the end of its window, and tries nothing before its time.
        # The others end it at once.
        stays = case.reason in ("UPSTREAM_UPDATING", "UPSTREAM_EXCLUSIVE_USE")
        caught = await bench.record(2.0 if stays else 40.0)
        assert time.time() - first_s < 20
        refusals = await insist(bench)
        receiver = await listed(bench)
        assert len(simulator.stations["a"].connection_times) == 1
        assert_left_alone(receiver, case, first_s, time.time())
    caught.assert_whole()
    assert caught.end.reason == iq_pb2.END_REASON_FAILED
    assert caught.end.error.reason == reason(case.reason)
    assert caught.end.received_sample_count == 10 * 512
    assert {refusal.reason_name for refusal in refusals} == {"RECEIVER_BACKING_OFF"}
    assert {refusal.metadata["cause"] for refusal in refusals} == {case.reason}


async def test_closed_port_is_obeyed(tmp_path: Path) -> None:
    """Nothing counts there, so the fetcher's own answers tell what it tried."""
    case = Case("port-closed", {"kind": "port_closed"}, "UPSTREAM_UNREACHABLE", 15, MINUTE_S)
    async with mesh(tmp_path, station(fault=[Fault.model_validate(case.fault)])) as (_, bench):
        first_s = time.time()
        assert_told(await insist(bench), case)
        assert_left_alone(await listed(bench), case, first_s, time.time())


async def test_blacklisting_is_obeyed(tmp_path: Path) -> None:
    case = Case("http-403", {}, "UPSTREAM_ADDRESS_LIMIT", 24 * HOUR_S, 25 * HOUR_S)
    requests: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        requests.append(request.path)
        return web.Response(status=403)

    application = web.Application()
    application.router.add_get("/{path:.*}", refuse)
    async with TestServer(application) as server, Simulator(Scenario(station=(station(),)), any_port=True) as simulator:
        receiver = entry("a", str(server.make_url("/")).rstrip("/"))
        async with running_fetcher(simulator, tmp_path, receiver) as bench:
            first_s = time.time()
            assert_told(await insist(bench), case)
            assert_left_alone(await listed(bench), case, first_s, time.time())
    assert len(requests) == 1


@asynccontextmanager
async def redirecting(
    folder: Path, kinds: list[str], *, loop: bool = False, **changes: Any
) -> AsyncIterator[tuple[Simulator, Bench]]:
    """Runs stations a, b, ... that each redirect to the next; in a loop the last one redirects to the first."""
    names = [chr(ord("a") + number) for number in range(len(kinds) + 1)]
    async with AsyncExitStack() as stack:
        specs = tuple(station(id=name) for name in names)
        simulator = await stack.enter_async_context(Simulator(Scenario(station=specs), any_port=True))
        running = simulator.stations
        for number, kind in enumerate(kinds):
            following = names[(number + 1) % (len(kinds) if loop else len(names))]
            await running[names[number]].inject(Fault.model_validate({"kind": kind, "url": running[following].url}))
        receiver = entry("a", running["a"].url, **changes)
        yield simulator, await stack.enter_async_context(running_fetcher(simulator, folder, receiver))


_CHAINS = [
    ["redirect"],
    ["redirect"] * 2,
    ["redirect"] * 3,
    ["redirect_http"] * 3,
    ["redirect_http", "redirect", "redirect_http"],
]


@pytest.mark.parametrize("kinds", _CHAINS, ids="-".join)
async def test_three_redirects_are_followed(tmp_path: Path, kinds: list[str]) -> None:
    async with redirecting(tmp_path, kinds) as (simulator, bench):
        caught = await bench.record(0.2)
        counts = [len(running.connection_times) for running in simulator.stations.values()]
    assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
    # The identity stays that of the station that was asked for.
    assert caught.segments[0].receiver_id == "a"
    assert counts == [1] * (len(kinds) + 1)


@pytest.mark.parametrize(
    "kinds", [["redirect"] * 4, ["redirect_http"] * 4, ["redirect_http", "redirect"] * 2], ids="-".join
)
async def test_a_fourth_redirect_is_not_followed(tmp_path: Path, kinds: list[str]) -> None:
    async with redirecting(tmp_path, kinds) as (simulator, bench):
        names = [refusal.reason_name for refusal in await insist(bench)]
        counts = [len(running.connection_times) for running in simulator.stations.values()]
    assert names == ["UPSTREAM_REDIRECT_LOOP"] * 3 + ["RECEIVER_BACKING_OFF"] * (INSISTING - 3)
    assert counts == [3, 3, 3, 3, 0]


@pytest.mark.parametrize(
    "kinds", [["redirect"], ["redirect"] * 3, ["redirect_http"] * 2, ["redirect", "redirect_http"]], ids="-".join
)
async def test_a_redirect_loop_is_left(tmp_path: Path, kinds: list[str]) -> None:
    async with redirecting(tmp_path, kinds, loop=True) as (simulator, bench):
        names = [refusal.reason_name for refusal in await insist(bench)]
        counts = [len(running.connection_times) for running in simulator.stations.values()]
    assert names == ["UPSTREAM_REDIRECT_LOOP"] * 3 + ["RECEIVER_BACKING_OFF"] * (INSISTING - 3)
    # Three calls, each of at most one connect and three redirects.
    assert 3 * len(kinds) <= sum(counts) <= 3 * 4


async def test_every_redirect_counts_as_a_connect(tmp_path: Path) -> None:
    async with redirecting(tmp_path, ["redirect"] * 3, max_connects_per_hour=3) as (simulator, bench):
        with pytest.raises(HeimdallError) as caught:
            await bench.record(0.2)
        counts = [len(running.connection_times) for running in simulator.stations.values()]
    assert caught.value.reason_name == "RECEIVER_BACKING_OFF"
    assert caught.value.metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
    assert counts == [1, 1, 1, 0]


@asynccontextmanager
async def another_user(url: str) -> AsyncIterator[None]:
    """Somebody else who takes a channel of a station."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/4711/SND") as socket:
        await socket.send_str("SET auth t=kiwi p=")
        await socket.receive()
        yield


async def test_a_full_station_is_asked_for_room_before_another_connect(tmp_path: Path) -> None:
    """Its status page takes no channel; while that says full, there is another rest and no connect."""
    async with Simulator(Scenario(station=(station(rx_chans=1),)), any_port=True) as simulator:
        running = simulator.stations["a"]
        async with another_user(running.url):
            async with running_fetcher(simulator, tmp_path) as bench:
                refusals = await insist(bench)
                assert [refusal.reason_name for refusal in refusals[:2]] == ["UPSTREAM_BUSY", "RECEIVER_BACKING_OFF"]
            assert len(running.connection_times) == 2
            async with running_fetcher(simulator, tmp_path, clock=SetClock(20)) as bench:
                assert (await listed(bench)).state == Receiver.STATE_IDLE
                first_s = time.time() + 20
                refusals = await insist(bench)
                assert refusals[0].reason_name == "UPSTREAM_BUSY"
                assert refusals[0].metadata == {"used_channel_count": "1", "channel_count": "1"}
                assert {refusal.reason_name for refusal in refusals[1:]} == {"RECEIVER_BACKING_OFF"}
                # Twice as long as the first rest.
                case = Case("busy", {}, "UPSTREAM_BUSY", 30, 37.5)
                assert_left_alone(await listed(bench), case, first_s, time.time() + 20)
            assert len(running.connection_times) == 2
        await until(lambda: running.clients == 0)
        async with running_fetcher(simulator, tmp_path, clock=SetClock(60)) as bench:
            caught = await bench.record(0.2)
            assert not (await listed(bench)).HasField("last_error")
        assert len(running.connection_times) == 3
    assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE


async def test_two_receivers_of_one_station_share_what_it_said(tmp_path: Path) -> None:
    spec = station(fault=[Fault(kind="kiwi_kick", after_frame=5, connection=1)])
    async with Simulator(Scenario(station=(spec,)), any_port=True) as simulator:
        url = simulator.stations["a"].url
        receivers = [entry("low", url), entry("high", url.upper().replace("HTTP", "http"))]
        async with running_fetcher(simulator, tmp_path, *receivers) as bench:
            await bench.record(5, "low")
            with pytest.raises(HeimdallError) as caught:
                await bench.record(0.1, "high", frequency_hz=DIAL_HZ + 1000)
            states = [(await listed(bench, number)).state for number in range(2)]
        assert len(simulator.stations["a"].connection_times) == 1
    assert caught.value.reason_name == "RECEIVER_BACKING_OFF"
    assert caught.value.metadata["cause"] == "UPSTREAM_KICKED"
    assert states == [Receiver.STATE_BACKING_OFF] * 2


async def test_a_running_stream_does_not_reconnect_where_another_was_kicked(tmp_path: Path) -> None:
    """Two slots: the second is kicked, then the first is dropped. The kick holds for both."""
    faults = [
        Fault(kind="kiwi_kick", after_frame=5, connection=2),
        Fault(kind="drop", after_s=3.0, connection=1),
    ]
    async with Simulator(Scenario(station=(station(fault=faults),)), any_port=True) as simulator:
        receiver = entry("a", simulator.stations["a"].url, slots=2)
        async with running_fetcher(simulator, tmp_path, receiver) as bench, bench.stream() as first:
            start_ns = (await next_of(first, "segment")).segment.available_from_unix_ns
            await send_window(first, start_ns, start_ns + 6 * 10**9)
            kicked = await bench.record(5.0, frequency_hz=DIAL_HZ + 1000)
            assert (await listed(bench)).state == Receiver.STATE_ACTIVE
            caught = await collect(first)
        assert len(simulator.stations["a"].connection_times) == 2
    assert kicked.end.error.reason == reason("UPSTREAM_KICKED")
    caught.assert_whole()
    assert caught.end.reason == iq_pb2.END_REASON_FAILED
    assert caught.end.error.reason == reason("RECEIVER_BACKING_OFF")
    assert caught.end.error.metadata["cause"] == "UPSTREAM_KICKED"
    notices = [notice.reason for status in caught.statuses for notice in status.notices]
    assert notices == [reason("UPSTREAM_CONNECTION_LOST"), reason("RECEIVER_BACKING_OFF")]


class TestTrial:
    """After a rest: one connect, whatever the number of slots."""

    @staticmethod
    @asynccontextmanager
    async def rested(folder: Path, *faults: Fault) -> AsyncIterator[tuple[Simulator, Bench]]:
        """A receiver with two slots that refused a connection, just after its rest."""
        spec = station(fault=[Fault(kind="refuse", connection=1), *faults])
        async with Simulator(Scenario(station=(spec,)), any_port=True) as simulator:
            receiver = entry("a", simulator.stations["a"].url, slots=2)
            async with running_fetcher(simulator, folder, receiver) as bench:
                await insist(bench)
            async with running_fetcher(simulator, folder, receiver, clock=SetClock(40)) as bench:
                assert len(simulator.stations["a"].connection_times) == 1
                yield simulator, bench

    async def test_it_is_shown_as_free_with_its_last_error(self, tmp_path: Path) -> None:
        async with self.rested(tmp_path) as (_, bench):
            receiver = await listed(bench)
        assert receiver.state == Receiver.STATE_IDLE
        assert not receiver.HasField("retry_time")
        assert receiver.last_error.reason == reason("UPSTREAM_UNREACHABLE")

    async def test_the_second_waits_for_the_first_and_both_get_through(self, tmp_path: Path) -> None:
        slow = Fault(kind="stall", after_frame=0, duration_s=1.0, connection=2)
        async with self.rested(tmp_path, slow) as (simulator, bench):
            both = await asyncio.gather(bench.record(0.2), bench.record(0.2, frequency_hz=DIAL_HZ + 1000))
            times = simulator.stations["a"].connection_times
            receiver = await listed(bench)
        assert [caught.end.reason for caught in both] == [iq_pb2.END_REASON_WINDOW_COMPLETE] * 2
        assert len(times) == 3
        assert times[2] - times[1] >= 0.9
        assert not receiver.HasField("last_error")

    async def test_the_second_shares_a_refusal_without_a_connect(self, tmp_path: Path) -> None:
        async with self.rested(tmp_path, Fault(kind="refuse", connection=2)) as (simulator, bench):
            tries = [bench.record(0.2, frequency_hz=DIAL_HZ + 1000 * number) for number in range(2)]
            refusals = await asyncio.gather(*tries, return_exceptions=True)
            assert len(simulator.stations["a"].connection_times) == 2
            receiver = await listed(bench)
        names = {error.reason_name for error in refusals if isinstance(error, HeimdallError)}
        assert names == {"UPSTREAM_UNREACHABLE", "RECEIVER_BACKING_OFF"}
        assert receiver.state == Receiver.STATE_BACKING_OFF
        # Twice the first rest.
        left_s = receiver.retry_time.ToNanoseconds() / 1e9 - time.time() - 40
        assert 25 <= left_s <= 38

    async def test_who_can_not_wait_is_refused(self, tmp_path: Path) -> None:
        silent = Fault(kind="stall", after_frame=0, connection=2)
        async with self.rested(tmp_path, silent) as (simulator, bench), bench.stream():
            await until(lambda: len(simulator.stations["a"].connection_times) == 2)
            receiver = await listed(bench)
            with pytest.raises(HeimdallError, match="is being tried by another stream") as caught:
                await bench.record(0.2, frequency_hz=DIAL_HZ + 1000, max_wait={"nanos": 300_000_000})
            assert len(simulator.stations["a"].connection_times) == 2
        assert caught.value.reason_name == "RECEIVER_BACKING_OFF"
        assert caught.value.metadata["cause"] == "UPSTREAM_UNREACHABLE"
        assert caught.value.retry_delay_s == 10
        assert receiver.state == receiver_pb2.Receiver.STATE_ACTIVE
        assert receiver.last_error.reason == reason("UPSTREAM_UNREACHABLE")

    async def test_who_shares_the_tuning_shares_the_connect(self, tmp_path: Path) -> None:
        async with self.rested(tmp_path) as (simulator, bench):
            both = await asyncio.gather(bench.record(0.2), bench.record(0.2))
            assert len(simulator.stations["a"].connection_times) == 2
        assert [caught.end.reason for caught in both] == [iq_pb2.END_REASON_WINDOW_COMPLETE] * 2
