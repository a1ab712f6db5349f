"""The server's side of the set-up dialogue, without a socket."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from simulator.dialogue import Dialogue, End, StreamPath, parse_path
from simulator.faults import Fault, FaultScript
from simulator.scenario import StationSpec

SETUP = (
    "SET AR OK in=12000 out=44100",
    "SET mod=iq low_cut=-5000 high_cut=5000 freq=10000.000",
    "SET agc=0 hang=0 thresh=-100 slope=6 decay=1000 manGain=50",
)


def dialogue(*faults: Fault, **changes: Any) -> Dialogue:
    spec = StationSpec.model_validate(
        {"id": "a", "latitude_deg": 45.02, "longitude_deg": 7.29, "altitude_m": 600.0} | changes
    )
    return Dialogue(spec, FaultScript(list(faults)), 1, 2, "127.0.0.1", 11998.902088)


def texts(answers: list[str | End]) -> list[str]:
    return [answer.split("=")[0].split()[0] if isinstance(answer, str) else answer.name for answer in answers]


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("/1700000000/SND", StreamPath("1700000000", "SND", wideband=False)),
        ("/kiwi/17/SND", StreamPath("17", "SND", wideband=False)),
        ("/ws/no_wf/17/SND", StreamPath("17", "SND", wideband=False)),
        ("/wb/17/SND", StreamPath("17", "SND", wideband=True)),
        ("/17/W/F", StreamPath("17", "W/F", wideband=False)),
        ("/SND", None),
        ("/abc/SND", None),
        ("/17/snd", None),
    ],
)
def test_path(path: str, parsed: StreamPath | None) -> None:
    assert parse_path(path) == parsed


def test_v1_711_says_the_rate_before_the_auth_answer() -> None:
    server = dialogue()
    assert server.greet() == ["is_multi_core", "sample_rate=11998.902088"]
    assert texts(server.receive("SET auth t=kiwi p=")) == [
        "client_public_ip",
        "rx_chans",
        "chan_no_pwd",
        "chan_no_pwd_true",
        "is_local",
        "max_camp",
        "badp",
        "version_maj",
        "load_cfg",
        "load_dxcfg",
        "load_dxcomm_cfg",
        "cfg_loaded",
        "center_freq",
        "audio_init",
    ]


def test_2018_order_says_the_rate_last() -> None:
    server = dialogue(message_order="2018")
    assert server.greet() == []
    assert server.receive("SET auth t=kiwi p=")[-1] == "sample_rate=11998.902088"


def test_load_cfg_is_url_encoded_json_with_the_position() -> None:
    answers = dialogue().receive("SET auth t=kiwi p=")
    (value,) = (a.split("=", 1)[1] for a in answers if isinstance(a, str) and a.startswith("load_cfg="))
    assert " " not in value
    assert json.loads(unquote(value))["rx_gps"] == "(45.020000, 7.290000)"


def test_announced_offset_is_in_khz_with_three_decimals() -> None:
    answers = dialogue(freq_offset_khz=116_000.0).receive("SET auth t=kiwi p=")
    assert any(isinstance(a, str) and a.endswith(" freq_offset=116000.000") for a in answers)


@pytest.mark.parametrize("command", [*SETUP, "SET ident_user=x", "nonsense"])
def test_anything_before_auth_is_kicked(command: str) -> None:
    assert dialogue().receive(command) == [End.CLOSE_FRAME]


@pytest.mark.parametrize("command", ["SET options=1", "SET keepalive"])
def test_options_and_keepalive_may_come_before_auth(command: str) -> None:
    assert dialogue().receive(command) == []


def test_password_is_percent_decoded_and_may_be_tried_again() -> None:
    server = dialogue(password="à b%")
    first = server.receive("SET auth t=kiwi p=wrong")
    assert first[-1] == "badp=1"
    assert "is_local" not in texts(first)
    assert not server.authenticated
    assert "badp=0" in server.receive("SET auth t=kiwi p=%C3%A0%20b%25 ipl=%23")
    assert server.authenticated


@pytest.mark.parametrize("missing", range(3))
def test_sound_needs_all_mandatory_commands(missing: int) -> None:
    server = dialogue()
    server.receive("SET auth t=kiwi p=")
    for index, command in enumerate(SETUP):
        if index != missing:
            assert server.receive(command) == []
    assert not server.ready
    server.receive(SETUP[missing])
    assert server.ready


@pytest.mark.parametrize(
    "incomplete",
    [
        "SET AR OK in=12000 out=0",
        "SET AR OK in=12000",
        "SET mod=iq low_cut=0 high_cut=0 freq=10000.000",
        "SET mod=iq freq=10000.000",
        "SET mod=iq low_cut=-5000 high_cut=5000 freq=nan",
        "SET agc=0 hang=0 thresh=-100 slope=6 decay=1000",
    ],
)
def test_incomplete_command_leaves_its_flag_unset(incomplete: str) -> None:
    server = dialogue()
    server.receive("SET auth t=kiwi p=")
    for command in SETUP:
        server.receive(incomplete if command[:7] == incomplete[:7] else command)
    assert not server.ready


def test_fifth_keepalive_before_setup_is_kicked() -> None:
    server = dialogue()
    server.receive("SET auth t=kiwi p=")
    assert [server.receive("SET keepalive") for _ in range(5)] == [[], [], [], [], [End.CLOSE_FRAME]]


def test_keepalives_after_setup_are_free_and_unknown_commands_ignored() -> None:
    server = dialogue()
    for command in ("SET auth t=kiwi p=", *SETUP, *["SET keepalive"] * 9, "SET squelch=0 max=0", "SET x"):
        assert End.CLOSE_FRAME not in server.receive(command)


def test_change_flags_come_once() -> None:
    server = dialogue()
    for command in ("SET auth t=kiwi p=", *SETUP):
        server.receive(command)
    assert [server.take_flags(), server.take_flags()] == [0x05, 0x00]
    server.receive("SET mod=iq low_cut=-5000 high_cut=5000 freq=10001.000")
    assert server.take_flags() == 0x04
    server.receive("SET mod=iq low_cut=-99999 high_cut=99999 freq=10001.000")
    assert server.take_flags() == 0x01
    # int(11998.9 / 2) - 1
    assert (server.tuning(0.0).low_cut_hz, server.tuning(0.0).high_cut_hz) == (-5998, 5998)
    server.receive("SET mod=iq low_cut=0 high_cut=0 freq=10001.000")
    assert (server.take_flags(), server.tuning(0.0).high_cut_hz) == (0, 5998)
    server.receive("SET little-endian")
    server.receive("SET reinit")
    assert [server.take_flags(), server.take_flags()] == [0xA0, 0x80]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault(kind="too_busy"), "too_busy=4"),
        (Fault(kind="redirect", url="http://10.0.0.1:8073"), "redirect=http%3A%2F%2F10.0.0.1%3A8073"),
        (Fault(kind="down", code=1), "reason_disabled=software%20update%20in%20progress down=1"),
        (Fault(kind="exclusive_use"), "exclusive_use"),
        (Fault(kind="wb_only"), "wb_only"),
    ],
)
def test_refusals_of_the_first_message(fault: Fault, text: str) -> None:
    assert dialogue(fault).greet() == [text, End.TCP_CLOSE]


def test_refusals_of_the_auth() -> None:
    assert dialogue(Fault(kind="badp", code=5)).receive("SET auth t=kiwi p=")[-2:] == ["badp=5", End.CLOSE_FRAME]
    assert dialogue(Fault(kind="badp", code=6)).receive("SET auth t=kiwi p=")[-1] == "badp=6"
    limit = dialogue(Fault(kind="ip_limit")).receive("SET auth t=kiwi p=")
    assert limit == ["ip_limit=60%2C127.0.0.1", End.TCP_CLOSE]
