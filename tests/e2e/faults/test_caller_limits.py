"""Callers that read slowly, open too many streams, send what is no message or too much of one, or have no time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message

from heimdall.client import acquisition_spec, check_health
from heimdall.common.v1.iq_pb2 import Block, IqEvent
from heimdall.common.v1.receiver_pb2 import Tuning
from heimdall.coordinator.v1 import coordinator_pb2
from heimdall.dsp.v1.dsp_pb2 import ComputeSpectrumRequest, ProcessRequest
from heimdall.errors import HeimdallError
from heimdall.fetcher.v1 import fetcher_pb2
from heimdall.fetcher.v1.fetcher_pb2 import StreamIqRequest, StreamIqResponse
from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceStub
from heimdall.local import SERVICE_NAMES, full_name
from heimdall.runtime.channel import open_channel
from heimdall.runtime.streams import ClientStream, heartbeat_now
from heimdall.storage.v1 import storage_pb2
from heimdall.storage.v1.storage_pb2 import WriteRecordingRequest
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, FaultBench, eventually, until
from tests.e2e.faults.large import LARGE, LARGE_BLOCK_COUNT, write_large_recording
from tests.e2e.faults.raw import Method, all_methods, code_name, count_rest, method, opened, raw_channel, send, start
from tests.e2e.faults.relayed import assert_whole, begun
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.test_callers import calling, no_more_calls, open_call_counts
from tests.e2e.faults.truth import SentSamples, check_events
from tests.integration.mesh import state_names
from tests.integration.storage.support import KEEP, block, end_at, opening, segment

MIB: Final = 1024 * 1024
SLOW_S: Final = 22.0
TUNING: Final = Tuning(center_frequency_hz=DIAL_HZ)


async def read_slowly(call: Any, interval_s: float | None, until_s: float) -> int:
    """Reads an answer each interval, or none, until a time; returns how many."""
    loop, count = asyncio.get_running_loop(), 0
    while (left_s := until_s - loop.time()) > 0:
        await asyncio.sleep(left_s if interval_s is None else min(left_s, interval_s))
        if interval_s is not None:
            assert await call.read()
            count += 1
    return count


class SlowStream:
    """A caller of StreamIq that sends its heartbeats and reads nothing for a time."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.events = list[IqEvent]()
        self._stream: ClientStream[StreamIqRequest, StreamIqResponse] = ClientStream(
            FetcherServiceStub(channel).StreamIq(),
            peer="fetcher",
            make_heartbeat=lambda: StreamIqRequest(heartbeat=heartbeat_now()),
            heartbeat_interval_s=5,
            idle_timeout_s=15,
        )

    async def begin(self, receiver_id: str, duration_s: float) -> None:
        """Opens the stream and asks for a window that starts with what is available."""
        await self._stream.send(StreamIqRequest(open=StreamIqRequest.Open(receiver_id=receiver_id, tuning=TUNING)))
        while not self.events or not self.events[-1].HasField("segment"):
            await self._receive()
        start_unix_ns = self.events[-1].segment.available_from_unix_ns
        end_unix_ns = start_unix_ns + round(duration_s * 1e9)
        window = StreamIqRequest.Window(start_unix_ns=start_unix_ns, end_unix_ns=end_unix_ns)
        await self._stream.send(StreamIqRequest(window=window))

    async def read_rest(self) -> list[IqEvent]:
        """Reads to the end and returns what a recording would hold."""
        async with self._stream:
            while await self._receive():
                continue
        kept = ("segment", "block", "gap", "end")
        return [event for event in self.events if event.WhichOneof("event") in kept]

    async def _receive(self) -> bool:
        answer = await self._stream.receive()
        if answer is not None:
            self.events.append(answer.event)
        return answer is not None


@fault_case(
    Group.CALLERS,
    fault="callers of ReadRecording, WatchAcquisition and StreamIq read one message a second, or none for 22 s",
    sees="no service grows by more than 8 MiB; a reader misses nothing, a watcher gets growing revisions and the end, "
    "a StreamIq whose ring is full gets a BACKPRESSURE gap with the exact count; a running acquisition SUCCEEDED",
    stored="every recording, complete",
)
async def test_slow_readers(tmp_path: Path) -> None:
    async with (
        calling(tmp_path, "rx-1", "rx-2", variables={"HEIMDALL_FETCHER_RING_BYTES": "65536"}) as bench,
        raw_channel(bench.mesh.targets["storage"]) as storage,
        raw_channel(bench.mesh.targets["coordinator"]) as coordinator,
        open_channel("fetcher", bench.mesh.targets["fetcher"]) as fetcher,
    ):
        await write_large_recording(bench.mesh.targets["storage"])
        assert await send(storage, method("ReadRecording"), [LARGE]) is None
        await bench.ended(await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, ["rx-1", "rx-2"])))
        idle_bytes = {name: bench.resident_bytes(name) for name in SERVICE_NAMES}
        acquisition_id = await begun(bench, SLOW_S + 5, ["rx-1"])
        watch = coordinator_pb2.WatchAcquisitionRequest(acquisition_id=acquisition_id)
        readers = [await start(storage, method("ReadRecording"), [LARGE]) for _ in range(2)]
        watchers = [await start(coordinator, method("WatchAcquisition"), [watch]) for _ in range(2)]
        stream = SlowStream(fetcher)
        await stream.begin("rx-2", SLOW_S + 2)
        until_s = asyncio.get_running_loop().time() + SLOW_S
        counts = await asyncio.gather(
            *(read_slowly(call, interval_s, until_s) for call, interval_s in zip(readers, (None, 1.0), strict=True)),
            *(read_slowly(call, interval_s, until_s) for call, interval_s in zip(watchers, (None, 1.0), strict=True)),
        )
        grown = {name: bench.resident_bytes(name) - idle_bytes[name] for name in SERVICE_NAMES}
        assert all(size < 8 * MIB for size in grown.values()), grown
        for call, count in zip(readers, counts[:2], strict=True):
            # The blocks between the segment and the end.
            assert count + await count_rest(call) == LARGE_BLOCK_COUNT + 2
        events = await stream.read_rest()
        streamed = check_events(events, SentSamples.of(bench.simulator.stations["rx-2"].sent))
        assert set(streamed.reasons) == {"BACKPRESSURE"}
        assert all(gap.exact for gap in streamed.gaps)
        assert streamed.missed_count == streamed.lost_count > SAMPLE_RATE_HZ
        assert streamed.end_index == pytest.approx((SLOW_S + 2) * SAMPLE_RATE_HZ, abs=1)
        for call in watchers:
            revisions = []
            while answer := await call.read():
                snapshot = coordinator_pb2.WatchAcquisitionResponse.FromString(answer).acquisition
                revisions.append(snapshot.revision)
            assert revisions == sorted(set(revisions))
            assert state_names(snapshot) == ("SUCCEEDED", ["SUCCEEDED"])
        await assert_whole(bench, await bench.ended(acquisition_id))


def openings(acquisition_id: str, number: int) -> dict[str, Message]:
    """Returns the first message of a stream of each service, by the name of its method."""
    config = ProcessRequest.Config(acquisition_id="task-1", receiver_id=f"rx-{number}")
    return {
        "WatchAcquisition": coordinator_pb2.WatchAcquisitionRequest(acquisition_id=acquisition_id),
        "StreamIq": StreamIqRequest(open=StreamIqRequest.Open(receiver_id="rx-2", tuning=TUNING)),
        "Process": ProcessRequest(config=config),
        "WriteRecording": WriteRecordingRequest(open=opening("task-1", f"rx-{number}")),
    }


STREAM_COUNTS: Final = {
    "WatchAcquisition": (300, 256),
    "StreamIq": (200, 64),
    "Process": (200, 128),
    "WriteRecording": (200, 128),
}
"""By method, how many streams are opened, and how many of them the service takes by default."""


async def refusal(stream: ClientStream[bytes, bytes]) -> str | None:
    """Waits until a stream is open, or refused; returns why it is refused."""
    try:
        await stream.receive()
    except HeimdallError as error:
        return f"{code_name(error)}: {error.message}"
    return None


@fault_case(
    Group.CALLERS,
    fault="one client opens 200 streams at once on the fetcher, DSP and storage, and 300 watches on the coordinator",
    sees="those above the service's limit (64, 128, 128, 256) get OVERLOADED with a time to wait; probes and unary "
    "calls are answered; a running acquisition SUCCEEDED; once they are closed the services are as before; none has "
    "grown by more than 32 MiB",
    stored="the running acquisition, complete",
)
async def test_too_many_streams(tmp_path: Path) -> None:
    # Whoever opened a stream of DSP hears of it by the first heartbeat.
    async with (
        calling(tmp_path, "rx-1", "rx-2", variables={"HEIMDALL_MESH_HEARTBEAT_INTERVAL_S": "1"}) as bench,
        AsyncExitStack() as stack,
    ):
        await bench.recordings()
        acquisition_id = await begun(bench, 15.0, ["rx-1"])
        idle_bytes = {name: bench.resident_bytes(name) for name in SERVICE_NAMES}
        before = await open_call_counts(bench)
        streams = dict[str, list[ClientStream[bytes, bytes]]]()
        async with AsyncExitStack() as calls:
            for name, (count, _) in STREAM_COUNTS.items():
                channel = await stack.enter_async_context(raw_channel(bench.mesh.targets[method(name).service]))
                streams[name] = [
                    await calls.enter_async_context(
                        opened(channel, method(name), [openings(acquisition_id, number)[name]])
                    )
                    for number in range(count)
                ]
            for name, (count, limit) in STREAM_COUNTS.items():
                refusals = Counter(await asyncio.gather(*(refusal(stream) for stream in streams[name])))
                text = f"RESOURCE_EXHAUSTED: {limit} streams are open, which is the limit; repeat later"
                taken = refusals[None]
                assert refusals == {None: taken, text: count - taken}
                # The running acquisition has one stream on each but the coordinator.
                assert limit - 1 <= taken <= limit
            for name, target in bench.mesh.targets.items():
                assert await check_health(target, full_name(name), timeout_s=5) == "SERVING"
                assert bench.resident_bytes(name) - idle_bytes[name] < 32 * MIB
            await bench.client.get_limits()
            await bench.client.list_receivers()
            await bench.recordings()

        async def is_free() -> bool:
            return await no_more_calls(bench, before)

        await eventually(is_free)
        await assert_whole(bench, await bench.ended(acquisition_id))
        again = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, ["rx-1", "rx-2"]))
        await assert_whole(bench, await bench.ended(again))


@fault_case(
    Group.CALLERS,
    fault="callers of every method send a message above 4 MiB, or one that does not decode, also in the midst of a "
    "stream; or samples above 1 MiB",
    sees="RESOURCE_EXHAUSTED, UNKNOWN, BLOCK_TOO_LARGE; what the call held is free; a running acquisition SUCCEEDED",
    stored="the running acquisition, complete",
)
async def test_bad_messages(tmp_path: Path) -> None:
    async with calling(tmp_path, "rx-1", "rx-2") as bench, AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(raw_channel(target)) for name, target in bench.mesh.targets.items()
        }
        acquisition_id = await begun(bench, 8.0, ["rx-1"])
        before = await open_call_counts(bench)
        first = openings(acquisition_id, 9)
        for one in all_methods():
            for bad, code in ((b"\xff" * 3, "UNKNOWN"), (bytes(4 * MIB + 1), "RESOURCE_EXHAUSTED")):
                runs: list[Sequence[Message | bytes]] = [[bad]]
                runs += [[first[str(one)], bad]] if one.takes_stream else []
                for messages in runs:
                    error = await send(channels[one.service], one, messages)
                    assert error is not None
                    assert code_name(error) == code, (one, error)
        large = IqEvent(block=Block(sample_count=MIB // 4 + 1, samples=bytes(MIB + 4)))
        spectrum = ComputeSpectrumRequest(samples=bytes(MIB + 4), sample_rate_hz=SAMPLE_RATE_HZ)
        spectrum.sample_format, spectrum.full_scale = segment().segment.sample_format, 32768.0
        too_large: dict[str, list[Message]] = {
            "Process": [first["Process"], ProcessRequest(event=segment("rx-9")), ProcessRequest(event=large)],
            "WriteRecording": [
                first["WriteRecording"],
                WriteRecordingRequest(event=segment("rx-9")),
                WriteRecordingRequest(event=large),
            ],
            "ComputeSpectrum": [spectrum],
        }
        for name, events in too_large.items():
            error = await send(channels[method(name).service], method(name), events)
            assert error is not None
            assert error.reason_name == "BLOCK_TOO_LARGE", (name, error)

        async def is_free() -> bool:
            return await no_more_calls(bench, before)

        await eventually(is_free)
        assert bench.simulator.stations["rx-2"].clients == 0
        await assert_whole(bench, await bench.ended(acquisition_id))


async def questions(bench: FaultBench, acquisition_id: str) -> dict[Method, list[Message | bytes]]:
    """Returns a sound request of every method."""
    acquisition = await bench.client.get_acquisition(acquisition_id)
    first = openings(acquisition_id, 9)
    measurement = await anext(bench.client.query_measurements())
    spec = acquisition_spec(DIAL_HZ, 0.2, ["rx-1"], max_wait_s=2.0)
    samples = block(0).block.samples
    spectrum = ComputeSpectrumRequest(samples=samples, sample_rate_hz=SAMPLE_RATE_HZ, full_scale=32768.0)
    spectrum.sample_format = segment().segment.sample_format
    finish = WriteRecordingRequest.Finish(disposition=KEEP, end=end_at(3000))
    asked: dict[str, Sequence[Message]] = {
        "StartAcquisition": [coordinator_pb2.StartAcquisitionRequest(spec=spec)],
        "WatchAcquisition": [first["WatchAcquisition"]],
        "CancelAcquisition": [coordinator_pb2.CancelAcquisitionRequest(acquisition_id=acquisition_id)],
        "GetLimits": [coordinator_pb2.GetLimitsRequest()],
        "ProbeReceiver": [fetcher_pb2.ProbeReceiverRequest(receiver_id="rx-1")],
        "StreamIq": [first["StreamIq"]],
        "Process": [first["Process"], *(ProcessRequest(event=event) for event in (segment("rx-9"), block(0)))],
        "ComputeSpectrum": [spectrum],
        "WriteRecording": [
            first["WriteRecording"],
            *(WriteRecordingRequest(event=event) for event in (segment("rx-9"), block(0))),
            WriteRecordingRequest(finish=finish),
        ],
        "ReadRecording": [LARGE],
        "ListRecordings": [storage_pb2.ListRecordingsRequest()],
        "GetRecordingUrl": [storage_pb2.GetRecordingUrlRequest(acquisition_id=acquisition_id, receiver_id="rx-1")],
        "WriteMeasurements": [storage_pb2.WriteMeasurementsRequest(measurements=[measurement])],
        "QueryMeasurements": [storage_pb2.QueryMeasurementsRequest()],
        "AggregateMeasurements": [storage_pb2.AggregateMeasurementsRequest()],
        "PutAcquisition": [
            storage_pb2.PutAcquisitionRequest(acquisition=acquisition, expected_revision=acquisition.revision - 1)
        ],
    }
    shared: dict[str, dict[str, Message]] = {
        "coordinator": {
            "GetAcquisition": coordinator_pb2.GetAcquisitionRequest(acquisition_id=acquisition_id),
            "ListAcquisitions": coordinator_pb2.ListAcquisitionsRequest(),
            "ListReceivers": coordinator_pb2.ListReceiversRequest(),
        },
        "fetcher": {"ListReceivers": fetcher_pb2.ListReceiversRequest()},
        "storage": {
            "GetAcquisition": storage_pb2.GetAcquisitionRequest(acquisition_id=acquisition_id),
            "ListAcquisitions": storage_pb2.ListAcquisitionsRequest(),
        },
    }
    return {
        one: list(asked[str(one)]) if str(one) in asked else [shared[one.service][str(one)]] for one in all_methods()
    }


@fault_case(
    Group.CALLERS,
    fault="forty callers at a time give every method 1 ms",
    sees="an answer or DEADLINE_EXCEEDED, nothing else; no call stays open, no receiver is held; an acquisition that "
    "was accepted although nobody waited for the answer comes to its end; the next acquisition SUCCEEDED",
    stored="what was accepted in time",
)
async def test_no_time(tmp_path: Path) -> None:
    settings = {"HEIMDALL_STORAGE_RESUME_WINDOW_S": "2"}
    async with calling(tmp_path, "rx-1", "rx-2", variables=settings) as bench, AsyncExitStack() as stack:
        channels = {
            name: await stack.enter_async_context(raw_channel(target)) for name, target in bench.mesh.targets.items()
        }
        await write_large_recording(bench.mesh.targets["storage"])
        first = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, ["rx-1"]))
        await assert_whole(bench, await bench.ended(first))
        before = await open_call_counts(bench)
        for one, messages in (await questions(bench, first)).items():
            errors = await asyncio.gather(*(send(channels[one.service], one, messages, 0.001) for _ in range(40)))
            found = {"OK" if error is None else code_name(error) for error in errors}
            # The objects are in a directory, which has no URLs.
            answer = "FAILED_PRECONDITION" if str(one) == "GetRecordingUrl" else "OK"
            assert {"DEADLINE_EXCEEDED"} <= found <= {answer, "DEADLINE_EXCEEDED"}, one

        async def is_free() -> bool:
            return await no_more_calls(bench, before)

        await eventually(is_free)
        async for acquisition in bench.client.list_acquisitions():
            await bench.ended(acquisition.acquisition_id)
        await eventually(bench.all_in_object_store)
        await until(lambda: not any(station.clients for station in bench.simulator.stations.values()))
        again = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, ["rx-1", "rx-2"]))
        await assert_whole(bench, await bench.ended(again))
