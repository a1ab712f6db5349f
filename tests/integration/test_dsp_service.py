"""The DSP service over real gRPC on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from dsp_svc.service import define
from heimdall.common.v1 import iq_pb2, measurement_pb2
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.dsp.v1 import dsp_pb2, dsp_pb2_grpc
from heimdall.errors import HeimdallError, from_rpc_error
from heimdall.runtime.channel import open_channel
from heimdall.runtime.server import running_server
from heimdall.runtime.settings import DspSettings, MeshSettings, Settings
from heimdall.runtime.streams import ClientStream, heartbeat_now

if TYPE_CHECKING:
    from heimdall.dsp.v1.dsp_pb2_grpc import DspServiceAsyncStub

RATE = 12_000
DEADLINE_S = 20.0
R = ErrorReason


@contextlib.asynccontextmanager
async def running(
    heartbeat_interval_s: float = 5.0, idle_timeout_s: float = 15.0
) -> AsyncIterator[DspServiceAsyncStub]:
    mesh = MeshSettings(drain_notice_s=0.0, heartbeat_interval_s=heartbeat_interval_s, idle_timeout_s=idle_timeout_s)
    settings = Settings(dsp=DspSettings(port=0), mesh=mesh)
    async with running_server(define(settings), settings) as address, open_channel("dsp", address) as channel:
        yield dsp_pb2_grpc.DspServiceStub(channel)


@pytest.fixture
async def stub() -> AsyncIterator[DspServiceAsyncStub]:
    async with running() as made:
        yield made


def config(**changes: Any) -> dsp_pb2.ProcessRequest:
    fields: dict[str, Any] = {"acquisition_id": "acq-1", "receiver_id": "rx-1"}
    return dsp_pb2.ProcessRequest(config=dsp_pb2.ProcessRequest.Config(**(fields | changes)))


def segment() -> dsp_pb2.ProcessRequest:
    made = iq_pb2.Segment(
        receiver_id="rx-1",
        center_frequency_hz=145.5e6,
        sample_rate_hz=RATE,
        sample_format=iq_pb2.SAMPLE_FORMAT_CI16_LE,
        full_scale=32768.0,
        passband_low_hz=-5_000.0,
        passband_high_hz=5_000.0,
        time_source=iq_pb2.TIME_SOURCE_GNSS,
    )
    return dsp_pb2.ProcessRequest(event=iq_pb2.IqEvent(segment=made))


def block(samples: bytes, first: int) -> dsp_pb2.ProcessRequest:
    made = iq_pb2.Block(first_sample_index=first, sample_count=len(samples) // 4, samples=samples)
    return dsp_pb2.ProcessRequest(event=iq_pb2.IqEvent(block=made))


def blocks(samples: bytes, first: int = 0, size: int = 3_000) -> list[dsp_pb2.ProcessRequest]:
    return [block(samples[at : at + 4 * size], first + at // 4) for at in range(0, len(samples), 4 * size)]


def gap(first: int, count: int) -> dsp_pb2.ProcessRequest:
    return dsp_pb2.ProcessRequest(event=iq_pb2.IqEvent(gap=iq_pb2.Gap(first_lost_index=first, lost_sample_count=count)))


def end(index: int) -> dsp_pb2.ProcessRequest:
    made = iq_pb2.End(end_sample_index=index, reason=iq_pb2.END_REASON_WINDOW_COMPLETE)
    made.time_solution.sample_rate_hz = RATE
    made.time_solution.source = iq_pb2.TIME_SOURCE_GNSS
    return dsp_pb2.ProcessRequest(event=iq_pb2.IqEvent(end=made))


def carrier(count: int) -> bytes:
    """A tone of -20 dBFS at 1 kHz in noise of -60 dBFS, as 16-bit codes."""
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((count, 2)) * np.sqrt(1e-6 / 2)
    turns = 2 * np.pi * 1_000.0 / RATE * np.arange(count)
    tone = 0.1 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    codes: bytes = np.round((tone + noise) * 32768).astype("<i2").tobytes()
    return codes


def heartbeat() -> dsp_pb2.ProcessRequest:
    return dsp_pb2.ProcessRequest(event=iq_pb2.IqEvent(heartbeat=heartbeat_now()))


async def play(
    stub: DspServiceAsyncStub, requests: Sequence[dsp_pb2.ProcessRequest]
) -> list[measurement_pb2.Measurement]:
    """Sends a whole stream and gives the measurements that come back until its end."""
    call = stub.Process(timeout=DEADLINE_S)
    stream = ClientStream(
        call, peer="dsp", make_heartbeat=heartbeat, heartbeat_interval_s=5.0, idle_timeout_s=DEADLINE_S
    )
    found = []
    async with stream:
        try:
            for request in requests:
                await stream.send(request)
            await stream.close()
        except HeimdallError:
            pass  # the same failure comes out of receive
        while (answer := await stream.receive()) is not None:
            if answer.HasField("measurement"):
                found.append(answer.measurement)
    return found


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def refused(stub: DspServiceAsyncStub, requests: Sequence[dsp_pb2.ProcessRequest]) -> HeimdallError:
    with pytest.raises(HeimdallError) as caught:
        await play(stub, requests)
    return caught.value


async def test_windows_and_summary_come_back(stub: DspServiceAsyncStub) -> None:
    samples = carrier(30_000)
    requests = [
        config(),
        segment(),
        *blocks(samples[: 4 * 15_000]),
        gap(15_000, 480),
        *blocks(samples[4 * 15_000 :], 15_480),
    ]
    *windows, summary = await play(stub, [*requests, end(30_480)])
    assert [w.first_sample_index for w in windows] == [0, 15_480]
    assert (summary.acquisition_id, summary.receiver_id) == ("acq-1", "rx-1")
    assert (summary.sample_count, summary.lost_sample_count) == (30_000, 480)
    for result in (*windows, summary):
        assert result.center_frequency_hz == 145.5e6
        assert result.power_dbfs.value == pytest.approx(-20.0, abs=0.01)
        assert result.noise_dbfs_per_hz.value == pytest.approx(-60.0 - 10 * np.log10(RATE), abs=0.3)
        assert result.carrier_to_noise_density_db_hz.value == pytest.approx(40.0 + 10 * np.log10(RATE), abs=0.4)
        # The line of the taper with the side lobes that stand above a floor 63 dB down.
        assert 100.0 < result.snr_bandwidth_hz.value < 1_000.0
        bandwidth_db_hz = 10 * np.log10(result.snr_bandwidth_hz.value)
        assert result.snr_db.value == pytest.approx(
            result.carrier_to_noise_density_db_hz.value - bandwidth_db_hz, abs=1e-6
        )
        assert result.time_source == iq_pb2.TIME_SOURCE_GNSS
        assert result.power_dbm.reason == "NOT_CALIBRATED"
    for window in windows:
        assert abs(window.frequency_offset_hz.value - 1_000.0) < 5 * window.frequency_offset_hz.sigma


async def test_streams_do_not_mix(stub: DspServiceAsyncStub) -> None:
    samples = np.frombuffer(carrier(12_000), "<i2")
    streams = [
        [config(), segment(), *blocks((samples // 2**step).astype("<i2").tobytes()), end(12_000)] for step in range(6)
    ]
    results = await asyncio.gather(*(play(stub, requests) for requests in streams))
    for step, (window, summary) in enumerate(results):
        assert window.power_dbfs.value == pytest.approx(-20.0 - 6.02 * step, abs=0.1)
        assert summary.power_dbfs.value == pytest.approx(window.power_dbfs.value)


@pytest.mark.parametrize(
    ("requests", "reason", "field"),
    [
        ([segment()], R.ERROR_REASON_UNEXPECTED_MESSAGE, "event"),
        ([dsp_pb2.ProcessRequest()], R.ERROR_REASON_UNEXPECTED_MESSAGE, "request"),
        ([config(), config()], R.ERROR_REASON_UNEXPECTED_MESSAGE, "config"),
        ([config(), block(bytes(400), 0)], R.ERROR_REASON_UNEXPECTED_MESSAGE, "event.block"),
        ([config(receiver_id="RX 1")], R.ERROR_REASON_INVALID_FIELD, "config.receiver_id"),
        (
            [config(), segment(), block(bytes(400), 0), block(bytes(400), 101)],
            R.ERROR_REASON_INDEX_MISMATCH,
            "event.block.first_sample_index",
        ),
        (
            [config(), segment(), block(bytes(1024 * 1024 + 4), 0)],
            R.ERROR_REASON_BLOCK_TOO_LARGE,
            "event.block.samples",
        ),
        ([config(), segment(), block(bytes(400), 0)], R.ERROR_REASON_UNEXPECTED_MESSAGE, "request"),
    ],
)
async def test_bad_streams_fail_by_their_field(
    stub: DspServiceAsyncStub,
    requests: list[dsp_pb2.ProcessRequest],
    reason: ErrorReason.ValueType,
    field: str,
) -> None:
    error = await refused(stub, requests)
    assert ErrorReason.Name(error.reason) == ErrorReason.Name(reason)
    assert [violation.field for violation in error.violations] == [field]
    # The service is none the worse for it.
    assert len(await play(stub, [config(), segment(), *blocks(carrier(12_000)), end(12_000)])) == 2


async def test_results_before_a_mistake_still_come(stub: DspServiceAsyncStub) -> None:
    call = stub.Process(timeout=DEADLINE_S)
    for request in [config(), segment(), *blocks(carrier(12_000)), gap(0, 1)]:
        await call.write(request)
    answer = await call.read()
    assert isinstance(answer, dsp_pb2.ProcessResponse)
    assert answer.measurement.first_sample_index == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert from_rpc_error(caught.value, "dsp").reason == R.ERROR_REASON_INDEX_MISMATCH


async def test_an_idle_stream_hears_heartbeats_and_then_ends() -> None:
    async with running(heartbeat_interval_s=0.05, idle_timeout_s=0.5) as stub:
        call = stub.Process(timeout=DEADLINE_S)
        await call.write(config())
        answer = await call.read()
        assert isinstance(answer, dsp_pb2.ProcessResponse)
        assert answer.heartbeat.send_time.seconds > 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_the_end(call)
        assert from_rpc_error(caught.value, "dsp").reason == R.ERROR_REASON_STREAM_IDLE


async def test_a_callers_heartbeats_keep_a_stream_alive() -> None:
    async with running(heartbeat_interval_s=0.05, idle_timeout_s=0.4) as stub:
        call = stub.Process(timeout=DEADLINE_S)
        await call.write(config())
        loop = asyncio.get_running_loop()
        until = loop.time() + 1.2
        while loop.time() < until:
            # The service's heartbeats set the pace.
            answer = await call.read()
            assert isinstance(answer, dsp_pb2.ProcessResponse)
            await call.write(heartbeat())
        for request in (segment(), *blocks(carrier(12_000)), end(12_000)):
            await call.write(request)
        kinds = []
        while (answer := await call.read()) is not grpc.aio.EOF:
            assert isinstance(answer, dsp_pb2.ProcessResponse)
            kinds.append(answer.WhichOneof("response"))
        assert kinds.count("measurement") == 2


async def test_cancelling_frees_the_stream(stub: DspServiceAsyncStub) -> None:
    call = stub.Process(timeout=DEADLINE_S)
    for request in [config(), segment(), *blocks(carrier(6_000))]:
        await call.write(request)
    call.cancel()
    # Drain would wait for the call if its worker did not end; the fixture's exit shows that it does.
    assert len(await play(stub, [config(), segment(), *blocks(carrier(12_000)), end(12_000)])) == 2


async def test_compute_spectrum_of_one_run(stub: DspServiceAsyncStub) -> None:
    samples = carrier(12_000)
    request = dsp_pb2.ComputeSpectrumRequest(
        samples=samples, sample_format=iq_pb2.SAMPLE_FORMAT_CI16_LE, sample_rate_hz=RATE, center_frequency_hz=7.1e6
    )
    measurement = (await stub.ComputeSpectrum(request, timeout=DEADLINE_S)).measurement
    spectrum = measurement.spectrum
    density = 10 ** (np.asarray(spectrum.power_dbfs_per_hz) / 10)
    assert len(density) == 1024
    assert (measurement.center_frequency_hz, measurement.sample_count) == (7.1e6, 12_000)
    parts = np.frombuffer(samples, "<i2") / 32768
    power_db = 10 * np.log10(np.sum(parts**2) / 12_000)
    assert measurement.power_dbfs.value == pytest.approx(power_db, abs=1e-3)
    assert 10 * np.log10(np.sum(density) * spectrum.bin_spacing_hz) == pytest.approx(power_db, abs=0.02)
    peak_hz = spectrum.first_bin_hz + np.argmax(density) * spectrum.bin_spacing_hz
    assert peak_hz == pytest.approx(1_000.0, abs=spectrum.bin_spacing_hz)
    assert measurement.frequency_offset_hz.value == pytest.approx(1_000.0, abs=0.005)


async def test_a_bad_spectrum_request_names_every_field(stub: DspServiceAsyncStub) -> None:
    request = dsp_pb2.ComputeSpectrumRequest(
        samples=bytes(400), sample_format=iq_pb2.SAMPLE_FORMAT_CU8, sample_rate_hz=-1.0, bin_count=100
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ComputeSpectrum(request, timeout=DEADLINE_S)
    error = from_rpc_error(caught.value, "dsp")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == ["sample_rate_hz", "bin_count"]


async def test_too_few_samples_for_a_spectrum_are_refused(stub: DspServiceAsyncStub) -> None:
    request = dsp_pb2.ComputeSpectrumRequest(
        samples=bytes(400), sample_format=iq_pb2.SAMPLE_FORMAT_CU8, sample_rate_hz=1e6
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ComputeSpectrum(request, timeout=DEADLINE_S)
    assert "200 samples are fewer than the 1024 bins" in (caught.value.details() or "")
