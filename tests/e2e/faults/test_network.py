"""Connections between services that break, fall silent, slow down or double."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import MeasurementScope
from heimdall.errors import HeimdallError, reason_name
from heimdall.runtime.channel import open_channel
from heimdall.storage.v1.storage_pb2 import ListRecordingsRequest, RecordFilter
from heimdall.storage.v1.storage_pb2_grpc import StorageServiceStub
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, describe, eventually, problems, until
from tests.e2e.faults.relay import Conduct
from tests.e2e.faults.relayed import (
    BEFORE,
    CRAWL,
    IMPATIENT,
    NAMES,
    assert_whole,
    begun,
    checked,
    relayed,
    seconds_late,
)
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import check_recording
from tests.integration.mesh import state_names

LATE: Final = Conduct(delay_s=0.2)
IDLE_S: Final = 15.0
"""Silence that ends a stream, and after which a connection is given up, by default."""


@fault_case(
    Group.NETWORK,
    fault="every byte between the services and from the receivers arrives 200 ms later, in both directions",
    sees="SUCCEEDED",
    stored="every recording, complete",
)
async def test_everything_is_late(tmp_path: Path) -> None:
    async with relayed(tmp_path, ("fetcher", "dsp", "storage", *NAMES)) as (bench, relays):
        for relay in relays.values():
            relay.conduct(up=LATE, down=LATE)
        async with open_channel("storage", relays["storage"].target) as channel:
            stub = StorageServiceStub(channel)
            await stub.ListRecordings(ListRecordingsRequest())
            asked_s = asyncio.get_running_loop().time()
            await stub.ListRecordings(ListRecordingsRequest())
            assert asyncio.get_running_loop().time() - asked_s > 2 * LATE.delay_s
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 5.0, NAMES))
        final = await bench.ended(acquisition_id)
        await assert_whole(bench, final)
        assert seconds_late(final) < 8.0


@fault_case(
    Group.NETWORK,
    fault="the connection to storage is reset, twice",
    sees="SUCCEEDED: the coordinator holds what was not acknowledged and goes on where storage wants it",
    stored="every recording, complete, nothing twice",
)
async def test_storage_connection_reset(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["storage"]) as (bench, relays):
        acquisition_id = await begun(bench, 6.0)
        assert relays["storage"].reset() == 1
        await bench.stored(acquisition_id, 2 * BEFORE)
        assert relays["storage"].reset() == 1
        await assert_whole(bench, await bench.ended(acquisition_id))
        assert bench.log("coordinator").count("recording_stream_broken") >= 2 * len(NAMES)


@fault_case(
    Group.NETWORK,
    fault="the connection to the fetcher is reset, twice",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with two SERVICE_RESTART gaps",
    stored="every recording on all sides of the gaps, at its true index; the summary of all good samples",
)
async def test_fetcher_connection_reset(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["fetcher"]) as (bench, relays):
        acquisition_id = await begun(bench, 9.0)
        assert relays["fetcher"].reset() == 1
        await bench.stored(acquisition_id, 3 * BEFORE)
        assert relays["fetcher"].reset() == 1
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2), describe(final)
        for outcome, recording in await checked(bench, final):
            assert problems(outcome) == ["SAMPLES_LOST"]
            assert recording.reasons == ["SERVICE_RESTART"] * 2
            assert recording.lost_count < 6 * SAMPLE_RATE_HZ
            assert outcome.HasField("measurement")
            assert outcome.attempt_count == 3


@fault_case(
    Group.NETWORK,
    fault="the connection to DSP is reset, or goes silent without an end, or passes 1 byte a second",
    sees="PARTIALLY_SUCCEEDED, at the latest `idle_timeout_s` after the window; each outcome has MEASUREMENT_MISSING, "
    "which names SERVICE_UNAVAILABLE or STREAM_IDLE; the next acquisition over a sound connection is measured",
    stored="every recording, complete; no summary",
)
async def test_dsp_connection_fails(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["dsp"], variables=IMPATIENT) as (bench, relays):
        relay = relays["dsp"]
        for spoil, causes in (
            (relay.reset, {"SERVICE_UNAVAILABLE"}),
            (relay.freeze, {"STREAM_IDLE"}),
            (lambda: relay.conduct(up=CRAWL, down=CRAWL), {"STREAM_IDLE"}),
        ):
            acquisition_id = await begun(bench, 4.0)
            spoil()
            final = await bench.ended(acquisition_id)
            assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2), describe(final)
            assert seconds_late(final) < 8.0
            for outcome, recording in await checked(bench, final):
                assert problems(outcome) == ["MEASUREMENT_MISSING"], describe(final)
                assert {outcome.problems[0].metadata["cause"]} <= causes
                assert not outcome.HasField("measurement")
                assert (recording.gaps, recording.missed_count) == ([], 0)
            relay.conduct()
        again = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 1.0, NAMES))
        await assert_whole(bench, await bench.ended(again))


@fault_case(
    Group.NETWORK,
    fault="the connection to the fetcher goes silent without an end",
    sees="PARTIALLY_SUCCEEDED; each outcome has SAMPLES_LOST with one SERVICE_RESTART gap, as long as it takes to "
    "notice (`idle_timeout_s`, 15 s) and to connect again",
    stored="every recording on both sides of the gap, at its true index",
)
async def test_fetcher_connection_half_open(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["fetcher"]) as (bench, relays):
        acquisition_id = await begun(bench, 23.0)
        relays["fetcher"].freeze()
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2), describe(final)
        assert seconds_late(final) < 3.0
        for outcome, recording in await checked(bench, final):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert recording.reasons == ["SERVICE_RESTART"]
            assert (IDLE_S - 1) * SAMPLE_RATE_HZ < recording.lost_count < (IDLE_S + 5) * SAMPLE_RATE_HZ


@fault_case(
    Group.NETWORK,
    fault="the connection to storage goes silent without an end",
    sees="SUCCEEDED, 15 s after that if the window is over before: the coordinator notices, connects again, and goes "
    "on where storage wants it",
    stored="every recording, complete, nothing twice",
)
async def test_storage_connection_half_open(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["storage"]) as (bench, relays):
        acquisition_id = await begun(bench, 5.0)
        frozen_s = asyncio.get_running_loop().time()
        relays["storage"].freeze()
        final = await bench.ended(acquisition_id)
        assert asyncio.get_running_loop().time() - frozen_s < IDLE_S + 8
        await assert_whole(bench, final)


@fault_case(
    Group.NETWORK,
    fault="the connection to the fetcher passes 1 byte a second, to the end",
    sees="PARTIALLY_SUCCEEDED, at the latest `idle_timeout_s` after the window; STREAM_IDLE and SAMPLES_LOST",
    stored="what was delivered before, marked incomplete; the rest is a SERVICE_RESTART gap",
)
async def test_fetcher_connection_crawls(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["fetcher"], variables=IMPATIENT) as (bench, relays):
        acquisition_id = await begun(bench, 6.0)
        relays["fetcher"].conduct(up=CRAWL, down=CRAWL)
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2), describe(final)
        assert seconds_late(final) < 8.0
        for outcome, recording in await checked(bench, final):
            assert problems(outcome) == ["STREAM_IDLE", "SAMPLES_LOST"], describe(final)
            assert recording.reasons == ["SERVICE_RESTART"]
            assert not outcome.recording.complete


@fault_case(
    Group.NETWORK,
    fault="the connection to storage passes 1 byte a second, to the deadline",
    sees="PARTIALLY_SUCCEEDED at the deadline; ACQUISITION_DEADLINE, and SERVICE_UNAVAILABLE or STREAM_IDLE; storage "
    "hears of the terminal state once the connection is sound",
    stored="everything that was acknowledged, finished by storage itself as WRITER_LOST after `resume_window_s`",
)
async def test_storage_connection_crawls(tmp_path: Path) -> None:
    settings = {
        **IMPATIENT,
        "HEIMDALL_COORDINATOR_FINISH_ALLOWANCE_S": "4",
        "HEIMDALL_STORAGE_RESUME_WINDOW_S": "2",
    }
    async with relayed(tmp_path, ["storage"], variables=settings) as (bench, relays):
        acquisition_id = await begun(bench, 4.0)
        relays["storage"].conduct(up=CRAWL, down=CRAWL)
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2), describe(final)
        assert abs(final.end_time.ToNanoseconds() - final.deadline_time.ToNanoseconds()) < 2e9
        relays["storage"].conduct()
        for outcome in final.outcomes:
            assert problems(outcome)[0] == "ACQUISITION_DEADLINE", describe(final)
            assert problems(outcome)[1] in ("SERVICE_UNAVAILABLE", "STREAM_IDLE")
            assert outcome.stored_sample_count >= BEFORE

        async def told() -> bool:
            return await bench.stored_state(acquisition_id) == final.state

        await eventually(told)
        await eventually(bench.all_in_object_store)
        rows = await bench.recordings()
        for outcome in final.outcomes:
            sent = bench.simulator.stations[outcome.receiver_id].sent
            recording = await check_recording(bench.client, sent, acquisition_id, outcome.receiver_id)
            assert recording.gaps == []
            assert recording.sample_count >= outcome.stored_sample_count
            assert reason_name(rows[outcome.receiver_id].incomplete_cause.reason) == "WRITER_LOST"


@fault_case(
    Group.NETWORK,
    fault="the fetcher's port, or storage's, takes connections and never answers",
    sees="without the fetcher FAILED after `max_wait`, RECEIVER_NOT_READY; without storage the start is refused within "
    "10 s, SERVICE_UNAVAILABLE or DEADLINE_EXCEEDED; once storage answers, a repeat with the same request_id starts "
    "it, or finds it FAILED with COORDINATOR_RESTARTED if storage had got it after all",
    stored="nothing of what was refused",
)
async def test_port_never_answers(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["fetcher", "storage"]) as (bench, relays):
        fetcher, storage = relays["fetcher"], relays["storage"]
        await bench.client.list_receivers()
        fetcher.freeze(coming=True)
        spec = acquisition_spec(DIAL_HZ, 1.0, NAMES, max_wait_s=2.0)
        final = await bench.ended(await bench.start_acquisition(spec))
        assert state_names(final) == ("FAILED", ["FAILED"] * 2), describe(final)
        assert final.end_time.ToNanoseconds() - final.create_time.ToNanoseconds() < 4e9
        assert {problems(outcome)[0] for outcome in final.outcomes} == {"RECEIVER_NOT_READY"}
        fetcher.conduct()
        storage.freeze(coming=True)
        asked_s = asyncio.get_running_loop().time()
        with pytest.raises(HeimdallError) as refused:
            await bench.client.start_acquisition(spec, "kept")
        assert asyncio.get_running_loop().time() - asked_s < 12
        assert refused.value.reason_name in ("SERVICE_UNAVAILABLE", "DEADLINE_EXCEEDED")
        storage.conduct()

        async def starts() -> bool:
            return bool(await bench.client.start_acquisition(spec, "kept"))

        await eventually(starts)
        again = await bench.client.start_acquisition(spec, "kept")
        final = await bench.ended(again.acquisition_id)
        if final.error.reason == ErrorReason.ERROR_REASON_COORDINATOR_RESTARTED:
            assert state_names(final) == ("FAILED", ["FAILED"] * 2), describe(final)
        else:
            await assert_whole(bench, final)


@fault_case(
    Group.NETWORK,
    fault="every connection to the fetcher, to DSP and to a receiver is doubled, byte by byte",
    sees="SUCCEEDED; the receiver refuses the second connection of the same stream by itself",
    stored="every recording, complete; every measurement once",
)
async def test_connections_doubled(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["fetcher", "dsp", *NAMES], is_doubling=True) as (bench, _):
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, 4.0, NAMES))
        await assert_whole(bench, await bench.ended(acquisition_id))
        assert bench.log("fetcher").count("event=stream_opened") == 2 * len(NAMES)
        assert bench.log("fetcher").count("event=upstream_connected") == len(NAMES)
        assert [len(one.connection_times) for one in bench.simulator.stations.values()] == [2, 2]
        for scope, count in (("SUMMARY", 1), ("WINDOW", 4)):
            value = MeasurementScope.Value(f"MEASUREMENT_SCOPE_{scope}")
            rows = [
                row.receiver_id
                async for row in bench.client.query_measurements(
                    RecordFilter(acquisition_id=acquisition_id), scope=value
                )
            ]
            assert sorted(rows) == sorted(NAMES * count)


@fault_case(
    Group.NETWORK,
    fault="the coordinator's connection to storage breaks at its end only; what was under way arrives 1 s after the "
    "resumed writer",
    sees="SUCCEEDED; storage ends the old stream with WRITER_SUPERSEDED",
    stored="every recording, complete, nothing twice",
)
async def test_old_writer_still_delivers(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["storage"]) as (bench, relays):
        acquisition_id = await begun(bench, 7.0)
        relay, connection_count = relays["storage"], relays["storage"].connection_count
        relay.conduct(up=Conduct(delay_s=1.5), coming=False)
        await bench.stored(acquisition_id, 2 * BEFORE)
        assert relay.orphan() == 1
        await bench.stored(acquisition_id, 3 * BEFORE)
        assert (relay.connection_count, relay.open_count) == (connection_count + 1, 2)
        await assert_whole(bench, await bench.ended(acquisition_id))
        assert bench.log("storage").count("reason=WRITER_SUPERSEDED") == len(NAMES)


@fault_case(
    Group.NETWORK,
    fault="the coordinator's connection to the fetcher breaks at its end only; the fetcher still serves the old stream",
    sees="PARTIALLY_SUCCEEDED; SAMPLES_LOST with one short SERVICE_RESTART gap: the new stream shares the receiver's "
    "one connection with the old one, which ends after `idle_timeout_s`",
    stored="every recording on both sides of the gap, at its true index",
)
async def test_old_stream_still_served(tmp_path: Path) -> None:
    async with relayed(tmp_path, ["fetcher"], variables=IMPATIENT) as (bench, relays):
        acquisition_id = await begun(bench, 7.0)
        assert relays["fetcher"].orphan() == 1
        await bench.stored(acquisition_id, 2 * BEFORE)
        assert relays["fetcher"].open_count == 2
        final = await bench.ended(acquisition_id)
        assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["PARTIALLY_SUCCEEDED"] * 2), describe(final)
        for outcome, recording in await checked(bench, final):
            assert problems(outcome) == ["SAMPLES_LOST"], describe(final)
            assert recording.reasons == ["SERVICE_RESTART"]
            assert recording.lost_count < 4 * SAMPLE_RATE_HZ
        assert [len(one.connection_times) for one in bench.simulator.stations.values()] == [1, 1]
        assert bench.log("fetcher").count("reason=STREAM_IDLE") == len(NAMES)
        await until(lambda: not any(one.clients for one in bench.simulator.stations.values()), timeout_s=5.0)
