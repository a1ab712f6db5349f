"""Frames against the byte vectors of the protocol notes."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.frame import FLAG_STEREO, Stamp, encode_msg, encode_snd, s_meter_raw

# Flags 0x08, sequence 2, S-meter -60.1 dBm, age 1 s, 300000.166127360 s, (-1815, -3325), (90, -3793).
NOTES_VECTOR = bytes.fromhex("534e440802000000029d0100e0930400 00e7e609 f8e9f303 005af12f")


def test_snd_frame_equals_the_vector_of_the_notes() -> None:
    payload = np.array([-1815, -3325, 90, -3793], dtype=">i2").tobytes()
    stamp = Stamp(age_s=1, gps_second=300_000, gps_nanosecond=166_127_360)
    assert encode_snd(FLAG_STEREO, 2, s_meter_raw(-60.1), stamp, payload) == NOTES_VECTOR


def test_header_has_twenty_bytes_before_the_samples() -> None:
    assert len(encode_snd(FLAG_STEREO, 1, 0, Stamp(), bytes(2048))) == 2068


@pytest.mark.parametrize(
    ("level_dbm", "raw"), [(-60.0, 670), (-60.05, 669), (-127.0, 0), (-300.0, 0), (3.4, 1304), (20.0, 1304)]
)
def test_s_meter_is_truncated_and_clamped(level_dbm: float, raw: int) -> None:
    assert s_meter_raw(level_dbm) == raw


def test_msg_has_a_tag_and_a_space() -> None:
    assert encode_msg("badp=0") == b"MSG badp=0"
