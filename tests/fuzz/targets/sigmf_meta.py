"""The SigMF metadata of a recording, and the replay of what it says."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.common.v1.acquisition_pb2 import AcquisitionSpec
from heimdall.common.v1.error_pb2 import ErrorDetail
from heimdall.common.v1.iq_pb2 import End, IqEvent, Segment, TimeSolution
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.errors import HeimdallError
from storage_svc.contents import Contents
from storage_svc.plain import from_plain, to_plain
from storage_svc.replay import SampleRange, recording_range, replay
from storage_svc.sigmf import build_meta, parse_meta
from storage_svc.timing import first_index_at
from tests.fuzz.mutation import FLOATS, INTEGERS, change_message, havoc
from tests.fuzz.target import Target
from tests.fuzz.targets import recordings

_REPLAYED_EVENTS: Final = 12


def fuzz_sigmf_meta(data: bytes) -> None:
    """A metadata file: ValueError, or events without hole or overlap that can be replayed and written again."""
    try:
        contents = parse_meta(data)
    except ValueError as error:
        assert str(error)
        return
    check_contents(contents)


def check_contents(contents: Contents, recording: Recording | None = None) -> None:
    """Asserts that a recording of these contents can be replayed and stored, and that nothing of it is lost.

    Args:
        contents: What a reader returned.
        recording: Its facts; default: the least that its metadata are made of.
    """
    end = 0
    for event in contents.events:
        first, count = _span(event)
        assert first == end or event.HasField("segment"), f"{first} does not follow {end}"
        assert count >= 0
        end += count
    assert recording_range(contents) == SampleRange(0, end)
    solution = contents.solution()
    if solution is not None:
        assert first_index_at(solution, solution.reference_unix_ns) <= solution.reference_sample_index
    for wanted in (SampleRange(0, end), SampleRange(end // 3, end - end // 3)):
        _replay(contents, wanted)
    if not any(event.HasField("block") for event in contents.events):
        # SigMF has no pair without samples.
        return
    recording = recording or _recording(contents)
    assert plain(parse_meta(build_meta(recording, contents))) == plain(contents)


def plain(contents: Contents) -> list[bytes]:
    """Returns contents in a form that compares: as bytes, in which NaN is NaN, without what JSON can not say."""
    parts: list[Message] = [contents.receiver, contents.spec, *contents.events, *contents.notices]
    parts += [contents.time_solution or TimeSolution(), contents.end or End()]
    return [_canonical(part) for part in parts]


def _canonical(message: Message) -> bytes:
    tidy = type(message)()
    tidy.CopyFrom(message)
    tidy.DiscardUnknownFields()
    _tidy(tidy)
    return tidy.SerializeToString(deterministic=True)


def _tidy(message: Message) -> None:
    """Makes every NaN the same, and clears times and lengths outside the range of protobuf's own JSON."""
    for field, value in message.ListFields():
        if isinstance(value, (Timestamp, Duration)):
            try:
                value.ToJsonString()
            except ValueError:
                message.ClearField(field.name)
        elif isinstance(value, Message):
            _tidy(value)
        elif isinstance(value, float) and math.isnan(value):
            setattr(message, field.name, math.nan)
        elif field.is_repeated and field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value:
                _tidy(item)


def _span(event: IqEvent) -> tuple[int, int]:
    if event.HasField("block"):
        return event.block.first_sample_index, event.block.sample_count
    if event.HasField("gap"):
        return event.gap.first_lost_index, event.gap.lost_sample_count
    assert event.HasField("segment")
    return event.segment.first_sample_index, 0


def _replay(contents: Contents, wanted: SampleRange) -> None:
    """Replays the first events of a range; the samples of a long recording end too early, as those of a short file."""

    async def read(offset_bytes: int, size_bytes: int) -> bytes:
        assert offset_bytes >= 0
        assert size_bytes > 0
        return bytes(min(size_bytes, 4 * 1024 * 1024))

    try:
        for event in itertools.islice(_step(replay(contents, wanted, read, data_sha512=None)), _REPLAYED_EVENTS):
            assert event.IsInitialized()
    except HeimdallError as error:
        assert error.reason_name == "CHECKSUM_MISMATCH"


def _step(events: AsyncIterator[IqEvent]) -> Any:
    """Yields what an async generator yields that never really waits; costs no event loop."""
    assert isinstance(events, AsyncGenerator)
    while True:
        try:
            events.__anext__().send(None)
        except StopIteration as step:
            yield step.value
        except StopAsyncIteration:
            return
        else:
            raise AssertionError("the replay waits for something")


def _mutate(data: bytes, rng: random.Random) -> bytes:
    """Changes one value of the JSON, or a message in it by its own fields."""
    if rng.random() < 0.15:
        return havoc(data, rng)
    try:
        meta = json.loads(data)
    except (ValueError, RecursionError):
        return havoc(data, rng)
    for _ in range(rng.randint(1, 3)):
        _change_json(meta, rng)
    text = json.dumps(meta)
    if rng.random() < 0.02:
        depth = rng.choice((10, 1000, 100_000))
        text = text.replace("1", "[" * depth + "]" * depth, 1)
    return text.encode()[:_MAX_BYTES]


def _change_json(meta: Any, rng: random.Random) -> None:
    head = meta.get("global") if isinstance(meta, dict) else None
    if isinstance(head, dict) and rng.random() < 0.3:
        kinds: dict[str, type[Message]] = {
            "heimdall:segments": Segment,
            "heimdall:spec": AcquisitionSpec,
            "heimdall:notices": ErrorDetail,
        }
        name = rng.choice(list(kinds))
        known = head.get(name)
        values = known if isinstance(known, list) else [known]
        place = rng.randrange(len(values) or 1)
        try:
            message = from_plain(values[place], kinds[name])
        except (ValueError, IndexError, SystemError):
            # A SystemError is protobuf's answer to a half of a surrogate pair.
            message = kinds[name]()
        change_message(message, rng)
        values[place : place + 1] = [to_plain(message)]
        head[name] = values if name != "heimdall:spec" else values[0]
        return
    node = meta
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.1:
            match rng.randrange(6):
                case 0:
                    del node[key]
                case 1 if isinstance(node, list):
                    node.insert(key, copy.deepcopy(rng.choice(node)))
                case 2 if isinstance(node[key], int):
                    node[key] += rng.choice((1, -1, 24, 10))
                case _:
                    node[key] = copy.deepcopy(rng.choice(_VALUES))
            return
        node = node[key]


_VALUES: Final[tuple[Any, ...]] = (
    *INTEGERS,
    *FLOATS,
    *(None, True, False, "", "1", "NaN", "-Infinity", "5s", "1.0000000001s", "-1s", "2023-11-14T22:13:20Z", "x" * 300),
    *([], {}, [[]], [0, 24, 1, 0], {"a": {}}, "SAMPLE_FORMAT_CU8", "\ud800", 10**400, 2**64),
)


def _seeds() -> list[bytes]:
    opening = recordings.opening()
    contents = Contents(
        receiver=opening.receiver,
        spec=opening.spec,
        events=[event for event in recordings.events() if not event.HasField("status")],
        notices=list(recordings.status().status.notices),
        time_solution=recordings.solution(),
        end=recordings.end(),
    )
    short = Contents(
        receiver=opening.receiver, spec=opening.spec, events=[recordings.segment(), recordings.block(0)], end=None
    )
    return [build_meta(_recording(contents), contents), build_meta(_recording(short), short)]


def _recording(contents: Contents) -> Recording:
    return Recording(
        acquisition_id=recordings.TASK_ID,
        receiver_id=recordings.RECEIVER_ID,
        segment=contents.events[0].segment,
        sample_count=sum(event.block.sample_count for event in contents.events),
    )


_MAX_BYTES: Final = 16384
TARGETS: Final = (Target("sigmf-meta", fuzz_sigmf_meta, _seeds, max_bytes=_MAX_BYTES, mutate=_mutate),)
