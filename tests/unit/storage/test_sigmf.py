"""The metadata, judged by the sigmf library."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import sigmf
from google.protobuf.json_format import ParseDict
from sigmf.sigmffile import SigMFCollection
from sigmf.validate import main as sigmf_validate

from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import End, EndReason, GapReason, IqEvent, SampleFormat, TimeSolution
from heimdall.common.v1.recording_pb2 import Recording
from storage_svc.contents import Contents
from storage_svc.sigmf import build_collection, build_meta, parse_meta
from tests.integration.storage.support import (
    BLOCK,
    WINDOW_START_UNIX_NS,
    block,
    end_at,
    gap,
    opening,
    sample_bytes,
    segment,
    solution,
    time_ns,
)


def without_samples(event: IqEvent) -> IqEvent:
    if event.HasField("block"):
        event.block.ClearField("samples")
    return event


def made_contents(*events: IqEvent, fit: TimeSolution | None = None) -> Contents:
    message = opening()
    return Contents(
        receiver=message.receiver,
        spec=message.spec,
        events=[without_samples(event) for event in events],
        notices=[ErrorDetail(reason=ErrorReason.ERROR_REASON_UPSTREAM_STALLED, message="slow", metadata={"s": "3"})],
        time_solution=fit,
        end=End(end_sample_index=9, reason=EndReason.END_REASON_WINDOW_COMPLETE, attempt_count=2),
    )


def made_recording(contents: Contents, samples: bytes, receiver_id: str = "rx-1") -> Recording:
    blocks = [event.block for event in contents.events if event.HasField("block")]
    return Recording(
        acquisition_id="task-1",
        receiver_id=receiver_id,
        complete=True,
        segment=contents.events[0].segment,
        window_start_unix_ns=WINDOW_START_UNIX_NS,
        window_end_unix_ns=WINDOW_START_UNIX_NS + 5_000_000_000,
        sample_count=sum(entry.sample_count for entry in blocks),
        data_sha512=hashlib.sha512(samples).hexdigest(),
    )


def write_pair(folder: Path, name: str, meta: bytes, samples: bytes) -> Path:
    (folder / f"{name}.sigmf-data").write_bytes(samples)
    path = folder / f"{name}.sigmf-meta"
    path.write_bytes(meta)
    return path


def losses() -> list[IqEvent]:
    return [
        segment(),
        gap(0, 10, GapReason.GAP_REASON_LATE_START),
        block(10),
        block(10 + BLOCK, overload=True),
        block(10 + 2 * BLOCK, overload=True),
        gap(10 + 3 * BLOCK, 340),
        block(350 + 3 * BLOCK, overload=True),
        gap(350 + 4 * BLOCK, 1000, GapReason.GAP_REASON_EARLY_END),
    ]


LOSSES_SAMPLES = sample_bytes(10, 3 * BLOCK) + sample_bytes(350 + 3 * BLOCK, BLOCK)


def test_pair_with_losses_is_valid_sigmf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = made_contents(*losses(), fit=solution())
    meta = build_meta(made_recording(contents, LOSSES_SAMPLES), contents)
    path = write_pair(tmp_path, "rx-1", meta, LOSSES_SAMPLES)
    sigmf_validate((str(path),))
    read = sigmf.fromfile(str(path))
    assert read.sample_count == 4 * BLOCK
    assert read.sample_rate == 12_000.25
    first = read.read_samples(0, 2)
    raw = memoryview(sample_bytes(10, 2)).cast("h")
    assert [first[0].real * 32768, first[0].imag * 32768] == [raw[0], raw[1]]


def test_captures_keep_the_original_index_and_time() -> None:
    contents = made_contents(*losses(), fit=solution())
    meta = json.loads(build_meta(made_recording(contents, LOSSES_SAMPLES), contents))
    facts = [(c["core:sample_start"], c["core:global_index"]) for c in meta["captures"]]
    assert facts == [(0, 10), (3 * BLOCK, 350 + 3 * BLOCK)]
    assert [c["core:frequency"] for c in meta["captures"]] == [77_500.0] * 2
    assert meta["captures"][1]["heimdall:first_sample_unix_ns"] == time_ns(350 + 3 * BLOCK, 12_000.25)
    assert meta["captures"][0]["core:datetime"] == "2023-11-14T22:13:20.000833316Z"
    assert meta["global"]["core:geolocation"] == {"type": "Point", "coordinates": [7.29, 45.02, 600.0]}


def test_losses_and_overloads_are_annotated() -> None:
    contents = made_contents(*losses(), fit=solution())
    meta = json.loads(build_meta(made_recording(contents, LOSSES_SAMPLES), contents))
    facts = [(a["core:label"], a["core:sample_start"], a["core:sample_count"]) for a in meta["annotations"]]
    assert facts == [
        ("gap", 0, 0),
        ("overload", BLOCK, 2 * BLOCK),
        ("gap", 3 * BLOCK, 0),
        ("overload", 3 * BLOCK, BLOCK),
        ("gap", 4 * BLOCK - 1, 0),
    ]
    assert meta["annotations"][2]["core:comment"] == "340 samples lost: SEQUENCE"


def test_nothing_but_the_samples_is_lost() -> None:
    message = segment(first_sample_index=2 * BLOCK, gain_db=3.0)
    contents = made_contents(segment(), block(0), gap(BLOCK, BLOCK), message, block(2 * BLOCK), fit=solution())
    contents.events[2].gap.cause.message = "the frame counter jumped"
    again = parse_meta(build_meta(made_recording(contents, b""), contents))
    assert again == contents


@pytest.mark.parametrize(
    ("sample_format", "datatype", "sample_size"),
    [
        (SampleFormat.SAMPLE_FORMAT_CI16_LE, "ci16_le", 4),
        (SampleFormat.SAMPLE_FORMAT_CU8, "cu8", 2),
        (SampleFormat.SAMPLE_FORMAT_CF32_LE, "cf32_le", 8),
    ],
)
def test_formats_are_read_by_others(tmp_path: Path, sample_format: Any, datatype: str, sample_size: int) -> None:
    samples = bytes(100 * sample_size)
    contents = made_contents(segment(sample_format=sample_format), block(0, 100))
    path = write_pair(tmp_path, "rx-1", build_meta(made_recording(contents, samples), contents), samples)
    sigmf_validate((str(path),))
    read = sigmf.fromfile(str(path))
    assert read.datatype == datatype
    assert read.sample_count == 100


def test_values_that_json_can_not_hold_do_not_stop_a_recording() -> None:
    head = segment(passband_low_hz=float("-inf"))
    head.segment.position.altitude_m = float("nan")
    contents = made_contents(head, block(0, 100))
    meta = json.loads(build_meta(made_recording(contents, b""), contents))
    assert "core:geolocation" not in meta["global"]
    assert parse_meta(json.dumps(meta).encode()).events[0].segment.passband_low_hz == float("-inf")


def test_collection_verifies_and_notices_a_changed_member(tmp_path: Path) -> None:
    metas = []
    for receiver_id in ("rx-1", "rx-2"):
        contents = made_contents(segment(receiver_id), block(0, 100))
        samples = sample_bytes(0, 100)
        meta = build_meta(made_recording(contents, samples, receiver_id), contents)
        write_pair(tmp_path, receiver_id, meta, samples)
        metas.append((receiver_id, meta))
    content = json.loads(build_collection("task-1", "two receivers", metas))
    collection = SigMFCollection(metadata=content, base_path=tmp_path)
    collection.verify_stream_hashes()
    assert collection.get_stream_names() == ["rx-1", "rx-2"]
    for _, meta in metas:
        assert json.loads(meta)["global"]["core:collection"] == "session"
    (tmp_path / "rx-2.sigmf-meta").write_bytes(metas[1][1] + b" ")
    with pytest.raises(sigmf.error.SigMFFileError):
        collection.verify_stream_hashes()


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (b"", "Expecting value"),
        (b"[]", "the metadata lacks global"),
        (b'{"global":{}}', "the metadata lacks captures"),
        (b'{"global":[]}', "global is list, must be dict"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "the metadata is nested too deeply"),
        (b"9" * 5000, "5000 digits"),
        (rb'{"global":"\ud800"}', "surrogates not allowed"),
    ],
)
def test_text_that_is_no_metadata_is_refused(broken: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_meta(broken)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            "global/heimdall:segments",
            [5],
            "heimdall:segments: is int, must be a JSON object with the fields of Segment",
        ),
        ("global/heimdall:segments/0/gain_db", 10**400, "heimdall:segments: int too large to convert to float"),
        ("global/heimdall:segments/0/sample_format", 99, "at sample 0: .*sample_format: is 99, must be CI16_LE"),
        ("global/heimdall:segments/0/sample_rate_hz", "Infinity", "sample_rate_hz: is inf, must be above 0"),
        ("global/heimdall:segments/0/receiver_id", "rx-2", "receiver_id: is 'rx-2', must be that of open: 'rx-1'"),
        ("global/heimdall:time_solution/sample_rate_hz", 0, "time_solution.sample_rate_hz: is 0.0, must be above 0"),
        ("global/heimdall:spec/duration", "5", "heimdall:spec: .*duration"),
        ("captures/0/heimdall:blocks/0", [0, 3000, 1], r"heimdall:blocks\[0\] must be a list of 4 integers"),
        ("captures/0/heimdall:blocks/0/1", 3000.0, r"heimdall:blocks\[0\] must be a list of 4 integers"),
        ("captures/0/heimdall:blocks/0/1", -3000, "sample_count: is -3000, must be 1 or more"),
        ("captures/0/heimdall:blocks/0/0", 9, "first_sample_index: is 9, must be 10"),
        ("captures/0/heimdall:blocks/0/2", 1 << 63, "heimdall:blocks or heimdall:stamps around sample 10: .*range"),
        ("captures/0/heimdall:stamps/0", [], r"heimdall:stamps\[0\] must be a list of 3 integers"),
        ("captures/0/heimdall:stamps/0/0", 9, r"stamps\[0\].sample_index: is 9, must ascend and lie inside the block"),
        ("captures/1/heimdall:stamps/0/0", 10**6, "has one of sample 1000000, which lies behind every block"),
        ("annotations/0/heimdall:gap/lost_sample_count", 9, "at sample 9: .*first_sample_index: is 10, must be 9"),
    ],
)
def test_metadata_with_one_wrong_value_says_where(path: str, value: object, text: str) -> None:
    """What a reader would stumble over later: holes, overlaps, and numbers that make no time."""
    contents = made_contents(*losses(), fit=solution())
    meta = json.loads(build_meta(made_recording(contents, b""), contents))
    node, keys = meta, [int(part) if part.isdigit() else part for part in path.split("/")]
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    with pytest.raises(ValueError, match=text):
        parse_meta(json.dumps(meta).encode())


def test_length_that_json_can_not_state_does_not_stop_a_recording() -> None:
    """A caller's spec is only quoted; nonsense in it must not keep samples out of the object store."""
    contents = made_contents(segment(), block(0, 100))
    contents.spec.duration.seconds = 1 << 53
    contents.notices[0].retry_delay.nanos = -1_000_000_000
    again = parse_meta(build_meta(made_recording(contents, b""), contents))
    assert not again.spec.HasField("duration")
    assert not again.notices[0].HasField("retry_delay")
    contents.spec.ClearField("duration")
    contents.notices[0].ClearField("retry_delay")
    assert again == contents


def test_plain_values_are_what_protobuf_reads() -> None:
    contents = made_contents(segment(), block(0, 100), fit=solution())
    meta = json.loads(build_meta(made_recording(contents, b""), contents))
    assert ParseDict(meta["global"]["heimdall:time_solution"], TimeSolution()) == solution()
    assert meta["global"]["heimdall:time_solution"]["reference_unix_ns"] == WINDOW_START_UNIX_NS
    assert end_at(9, attempt_count=2) == ParseDict(meta["global"]["heimdall:end"], End())
