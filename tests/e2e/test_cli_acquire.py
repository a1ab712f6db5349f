from __future__ import annotations

import hashlib
import json
import signal
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf import json_format

from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorReason
from heimdall.common.v1.measurement_pb2 import Measurement, MeasurementScope
from heimdall.common.v1.receiver_pb2 import Receiver
from heimdall.common.v1.recording_pb2 import Recording
from tests.e2e.live_mesh import LiveMesh

# 1 s at 66.6659 MHz / 5556, the station's rate: 11998.9 samples, so 11998 or 11999 fall into a window of 1 s.
_SAMPLES_PER_S = 66_665_900 / 5556


def _acquire_json(mesh: LiveMesh, *arguments: str) -> tuple[int, Acquisition]:
    ran = mesh.run("acquire", "7100kHz", "--json", *arguments)
    (line,) = ran.stdout.splitlines()
    return ran.returncode, json_format.Parse(line, Acquisition())


def test_a_complete_acquisition_exits_0_and_can_be_read_back_by_every_command(live_mesh: LiveMesh) -> None:
    status, acquisition = _acquire_json(
        live_mesh, "--duration", "1s", "--receiver", "good", "--request-id", "first", "--label", "band=40m"
    )
    assert status == 0
    assert acquisition.state == Acquisition.STATE_SUCCEEDED
    assert acquisition.spec.labels == {"band": "40m"}
    (outcome,) = acquisition.outcomes
    assert abs(outcome.received_sample_count - _SAMPLES_PER_S) <= 1
    assert outcome.lost_sample_count == 0
    # The station's only signal is a tone 1 kHz above the dial.
    assert abs(outcome.measurement.frequency_offset_hz.value - 1000.0) < 0.5

    listed = live_mesh.run("acquisitions", "list", "--json", "--state", "succeeded")
    assert acquisition.acquisition_id in {
        json_format.Parse(line, Acquisition()).acquisition_id for line in listed.stdout.splitlines()
    }
    got = live_mesh.run("acquisitions", "get", acquisition.acquisition_id)
    assert "good" in got.stdout
    assert "SUCCEEDED" in got.stdout
    watched = live_mesh.run("acquisitions", "watch", acquisition.acquisition_id, "--json")
    assert watched.returncode == 0
    assert json_format.Parse(watched.stdout.splitlines()[-1], Acquisition()).state == Acquisition.STATE_SUCCEEDED
    cancelled = live_mesh.run("acquisitions", "cancel", acquisition.acquisition_id, "--json")
    assert json_format.Parse(cancelled.stdout, Acquisition()).state == Acquisition.STATE_SUCCEEDED

    summary = live_mesh.run("measurements", "--acquisition", acquisition.acquisition_id, "--json")
    measurement = json_format.Parse(summary.stdout, Measurement())
    assert measurement.scope == MeasurementScope.MEASUREMENT_SCOPE_SUMMARY
    assert measurement.sample_count == outcome.received_sample_count

    start = acquisition.window_start_unix_ns // 10**9
    shown = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    table = live_mesh.run("acquisitions", "list", "--limit", "1000").stdout
    row = next(line for line in table.splitlines() if acquisition.acquisition_id in line)
    assert row.split()[2:] == ["SUCCEEDED", "7.1", "MHz", "1", "s", "1", "1"]
    table = live_mesh.run("recordings", "list", "--acquisition", acquisition.acquisition_id).stdout
    row = table.splitlines()[1]
    assert row.startswith(shown)
    count = str(outcome.received_sample_count)
    assert row.split()[2:8] == ["good", "STORED", "yes", count, "0", "0"]
    table = live_mesh.run("measurements", "--acquisition", acquisition.acquisition_id, "--verbose").stdout
    row = table.splitlines()[1]
    assert row.startswith(shown)
    assert row.split()[2:8] == ["good", "7.1", "MHz", f"{measurement.sample_rate_hz:.4f}", count, "0"]
    assert row.endswith("GNSS")
    windows = live_mesh.run("measurements", "--acquisition", acquisition.acquisition_id, "--windows", "--json").stdout
    assert sum(json_format.Parse(line, Measurement()).sample_count for line in windows.splitlines()) <= int(count)
    nothing = live_mesh.run("measurements", "--acquisition", acquisition.acquisition_id, "--until", "-1h", "--json")
    assert (nothing.returncode, nothing.stdout) == (0, "")

    again_status, again = _acquire_json(
        live_mesh, "--duration", "1s", "--receiver", "good", "--request-id", "first", "--label", "band=40m"
    )
    assert (again_status, again.acquisition_id) == (0, acquisition.acquisition_id)


def test_a_recording_is_copied_as_a_sigmf_pair_with_its_checksum(live_mesh: LiveMesh, tmp_path: Path) -> None:
    _, acquisition = _acquire_json(live_mesh, "--duration", "500ms", "--receiver", "good")
    listed = live_mesh.run("recordings", "list", "--acquisition", acquisition.acquisition_id, "--json")
    recording = json_format.Parse(listed.stdout, Recording())
    assert recording.sample_count == acquisition.outcomes[0].stored_sample_count
    got = live_mesh.run("recordings", "get", acquisition.acquisition_id, "good", "--output", str(tmp_path / "out"))
    assert got.returncode == 0
    meta = Path(got.stdout.strip())
    data = meta.with_suffix(".sigmf-data").read_bytes()
    assert len(data) == 4 * recording.sample_count
    assert json.loads(meta.read_text())["global"]["core:sha512"] == hashlib.sha512(data).hexdigest()
    missing = live_mesh.run("recordings", "get", acquisition.acquisition_id, "full")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: RECORDING_NOT_FOUND")


def test_a_full_receiver_alone_exits_1_and_beside_a_good_one_3_with_its_cause(live_mesh: LiveMesh) -> None:
    status, acquisition = _acquire_json(live_mesh, "--duration", "500ms", "--receiver", "full", "--max-wait", "3s")
    assert status == 1
    assert acquisition.state == Acquisition.STATE_FAILED
    reasons = {problem.reason for problem in acquisition.outcomes[0].problems}
    assert ErrorReason.ERROR_REASON_UPSTREAM_BUSY in reasons

    ran = live_mesh.run("acquire", "7100kHz", "--duration", "500ms", "--max-wait", "3s")
    assert ran.returncode == 3
    # A station that was full a moment ago is left alone for a while.
    assert "full: RECEIVER_BACKING_OFF" in ran.stdout
    assert "PARTIALLY_SUCCEEDED, 7.1 MHz, 0.5 s" in ran.stdout.splitlines()[-1]
    assert "good: CAPTURING" in ran.stderr


def test_a_wrong_request_exits_2_and_names_every_bad_field(live_mesh: LiveMesh) -> None:
    ran = live_mesh.run("acquire", "7100kHz", "--duration", "1h", "--receiver", "nobody")
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: INVALID_FIELD: ")
    assert "spec.duration" in line
    assert "nobody" in line
    out_of_range = live_mesh.run("acquire", "145.5MHz", "--duration", "1s")
    assert out_of_range.returncode == 2
    assert "no receiver can be tuned to 145.5 MHz" in out_of_range.stderr
    assert "10 kHz to 30 MHz" in out_of_range.stderr


def test_an_interrupt_cancels_and_keeps_what_was_received(live_mesh: LiveMesh) -> None:
    with live_mesh.start("acquire", "7100kHz", "--duration", "60s", "--receiver", "good", "--json") as process:
        assert process.stderr is not None
        try:
            while (line := process.stderr.readline()).strip() != "good: CAPTURING":
                assert line
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode in (1, 3)
    acquisition = json_format.Parse(out, Acquisition())
    assert acquisition.state == Acquisition.STATE_CANCELLED
    assert (process.returncode == 3) == (acquisition.outcomes[0].stored_sample_count > 0)
    assert acquisition.outcomes[0].state == ReceiverOutcome.STATE_CANCELLED
    assert "what was received is kept" in err


def test_an_unknown_acquisition_is_one_line_with_status_1(live_mesh: LiveMesh) -> None:
    for command in ("get", "watch", "cancel"):
        ran = live_mesh.run("acquisitions", command, "3f1c4d1e-0000-4000-8000-000000000000")
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        assert line.startswith("error: ACQUISITION_NOT_FOUND: ")


def test_receivers_and_health_tell_how_the_mesh_is(live_mesh: LiveMesh) -> None:
    listed = live_mesh.run("receivers", "--json")
    receivers = [json_format.Parse(line, Receiver()) for line in listed.stdout.splitlines()]
    assert [receiver.receiver_id for receiver in receivers] == ["good", "full"]
    probed = live_mesh.run("receivers", "--probe")
    assert probed.returncode == 0
    assert "good" in probed.stdout
    healthy = live_mesh.run("health", "--json")
    assert healthy.returncode == 0
    assert [json.loads(line)["status"] for line in healthy.stdout.splitlines()] == ["SERVING"] * 4
