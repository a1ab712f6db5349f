"""Every way in which a station refuses a client, as the client sees it on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from simulator import Fault, LimitSpec, Scenario, Simulator, StationSpec
from tests.integration.simulator.recorder import Recorder, UpgradeRefusedError, until


def network(*faults: Fault, **changes: Any) -> Simulator:
    values = {"id": "a", "latitude_deg": 45.0, "longitude_deg": 7.0, "altitude_m": 100.0, "fault": faults}
    return Simulator(Scenario(station=(StationSpec.model_validate(values | changes),)), record_sent=True)


@pytest.mark.parametrize(
    ("fault", "key", "value"),
    [
        (Fault(kind="too_busy"), "too_busy", "4"),
        (Fault(kind="redirect", url="http://127.0.0.1:9"), "redirect", "http%3A%2F%2F127.0.0.1%3A9"),
        (Fault(kind="down", code=0), "down", "0"),
        (Fault(kind="down", code=2), "down", "2"),
        (Fault(kind="exclusive_use"), "exclusive_use", ""),
        (Fault(kind="wb_only"), "wb_only", ""),
        (Fault(kind="ip_limit"), "ip_limit", "60%2C127.0.0.1"),
    ],
)
async def test_refused_at_the_start(fault: Fault, key: str, value: str) -> None:
    async with network(fault) as simulator, Recorder(simulator.stations["a"].port) as recorder:
        await recorder.run()
        await until(lambda: simulator.stations["a"].clients == 0)
    assert recorder.value(key) == value
    # The MSG is followed by the end of the TCP connection.
    assert recorder.ended == "eof"
    assert not recorder.frames


async def test_wideband_path_is_let_in_by_wideband_firmware() -> None:
    fault = Fault(kind="wb_only")
    async with network(fault) as simulator, Recorder(simulator.stations["a"].port, path="/wb/1/SND") as recorder:
        await recorder.run(frame_count=2)


@pytest.mark.parametrize(
    ("fault", "key", "value"),
    [
        (Fault(kind="too_busy", after_s=0.2), "too_busy", "4"),
        (Fault(kind="ip_limit", after_frame=3), "ip_limit", "60%2C127.0.0.1"),
        (Fault(kind="inactivity_timeout", after_frame=3), "inactivity_timeout", "60"),
        (Fault(kind="kiwi_kick", after_frame=3), "kiwi_kick", "0%2Ckicked%20by%20the%20owner"),
        (Fault(kind="password_timeout", after_frame=3), "password_timeout", ""),
        (Fault(kind="down", code=1, after_frame=3), "down", "1"),
    ],
)
async def test_ended_in_mid_stream(fault: Fault, key: str, value: str) -> None:
    async with network(fault) as simulator, Recorder(simulator.stations["a"].port) as recorder:
        await recorder.run()
    assert recorder.value(key) == value
    assert recorder.ended == "close frame:"
    assert len(recorder.frames) == 3 if fault.after_frame else 1 < len(recorder.frames) < 30


async def test_port_closed_and_opened_again() -> None:
    async with network(Fault(kind="port_closed")) as simulator:
        station = simulator.stations["a"]
        with pytest.raises(ConnectionRefusedError):
            await Recorder(station.port).__aenter__()
        await station.clear_faults()
        async with Recorder(station.port) as recorder:
            await recorder.run(frame_count=2)
            await station.inject(Fault(kind="port_closed"))
            with pytest.raises(ConnectionRefusedError):
                await Recorder(station.port).__aenter__()
            await recorder.run(frame_count=4, set_up=False)


async def test_refuse_closes_the_connection_without_an_answer() -> None:
    async with network(Fault(kind="refuse", count=1)) as simulator:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await Recorder(simulator.stations["a"].port).__aenter__()


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault(kind="http_404"), 404), (Fault(kind="redirect_http", url="http://127.0.0.1:9/"), 307)],
)
async def test_answered_instead_of_the_upgrade(fault: Fault, status: int) -> None:
    async with network(fault) as simulator:
        with pytest.raises(UpgradeRefusedError) as caught:
            await Recorder(simulator.stations["a"].port).__aenter__()
        assert caught.value.status == status
        if status == 307:
            assert caught.value.headers["location"] == "http://127.0.0.1:9/1700000000/SND"
        async with aiohttp.ClientSession() as session:
            url = f"{simulator.stations['a'].url}/status"
            async with session.get(url, allow_redirects=False) as answer:
                assert answer.status == status


async def test_full_station_says_too_busy_and_has_room_again() -> None:
    async with network(rx_chans=1) as simulator:
        station = simulator.stations["a"]
        async with Recorder(station.port, path="/1/SND") as first:
            await first.run(frame_count=2)
            async with Recorder(station.port, path="/2/SND") as second:
                await second.run()
            assert (second.value("too_busy"), second.ended) == ("1", "eof")
        await until(lambda: station.clients == 0)
        async with Recorder(station.port, path="/3/SND") as third:
            await third.run(frame_count=2)


async def test_silent_client_uses_no_channel_and_a_second_same_stream_is_dropped() -> None:
    async with network(rx_chans=1) as simulator:
        port = simulator.stations["a"].port
        async with Recorder(port) as _silent, Recorder(port) as client, Recorder(port) as same:
            await client.run(frame_count=2)
            await same.run()
            assert same.ended == "reset"
            assert not same.messages


async def test_bad_path_is_upgraded_but_reset_at_the_first_message() -> None:
    async with network() as simulator, Recorder(simulator.stations["a"].port, path="/what/ever") as recorder:
        await recorder.run()
    assert (recorder.ended, recorder.messages) == ("reset", [])


async def test_command_before_auth_is_kicked() -> None:
    async with network() as simulator, Recorder(simulator.stations["a"].port) as recorder:
        await recorder.say("SET mod=iq low_cut=-5000 high_cut=5000 freq=10000.000")
        await recorder.run(set_up=False)
    assert recorder.ended == "close frame:"


async def test_wrong_password_may_be_corrected() -> None:
    async with (
        network(password="secret") as simulator,
        Recorder(simulator.stations["a"].port, password="wrong", answers=False) as recorder,
    ):
        with pytest.raises(TimeoutError):
            await recorder.run(seconds=0.3)
        assert recorder.value("badp") == "1"
        recorder.password, recorder.answers = "secret", True
        await recorder.auth()
        await recorder.tune()
        await recorder.run(frame_count=2, set_up=False)
        assert "badp=0" in recorder.messages


@pytest.mark.parametrize(("code", "ended"), [(2, ""), (5, "close frame:"), (6, "")])
async def test_badp_codes(code: int, ended: str) -> None:
    fault = Fault(kind="badp", code=code)
    async with network(fault) as simulator, Recorder(simulator.stations["a"].port, answers=False) as recorder:
        try:
            await recorder.run(seconds=0.3)
        except TimeoutError:
            assert not ended
        assert (recorder.value("badp"), recorder.ended) == (str(code), ended)


@pytest.mark.parametrize(
    ("limits", "commands", "timeout_key"),
    [
        (LimitSpec(auth_s=0.2), ["SET keepalive"], ""),
        (LimitSpec(setup_s=0.2), ["SET auth t=kiwi p="], None),
        (LimitSpec(keepalive_s=0.2), ["SET auth t=kiwi p="], None),
    ],
)
async def test_time_limits_end_the_connection(limits: LimitSpec, commands: list[str], timeout_key: str | None) -> None:
    async with (
        network(limits=limits) as simulator,
        Recorder(simulator.stations["a"].port, answers=False) as recorder,
    ):
        for command in commands:
            await recorder.say(command)
        await recorder.run(set_up=False, seconds=3)
    assert recorder.ended == "close frame:"
    assert recorder.value("password_timeout") == timeout_key
    assert not recorder.frames


async def test_streaming_client_without_keepalives_is_kicked() -> None:
    limits = LimitSpec(keepalive_s=0.4)
    async with network(limits=limits) as simulator, Recorder(simulator.stations["a"].port) as recorder:
        # One keepalive a second is too few for this station.
        await recorder.run()
    assert recorder.ended == "close frame:"
    assert 4 < len(recorder.frames) < 20


async def test_idle_client_is_pinged() -> None:
    limits = LimitSpec(ping_idle_s=0.1)
    async with network(limits=limits) as simulator, Recorder(simulator.stations["a"].port) as recorder:
        with pytest.raises(TimeoutError):
            await recorder.run(set_up=False, seconds=0.5)
    assert recorder.pings >= 2


async def test_commands_and_connection_times_are_remembered() -> None:
    async with network() as simulator:
        async with Recorder(simulator.stations["a"].port) as recorder:
            await recorder.run(frame_count=1)
        commands = simulator.stations["a"].commands
    assert [c.text for c in commands][:2] == ["SET auth t=kiwi p=", "SET squelch=0 max=0"]
    assert {c.connection for c in commands} == {1}
    assert simulator.stations["a"].connection_times[0] <= commands[0].monotonic_s
