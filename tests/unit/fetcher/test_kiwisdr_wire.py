"""The KiwiSDR's bytes against hand-made vectors."""

from __future__ import annotations

import struct

import pytest

from fetcher_svc.receivers import kiwisdr_wire as wire

# The first 28 bytes of a real-looking frame, as the protocol notes give them, and what they mean.
VECTOR = bytes.fromhex("534e440802000000029d0100e0930400 00e7e609f8e9f3 03005af12f".replace(" ", ""))


def frame(flags: int = 0x08, sequence: int = 3, samples: bytes = bytes(2048), second: int = 1, ns: int = 2) -> bytes:
    head = struct.pack("<3sBI", b"SND", flags, sequence) + struct.pack(">H", 670)
    return head + struct.pack("<BBII", 0, 0, second, ns) + samples


def test_vector_decodes_to_the_values_of_the_notes() -> None:
    assert len(VECTOR) == 28
    parsed = wire.parse_frame(VECTOR + bytes(2040))
    assert (parsed.flags, parsed.sequence, parsed.age_s) == (0x08, 2, 1)
    assert (parsed.gps_second, parsed.gps_nanosecond) == (300_000, 166_127_360)
    assert parsed.level_dbm == pytest.approx(-60.1, abs=1e-9)
    assert struct.unpack("<4h", parsed.samples[:8]) == (-1815, -3325, 90, -3793)
    assert parsed.sample_count == 512


def test_every_value_survives_the_byte_swap() -> None:
    values = list(range(-32768, 32768, 64))
    parsed = wire.parse_frame(frame(samples=struct.pack(">1024h", *values)))
    assert struct.unpack("<1024h", parsed.samples) == tuple(values)


def test_little_endian_samples_stay_as_they_are() -> None:
    values = list(range(1024))
    parsed = wire.parse_frame(frame(flags=0x88, samples=struct.pack("<1024h", *values)))
    assert struct.unpack("<1024h", parsed.samples) == tuple(values)


@pytest.mark.parametrize(("flags", "expected"), [(0x08, False), (0x0A, True), (0x0D, False)])
def test_overload_is_flag_0x02(flags: int, expected: bool) -> None:
    assert wire.parse_frame(frame(flags=flags)).overload is expected


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"SND\x08", "4 bytes"),
        (frame()[:23], "23 bytes"),
        (b"XYZ" + frame()[3:], "b'XYZ'"),
        (frame(flags=0x00), "0x00"),
        (frame(flags=0x18), "0x18"),
        (frame(samples=bytes(2047)), "multiple of 4"),
        (frame(second=604_800), "604800 s"),
        (frame(ns=1_000_000_000), "1000000000 ns"),
    ],
)
def test_bad_frames_are_refused_with_what_is_wrong(data: bytes, text: str) -> None:
    with pytest.raises(wire.WireError, match=text):
        wire.parse_frame(data)


def test_wideband_frames_may_be_longer() -> None:
    assert wire.parse_frame(frame(samples=bytes(680 * 4))).sample_count == 680


def test_message_pairs_split_at_the_first_equals_sign() -> None:
    pairs = wire.parse_message(b"MSG version_maj=1 cfg_loaded load_cfg=a%3D=b audio_rate=12000")
    assert pairs == {"version_maj": "1", "cfg_loaded": None, "load_cfg": "a%3D=b", "audio_rate": "12000"}


def test_message_that_is_no_text_is_refused() -> None:
    with pytest.raises(wire.WireError, match="UTF-8"):
        wire.parse_message(b"MSG \xff\xfe=1")


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "", "12k", "12_000", "١٢٠٠٠"])
def test_number_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(wire.WireError, match="sample_rate"):
        wire.parse_number({"sample_rate": value}, "sample_rate")


def test_what_is_no_number_is_repeated_in_short() -> None:
    with pytest.raises(wire.WireError, match=r"^rf_attn='xxx") as caught:
        wire.parse_number({"rf_attn": "x" * 2_000_000}, "rf_attn")
    assert len(str(caught.value)) < 300


def test_number_that_is_absent_stays_absent() -> None:
    assert wire.parse_number({}, "sample_rate") is None


def test_status_page_keeps_equals_signs_and_utf8() -> None:
    pairs = wire.parse_status("status=active\nname=Turin = Süd\n\nnonsense\nusers=2\r\n")
    assert pairs == {"status": "active", "name": "Turin = Süd", "users": "2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(45.02, 7.29)", (45.02, 7.29)),
        ("(-33.5,-70)", (-33.5, -70.0)),
        ("", None),
        ("(1.2.3, 4)", None),
        ("(91, 4)", None),
        ("(4, -181)", None),
    ],
)
def test_position(text: str, expected: tuple[float, float] | None) -> None:
    assert wire.parse_position(text) == expected


def test_password_is_percent_encoded() -> None:
    assert wire.auth_command("a b%c#ü") == "SET auth t=kiwi p=a%20b%25c%23%C3%BC"
    assert wire.auth_command("") == "SET auth t=kiwi p="


def test_setup_holds_the_five_mandatory_settings_and_one_keepalive() -> None:
    commands = wire.setup_commands(
        user_name="two words",
        audio_rate_hz=12_000,
        dial_hz=29_500_000.0,
        passband_low_hz=-5998.0,
        passband_high_hz=5998.0,
        automatic_gain=False,
        gain_db=50.0,
    )
    assert "SET AR OK in=12000 out=44100" in commands
    assert "SET mod=iq low_cut=-5998 high_cut=5998 freq=29500.000000" in commands
    assert "SET agc=0 hang=0 thresh=-100 slope=6 decay=1000 manGain=50" in commands
    assert "SET ident_user=two%20words" in commands
    assert commands.count("SET keepalive") == 1
    assert commands[-1] == "SET keepalive"
