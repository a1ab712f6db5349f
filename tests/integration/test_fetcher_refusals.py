"""Every way a station or the fetcher says no, as its own typed error."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from fetcher_svc.inventory import load_receivers
from heimdall.common.v1 import iq_pb2
from heimdall.common.v1.receiver_pb2 import GAIN_MODE_AUTOMATIC, Receiver, Tuning
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.fetcher.v1 import fetcher_pb2
from simulator import Fault, Scenario, Simulator
from tests.integration.fetcher_bench import (
    DIAL_HZ,
    SECOND,
    entry,
    mesh,
    next_of,
    reason,
    running_fetcher,
    send_window,
    station,
    until,
)

Request = fetcher_pb2.StreamIqRequest


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ({"kind": "refuse"}, "UPSTREAM_UNREACHABLE"),
        ({"kind": "port_closed"}, "UPSTREAM_UNREACHABLE"),
        ({"kind": "http_404"}, "UPSTREAM_NOT_FOUND"),
        ({"kind": "too_busy"}, "UPSTREAM_BUSY"),
        ({"kind": "badp", "code": 1}, "UPSTREAM_PASSWORD_REFUSED"),
        ({"kind": "badp", "code": 2}, "UPSTREAM_NOT_READY"),
        ({"kind": "badp", "code": 3}, "UPSTREAM_LOGIN_REFUSED"),
        ({"kind": "badp", "code": 5}, "UPSTREAM_ONE_PER_ADDRESS"),
        ({"kind": "badp", "code": 6}, "UPSTREAM_NOT_READY"),
        ({"kind": "down", "code": 0}, "UPSTREAM_DISABLED"),
        ({"kind": "down", "code": 1}, "UPSTREAM_UPDATING"),
        ({"kind": "down", "code": 2}, "UPSTREAM_UPDATING"),
        ({"kind": "exclusive_use"}, "UPSTREAM_EXCLUSIVE_USE"),
        ({"kind": "wb_only"}, "UPSTREAM_WIDEBAND_ONLY"),
        ({"kind": "ip_limit"}, "UPSTREAM_ADDRESS_LIMIT"),
        ({"kind": "wrong_rate", "sample_rate_hz": 5e6}, "UPSTREAM_PROTOCOL_ERROR"),
    ],
)
async def test_refusal_at_the_start_is_the_calls_error(tmp_path: Path, fault: dict[str, Any], wanted: str) -> None:
    async with mesh(tmp_path, station(fault=[Fault.model_validate(fault)])) as (_, bench):
        with pytest.raises(HeimdallError) as caught:
            await bench.record()
        assert caught.value.reason_name == wanted
        listed = await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())
    assert listed.receivers[0].last_error.reason == reason(wanted)
    assert listed.receivers[0].used_slot_count == 0


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ({"kind": "too_busy"}, "UPSTREAM_APP_LIMIT"),
        ({"kind": "ip_limit"}, "UPSTREAM_ADDRESS_LIMIT"),
        ({"kind": "inactivity_timeout"}, "UPSTREAM_INACTIVITY_TIMEOUT"),
        ({"kind": "kiwi_kick"}, "UPSTREAM_KICKED"),
        ({"kind": "password_timeout"}, "UPSTREAM_PASSWORD_TIMEOUT"),
        ({"kind": "down", "code": 0}, "UPSTREAM_DISABLED"),
    ],
)
async def test_refusal_in_mid_stream_ends_the_recording(tmp_path: Path, fault: dict[str, Any], wanted: str) -> None:
    spec = station(fault=[Fault.model_validate(fault | {"after_frame": 15})])
    async with mesh(tmp_path, spec) as (simulator, bench):
        caught = await bench.record(3.0)
        assert len(simulator.stations["a"].connection_times) == 1
        # The receiver is now left alone, and the next caller is told why.
        with pytest.raises(HeimdallError) as refused:
            await bench.record()
        listed = (await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())).receivers[0]
    caught.assert_whole()
    assert caught.end.reason == iq_pb2.END_REASON_FAILED
    assert caught.end.error.reason == reason(wanted)
    assert caught.end.received_sample_count == 15 * 512
    ((count, exact, why),) = caught.gap_list()
    assert (exact, why) == (False, "EARLY_END")
    assert count == pytest.approx(3 * 66_665_900 / 5556 - 15 * 512, abs=1)
    assert caught.gaps[0].cause.reason == reason(wanted)
    assert refused.value.reason_name == "RECEIVER_BACKING_OFF"
    assert refused.value.metadata["cause"] == wanted
    assert listed.state == Receiver.STATE_BACKING_OFF
    assert listed.HasField("retry_time")


async def test_redirects_are_followed(tmp_path: Path) -> None:
    async with Simulator(Scenario(station=(station(id="b"),))) as target:
        url = target.stations["b"].url
        specs = [
            station(id="said", fault=[Fault(kind="redirect", url=url)]),
            station(id="http", fault=[Fault(kind="redirect_http", url=url)]),
        ]
        async with mesh(tmp_path, *specs) as (_, bench):
            for name in ("said", "http"):
                caught = await bench.record(0.2, name)
                assert caught.segments[0].receiver_id == name
                assert caught.end.reason == iq_pb2.END_REASON_WINDOW_COMPLETE
        assert len(target.stations["b"].connection_times) == 2


@pytest.mark.parametrize("kind", ["redirect", "redirect_http"])
async def test_redirect_loop_ends(tmp_path: Path, kind: str) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        running = simulator.stations["a"]
        await running.inject(Fault.model_validate({"kind": kind, "url": running.url}))
        with pytest.raises(HeimdallError) as caught:
            await bench.record()
        assert caught.value.reason_name == "UPSTREAM_REDIRECT_LOOP"
        assert len(running.connection_times) <= 4


async def test_contradicting_converter_is_refused(tmp_path: Path) -> None:
    async with Simulator(Scenario(station=(station(freq_offset_khz=100_000),))) as simulator:
        receiver = entry("a", simulator.stations["a"].url, max_frequency_hz=146e6, converter_offset_hz=116e6)
        async with running_fetcher(simulator, tmp_path, receiver) as bench:
            with pytest.raises(HeimdallError, match="converter_offset_hz") as caught:
                await bench.record(tuning=Tuning(center_frequency_hz=145.5e6))
    assert caught.value.reason_name == "CONVERTER_OFFSET_MISMATCH"


@pytest.mark.parametrize(
    ("tuning", "field"),
    [
        (Tuning(), "open.tuning.center_frequency_hz"),
        (Tuning(center_frequency_hz=145.5e6), "open.tuning.center_frequency_hz"),
        (Tuning(center_frequency_hz=DIAL_HZ, gain_db=500), "open.tuning.gain_db"),
        (Tuning(center_frequency_hz=DIAL_HZ, gain_mode=GAIN_MODE_AUTOMATIC, gain_db=5), "open.tuning.gain_db"),
        (Tuning(center_frequency_hz=DIAL_HZ, gain_mode=9), "open.tuning.gain_mode"),  # type: ignore[arg-type]
        (
            Tuning(center_frequency_hz=DIAL_HZ, passband_low_hz=10, passband_high_hz=5),
            "open.tuning.passband_high_hz",
        ),
        (
            Tuning(center_frequency_hz=DIAL_HZ, passband_low_hz=8000, passband_high_hz=9000),
            "open.tuning.passband_low_hz",
        ),
    ],
)
async def test_bad_tuning_names_the_field(tmp_path: Path, tuning: Tuning, field: str) -> None:
    async with mesh(tmp_path, station()) as (_, bench):
        with pytest.raises(HeimdallError) as caught:
            await bench.record(tuning=tuning)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in caught.value.violations] == [field]


@pytest.mark.parametrize(("start_s", "length_s", "field"), [(0, 0, "end"), (0, -1, "end"), (-90_000, 1, "start")])
async def test_bad_window_names_the_field(tmp_path: Path, start_s: float, length_s: float, field: str) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        async with bench.stream() as stream:
            first_ns = (await next_of(stream, "segment")).segment.available_from_unix_ns
            start_ns = first_ns + round(start_s * SECOND)
            await send_window(stream, start_ns, start_ns + round(length_s * SECOND))
            with pytest.raises(HeimdallError) as caught:
                await next_of(stream, "end")
        assert [violation.field for violation in caught.value.violations] == [f"window.{field}_unix_ns"]
        await until(lambda: simulator.stations["a"].clients == 0)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([Request(window=Request.Window(start_unix_ns=1, end_unix_ns=2))], "window"),
        ([Request()], "request"),
        ([Request(open=Request.Open(receiver_id="a", tuning=Tuning(center_frequency_hz=DIAL_HZ)))] * 2, "open"),
        (
            [
                Request(open=Request.Open(receiver_id="a", tuning=Tuning(center_frequency_hz=DIAL_HZ))),
                *[Request(window=Request.Window())] * 2,
            ],
            "window",
        ),
    ],
)
async def test_messages_out_of_order_are_refused(
    tmp_path: Path, messages: list[fetcher_pb2.StreamIqRequest], field: str
) -> None:
    async with mesh(tmp_path, station()) as (_, bench):
        call = bench.stub.StreamIq()

        async def talk() -> None:
            for message in messages:
                await call.write(message)
            await _read_on(call)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk()
    error = from_rpc_error(caught.value, "fetcher")
    assert error.reason_name == "UNEXPECTED_MESSAGE"
    assert [violation.field for violation in error.violations] == [field]


async def test_message_that_does_not_decode_ends_the_stream_and_frees_the_receiver(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (simulator, bench):
        method: Any = bench.channel.stream_stream("/heimdall.fetcher.v1.FetcherService/StreamIq")
        call = method()
        opening = Request.Open(receiver_id="a", tuning=Tuning(center_frequency_hz=DIAL_HZ))
        await call.write(Request(open=opening).SerializeToString())
        await until(lambda: simulator.stations["a"].clients == 1)
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(_read_on(call), 5)
        # The code that gRPC itself gives such a request.
        assert caught.value.code() is grpc.StatusCode.UNKNOWN
        await until(lambda: simulator.stations["a"].clients == 0)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_wait": {"seconds": 61}}, "open.max_wait"),
        ({"max_wait": {"seconds": -1}}, "open.max_wait"),
        ({"resume": True, "resume_sample_index": -1, "resume_origin_unix_ns": 1}, "open.resume_sample_index"),
        ({"resume": True}, "open.resume_origin_unix_ns"),
        ({"resume": True, "resume_origin_unix_ns": 1, "resume_gap_reason": 1}, "open.resume_gap_reason"),
        ({"resume": True, "resume_origin_unix_ns": 1, "resume_gap_reason": 99}, "open.resume_gap_reason"),
    ],
)
async def test_bad_open_names_the_field(tmp_path: Path, fields: dict[str, Any], field: str) -> None:
    async with mesh(tmp_path, station()) as (_, bench):
        with pytest.raises(HeimdallError) as caught:
            await bench.record(**fields)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_unknown_receiver_is_named(tmp_path: Path) -> None:
    async with mesh(tmp_path, station()) as (_, bench):
        with pytest.raises(HeimdallError, match="'nowhere'") as caught:
            await bench.record(1, "nowhere")
        assert caught.value.reason_name == "RECEIVER_NOT_FOUND"
        with pytest.raises(grpc.aio.AioRpcError) as probed:
            await bench.stub.ProbeReceiver(fetcher_pb2.ProbeReceiverRequest(receiver_id="nowhere"))
    assert probed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_give_up_time_ends_the_wait(tmp_path: Path) -> None:
    """A station that takes the connection and never speaks."""
    async with Simulator(Scenario(station=(station(),))) as simulator:

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, running_fetcher(simulator, tmp_path, entry("a", url)) as bench:
            opening = Request.Open(receiver_id="a", tuning=Tuning(center_frequency_hz=DIAL_HZ))
            opening.give_up_time.GetCurrentTime()
            opening.give_up_time.seconds += 1
            began = asyncio.get_running_loop().time()
            with pytest.raises(HeimdallError) as caught:
                await bench.record(give_up_time=opening.give_up_time)
            assert asyncio.get_running_loop().time() - began < 2
            assert caught.value.reason_name == "RECEIVER_NOT_READY"
            probe = await bench.stub.ProbeReceiver(fetcher_pb2.ProbeReceiverRequest(receiver_id="a"))
    assert not probe.reachable
    assert probe.receiver.last_error.reason == reason("UPSTREAM_UNREACHABLE")


async def test_an_unreachable_station_is_told_in_plain_words(tmp_path: Path) -> None:
    async with mesh(tmp_path, station(fault=[Fault(kind="port_closed")])) as (simulator, bench):
        url = simulator.stations["a"].url
        with pytest.raises(HeimdallError) as caught:
            await bench.record()
        probe = await bench.stub.ProbeReceiver(fetcher_pb2.ProbeReceiverRequest(receiver_id="a"))
    # The operating system's own text of ECONNREFUSED, and nothing of TLS, which is not in use.
    assert caught.value.message == f"{url} can not be reached: Connection refused"
    assert probe.receiver.last_error.message == f"{url}/status does not answer: Connection refused"


async def test_probe_tells_how_a_station_is(tmp_path: Path) -> None:
    async with mesh(tmp_path, station(gnss="off", rx_chans=3)) as (simulator, bench):
        probe = await bench.stub.ProbeReceiver(fetcher_pb2.ProbeReceiverRequest(receiver_id="a"))
        assert simulator.stations["a"].clients == 0
    assert probe.reachable
    assert probe.in_service
    assert probe.server_version == "KiwiSDR_v1.711"
    assert (probe.used_channel_count, probe.channel_count) == (0, 3)
    assert probe.gnss_stamps_enabled is False
    assert (probe.reported_position.latitude_deg, probe.reported_position.longitude_deg) == (45, 7)
    assert probe.attributes["status"] == "active"
    assert 0 < probe.round_trip.ToMilliseconds() < 5000


async def test_list_shows_what_receivers_toml_says(tmp_path: Path, repo_root: Path) -> None:
    shipped = repo_root / "config" / "receivers.toml"
    async with Simulator(Scenario(station=(station(),))) as simulator:
        text = await asyncio.to_thread(shipped.read_text)
        async with running_fetcher(simulator, tmp_path, text) as bench:
            listed = await bench.stub.ListReceivers(fetcher_pb2.ListReceiversRequest())
    configs = load_receivers(shipped)
    assert [receiver.receiver_id for receiver in listed.receivers] == [config.receiver_id for config in configs]
    for receiver, config in zip(listed.receivers, configs, strict=True):
        assert receiver.display_name == config.name
        assert receiver.position.latitude_deg == config.latitude_deg
        assert (receiver.slot_count, receiver.used_slot_count) == (1, 0)
        assert receiver.state == Receiver.STATE_IDLE
        assert not receiver.HasField("last_error")


async def _read_on(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
