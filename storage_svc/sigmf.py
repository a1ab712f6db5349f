"""The SigMF metadata of a recording, written and read back, and of the collection of an acquisition.

SigMF 1.2.5 with the namespace `heimdall`, which docs/sigmf-extension.md describes. Nothing of the recording but its
samples is lost: `parse_meta` returns what `build_meta` was given.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from heimdall.common.v1.acquisition_pb2 import AcquisitionSpec
from heimdall.common.v1.error_pb2 import ErrorDetail
from heimdall.common.v1.iq_pb2 import Block, End, Gap, GapReason, IqEvent, SampleFormat, Segment, Stamp, TimeSolution
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.common.v1.recording_pb2 import Recording
from heimdall.timing import unix_ns_at, utc_text
from storage_svc.contents import Contents
from storage_svc.plain import from_plain, to_plain

T = TypeVar("T")
M = TypeVar("M", bound=Message)

SIGMF_VERSION: Final = "1.2.5"
EXTENSION_VERSION: Final = "1.0.0"
COLLECTION_NAME: Final = "session"

DATATYPES: Final[Mapping[SampleFormat.ValueType, str]] = MappingProxyType(
    {
        SampleFormat.SAMPLE_FORMAT_CI16_LE: "ci16_le",
        SampleFormat.SAMPLE_FORMAT_CU8: "cu8",
        SampleFormat.SAMPLE_FORMAT_CF32_LE: "cf32_le",
    }
)
"""core:datatype of each sample format."""

_RECORDER: Final = f"heimdall {metadata.version('heimdall-radio')}"
_EXTENSIONS: Final[tuple[dict[str, object], ...]] = (
    {"name": "heimdall", "version": EXTENSION_VERSION, "optional": True},
)


def build_meta(recording: Recording, contents: Contents) -> bytes:
    """Returns the metadata of a finished recording that has samples.

    Args:
        recording: The facts of the recording.
        contents: Its events.

    Returns:
        The JSON text of a .sigmf-meta file.
    """
    captures, annotations = _captures_and_annotations(contents, recording.sample_count)
    annotations.sort(key=_sample_start)
    return _dump(
        {
            "global": _global(recording, contents),
            "captures": captures,
            "annotations": annotations,
        }
    )


def build_collection(acquisition_id: str, description: str, metas: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns the collection of an acquisition.

    Args:
        acquisition_id: The acquisition.
        description: What it is, in words.
        metas: Base name and metadata file of each recording.

    Returns:
        The JSON text of a .sigmf-collection file.
    """
    return _dump(
        {
            "collection": {
                "core:version": SIGMF_VERSION,
                "core:description": description,
                "core:extensions": list(_EXTENSIONS),
                "core:streams": [
                    {"name": name, "hash": hashlib.sha512(content).hexdigest()} for name, content in metas
                ],
                "heimdall:acquisition_id": acquisition_id,
            }
        }
    )


def data_sha512(content: bytes) -> str:
    """Returns the SHA-512 of the samples that metadata belongs to, in hexadecimal.

    Args:
        content: The JSON text of a .sigmf-meta file.

    Raises:
        ValueError: If it does not say.
    """
    return _member(_member(_load(content), "global", dict), "core:sha512", str)


def parse_meta(content: bytes) -> Contents:
    """Returns the events of a recording from its metadata.

    Args:
        content: The JSON text of a .sigmf-meta file that `build_meta` made.

    Raises:
        ValueError: If the text is not such metadata; says which key is wrong.
    """
    meta = _load(content)
    head = _member(meta, "global", dict)
    spans: list[tuple[int, IqEvent]] = []
    for capture in _member(meta, "captures", list):
        spans += _blocks(_member(capture, "heimdall:blocks", list), _member(capture, "heimdall:stamps", list))
    for annotation in _member(meta, "annotations", list):
        if isinstance(annotation, dict) and "heimdall:gap" in annotation:
            gap = _message("heimdall:gap", annotation["heimdall:gap"], Gap)
            spans.append((gap.first_lost_index, IqEvent(gap=gap)))
    segments = _messages(head, "heimdall:segments", Segment)
    contents = Contents(
        receiver=_message("heimdall:receiver", _member(head, "heimdall:receiver", dict), Receiver),
        spec=_message("heimdall:spec", _member(head, "heimdall:spec", dict), AcquisitionSpec),
        events=_interleave(segments, sorted(spans, key=lambda span: span[0])),
        notices=_messages(head, "heimdall:notices", ErrorDetail),
        time_solution=(
            _message("heimdall:time_solution", head["heimdall:time_solution"], TimeSolution)
            if "heimdall:time_solution" in head
            else None
        ),
        end=_message("heimdall:end", _member(head, "heimdall:end", dict), End),
    )
    contents.check()
    return contents


def _load(content: bytes) -> object:
    """Returns what a JSON text says.

    Raises:
        ValueError: If it says nothing, or what no message can hold.
    """
    try:
        meta: object = json.loads(content)
        if b"\\u" in content:
            # A half of a surrogate pair is a string to JSON and no text to protobuf, whose parser fails badly on it.
            json.dumps(meta, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("the metadata is nested too deeply") from error
    return meta


def _member(parent: object, key: str, kind: type[T]) -> T:
    """Returns a member of a JSON object, which must be there and of one type.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(parent, dict) or key not in parent:
        raise ValueError(f"the metadata lacks {key}")
    value = parent[key]
    if not isinstance(value, kind):
        raise ValueError(f"{key} is {type(value).__name__}, must be {kind.__name__}")
    return value


def _message(key: str, plain: object, kind: type[M]) -> M:
    try:
        return from_plain(plain, kind)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _messages(head: dict[str, Any], key: str, kind: type[M]) -> list[M]:
    return [_message(key, plain, kind) for plain in _member(head, key, list)]


def _global(recording: Recording, contents: Contents) -> dict[str, Any]:
    segment = recording.segment
    solution = contents.time_solution
    name = contents.receiver.display_name or recording.receiver_id
    head: dict[str, Any] = {
        "core:version": SIGMF_VERSION,
        "core:datatype": DATATYPES[segment.sample_format],
        "core:sample_rate": segment.sample_rate_hz if solution is None else solution.sample_rate_hz,
        "core:num_channels": 1,
        "core:sha512": recording.data_sha512,
        "core:recorder": _RECORDER,
        "core:hw": " ".join(part for part in (segment.driver, segment.server_version) if part),
        "core:description": f"{name} at {segment.center_frequency_hz:.12g} Hz, acquisition {recording.acquisition_id}",
        "core:collection": COLLECTION_NAME,
        "core:extensions": list(_EXTENSIONS),
        "heimdall:acquisition_id": recording.acquisition_id,
        "heimdall:receiver_id": recording.receiver_id,
        "heimdall:window_start_unix_ns": recording.window_start_unix_ns,
        "heimdall:window_end_unix_ns": recording.window_end_unix_ns,
        "heimdall:complete": recording.complete,
        "heimdall:sample_count": recording.sample_count,
        "heimdall:lost_sample_count": recording.lost_sample_count,
        "heimdall:gap_count": recording.gap_count,
        "heimdall:segments": [to_plain(event.segment) for event in contents.events if event.HasField("segment")],
        "heimdall:receiver": to_plain(contents.receiver),
        "heimdall:spec": to_plain(contents.spec),
        "heimdall:notices": [to_plain(notice) for notice in contents.notices],
        "heimdall:end": to_plain(contents.end or End()),
    }
    if recording.HasField("incomplete_cause"):
        head["heimdall:incomplete_cause"] = to_plain(recording.incomplete_cause)
    if solution is not None:
        head["heimdall:time_solution"] = to_plain(solution)
    place = segment if segment.HasField("position") else contents.receiver
    if place.HasField("position"):
        position = place.position
        coordinates = [position.longitude_deg, position.latitude_deg, position.altitude_m]
        if all(map(math.isfinite, coordinates)):
            head["core:geolocation"] = {"type": "Point", "coordinates": coordinates}
    return head


def _captures_and_annotations(
    contents: Contents, sample_count: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    captures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    solution = contents.solution()
    segment = Segment()
    stored = 0
    begins, overloaded = True, False
    for event in contents.events:
        if event.HasField("segment"):
            segment, begins = event.segment, True
        elif event.HasField("gap"):
            annotations.append(_gap_annotation(event.gap, min(stored, sample_count - 1)))
            begins = True
        else:
            block = event.block
            if begins:
                captures.append(_capture(segment, block, stored, solution))
            _add_block(captures[-1], block)
            if block.overload and overloaded and not begins:
                annotations[-1]["core:sample_count"] += block.sample_count
            elif block.overload:
                annotations.append(_overload_annotation(stored, block))
            stored += block.sample_count
            begins, overloaded = False, block.overload
    return captures, annotations


def _capture(segment: Segment, block: Block, stored: int, solution: TimeSolution | None) -> dict[str, Any]:
    index = block.first_sample_index
    unix_ns = block.first_sample_unix_ns if solution is None else unix_ns_at(solution, index)
    return {
        "core:sample_start": stored,
        "core:global_index": index,
        "core:frequency": segment.center_frequency_hz,
        "core:datetime": utc_text(unix_ns),
        "heimdall:first_sample_unix_ns": unix_ns,
        "heimdall:blocks": [],
        "heimdall:stamps": [],
    }


def _add_block(capture: dict[str, Any], block: Block) -> None:
    capture["heimdall:blocks"].append(
        [block.first_sample_index, block.sample_count, block.first_sample_unix_ns, int(block.overload)]
    )
    capture["heimdall:stamps"] += [[stamp.sample_index, stamp.unix_ns, stamp.age_s] for stamp in block.stamps]


def _sample_start(annotation: dict[str, Any]) -> int:
    return int(annotation["core:sample_start"])


def _gap_annotation(gap: Gap, sample_start: int) -> dict[str, Any]:
    about = "" if gap.exact else "about "
    reason = GapReason.Name(gap.reason) if gap.reason in GapReason.values() else str(gap.reason)
    return {
        "core:sample_start": sample_start,
        "core:sample_count": 0,
        "core:label": "gap",
        "core:generator": "heimdall",
        "core:comment": f"{about}{gap.lost_sample_count} samples lost: {reason.removeprefix('GAP_REASON_')}",
        "heimdall:gap": to_plain(gap),
    }


def _overload_annotation(sample_start: int, block: Block) -> dict[str, Any]:
    return {
        "core:sample_start": sample_start,
        "core:sample_count": block.sample_count,
        "core:label": "overload",
        "core:generator": "heimdall",
        "core:comment": "the receiver reported an overload of its converter inside",
    }


def _blocks(blocks: list[object], stamps: list[object]) -> list[tuple[int, IqEvent]]:
    """Returns the blocks of one capture, each with its own stamps.

    Raises:
        ValueError: If a row is not written as `_add_block` does, or a stamp lies behind every block.
    """
    spans: list[tuple[int, IqEvent]] = []
    waiting = deque(_rows("heimdall:stamps", stamps, 3))
    for index, sample_count, unix_ns, overload in _rows("heimdall:blocks", blocks, 4):
        own: list[list[int]] = []
        while waiting and waiting[0][0] < index + sample_count:
            own.append(waiting.popleft())
        try:
            block = Block(
                first_sample_index=index,
                first_sample_unix_ns=unix_ns,
                sample_count=sample_count,
                stamps=[Stamp(sample_index=place, unix_ns=time_ns, age_s=age_s) for place, time_ns, age_s in own],
                overload=bool(overload),
            )
        except ValueError as error:
            raise ValueError(f"heimdall:blocks or heimdall:stamps around sample {index}: {error}") from error
        spans.append((index, IqEvent(block=block)))
    if waiting:
        raise ValueError(f"heimdall:stamps has one of sample {waiting[0][0]}, which lies behind every block")
    return spans


def _rows(key: str, rows: list[object], width: int) -> list[list[int]]:
    checked: list[list[int]] = []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or [type(value) for value in row] != [int] * width:
            raise ValueError(f"{key}[{number}] must be a list of {width} integers")
        checked.append(row)
    return checked


def _interleave(segments: list[Segment], spans: list[tuple[int, IqEvent]]) -> list[IqEvent]:
    """Puts each segment before the first block or gap that it holds for."""
    events: list[IqEvent] = []
    waiting = list(segments)
    for index, event in spans:
        while waiting and waiting[0].first_sample_index <= index:
            events.append(IqEvent(segment=waiting.pop(0)))
        events.append(event)
    return list(itertools.chain(events, (IqEvent(segment=segment) for segment in waiting)))


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
