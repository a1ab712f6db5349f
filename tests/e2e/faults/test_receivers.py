"""Receivers that fail, all at once and one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heimdall.client import acquisition_spec
from heimdall.common.v1.acquisition_pb2 import ReceiverOutcome
from heimdall.errors import reason_name
from simulator import Fault
from tests.e2e.faults.bench import DIAL_HZ, SAMPLE_RATE_HZ, describe, fault_bench, problems, station
from tests.e2e.faults.table import Group, fault_case
from tests.e2e.faults.truth import StoredRecording, check_recording
from tests.integration.mesh import state_names

WINDOW_S = 30.0
EXPECTED = round(WINDOW_S * SAMPLE_RATE_HZ)
FRAME_SAMPLES = 512
STALL_LIMIT_S = 3.0
"""Silence after which a receiver counts as stalled (protocol notes, section 6)."""

UNDELIVERED = {"stalling": 65, "dropping": 2}
"""Frames that a station had queued, or the network held, when the connection ended."""

SEVEN: dict[str, list[Fault]] = {
    "refusing": [Fault(kind="port_closed")],
    "busy": [Fault(kind="too_busy")],
    "stalling": [Fault(kind="stall", after_s=10, connection=1)],
    "lossy": [Fault(kind="lost_frames", frame_count=5, after_s=12)],
    "silent": [Fault(kind="silent_loss", sample_count=340, after_s=12)],
    "dropping": [Fault(kind="drop", after_s=10, connection=1)],
    "garbled": [
        Fault(kind="garbage", what="unknown_tag", after_s=8),
        Fault(kind="garbage", what="short_body", after_s=10),
        Fault(kind="garbage", what="invalid_msg", after_s=12),
        Fault(kind="cut_frame", after_s=14),
    ],
}


def lost_by(outcome: ReceiverOutcome) -> dict[str, Any]:
    loss = next(problem for problem in outcome.problems if reason_name(problem.reason) == "SAMPLES_LOST")
    return {key: int(value) for key, value in loss.metadata.items() if key.startswith("lost_")}


@fault_case(
    Group.RECEIVERS,
    fault="of seven receivers in one window of 30 s one refuses the connection, one is full, one stalls, one loses "
    "five frames, one loses 340 samples without counting them, one drops the connection, one sends garbage and "
    "half a frame",
    sees="PARTIALLY_SUCCEEDED, on time; each outcome has its own cause: UPSTREAM_UNREACHABLE and UPSTREAM_BUSY with "
    "FAILED, UPSTREAM_STALLED and UPSTREAM_CONNECTION_LOST with a RECONNECT gap, a SEQUENCE gap of 2560 samples, a "
    "TIMESTAMP gap of 340, UPSTREAM_PROTOCOL_ERROR with a SEQUENCE gap of 512",
    stored="every good sample of five receivers at its index",
)
async def test_seven_receivers_fail_in_seven_ways(tmp_path: Path) -> None:
    async with fault_bench(tmp_path, [station(name, fault=faults) for name, faults in SEVEN.items()]) as bench:
        acquisition_id = await bench.start_acquisition(acquisition_spec(DIAL_HZ, WINDOW_S, list(SEVEN)))
        final = await bench.ended(acquisition_id, timeout_s=WINDOW_S + 30)
        found: dict[str, StoredRecording] = {
            name: await check_recording(bench.client, bench.simulator.stations[name].sent, acquisition_id, name)
            for name in list(SEVEN)[2:]
        }
    assert state_names(final) == ("PARTIALLY_SUCCEEDED", ["FAILED"] * 2 + ["PARTIALLY_SUCCEEDED"] * 5), describe(final)
    late_s = (final.end_time.ToNanoseconds() - final.window_end_unix_ns) / 1e9
    assert 0 < late_s < 3.0
    outcomes = {outcome.receiver_id: outcome for outcome in final.outcomes}
    causes = {name: problems(outcome) for name, outcome in outcomes.items()}
    assert causes == {
        "refusing": ["UPSTREAM_UNREACHABLE"],
        "busy": ["UPSTREAM_BUSY"],
        "stalling": ["UPSTREAM_STALLED", "SAMPLES_LOST"],
        "lossy": ["SAMPLES_LOST"],
        "silent": ["SAMPLES_LOST"],
        "dropping": ["UPSTREAM_CONNECTION_LOST", "SAMPLES_LOST"],
        "garbled": ["UPSTREAM_PROTOCOL_ERROR", "SAMPLES_LOST"],
    }
    for name, recording in found.items():
        outcome = outcomes[name]
        assert recording.end_index == outcome.expected_sample_count == pytest.approx(EXPECTED, abs=1)
        assert recording.sample_count == outcome.stored_sample_count == outcome.received_sample_count
        assert recording.lost_count == outcome.lost_sample_count
        assert recording.missed_count <= UNDELIVERED.get(name, 0) * FRAME_SAMPLES, name
        assert outcome.HasField("measurement")
    assert lost_by(outcomes["lossy"]) == {"lost_sample_count": 2560, "lost_sequence": 2560}
    assert lost_by(outcomes["silent"]) == {"lost_sample_count": 340, "lost_timestamp": 340}
    assert lost_by(outcomes["garbled"]) == {"lost_sample_count": 512, "lost_sequence": 512}
    for name, least_s in (("stalling", STALL_LIMIT_S), ("dropping", 0.5)):
        assert found[name].reasons == ["RECONNECT"]
        assert found[name].lost_count > least_s * SAMPLE_RATE_HZ - FRAME_SAMPLES
        assert outcomes[name].attempt_count == 2
    assert outcomes["busy"].stored_sample_count == outcomes["refusing"].stored_sample_count == 0
