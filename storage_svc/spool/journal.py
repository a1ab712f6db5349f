"""The journal of one spooled recording: everything but the samples, as framed and checksummed records.

A record is a little-endian header (payload length, CRC32C of kind and payload, kind) and its payload. A file is read up
to the first record that is torn or corrupt; what follows was never acknowledged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import google_crc32c

_HEADER: Final = struct.Struct("<IIB")
_OPEN_TIME: Final = struct.Struct("<q")
_SAMPLES_CRC: Final = struct.Struct("<I")
_RECORDING_SIZE: Final = struct.Struct("<I")

MAX_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
"""Longest payload; a longer one can only be a corrupt length. No message of the mesh is above 4 MiB."""


class RecordKind(IntEnum):
    """What the payload of a record is."""

    OPEN = 1
    """Time of opening in ns since 1970 (int64) and the writer's Open; once a writer."""
    EVENT = 2
    """CRC32C of a block's samples (uint32; 0 for other events) and an IqEvent without its samples."""
    FINISH = 3
    """Length of the finished Recording (uint32), the Recording and its End; last."""


@dataclass(frozen=True)
class JournalRecord:
    """One record as read back."""

    kind: RecordKind
    """What the payload is."""
    payload: bytes
    """The record's content."""
    end_offset: int
    """Position in the file just after the record, in bytes."""


def encode(kind: RecordKind, payload: bytes) -> bytes:
    """Returns a record as it is written."""
    tail = bytes((kind,)) + payload
    return _HEADER.pack(len(payload), google_crc32c.value(tail), kind) + payload


def encode_open(open_unix_ns: int, message: bytes) -> bytes:
    """Returns the record of a writer that opens the recording."""
    return encode(RecordKind.OPEN, _OPEN_TIME.pack(open_unix_ns) + message)


def encode_event(samples_crc32c: int, message: bytes) -> bytes:
    """Returns the record of an event whose samples were taken out."""
    return encode(RecordKind.EVENT, _SAMPLES_CRC.pack(samples_crc32c) + message)


def encode_finish(recording: bytes, end: bytes) -> bytes:
    """Returns the record that closes the journal, from a serialised Recording and End."""
    return encode(RecordKind.FINISH, _RECORDING_SIZE.pack(len(recording)) + recording + end)


def decode_open(payload: bytes) -> tuple[int, bytes]:
    """Returns the time of opening in ns since 1970 and the serialised Open."""
    return _OPEN_TIME.unpack_from(payload)[0], payload[_OPEN_TIME.size :]


def decode_event(payload: bytes) -> tuple[int, bytes]:
    """Returns the CRC32C of the block's samples and the serialised IqEvent."""
    return _SAMPLES_CRC.unpack_from(payload)[0], payload[_SAMPLES_CRC.size :]


def decode_finish(payload: bytes) -> tuple[bytes, bytes]:
    """Returns the serialised Recording and End.

    Raises:
        ValueError: If the Recording would be longer than the payload.
    """
    start = _RECORDING_SIZE.size
    size = _RECORDING_SIZE.unpack_from(payload)[0]
    if start + size > len(payload):
        raise ValueError(f"a finish record states a Recording of {size} bytes and has {len(payload) - start} after it")
    return payload[start : start + size], payload[start + size :]


def read_records(content: bytes) -> Iterator[JournalRecord]:
    """Yields the records of a journal up to the first that is torn or corrupt, or that finishes the recording.

    Args:
        content: The whole journal.
    """
    offset = 0
    while offset + _HEADER.size <= len(content):
        length, crc32c, kind = _HEADER.unpack_from(content, offset)
        start, end = offset + _HEADER.size, offset + _HEADER.size + length
        if length > MAX_PAYLOAD_BYTES or end > len(content):
            return
        # The kind is the header's last byte, so kind and payload are one run of bytes.
        if google_crc32c.value(content[start - 1 : end]) != crc32c or not _is_complete(kind, length):
            return
        yield JournalRecord(RecordKind(kind), content[start:end], end)
        if kind == RecordKind.FINISH:
            return
        offset = end


def is_torn(rest: bytes) -> bool:
    """Returns whether a crash in mid-write explains what follows the last good record: nothing acknowledged is in it.

    Args:
        rest: The journal from the end of the last good record on; the beginning of one record, or space that was taken
            and never filled, is torn. A whole record that is corrupt is not.
    """
    if len(rest) < _HEADER.size or rest.count(0) == len(rest):
        return True
    length = _HEADER.unpack_from(rest)[0]
    return bool(length <= MAX_PAYLOAD_BYTES and _HEADER.size + length > len(rest))


def _is_complete(kind: int, length: int) -> bool:
    fixed = {
        RecordKind.OPEN: _OPEN_TIME.size,
        RecordKind.EVENT: _SAMPLES_CRC.size,
        RecordKind.FINISH: _RECORDING_SIZE.size,
    }
    return kind in fixed and length >= fixed[RecordKind(kind)]
