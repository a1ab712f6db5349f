"""Callers that go away, cancel more than once, or all want the same receiver."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import Message

from heimdall.client import acquisition_spec
from heimdall.common.v1.receiver_pb2 import Tuning
from heimdall.coordinator.v1.coordinator_pb2 import WatchAcquisitionRequest
from heimdall.dsp.v1.dsp_pb2 import ProcessRequest
from heimdall.errors import reason_name
from heimdall.fetcher.v1.fetcher_pb2 import ListReceiversRequest, StreamIqRequest
from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceStub
from heimdall.local import SERVICE_NAMES
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from tests.e2e.faults.bench import DIAL_HZ, FaultBench, describe, eventually, fault_bench, problems, station, until
from tests.e2e.faults.large import LARGE, write_large_recording
from tests.e2e.faults.raw import method, open_call_count, raw_channel, start
from tests.e2e.faults.relay import Relay
from tests.e2e.faults.relayed import BEFORE, IMPATIENT, assert_whole, begun
from tests.e2e.faults.table import Group, fault_case
from tests.integration.mesh import state_names
from tests.integration.storage.support import block, opening, segment

WINDOW_S: Final = 4.0


@asynccontextmanager
async def calling(folder: Path, *names: str, **options: Any) -> AsyncIterator[FaultBench]:
    """Runs a bench whose services must not have crashed in the end."""
    async with fault_bench(folder, [station(name, rx_chans=1) for name in names], **options) as bench:
        yield bench
        assert bench.crashes() == []


async def open_call_counts(bench: FaultBench) -> dict[str, int]:
    return {name: await open_call_count(target) for name, target in bench.mesh.targets.items()}


async def no_more_calls(bench: FaultBench, before: dict[str, int]) -> bool:
    """Returns whether no service has more calls open than before; an acquisition that ended meanwhile has fewer."""
    return all(count <= before[name] for name, count in (await open_call_counts(bench)).items())


@fault_case(
    Group.CALLERS,
    fault="those who watch an acquisition cancel, are killed, or stop reading",
    sees="SUCCEEDED, as anybody else who asks is told; what the calls held is free",
    stored="every recording, complete",
)
async def test_watch_abandoned(tmp_path: Path) -> None:
    async with calling(tmp_path, "rx-1") as bench, raw_channel(bench.mesh.targets["coordinator"]) as channel:
        await bench.client.get_limits()
        before = await open_call_count(bench.mesh.targets["coordinator"])
        command = [sys.executable, "-m", "heimdall.cli", "acquire", "7100kHz", "--duration", f"{WINDOW_S:g}s"]
        caller = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **bench.mesh.environment()},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        running = list[str]()

        async def is_running() -> bool:
            running[:] = [one.acquisition_id async for one in bench.client.list_acquisitions()]
            return bool(running)

        try:
            await eventually(is_running)
            (acquisition_id,) = running
            watches = [
                await start(
                    channel, method("WatchAcquisition"), [WatchAcquisitionRequest(acquisition_id=acquisition_id)]
                )
                for _ in range(2)
            ]
            await bench.stored(acquisition_id, BEFORE)
            await watches[0].read()
        finally:
            caller.kill()
            await caller.wait()
        watches[0].cancel()
        await assert_whole(bench, await bench.ended(acquisition_id))
        watches[1].cancel()

        async def is_free() -> bool:
            return await open_call_count(bench.mesh.targets["coordinator"]) == before

        await eventually(is_free)


def streams(acquisition_id: str) -> dict[str, tuple[str, list[Message | bytes]]]:
    """Returns, by method, the service and the messages that open a stream which goes on until somebody ends it."""
    tuning = Tuning(center_frequency_hz=DIAL_HZ)
    config = ProcessRequest.Config(acquisition_id="task-2", receiver_id="rx-1")
    return {
        "WatchAcquisition": ("coordinator", [WatchAcquisitionRequest(acquisition_id=acquisition_id)]),
        "StreamIq": ("fetcher", [StreamIqRequest(open=StreamIqRequest.Open(receiver_id="rx-2", tuning=tuning))]),
        "Process": ("dsp", [ProcessRequest(config=config), *(ProcessRequest(event=one) for one in _EVENTS)]),
        "WriteRecording": (
            "storage",
            [
                WriteRecordingRequest(open=opening("task-2")),
                *(WriteRecordingRequest(event=one) for one in _EVENTS),
            ],
        ),
        "ReadRecording": ("storage", [LARGE]),
    }


_EVENTS: Final = [segment(), block(0), block(3000)]


@fault_case(
    Group.CALLERS,
    fault="a caller of every stream (WatchAcquisition, StreamIq, Process, WriteRecording, ReadRecording) is gone "
    "without closing it, or falls silent with its connections open",
    sees="at once, or `idle_timeout_s` after its last word, the receiver's slot and channel are free and no call is "
    "open; a running acquisition SUCCEEDED",
    stored="what was acknowledged of the abandoned recording, finished as WRITER_LOST after `resume_window_s`",
)
async def test_streams_abandoned(tmp_path: Path) -> None:
    settings = {**IMPATIENT, "HEIMDALL_STORAGE_RESUME_WINDOW_S": "2"}
    async with calling(tmp_path, "rx-1", "rx-2", variables=settings) as bench, AsyncExitStack() as stack:
        await write_large_recording(bench.mesh.targets["storage"])
        relays = {name: await stack.enter_async_context(Relay()) for name in SERVICE_NAMES}
        for name, relay in relays.items():
            relay.forward_to(bench.mesh.targets[name])
        acquisition_id = await begun(bench, 15.0, ["rx-1"])
        before = await open_call_counts(bench)
        for vanish, methods, most_s in (
            (Relay.reset, ("WatchAcquisition", "StreamIq", "Process", "WriteRecording", "ReadRecording"), 2.0),
            (Relay.freeze, ("StreamIq", "Process", "WriteRecording"), 8.0),
        ):
            async with AsyncExitStack() as calls:
                for name in methods:
                    service, messages = streams(acquisition_id)[name]
                    channel = await calls.enter_async_context(raw_channel(relays[service].target))
                    call = await start(channel, method(name), messages)
                    if name != "Process":
                        assert await call.read()
                await until(lambda: bench.simulator.stations["rx-2"].clients == 1)
                assert (await used_slots(bench))["rx-2"] == 1
                for relay in relays.values():
                    vanish(relay)

                async def is_free() -> bool:
                    return await no_more_calls(bench, before) and (await used_slots(bench))["rx-2"] == 0

                await until(lambda: bench.simulator.stations["rx-2"].clients == 0, most_s)
                await eventually(is_free)
            for relay in relays.values():
                relay.conduct()
        await assert_whole(bench, await bench.ended(acquisition_id))
        await eventually(bench.all_in_object_store)
        rows = [row async for row in bench.client.list_recordings() if row.acquisition_id == "task-2"]
        assert [reason_name(row.incomplete_cause.reason) for row in rows] == ["WRITER_LOST"]
        assert rows[0].sample_count == 6000


async def used_slots(bench: FaultBench) -> dict[str, int]:
    async with open_channel("fetcher", bench.mesh.targets["fetcher"]) as channel:
        answer = await FetcherServiceStub(channel).ListReceivers(ListReceiversRequest())
    return {receiver.receiver_id: receiver.used_slot_count for receiver in answer.receivers}


@fault_case(
    Group.CALLERS,
    fault="an acquisition is cancelled twice, at once and once more; one that has ended is cancelled",
    sees="CANCELLED, the same answer each time; one that has ended is answered unchanged, with the same revision",
    stored="what was received before the first cancel, marked incomplete",
)
async def test_cancelled_twice(tmp_path: Path) -> None:
    async with calling(tmp_path, "rx-1") as bench:
        acquisition_id = await begun(bench, 30.0, ["rx-1"])
        cancel = bench.client.cancel_acquisition
        first, second = await asyncio.gather(cancel(acquisition_id), cancel(acquisition_id, discard=True))
        assert first == second == await cancel(acquisition_id, discard=True)
        assert first == await bench.client.get_acquisition(acquisition_id)
        assert state_names(first) == ("CANCELLED", ["CANCELLED"]), describe(first)
        (row,) = (await bench.recordings()).values()
        assert (row.complete, reason_name(row.incomplete_cause.reason)) == (False, "CANCELLED")
        assert row.sample_count == first.outcomes[0].stored_sample_count >= BEFORE
        again = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, ["rx-1"]))
        ended = await bench.ended(again)
        await assert_whole(bench, ended)
        assert await cancel(again) == await cancel(again) == ended
        await until(lambda: bench.simulator.stations["rx-1"].clients == 0)


@fault_case(
    Group.CALLERS,
    fault="ten acquisitions of one tuning want the one slot of a receiver at once",
    sees="all SUCCEEDED: they share one connection",
    stored="ten complete recordings",
)
async def test_ten_share_a_connection(tmp_path: Path) -> None:
    async with calling(tmp_path, "rx-1") as bench:
        spec = acquisition_spec(DIAL_HZ, WINDOW_S, ["rx-1"])
        started = await asyncio.gather(*(bench.start_acquisition(spec) for _ in range(10)))
        for acquisition_id in started:
            await assert_whole(bench, await bench.ended(acquisition_id))
        assert len(bench.simulator.stations["rx-1"].connection_times) == 1


@fault_case(
    Group.CALLERS,
    fault="ten acquisitions of ten tunings want the one slot of a receiver at once",
    sees="one after the other SUCCEEDED; those that got no slot within `max_wait` FAILED with RECEIVER_BUSY; never a "
    "second connection",
    stored="a complete recording of each that got the slot",
)
async def test_ten_queue_for_a_slot(tmp_path: Path) -> None:
    async with calling(tmp_path, "rx-1") as bench:
        served_count = 0
        for max_wait_s, fewest, most in ((45.0, 10, 10), (4.0, 1, 9)):
            specs = [
                acquisition_spec(DIAL_HZ + 1e3 * number, 1.0, ["rx-1"], max_wait_s=max_wait_s) for number in range(10)
            ]
            started = await asyncio.gather(*(bench.start_acquisition(spec) for spec in specs))
            ended = [await bench.ended(acquisition_id) for acquisition_id in started]
            served = [final for final in ended if state_names(final) == ("SUCCEEDED", ["SUCCEEDED"])]
            assert fewest <= len(served) <= most
            for final in ended:
                if final in served:
                    await assert_whole(bench, final)
                    continue
                assert state_names(final) == ("FAILED", ["FAILED"]), describe(final)
                # The station has one channel, so a second connection at once would be UPSTREAM_BUSY.
                assert problems(final.outcomes[0]) == ["RECEIVER_BUSY"], describe(final)
                took_s = (final.end_time.ToNanoseconds() - final.create_time.ToNanoseconds()) / 1e9
                assert took_s == pytest.approx(max_wait_s, abs=2.0)
            served_count += len(served)
        assert len(bench.simulator.stations["rx-1"].connection_times) == served_count
