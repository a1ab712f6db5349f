"""Several callers of one receiver: shared connections, slots, slow and vanished callers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest

from fetcher_svc.service import define
from heimdall.common.v1 import iq_pb2
from heimdall.common.v1.receiver_pb2 import Receiver, Tuning
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2
from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceStub
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.runtime.settings import FetcherSettings, MeshSettings, Settings, SettingsError
from simulator import Fault, Scenario, Simulator
from tests.integration.fetcher_bench import (
    DIAL_HZ,
    SECOND,
    assert_bit_exact,
    collect,
    entry,
    mesh,
    next_of,
    running_fetcher,
    send_window,
    station,
    until,
)


async def test_equal_tunings_share_one_connection(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        running = simulator.stations["a"]
        async with bench.stream() as first, bench.stream() as second:
            starts = [(await next_of(s, "segment")).segment.available_from_unix_ns for s in (first, second)]
            start_ns = max(starts)
            for stream in (first, second):
                await send_window(stream, start_ns, start_ns + SECOND)
            a, b = await asyncio.gather(collect(first), collect(second))
        assert len(running.connection_times) == 1
        await until(lambda: running.clients == 0)
        sent = running.sent
    assert a.samples == b.samples
    assert a.end.received_sample_count == b.end.received_sample_count > 11_000
    assert_bit_exact(a, sent)


async def test_a_stream_that_ends_leaves_the_others(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        async with bench.stream() as first:
            start_ns = (await next_of(first, "segment")).segment.available_from_unix_ns
            async with bench.stream() as second:
                await next_of(second, "segment")
            await send_window(first, start_ns, start_ns + SECOND)
            caught = await collect(first)
        assert len(simulator.stations["a"].connection_times) == 1
    caught.assert_whole()
    assert caught.gaps == []


async def test_another_tuning_is_refused_when_all_slots_are_taken(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench), bench.stream() as first:
        await next_of(first, "segment")
        began = asyncio.get_running_loop().time()
        with pytest.raises(HeimdallError, match="1 slots of a are in use") as caught:
            await bench.record(frequency_hz=DIAL_HZ + 1000, max_wait={"nanos": 300_000_000})
        assert 0.3 <= asyncio.get_running_loop().time() - began < 1.0
        assert caught.value.reason_name == "RECEIVER_BUSY"
        assert len(simulator.stations["a"].connection_times) == 1
        listed = (await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())).receivers[0]
    assert (listed.used_slot_count, listed.state) == (1, Receiver.STATE_ACTIVE)


async def test_another_tuning_waits_for_a_slot(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        async with bench.stream() as first:
            start_ns = (await next_of(first, "segment")).segment.available_from_unix_ns
            await send_window(first, start_ns, start_ns + SECOND // 2)
            waiting = asyncio.create_task(bench.record(0.3, frequency_hz=DIAL_HZ + 1000))
            await collect(first)
        caught = await waiting
        times = simulator.stations["a"].connection_times
        assert len(times) == 2
    caught.assert_whole()
    assert caught.segments[0].center_frequency_hz == DIAL_HZ + 1000


async def test_two_slots_take_two_tunings(tmp_path: Path) -> None:
    async with Simulator(Scenario(station=(station(),))) as simulator:
        receiver = entry("a", simulator.stations["a"].url, slots=2)
        async with running_fetcher(simulator, tmp_path, receiver) as bench:
            both = await asyncio.gather(bench.record(0.3), bench.record(0.3, frequency_hz=DIAL_HZ + 1000))
            assert len(simulator.stations["a"].connection_times) == 2
    assert {caught.segments[0].center_frequency_hz for caught in both} == {DIAL_HZ, DIAL_HZ + 1000}


async def test_cancel_frees_the_receiver_within_a_second(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        async with bench.stream() as stream:
            await next_of(stream, "segment")
            assert simulator.stations["a"].clients == 1
        await until(lambda: simulator.stations["a"].clients == 0, timeout_s=1.0)


async def test_cancel_during_the_connect_frees_the_receiver(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        running = simulator.stations["a"]
        async with bench.stream():
            await until(lambda: running.clients == 1)
        await until(lambda: running.clients == 0, timeout_s=1.0)
        listed = await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())
        assert listed.receivers[0].used_slot_count == 0


_VICTIM = """
import asyncio, sys
from heimdall.common.v1.receiver_pb2 import Tuning
from heimdall.fetcher.v1 import fetcher_pb2
from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceStub
from heimdall.runtime.channel import open_channel

async def main():
    async with open_channel("fetcher", sys.argv[1]) as channel:
        call = FetcherServiceStub(channel).StreamIq()
        tuning = Tuning(center_frequency_hz=7.1e6)
        opening = fetcher_pb2.StreamIqRequest.Open(receiver_id="a", tuning=tuning)
        await call.write(fetcher_pb2.StreamIqRequest(open=opening))
        while True:
            await call.read()

asyncio.run(main())
"""


async def test_killed_caller_frees_the_receiver_within_a_second(tmp_path: Path) -> None:
    async with Simulator(Scenario(station=(station(),))) as simulator:
        running = simulator.stations["a"]
        file = tmp_path / "receivers.toml"
        await asyncio.to_thread(file.write_text, entry("a", running.url))
        settings = Settings(
            fetcher=FetcherSettings(port=0, receivers_file=file, state_file=tmp_path / "fetcher.sqlite3"),
            mesh=MeshSettings(drain_notice_s=0),
        )
        async with running_server(define(settings), settings) as address:
            victim = await asyncio.create_subprocess_exec(sys.executable, "-c", _VICTIM, address)
            try:
                await until(lambda: running.clients == 1, timeout_s=20)
            finally:
                os.kill(victim.pid, signal.SIGKILL)
                await victim.wait()
            await until(lambda: running.clients == 0, timeout_s=1.0)


async def test_silent_caller_is_dropped(tmp_path: Path) -> None:
    """A caller that neither speaks nor half-closes is let go after the idle time."""
    async with Simulator(Scenario(station=(station(),))) as simulator:
        file = tmp_path / "receivers.toml"
        await asyncio.to_thread(file.write_text, entry("a", simulator.stations["a"].url))
        settings = Settings(
            fetcher=FetcherSettings(port=0, receivers_file=file, state_file=tmp_path / "fetcher.sqlite3"),
            mesh=MeshSettings(drain_notice_s=0, idle_timeout_s=0.6, heartbeat_interval_s=0.2),
        )

        async with running_server(define(settings), settings) as address, open_channel("fetcher", address) as channel:
            call = FetcherServiceStub(channel).StreamIq()
            opening = fetcher_pb2.StreamIqRequest.Open(receiver_id="a", tuning=Tuning(center_frequency_hz=DIAL_HZ))
            await call.write(fetcher_pb2.StreamIqRequest(open=opening))
            kinds = []

            async def listen() -> None:
                while isinstance(answer := await call.read(), fetcher_pb2.StreamIqResponse):
                    kinds.append(answer.event.WhichOneof("event"))

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listen()
            assert caught.value.code() is grpc.StatusCode.ABORTED
            assert "heartbeat" in kinds
            await until(lambda: simulator.stations["a"].clients == 0, timeout_s=1.0)


async def test_half_closed_caller_without_window_gets_everything(tmp_path: Path) -> None:
    """What grpcurl does: it sends its messages and half-closes."""
    async with mesh(tmp_path, station()) as (_, bench), bench.stream() as stream:
        await stream.close()
        segment = (await next_of(stream, "segment")).segment
        block = (await next_of(stream, "block")).block
    assert block.first_sample_index == 0
    assert block.first_sample_unix_ns == segment.available_from_unix_ns


async def test_slow_caller_loses_the_oldest_samples_and_is_told(tmp_path: Path) -> None:
    """A small ring and a caller that gives its window late: what no longer fits is a gap with its reason."""
    ring_bytes = 20 * 2048
    async with mesh(tmp_path, station(), ring_bytes=ring_bytes) as (simulator, bench):
        running = simulator.stations["a"]
        async with bench.stream() as stream:
            start_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
            await until(lambda: len(running.sent) >= 40)
            await send_window(stream, start_ns, start_ns + 2 * SECOND)
            caught = await collect(stream)
        assert_bit_exact(caught, running.sent)
    caught.assert_whole()
    ((count, exact, why),) = caught.gap_list()
    assert (exact, why) == (True, "BACKPRESSURE")
    assert caught.gaps[0].first_lost_index == 0
    # The window starts at the very time of a sample; a later solution may date that sample 200 ns before it.
    assert count % 512 in (0, 511)
    assert 18 <= (count + 1) // 512 <= 30
    assert caught.end.end_sample_index == pytest.approx(2 * 66_665_900 / 5556, abs=1)


async def test_receivers_fail_alone(tmp_path: Path) -> None:
    good, bad, lossy = (
        station(id="good"),
        station(id="bad", fault=[Fault(kind="kiwi_kick", after_frame=10)]),
        station(id="lossy", fault=[Fault(kind="lost_frames", after_frame=15, frame_count=5)]),
    )
    async with mesh(tmp_path, good, bad, lossy) as (_, bench):
        a, b, c = await asyncio.gather(*(bench.record(1.0, name) for name in ("good", "bad", "lossy")))
    assert a.gaps == []
    assert b.end.reason == iq_pb2.END_REASON_FAILED
    assert c.gap_list() == [(5 * 512, True, "SEQUENCE")]
    for caught in (a, b, c):
        caught.assert_whole()


async def test_service_does_not_start_with_bad_receivers(tmp_path: Path) -> None:
    async with Simulator(Scenario(station=(station(),))) as simulator:
        with pytest.raises(SettingsError, match="receiver 'a': slots"):
            async with running_fetcher(simulator, tmp_path, entry("a", "http://127.0.0.1:1", slots=0)):
                pass
