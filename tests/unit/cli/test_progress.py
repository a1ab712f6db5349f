from __future__ import annotations

import pytest

from heimdall.cli.watch import ProgressLines
from heimdall.common.v1.acquisition_pb2 import Acquisition, ReceiverOutcome


def _snapshot(state: ReceiverOutcome.State.ValueType, received: int) -> Acquisition:
    torino = ReceiverOutcome(receiver_id="torino", state=state, received_sample_count=received, lost_sample_count=3)
    torino.expected_sample_count = 60000
    return Acquisition(outcomes=[torino, ReceiverOutcome(receiver_id="genova", state=ReceiverOutcome.STATE_PENDING)])


def test_without_a_terminal_each_change_of_state_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as progress:
        progress(_snapshot(ReceiverOutcome.STATE_PREPARING, 0))
        progress(_snapshot(ReceiverOutcome.STATE_CAPTURING, 1))
        progress(_snapshot(ReceiverOutcome.STATE_CAPTURING, 2))
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["torino: PREPARING", "genova: PENDING", "torino: CAPTURING"]
    assert printed.out == ""


def test_on_a_terminal_each_receiver_has_a_live_line_with_its_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressLines() as progress:
        progress(_snapshot(ReceiverOutcome.STATE_CAPTURING, 29997))
    printed = capsys.readouterr().err
    assert "CAPTURING" in printed
    assert "29997 samples, 3 lost" in printed
