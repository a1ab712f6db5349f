"""Set-up of a KiwiSDR: any order of messages, offsets, passbands."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from fetcher_svc.gnss import StampRule
from fetcher_svc.inventory import ReceiverConfig
from fetcher_svc.receivers.base import Tuning
from fetcher_svc.receivers.checks import check_tuning
from fetcher_svc.receivers.http import RedirectError, open_session
from fetcher_svc.receivers.kiwisdr import KiwiReceiver
from fetcher_svc.receivers.kiwisdr_setup import Setup
from fetcher_svc.receivers.kiwisdr_status import to_probe
from heimdall.clock import SystemClock
from heimdall.errors import HeimdallError, InvalidFieldsError

RATE = b"MSG sample_rate=11998.902088"
LOGIN = b"MSG badp=0"
VERSION = b"MSG version_maj=1 version_min=711 freq_offset=0.000"
AUDIO = b"MSG audio_init=0 audio_rate=12000"
ALL = (RATE, LOGIN, VERSION, AUDIO)


def config(**changes: Any) -> ReceiverConfig:
    values: dict[str, Any] = {
        "receiver_id": "torino",
        "name": "Torino",
        "driver": "kiwisdr",
        "url": "http://127.0.0.1:8073",
        "latitude_deg": 45,
        "longitude_deg": 7,
        "altitude_m": 250,
        "min_frequency_hz": 0,
        "max_frequency_hz": 30e6,
    }
    return ReceiverConfig.model_validate(values | changes)


def set_up(messages: tuple[bytes, ...] = ALL, tuning: Tuning | None = None, **changes: Any) -> Setup:
    setup = Setup(config(**changes), tuning or Tuning(7.1e6, gain_db=50))
    for message in messages:
        setup.take(message)
    return setup


@pytest.mark.parametrize("order", list(itertools.permutations(ALL)))
def test_any_order_will_do(order: tuple[bytes, ...]) -> None:
    setup = Setup(config(), Tuning(7.1e6, gain_db=50))
    for message in order:
        assert not setup.complete
        setup.take(message)
    assert setup.complete
    assert "SET mod=iq low_cut=-5998 high_cut=5998 freq=7100.000000" in setup.commands("me")


def test_what_is_missing_is_named() -> None:
    assert set_up((RATE, AUDIO)).missing_text == "badp, freq_offset"


@pytest.mark.parametrize(
    ("converter_hz", "announced_khz", "dial_khz"),
    [(0, 0, 145_500), (116e6, 0, 29_500), (0, 116_000, 29_500), (116e6, 116_000, 29_500)],
)
def test_offsets_are_subtracted_once(converter_hz: float, announced_khz: float, dial_khz: float) -> None:
    version = f"MSG version_maj=1 version_min=711 freq_offset={announced_khz:.3f}".encode()
    setup = set_up((RATE, LOGIN, version, AUDIO), Tuning(145.5e6, gain_db=50), converter_offset_hz=converter_hz)
    assert setup.dial_hz == dial_khz * 1e3
    assert setup.facts().center_frequency_hz == 145.5e6


def test_contradicting_offsets_are_refused() -> None:
    version = b"MSG version_maj=1 version_min=711 freq_offset=100000.000"
    setup = set_up((RATE, LOGIN, version, AUDIO), Tuning(145.5e6, gain_db=50), converter_offset_hz=116e6)
    with pytest.raises(HeimdallError, match=r"100000000 Hz.*116000000") as caught:
        setup.commands("me")
    assert caught.value.reason_name == "CONVERTER_OFFSET_MISMATCH"


def test_dial_outside_the_bandwidth_is_refused() -> None:
    setup = set_up((*ALL, b"MSG center_freq=15000000 bandwidth=30000000"), Tuning(145.5e6, gain_db=50))
    with pytest.raises(HeimdallError) as caught:
        setup.commands("me")
    assert caught.value.reason_name == "FREQUENCY_OUT_OF_RANGE"


def test_passband_is_clamped_to_what_the_station_can() -> None:
    tuning = Tuning(7.1e6, gain_db=50, passband_low_hz=-9000, passband_high_hz=1200.4)
    facts = set_up(tuning=tuning).facts()
    assert (facts.passband_low_hz, facts.passband_high_hz) == (-5998, 1200)


def test_passband_beyond_the_station_is_refused() -> None:
    tuning = Tuning(7.1e6, gain_db=50, passband_low_hz=7000, passband_high_hz=8000)
    with pytest.raises(InvalidFieldsError, match=r"passband_low_hz.*5998"):
        set_up(tuning=tuning).commands("me")


def test_automatic_gain_is_passed_on() -> None:
    setup = set_up(tuning=Tuning(7.1e6, automatic_gain=True))
    assert "SET agc=1 hang=0 thresh=-100 slope=6 decay=1000 manGain=50" in setup.commands("me")
    assert setup.facts().automatic_gain
    assert setup.facts().gain_db is None


@pytest.mark.parametrize("rate", [b"0", b"nan", b"1e9", b"x"])
def test_impossible_rate_is_refused(rate: bytes) -> None:
    setup = set_up((b"MSG sample_rate=" + rate, LOGIN, VERSION, AUDIO))
    with pytest.raises(HeimdallError) as caught:
        setup.commands("me")
    assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


@pytest.mark.parametrize("rate", [b"0", b"-12000", b"1e308"])
def test_impossible_audio_rate_is_not_repeated_to_the_station(rate: bytes) -> None:
    setup = set_up((RATE, LOGIN, VERSION, b"MSG audio_rate=" + rate))
    with pytest.raises(HeimdallError, match=r"audio_rate=.* 1000 to 1e\+06 Hz was expected") as caught:
        setup.commands("me")
    assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


@pytest.mark.parametrize("offset_khz", [b"-1e306", b"1e306", b"-6000001", b"6000001"])
def test_impossible_offset_is_refused(offset_khz: bytes) -> None:
    """In Hz 1e306 kHz are infinite, and the dial would read so."""
    setup = set_up((RATE, LOGIN, AUDIO, b"MSG freq_offset=" + offset_khz))
    with pytest.raises(HeimdallError, match=r"offset of .* -6e\+09 to 6e\+09 Hz was expected") as caught:
        setup.commands("me")
    assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


def test_long_version_is_told_in_short() -> None:
    setup = set_up((*ALL, b"MSG version_min=" + b"7" * 1_000_000))
    assert setup.facts().server_version == "KiwiSDR_v1." + "7" * 50 + "…"


def test_messages_that_nobody_needs_are_not_kept() -> None:
    setup = set_up(tuple(b"MSG key%d=%s" % (number, b"x" * 10_000) for number in range(100)))
    for message in ALL:
        setup.take(message)
    assert setup.complete
    assert set(setup._pairs) == {"badp", "sample_rate", "audio_rate", "freq_offset", "version_maj", "version_min"}


@pytest.mark.parametrize("data", [b"HELLO", b"SND\x08", b"MSG \xff\xfe=1"])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(HeimdallError) as caught:
        set_up((data,))
    assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"


def test_redirect_names_the_other_station() -> None:
    with pytest.raises(RedirectError) as caught:
        set_up((b"MSG redirect=http%3A%2F%2Fother.example%3A8073",))
    assert caught.value.url == "http://other.example:8073"


@pytest.mark.parametrize(
    "target",
    [
        b"ftp%3A%2F%2Fx",
        b"",
        b"%2Fpath",
        b"http%3A%2F%2F%5B%3A%3A1",
        b"http%3A%2F%2Fx%3A99999",
        b"http%3A%2F%2Fx%3A0",
        b"http%3A%2F%2Fa..b",
        b"http%3A%2F%2Fa%0Ab",
        b"http%3A%2F%2Fa%20b",
        b"http%3A%2F%2F" + b"x." * 1000,
    ],
)
def test_redirect_to_nowhere_is_refused(target: bytes) -> None:
    with pytest.raises(HeimdallError, match=r"redirects to .* http://host:port was expected") as caught:
        set_up((b"MSG redirect=" + target,))
    assert caught.value.reason_name == "UPSTREAM_PROTOCOL_ERROR"
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("location", "text"),
    [(b"http://a..b:8073/", "label"), (b"http://%s/" % (b"a" * 64), "label"), (b"http://\xff:1/", r"http://\?:1")],
)
async def test_http_redirect_to_a_host_that_can_not_be_is_unreachable(location: bytes, text: str) -> None:
    """Python's resolver fails on such a name with an error of its own, protobuf on a text that is none."""
    left = asyncio.Semaphore(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        left.release()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, open_session() as session:
        receiver = KiwiReceiver(
            config(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"),
            "",
            session=session,
            stamp_rule=StampRule(),
            user_name="me",
        )
        for attempt in (receiver.connect(Tuning(7.1e6, gain_db=50), _permit, SystemClock()), receiver.probe()):
            with pytest.raises(HeimdallError, match=text) as caught:
                await attempt
            assert caught.value.reason_name == "UPSTREAM_UNREACHABLE"
            assert caught.value.to_detail().message == caught.value.message
            await asyncio.wait_for(left.acquire(), 5)


@pytest.mark.parametrize(
    ("tuning", "fields"),
    [
        (Tuning(0), ["center_frequency_hz"]),
        (Tuning(float("nan")), ["center_frequency_hz"]),
        (Tuning(7e9), ["center_frequency_hz"]),
        (Tuning(7.1e6, gain_db=50.5), ["gain_db"]),
        (Tuning(7.1e6, gain_db=-1), ["gain_db"]),
        (Tuning(7.1e6, gain_db=121), ["gain_db"]),
        (Tuning(7.1e6, gain_db=float("nan")), ["gain_db"]),
        (Tuning(7.1e6, automatic_gain=True, gain_db=50), ["gain_db"]),
        (Tuning(7.1e6, passband_low_hz=100, passband_high_hz=100), ["passband_high_hz"]),
        (Tuning(0, gain_db=200, passband_low_hz=float("inf")), ["center_frequency_hz", "gain_db", "passband_low_hz"]),
    ],
)
def test_bad_tuning_names_every_field(tuning: Tuning, fields: list[str]) -> None:
    with pytest.raises(InvalidFieldsError) as caught:
        check_tuning(config(), tuning, max_gain_db=120, whole_gain=True)
    assert [violation.field for violation in caught.value.violations] == [f"open.tuning.{name}" for name in fields]


def test_frequency_out_of_range_names_the_range() -> None:
    with pytest.raises(HeimdallError, match="tunes from 0 to 30000000 Hz") as caught:
        check_tuning(config(), Tuning(145e6), max_gain_db=120, whole_gain=True)
    assert caught.value.reason_name == "FREQUENCY_OUT_OF_RANGE"


def test_default_gain_comes_from_the_receiver() -> None:
    checked = check_tuning(config(gain_db=37), Tuning(7.1e6), max_gain_db=120, whole_gain=True)
    assert checked == Tuning(7.1e6, gain_db=37)


def test_status_page() -> None:
    probe = to_probe(
        {
            "status": "active",
            "offline": "no",
            "name": "X",
            "users": "2",
            "users_max": "4",
            "gps": "(45.02, 7.29)",
            "asl": "600",
            "gps_good": "9",
            "tdoa_ch": "-1",
            "sw_version": "KiwiSDR_v1.711",
        },
        0.1,
    )
    assert probe.in_service
    assert (probe.used_channel_count, probe.channel_count, probe.gnss_satellite_count) == (2, 4, 9)
    assert probe.gnss_stamps_enabled is False
    assert (probe.latitude_deg, probe.longitude_deg, probe.altitude_m) == (45.02, 7.29, 600)


def test_status_page_that_says_little() -> None:
    probe = to_probe({"status": "offline", "users": "many"}, 0.1)
    assert not probe.in_service
    assert probe.used_channel_count is None
    assert probe.gnss_stamps_enabled is None
    assert probe.latitude_deg is None


def test_status_page_with_numbers_that_can_not_be() -> None:
    page = {"status": "active", "users": "2147483648", "users_max": "-1e300", "gps_good": "1e999", "tdoa_ch": "9" * 400}
    probe = to_probe({**page, "gps": f"({'9' * 400}, 7.29)", "asl": "600"}, 0.1)
    assert (probe.used_channel_count, probe.channel_count, probe.gnss_satellite_count) == (None, None, None)
    assert probe.gnss_stamps_enabled is None
    assert probe.latitude_deg is None
    assert probe.longitude_deg is None


def test_page_of_something_else() -> None:
    with pytest.raises(HeimdallError, match="KiwiSDR"):
        to_probe({"hello": "world"}, 0.1)


async def test_station_whose_description_can_not_be_is_left_at_once() -> None:
    """A socket left open would keep one of its channels."""
    left = asyncio.Event()

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        for message in (b"MSG rf_attn=abc", *ALL):
            await socket.send_bytes(message)
        async for _ in socket:
            pass
        left.set()
        return socket

    application = web.Application()
    application.router.add_get("/{connection}/SND", answer)
    async with TestServer(application) as server, open_session() as session:
        receiver = KiwiReceiver(
            config(url=str(server.make_url("/")).rstrip("/")),
            "",
            session=session,
            stamp_rule=StampRule(),
            user_name="me",
        )
        with pytest.raises(HeimdallError, match="rf_attn='abc' is no number"):
            await receiver.connect(Tuning(7.1e6, gain_db=50), _permit, SystemClock())
        await asyncio.wait_for(left.wait(), 5)


async def _permit() -> None:
    """Allows every connect."""
