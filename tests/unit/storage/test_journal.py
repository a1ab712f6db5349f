from __future__ import annotations

import struct

import pytest

from storage_svc.spool import journal
from storage_svc.spool.journal import RecordKind


def crc32c(content: bytes) -> int:
    """Castagnoli CRC bit by bit: polynomial 0x1EDC6F41 reflected, all ones in and out."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def test_the_checksum_of_this_test_is_the_standard_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_framing_is_as_documented() -> None:
    payload = struct.pack("<q", -5) + b"opening"
    expected = struct.pack("<II", len(payload), crc32c(b"\x01" + payload)) + b"\x01" + payload
    assert journal.encode_open(-5, b"opening") == expected


def test_records_come_back() -> None:
    content = journal.encode_open(7, b"o") + journal.encode_event(9, b"e") + journal.encode_finish(b"rr", b"end")
    records = list(journal.read_records(content))
    assert [record.kind for record in records] == [RecordKind.OPEN, RecordKind.EVENT, RecordKind.FINISH]
    assert journal.decode_open(records[0].payload) == (7, b"o")
    assert journal.decode_event(records[1].payload) == (9, b"e")
    assert journal.decode_finish(records[2].payload) == (b"rr", b"end")
    assert records[-1].end_offset == len(content)


def test_every_torn_tail_leaves_the_records_before_it() -> None:
    first, second = journal.encode_open(7, b"opening"), journal.encode_event(9, b"event")
    for length in range(len(second)):
        records = list(journal.read_records(first + second[:length]))
        assert [record.end_offset for record in records] == [len(first)]


def test_every_flipped_bit_ends_the_good_part() -> None:
    first, second = journal.encode_open(7, b"opening"), journal.encode_event(9, b"event")
    for place in range(len(second) * 8):
        damaged = bytearray(first + second + first)
        damaged[len(first) + place // 8] ^= 1 << place % 8
        records = list(journal.read_records(bytes(damaged)))
        assert [record.end_offset for record in records] == [len(first)]


@pytest.mark.parametrize("kind", [RecordKind.OPEN, RecordKind.EVENT, RecordKind.FINISH])
def test_a_record_shorter_than_its_kind_is_not_read(kind: RecordKind) -> None:
    assert list(journal.read_records(journal.encode(kind, b"x"))) == []


def test_every_beginning_of_a_record_is_torn_and_no_changed_record_is() -> None:
    record = journal.encode_event(9, b"event")
    for length in range(len(record)):
        assert journal.is_torn(record[:length])
    assert journal.is_torn(bytes(4096))
    # A changed length, the first four bytes, may make a record look longer than what there is.
    for place in range(32, len(record) * 8):
        changed = bytearray(record)
        changed[place // 8] ^= 1 << place % 8
        assert not journal.is_torn(bytes(changed))


def test_nothing_is_read_behind_the_finish() -> None:
    content = journal.encode_open(7, b"o") + journal.encode_finish(b"rr", b"end")
    records = list(journal.read_records(content + journal.encode_event(9, b"e")))
    assert [record.kind for record in records] == [RecordKind.OPEN, RecordKind.FINISH]
    assert records[-1].end_offset == len(content)


def test_finish_that_is_shorter_than_its_recording_is_refused() -> None:
    with pytest.raises(ValueError, match="states a Recording of 1000 bytes and has 3 after it"):
        journal.decode_finish(struct.pack("<I", 1000) + b"abc")
