"""A KiwiSDR's MSG texts and its status page."""

from __future__ import annotations

import math
import re
from typing import Final

from yarl import URL

from fetcher_svc import messages
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers import kiwisdr_wire as wire
from fetcher_svc.receivers.base import Tuning
from fetcher_svc.receivers.http import RedirectError
from fetcher_svc.receivers.kiwisdr_refusals import find_refusal
from fetcher_svc.receivers.kiwisdr_setup import Setup
from fetcher_svc.receivers.kiwisdr_status import to_probe
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.errors import HeimdallError
from tests.fuzz.mutation import words
from tests.fuzz.target import Target

MAX_DETAIL_BYTES: Final = 4096
"""What a failure may take inside a message, whatever the station said: two of them go into every outcome."""
_COMMAND: Final = re.compile(r"SET [!-~]+( [!-~]+)*")
_NUMBER: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_FREQUENCY: Final = re.compile(r" freq=([0-9]+\.[0-9]{6})$")

_CONFIG: Final = ReceiverConfig(
    receiver_id="rx-1",
    name="Receiver 1",
    driver="kiwisdr",
    url="http://127.0.0.1:8073",
    latitude_deg=45,
    longitude_deg=7,
    altitude_m=250,
    min_frequency_hz=0,
    max_frequency_hz=30e6,
)


def _check_failure(error: HeimdallError) -> None:
    assert error.message
    assert error.to_detail().ByteSize() <= MAX_DETAIL_BYTES
    error.to_status()


def fuzz_kiwi_message(data: bytes) -> None:
    """One MSG: WireError or pairs, of which every value decodes, and every number is finite, absent or refused."""
    try:
        pairs = wire.parse_message(data)
    except wire.WireError as error:
        assert str(error)
        return
    for key, value in pairs.items():
        assert len(wire.decode(value)) <= len(value or "")
        try:
            number = wire.parse_number(pairs, key)
        except wire.WireError as error:
            assert len(str(error)) <= MAX_DETAIL_BYTES
        else:
            assert (number is None) == (value is None)
            assert number is None or (math.isfinite(number) and _NUMBER.fullmatch(value or ""))
    for streaming in (False, True):
        refusal = find_refusal(pairs, streaming=streaming)
        if refusal is not None:
            _check_failure(refusal)


def fuzz_kiwi_setup(data: bytes) -> None:
    """The messages of a set-up, a line each: a failure, a redirect, or commands that a station can read."""
    setup = Setup(_CONFIG, Tuning(7.1e6, gain_db=50))
    try:
        for line in data.split(b"\n"):
            setup.take(line)
        assert setup.complete == (setup.missing_text == "SND")
        if not setup.complete:
            return
        facts, commands = setup.facts(), setup.commands("heimdall")
    except HeimdallError as error:
        _check_failure(error)
        return
    except RedirectError as redirect:
        _check_redirect(redirect.url)
        return
    assert 1e3 <= facts.sample_rate_hz <= 1e6
    assert facts.passband_low_hz is not None
    assert facts.passband_high_hz is not None
    assert facts.passband_low_hz < facts.passband_high_hz
    assert len(facts.server_version) <= 64
    if facts.calibration is not None:
        assert abs(facts.calibration.offset_db) < 1000
        assert len(facts.calibration.source) <= 200
    for command in commands:
        assert _COMMAND.fullmatch(command), command
        assert len(command) <= 128, command
    frequencies = [match for match in map(_FREQUENCY.search, commands) if match]
    assert len(frequencies) == 1
    assert 0 <= float(frequencies[0][1]) <= 13e6


def _check_redirect(url: str) -> None:
    """The address is one, as the HTTP client sees it."""
    assert len(url) <= 512
    try:
        address = URL(f"{url}/1/SND")
    except ValueError:
        # The client refuses it as an invalid URL, which counts as unreachable.
        return
    assert address.scheme in ("http", "https")
    assert address.host
    assert address.path == "/1/SND"
    address.host.encode("idna")


def fuzz_kiwi_status(data: bytes) -> None:
    """A status page: no KiwiSDR's, or a probe that can be told."""
    try:
        probe = to_probe(wire.parse_status(data.decode("utf-8", errors="replace")), 0.1)
    except HeimdallError as error:
        _check_failure(error)
        return
    message = messages.probe_message(probe, Receiver(receiver_id="rx-1"))
    assert type(message).FromString(message.SerializeToString()).reachable
    position = message.reported_position
    assert abs(position.latitude_deg) <= 90
    assert abs(position.longitude_deg) <= 180


_VALUES: Final = (
    *b"0 -0 1 2 -1 7 nan inf -inf 1e308 -1e308 1e999 1e-320 0x10 1_0 12000 11998.902088 -116000.000".split(),
    *b"2147483648 9999999999999999999 % %20 %00 %0a %ff %F0%9F = ==".split(),
    *("١٢".encode(), b"9" * 400, b" ", b"\t", b"\n", b"\r\n", b"\0", b"\xff", b"\xc2\x85", b"\x1c", b"\xe2\x80\xa8"),
)
_MESSAGE_WORDS: Final = (
    *b"MSG W/F EXT SND badp= too_busy=4 down= reason_disabled= ip_limit= kiwi_kick= wb_only exclusive_use".split(),
    *b"sample_rate= audio_rate= freq_offset= bandwidth= rf_attn= version_maj= version_min= password_timeout".split(),
    *b"inactivity_timeout=1 redirect= http:// https:// http%3A%2F%2F %5B%3A%3A1 [ ] %5D @ :99999 :0 %2F ? #".split(),
    *b"xn-- .. host.example:8073 \xe2\x84\x80".split(),
    *_VALUES,
)
_STATUS_WORDS: Final = (
    *b"status= active private offline= no users= users_max= gps_good= tdoa_ch= gps= ( ) , - . asl= name=".split(),
    *b"sw_version= KiwiSDR_v1.711".split(),
    *_VALUES,
)


def _message_seeds() -> list[bytes]:
    return [
        b"MSG badp=0",
        b"MSG version_maj=1 version_min=711 freq_offset=0.000",
        b"MSG down=0 reason_disabled=back%20at%20noon",
        b"MSG client_public_ip=127.0.0.1 rx_chans=4 too_busy=4 kiwi_kick=1 ip_limit=60,1",
        b"MSG load_cfg=%7b%22rx_gps%22%3a%22(45.02%2c%207.29)%22%7d cfg_loaded",
    ]


def _setup_seeds() -> list[bytes]:
    head = b"MSG badp=0\nMSG version_maj=1 version_min=711 freq_offset=0.000\n"
    return [
        head + b"MSG sample_rate=11998.902088\nMSG audio_init=0 audio_rate=12000",
        b"MSG sample_rate=20250.9\nMSG audio_rate=20250\nW/F 1\nMSG bandwidth=30000000 rf_attn=3.5\n" + head,
        head + b"MSG sample_rate=12000 audio_rate=12000\nMSG load_cfg=%7b%22S_meter_cal%22%3a-13.5%7d rf_attn=6",
        b"MSG redirect=http%3A%2F%2Fother.example%3A8073",
        b"MSG badp=1",
    ]


def _status_seeds() -> list[bytes]:
    return [
        b"status=active\noffline=no\nname=Turin = S\xc3\xbcd\nusers=2\nusers_max=4\ngps=(45.02, 7.29)\nasl=600\n"
        b"gps_good=9\ntdoa_ch=-1\nsw_version=KiwiSDR_v1.711\n",
        b"status=offline\noffline=yes\nusers=many\ngps=(1.2.3, 4)\n",
    ]


TARGETS: Final = (
    Target("kiwi-message", fuzz_kiwi_message, _message_seeds, max_bytes=8192, mutate=words(_MESSAGE_WORDS)),
    Target("kiwi-setup", fuzz_kiwi_setup, _setup_seeds, max_bytes=8192, mutate=words(_MESSAGE_WORDS)),
    Target("kiwi-status", fuzz_kiwi_status, _status_seeds, max_bytes=8192, mutate=words(_STATUS_WORDS)),
)
