from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from heimdall.cli.outcome_table import print_acquisition
from heimdall.cli.output import print_json, short_path
from heimdall.cli.watch import exit_status
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome
from heimdall.common.v1.error_pb2 import ErrorDetail, ErrorReason
from heimdall.common.v1.iq_pb2 import TimeSolution, TimeSource
from heimdall.common.v1.measurement_pb2 import Estimate, Measurement
from heimdall.common.v1.recording_pb2 import Recording


def _good_outcome() -> ReceiverOutcome:
    return ReceiverOutcome(
        receiver_id="torino",
        state=ReceiverOutcome.STATE_SUCCEEDED,
        received_sample_count=59995,
        stored_sample_count=59995,
        time_solution=TimeSolution(source=TimeSource.TIME_SOURCE_GNSS, time_sigma_ns=34.0),
        recording=Recording(location="/data/objects/sessions/a1/torino.sigmf-meta"),
        measurement=Measurement(
            snr_db=Estimate(value=27.31, sigma=0.04, validity=Estimate.VALIDITY_VALID),
            snr_bandwidth_hz=Estimate(value=9800.4, validity=Estimate.VALIDITY_VALID),
            frequency_offset_hz=Estimate(value=312.5, sigma=0.0061, validity=Estimate.VALIDITY_VALID),
            power_dbfs=Estimate(value=-41.25, sigma=0.2, validity=Estimate.VALIDITY_VALID),
        ),
    )


def _acquisition() -> Acquisition:
    absent = Estimate(validity=Estimate.VALIDITY_ABSENT, reason="NO_SIGNAL")
    quiet = ReceiverOutcome(
        receiver_id="genova",
        state=ReceiverOutcome.STATE_PARTIALLY_SUCCEEDED,
        received_sample_count=57435,
        lost_sample_count=2560,
        stored_sample_count=57435,
        gap_count=1,
        measurement=Measurement(
            snr_db=absent,
            frequency_offset_hz=absent,
            power_dbfs=Estimate(value=-90.5, sigma=0.2, validity=Estimate.VALIDITY_VALID),
        ),
        problems=[ErrorDetail(reason=ErrorReason.ERROR_REASON_SAMPLES_LOST, message="2560 samples are missing")],
    )
    busy = ReceiverOutcome(
        receiver_id="coazze",
        state=ReceiverOutcome.STATE_FAILED,
        problems=[ErrorDetail(reason=ErrorReason.ERROR_REASON_UPSTREAM_BUSY, message="all 4 channels are taken")],
    )
    acquisition = Acquisition(
        acquisition_id="a1",
        state=Acquisition.STATE_PARTIALLY_SUCCEEDED,
        window_start_unix_ns=1_769_860_800_250_000_000,
        outcomes=[_good_outcome(), quiet, busy],
    )
    acquisition.spec.tuning.center_frequency_hz = 145.5e6
    acquisition.spec.duration.FromSeconds(5)
    return acquisition


def test_the_table_has_one_line_a_receiver_and_a_note_for_whatever_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_acquisition(_acquisition())
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    rows = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells[0] == [
        "receiver", "state", "samples", "gaps", "SNR dB", "in Hz", "offset Hz", "level dBFS", "time", "path"
    ]  # fmt: skip
    assert cells[1] == [
        "torino", "SUCCEEDED", "59995", "0", "27.310 ± 0.040", "9800", "+312.5000 ± 0.0061", "-41.25 ± 0.20",
        "GNSS ± 34 ns", "/data/objects/sessions/a1/torino.sigmf-meta",
    ]  # fmt: skip
    assert cells[2] == ["genova", "PARTIALLY_SUCCEEDED", "57435", "1", "-", "-", "-", "-90.50 ± 0.20", "-", "-"]
    assert cells[3] == ["coazze", "FAILED", "0", "0", "-", "-", "-", "-", "-", "-"]
    assert lines[4:] == [
        "genova: SAMPLES_LOST: 2560 samples are missing",
        "genova: snr_db: NO_SIGNAL",
        "genova: frequency_offset_hz: NO_SIGNAL",
        "coazze: UPSTREAM_BUSY: all 4 channels are taken",
        "acquisition a1: PARTIALLY_SUCCEEDED, 145.5 MHz, 5 s from 2026-01-31T12:00:00.250Z",
    ]


def test_square_brackets_in_a_message_are_text_and_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    acquisition = Acquisition(acquisition_id="a1", outcomes=[ReceiverOutcome(receiver_id="[bold]x")])
    acquisition.outcomes[0].problems.add(message="[red]no[/red]")
    print_acquisition(acquisition)
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith("[bold]x ")
    assert "[red]no[/red]" in printed


def test_json_is_one_line_that_protobuf_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(_acquisition())
    (line,) = capsys.readouterr().out.splitlines()
    assert json_format.Parse(line, Acquisition()) == _acquisition()
    assert json.loads(line)["state"] == "STATE_PARTIALLY_SUCCEEDED"


def test_a_path_below_the_current_folder_is_shown_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_path(str(tmp_path / "a" / "b.sigmf-meta")) == "a/b.sigmf-meta"
    assert short_path("/elsewhere/b.sigmf-meta") == "/elsewhere/b.sigmf-meta"
    assert short_path("https://host/bucket/b.sigmf-meta") == "https://host/bucket/b.sigmf-meta"
    assert short_path("") == ""


@pytest.mark.parametrize(
    ("state", "stored_sample_count", "expected"),
    [
        (Acquisition.STATE_SUCCEEDED, 5, 0),
        (Acquisition.STATE_FAILED, 0, 1),
        (Acquisition.STATE_PARTIALLY_SUCCEEDED, 5, 3),
        (Acquisition.STATE_CANCELLED, 5, 3),
        (Acquisition.STATE_CANCELLED, 0, 1),
    ],
)
def test_the_exit_status_tells_complete_failed_and_partial_apart(
    state: Acquisition.State.ValueType, stored_sample_count: int, expected: int
) -> None:
    outcome = ReceiverOutcome(stored_sample_count=stored_sample_count)
    assert exit_status(Acquisition(state=state, outcomes=[outcome])) == expected
