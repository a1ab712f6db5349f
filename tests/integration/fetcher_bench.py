"""A fetcher over real gRPC against simulated stations, and a caller that keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from fetcher_svc.service import define
from heimdall.clock import Clock
from heimdall.common.v1 import iq_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.receiver_pb2 import Tuning
from heimdall.fetcher.v1 import fetcher_pb2
from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceStub
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.runtime.settings import FetcherSettings, MeshSettings, Settings
from heimdall.runtime.streams import ClientStream, heartbeat_now
from simulator import Scenario, SentFrame, Simulator, StationSpec

if TYPE_CHECKING:
    from heimdall.fetcher.v1.fetcher_pb2_grpc import FetcherServiceAsyncStub

SECOND = 1_000_000_000
DIAL_HZ = 7_100_000.0

Stream = ClientStream[fetcher_pb2.StreamIqRequest, fetcher_pb2.StreamIqResponse]


def station(**changes: Any) -> StationSpec:
    values: dict[str, Any] = {"id": "a", "latitude_deg": 45.0, "longitude_deg": 7.0, "altitude_m": 100.0}
    return StationSpec.model_validate(values | changes)


def entry(receiver_id: str, url: str, **changes: Any) -> str:
    """Returns one table of receivers.toml."""
    values: dict[str, Any] = {
        "receiver_id": receiver_id,
        "name": receiver_id.upper(),
        "driver": "kiwisdr",
        "url": url,
        "latitude_deg": 45.0,
        "longitude_deg": 7.0,
        "altitude_m": 100.0,
        "min_frequency_hz": 10e3,
        "max_frequency_hz": 30e6,
    }
    lines = [f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in (values | changes).items()]
    return "\n".join(["[[receiver]]", *lines, ""])


@dataclass
class Caught:
    """Every event of one stream."""

    segments: list[iq_pb2.Segment] = field(default_factory=list)
    blocks: list[iq_pb2.Block] = field(default_factory=list)
    gaps: list[iq_pb2.Gap] = field(default_factory=list)
    statuses: list[iq_pb2.Status] = field(default_factory=list)
    end: iq_pb2.End = field(default_factory=iq_pb2.End)
    end_at: float = 0.0

    @property
    def samples(self) -> bytes:
        return b"".join(block.samples for block in self.blocks)

    @property
    def stamps(self) -> list[iq_pb2.Stamp]:
        return [stamp for block in self.blocks for stamp in block.stamps]

    def gap_list(self) -> list[tuple[int, bool, str]]:
        return [
            (gap.lost_sample_count, gap.exact, iq_pb2.GapReason.Name(gap.reason).removeprefix("GAP_REASON_"))
            for gap in self.gaps
        ]

    def assert_whole(self) -> None:
        """Blocks and gaps follow one another from index 0 to the end, and their counts are the end's."""
        index = received = lost = 0
        parts: list[tuple[int, int, bool]] = [
            *((block.first_sample_index, block.sample_count, True) for block in self.blocks),
            *((gap.first_lost_index, gap.lost_sample_count, False) for gap in self.gaps),
        ]
        for first, count, good in sorted(parts):
            assert first == index
            index += count
            received += count if good else 0
            lost += 0 if good else count
        assert index == self.end.end_sample_index
        assert (received, lost) == (self.end.received_sample_count, self.end.lost_sample_count)
        for block in self.blocks:
            assert len(block.samples) == 4 * block.sample_count
            assert block.sample_count <= 3001


class Bench:
    """A running fetcher and its client."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: FetcherServiceAsyncStub = FetcherServiceStub(channel)

    @asynccontextmanager
    async def stream(
        self, receiver_id: str = "a", frequency_hz: float = DIAL_HZ, **fields: Any
    ) -> AsyncIterator[Stream]:
        call: Stream = ClientStream(
            self.stub.StreamIq(),
            peer="fetcher",
            make_heartbeat=lambda: fetcher_pb2.StreamIqRequest(heartbeat=heartbeat_now()),
            heartbeat_interval_s=5,
            idle_timeout_s=15,
        )
        tuning = fields.pop("tuning", Tuning(center_frequency_hz=frequency_hz))
        opening = fetcher_pb2.StreamIqRequest.Open(receiver_id=receiver_id, tuning=tuning, **fields)
        async with call:
            await call.send(fetcher_pb2.StreamIqRequest(open=opening))
            yield call

    async def record(
        self,
        duration_s: float = 1.0,
        receiver_id: str = "a",
        *,
        lead_s: float = 0.0,
        **fields: Any,
    ) -> Caught:
        """Opens a stream, asks for a window that starts with what is available, and returns all its events."""
        async with self.stream(receiver_id, **fields) as stream:
            first = await next_of(stream, "segment")
            start_ns = first.segment.available_from_unix_ns + round(lead_s * SECOND)
            await send_window(stream, start_ns, start_ns + round(duration_s * SECOND))
            return await collect(stream, Caught(segments=[first.segment]))


async def send_window(stream: Stream, start_unix_ns: int, end_unix_ns: int) -> None:
    window = fetcher_pb2.StreamIqRequest.Window(start_unix_ns=start_unix_ns, end_unix_ns=end_unix_ns)
    await stream.send(fetcher_pb2.StreamIqRequest(window=window))


async def next_of(stream: Stream, kind: str) -> iq_pb2.IqEvent:
    """Returns the next event of a kind; others are dropped."""
    while (answer := await stream.receive()) is not None:
        if answer.event.WhichOneof("event") == kind:
            return answer.event
    raise AssertionError(f"the stream ended without a {kind}")


async def collect(stream: Stream, caught: Caught | None = None) -> Caught:
    """Returns everything up to the end of the stream, in its lists."""
    caught = Caught() if caught is None else caught
    while (answer := await stream.receive()) is not None:
        event = answer.event
        match event.WhichOneof("event"):
            case "segment":
                caught.segments.append(event.segment)
            case "block":
                caught.blocks.append(event.block)
            case "gap":
                caught.gaps.append(event.gap)
            case "status":
                caught.statuses.append(event.status)
            case "end":
                caught.end = event.end
                caught.end_at = asyncio.get_running_loop().time()
    return caught


@asynccontextmanager
async def running_fetcher(
    simulator: Simulator,
    folder: Path,
    *entries: str,
    fetcher: dict[str, Any] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Bench]:
    """Runs a fetcher, which remembers what an earlier one in the folder knew.

    Args:
        simulator: The stations.
        folder: Holds its files.
        entries: Tables of receivers.toml; without any it owns every station of the simulator.
        fetcher: Further keys of the section [fetcher].
        clock: Host clock; default: the system's.
    """
    if not entries:
        entries = tuple(entry(name, running.url) for name, running in simulator.stations.items())
    file = folder / "receivers.toml"
    await asyncio.to_thread(file.write_text, "\n".join(entries))
    settings = Settings(
        fetcher=FetcherSettings(
            port=0, receivers_file=file, **{"state_file": folder / "fetcher.sqlite3", **(fetcher or {})}
        ),
        mesh=MeshSettings(drain_notice_s=0, drain_timeout_s=2),
    )
    async with (
        running_server(define(settings, clock), settings) as address,
        open_channel("fetcher", address) as channel,
    ):
        yield Bench(channel)


@asynccontextmanager
async def mesh(
    folder: Path, *stations: StationSpec, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[tuple[Simulator, Bench]]:
    """Runs simulated stations and a fetcher that owns them all."""
    async with (
        Simulator(Scenario(station=stations), record_sent=True) as simulator,
        running_fetcher(simulator, folder, fetcher=settings, clock=clock) as bench,
    ):
        yield simulator, bench


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Waits for a condition, with a deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 (nothing tells when the condition comes true)
            await asyncio.sleep(0.01)


def reason(name: str) -> int:
    """Returns the number of an error reason."""
    return ErrorReason.Value(f"ERROR_REASON_{name}")


def sent_samples(frames: list[SentFrame]) -> dict[int, bytes]:
    """Returns, by running sample number, the little-endian bytes of the frames that were really sent."""
    return {
        frame.first_sample: np.frombuffer(frame.payload, dtype="<i2" if frame.flags & 0x80 else ">i2")
        .astype("<i2")
        .tobytes()
        for frame in frames
        if not frame.dropped
    }


def assert_bit_exact(caught: Caught, frames: list[SentFrame]) -> int:
    """Asserts that every block holds what the station sent at its place; returns the running number of index 0.

    The place of index 0 comes from the first stamp, which the station gave for the first sample of a frame.
    """
    by_stamp = {(f.gps_second, f.gps_nanosecond): f.first_sample for f in frames if not f.dropped}
    first = caught.stamps[0]
    gps_ns = first.unix_ns + 18 * SECOND - 315_964_800 * SECOND
    week_ns = gps_ns % (604_800 * SECOND)
    origin = by_stamp[divmod(week_ns, SECOND)] - first.sample_index
    sent = sent_samples(frames)
    for block in caught.blocks:
        want = bytearray()
        number = origin + block.first_sample_index
        end = number + block.sample_count
        while number < end:
            start = max(key for key in sent if key <= number)
            chunk = sent[start][(number - start) * 4 : (end - start) * 4]
            assert chunk, f"sample {number} was never sent"
            want += chunk
            number += len(chunk) // 4
        assert block.samples == bytes(want), f"block at {block.first_sample_index} differs"
    return origin
