"""What a fetcher remembers: across its end and its death, with a disk that can not be written, and by any clock."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from heimdall.common.v1 import iq_pb2
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2
from heimdall.runtime.channel import open_channel
from simulator import Fault, Scenario, Simulator
from simulator.station import Station
from tests.clock import SetClock
from tests.integration.fetcher_bench import (
    Bench,
    collect,
    entry,
    next_of,
    reason,
    running_fetcher,
    send_window,
    station,
    until,
)
from tests.integration.service_process import FULL_NAMES, ServiceProcess, service_process

MINUTE_S = 60.0
HOUR_S = 3600.0


async def listed(bench: Bench) -> Receiver:
    return (await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())).receivers[0]


async def refusal(bench: Bench) -> HeimdallError:
    """Returns how a stream is refused."""
    with pytest.raises(HeimdallError) as caught:
        await bench.record(0.1)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "name", "too_early_s", "late_enough_s"),
    [
        ("ip_limit", "UPSTREAM_ADDRESS_LIMIT", 23 * HOUR_S, 25 * HOUR_S),
        ("kiwi_kick", "UPSTREAM_KICKED", 29 * MINUTE_S, 31 * MINUTE_S),
    ],
)
async def test_what_a_station_said_outlives_the_fetcher(
    tmp_path: Path, kind: str, name: str, too_early_s: float, late_enough_s: float
) -> None:
    fault = Fault.model_validate({"kind": kind, "after_frame": 5, "count": 1})
    async with Simulator(Scenario(station=(station(fault=[fault]),)), any_port=True) as simulator:
        running = simulator.stations["a"]
        async with running_fetcher(simulator, tmp_path) as bench:
            caught = await bench.record(30.0)
            assert caught.end.error.reason == reason(name)
            retry_time = (await listed(bench)).retry_time.ToNanoseconds()
        for later_s in (0.0, too_early_s):
            async with running_fetcher(simulator, tmp_path, clock=SetClock(later_s)) as bench:
                refused = await refusal(bench)
                assert refused.reason_name == "RECEIVER_BACKING_OFF"
                assert refused.metadata["cause"] == name
                receiver = await listed(bench)
            assert receiver.state == Receiver.STATE_BACKING_OFF
            assert receiver.last_error.reason == reason(name)
            assert receiver.last_error.message == caught.end.error.message
            # It is the same moment as before, whatever the clock says by now.
            assert receiver.retry_time.ToNanoseconds() == pytest.approx(retry_time, abs=1e9)
            assert len(running.connection_times) == 1
        async with running_fetcher(simulator, tmp_path, clock=SetClock(late_enough_s)) as bench:
            assert (await listed(bench)).state == Receiver.STATE_IDLE
            again = await bench.record(0.2)
        assert len(running.connection_times) == 2
        assert again.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE


async def test_a_host_clock_that_jumps_frees_no_station(tmp_path: Path) -> None:
    fault = Fault(kind="ip_limit")
    async with Simulator(Scenario(station=(station(fault=[fault]),)), any_port=True) as simulator:
        clock = SetClock()
        async with running_fetcher(simulator, tmp_path, clock=clock) as bench:
            assert (await refusal(bench)).reason_name == "UPSTREAM_ADDRESS_LIMIT"
            for ahead_s in (25 * HOUR_S, -3 * HOUR_S, 30 * 24 * HOUR_S):
                clock.ahead_s = ahead_s
                receiver = await listed(bench)
                assert receiver.state == Receiver.STATE_BACKING_OFF
                left_s = (receiver.retry_time.ToNanoseconds() - clock.unix_ns()) / 1e9
                assert 24 * HOUR_S - 60 < left_s <= 24 * HOUR_S + 30
        # The clock stays where it jumped to.
        async with running_fetcher(simulator, tmp_path, clock=SetClock(30 * 24 * HOUR_S)) as bench:
            assert (await refusal(bench)).metadata["cause"] == "UPSTREAM_ADDRESS_LIMIT"
        assert len(simulator.stations["a"].connection_times) == 1


async def test_successful_connects_are_bounded_too(tmp_path: Path) -> None:
    async with Simulator(Scenario(station=(station(),)), any_port=True) as simulator:
        running = simulator.stations["a"]
        receiver = entry("a", running.url, max_connects_per_hour=3)
        async with running_fetcher(simulator, tmp_path, receiver) as bench:
            for _ in range(3):
                assert (await bench.record(0.1)).end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
            for _ in range(20):
                refused = await refusal(bench)
                assert refused.reason_name == "RECEIVER_BACKING_OFF"
            shown = await listed(bench)
        assert refused.metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
        assert (refused.metadata["connect_count"], refused.metadata["limit"]) == ("3", "3")
        assert refused.retry_delay_s == pytest.approx(HOUR_S, abs=60)
        assert refused.retry_delay_s == pytest.approx(float(refused.metadata["remaining_s"]), abs=0.06)
        assert shown.state == Receiver.STATE_BACKING_OFF
        assert shown.last_error.reason == reason("RECEIVER_BACKING_OFF")
        assert "max_connects_per_hour" in shown.last_error.message
        assert shown.retry_time.ToNanoseconds() / 1e9 == pytest.approx(time.time() + HOUR_S, abs=60)
        async with running_fetcher(simulator, tmp_path, receiver, clock=SetClock(59 * MINUTE_S)) as bench:
            assert (await refusal(bench)).metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
        assert len(running.connection_times) == 3
        async with running_fetcher(simulator, tmp_path, receiver, clock=SetClock(61 * MINUTE_S)) as bench:
            await bench.record(0.1)
        assert len(running.connection_times) == 4


async def test_a_running_stream_reconnects_within_the_bound(tmp_path: Path) -> None:
    """It waits until the oldest connect is an hour old, says why, and then goes on."""
    faults = [Fault(kind="drop", after_frame=10, connection=2)]
    async with Simulator(Scenario(station=(station(fault=faults),)), any_port=True) as simulator:
        times = simulator.stations["a"].connection_times
        receiver = entry("a", simulator.stations["a"].url, max_connects_per_hour=2)
        async with running_fetcher(simulator, tmp_path, receiver) as bench:
            await bench.record(0.1)
        # The first connect is now an hour old, less twelve seconds.
        clock = SetClock(HOUR_S - 12 - (time.monotonic() - times[0]))
        async with running_fetcher(simulator, tmp_path, receiver, clock=clock) as bench, bench.stream() as stream:
            start_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
            await send_window(stream, start_ns, start_ns + 17 * 10**9)
            caught = await collect(stream)
        assert len(times) == 3
    hour_later = times[0] + HOUR_S - clock.ahead_s
    assert hour_later - 0.1 <= times[2] <= hour_later + 4
    caught.assert_whole()
    assert [why for _, _, why in caught.gap_list()] == ["RECONNECT"]
    assert caught.gaps[0].cause.reason == reason("UPSTREAM_CONNECTION_LOST")
    assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
    causes = [notice.metadata["cause"] for status in caught.statuses for notice in status.notices if notice.metadata]
    assert "MAX_CONNECTS_PER_HOUR" in causes


async def test_a_stream_that_may_not_reconnect_ends_with_its_window(tmp_path: Path) -> None:
    faults = [Fault(kind="drop", after_frame=10)]
    async with Simulator(Scenario(station=(station(fault=faults),)), any_port=True) as simulator:
        receiver = entry("a", simulator.stations["a"].url, max_connects_per_hour=2)
        async with running_fetcher(simulator, tmp_path, receiver) as bench, bench.stream() as stream:
            start_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
            await send_window(stream, start_ns, start_ns + 5 * 10**9)
            ending = asyncio.create_task(collect(stream))

            async def is_shown() -> bool:
                return (await listed(bench)).state == Receiver.STATE_BACKING_OFF

            # While the stream waits, its slot is in use and nothing is connected.
            await wait_for(is_shown)
            shown = await listed(bench)
            caught = await ending
        assert len(simulator.stations["a"].connection_times) == 2
    assert shown.used_slot_count == 1
    assert shown.last_error.metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
    assert caught.end.reason == iq_pb2.END_REASON_FAILED
    assert caught.end.error.reason == reason("RECEIVER_BACKING_OFF")
    assert caught.end.error.metadata["cause"] == "MAX_CONNECTS_PER_HOUR"
    assert caught.end.attempt_count == 2


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until a condition that has to be asked for holds, with a deadline."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 (it is told by no event)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def fetcher_process(folder: Path, *entries: str) -> AsyncIterator[tuple[ServiceProcess, Bench, grpc.aio.Channel]]:
    """A fetcher as a process, and a client of it."""
    file = folder / "receivers.toml"
    await asyncio.to_thread(file.write_text, "\n".join(entries))
    async with service_process("fetcher", folder, {"HEIMDALL_FETCHER_RECEIVERS_FILE": str(file)}) as service:
        address = await service.address()
        async with open_channel("fetcher", address) as channel:
            yield service, Bench(channel), channel


async def kill(service: ServiceProcess) -> None:
    service.process.kill()
    assert await service.ended() == -signal.SIGKILL


async def test_a_kick_and_every_connect_outlive_sigkill(tmp_path: Path) -> None:
    """Killed the moment it has told of the kick, and again the moment a station has seen it connect."""
    specs = (
        station(id="a", fault=[Fault(kind="kiwi_kick", after_frame=5)]),
        station(id="b", fault=[Fault(kind="stall", after_frame=0)]),
    )
    async with Simulator(Scenario(station=specs), any_port=True) as simulator:
        kicking, silent = simulator.stations["a"], simulator.stations["b"]
        entries = [entry("a", kicking.url), entry("b", silent.url, max_connects_per_hour=2)]
        async with fetcher_process(tmp_path, *entries) as (service, bench, _):
            assert (await bench.record(30.0)).end.error.reason == reason("UPSTREAM_KICKED")
            before = await listed(bench)
            await kill(service)
        for _ in range(2):
            await _connect_and_kill(tmp_path, entries, silent)
        async with fetcher_process(tmp_path, *entries) as (_, bench, _):
            receivers = (await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())).receivers
            refused = [await _refused(bench, name) for name in ("a", "b")]
        assert (len(kicking.connection_times), len(silent.connection_times)) == (1, 2)
    assert [receiver.state for receiver in receivers] == [Receiver.STATE_BACKING_OFF] * 2
    assert before.state == Receiver.STATE_BACKING_OFF
    assert receivers[0].retry_time.ToNanoseconds() == pytest.approx(before.retry_time.ToNanoseconds(), abs=1e9)
    assert receivers[0].last_error == before.last_error
    assert [error.reason_name for error in refused] == ["RECEIVER_BACKING_OFF"] * 2
    assert [error.metadata["cause"] for error in refused] == ["UPSTREAM_KICKED", "MAX_CONNECTS_PER_HOUR"]


async def _connect_and_kill(folder: Path, entries: list[str], silent: Station) -> None:
    before = len(silent.connection_times)
    async with fetcher_process(folder, *entries) as (service, bench, _), bench.stream("b"):
        await until(lambda: len(silent.connection_times) > before, timeout_s=20)
        os.kill(service.process.pid, signal.SIGKILL)
        await service.ended()


async def _refused(bench: Bench, receiver_id: str) -> HeimdallError:
    with pytest.raises(HeimdallError) as caught:
        await bench.record(0.1, receiver_id)
    return caught.value


async def test_a_disk_that_can_not_be_written_makes_the_fetcher_forget_nothing(tmp_path: Path) -> None:
    """The process may write no byte to any file for a while, as on a full disk."""
    async with Simulator(Scenario(station=(station(),)), any_port=True) as simulator:
        running = simulator.stations["a"]
        receiver = entry("a", running.url)
        async with fetcher_process(tmp_path, receiver) as (service, bench, channel):
            assert await _state_health(channel) == health_pb2.HealthCheckResponse.SERVING
            async with bench.stream() as stream:
                start_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
                _, most = resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, most))
                await running.inject(Fault(kind="ip_limit", after_frame=1))
                await send_window(stream, start_ns, start_ns + 30 * 10**9)
                assert (await collect(stream)).end.error.reason == reason("UPSTREAM_ADDRESS_LIMIT")
            assert await _state_health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await _state_health(channel, "") == health_pb2.HealthCheckResponse.SERVING
            # It works from memory, and waits for no disk.
            began_s = time.monotonic()
            for _ in range(5):
                assert (await refusal(bench)).metadata["cause"] == "UPSTREAM_ADDRESS_LIMIT"
            assert time.monotonic() - began_s < 2
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (most, most))

            async def is_serving() -> bool:
                return await _state_health(channel) == health_pb2.HealthCheckResponse.SERVING

            await wait_for(is_serving)
            await kill(service)
        assert service.log.count("event=state_file_not_writable") == 1
        assert service.log.count("event=state_file_writable") == 1
        async with fetcher_process(tmp_path, receiver) as (_, bench, _):
            assert (await refusal(bench)).metadata["cause"] == "UPSTREAM_ADDRESS_LIMIT"
        assert len(running.connection_times) == 1


async def _state_health(channel: grpc.aio.Channel, backend: str = "/state") -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    request = health_pb2.HealthCheckRequest(service=f"{FULL_NAMES['fetcher']}{backend}")
    return int((await check(request, timeout=5)).status)


async def test_a_damaged_file_is_refused_at_start(tmp_path: Path) -> None:
    file = tmp_path / "fetcher.sqlite3"
    await asyncio.to_thread(file.write_bytes, b"no database" * 1000)
    async with service_process("fetcher", tmp_path, {}) as service:
        assert await service.ended() == 2
    assert f"fetcher: fetcher.state_file: {file} " in service.log
    assert "move it away and start again" in service.log
