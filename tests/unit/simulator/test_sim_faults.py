"""The fault script: validation, triggers, counting."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from simulator.faults import Fault, FaultScript


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "drop", "after_frame": 1, "after_s": 1.0}, "give one of"),
        ({"kind": "drop", "frame_count": 2}, "has no parameter frame_count"),
        ({"kind": "badp"}, "needs code"),
        ({"kind": "badp", "code": 8}, "must be 1 to 7"),
        ({"kind": "down", "code": 3}, "must be 0 to 2"),
        ({"kind": "refuse", "after_frame": 2}, "only happen at connect"),
        ({"kind": "explode"}, "Input should be"),
    ],
)
def test_wrong_fault_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Fault(**values)


def test_fault_happens_once_a_connection_and_count_times_in_all() -> None:
    script = FaultScript([Fault(kind="drop", after_frame=10, count=2)])
    assert script.take_due(1, 9, 0.0) == []
    assert len(script.take_due(1, 10, 0.0)) == 1
    assert script.take_due(1, 11, 0.0) == []
    assert len(script.take_due(2, 10, 0.0)) == 1
    assert script.take_due(3, 10, 0.0) == []


def test_connection_number_selects() -> None:
    script = FaultScript([Fault(kind="http_404", connection=2)])
    assert script.take_at_connect(frozenset({"http_404"}), 1) is None
    assert script.take_at_connect(frozenset({"http_404"}), 2) is not None


def test_delayed_refusal_does_not_happen_at_the_start() -> None:
    script = FaultScript([Fault(kind="too_busy", after_s=10.0)])
    assert script.take_at_connect(frozenset({"too_busy"}), 1) is None
    assert script.take_due(1, 5, 9.9) == []
    assert [fault.kind for fault in script.take_due(1, 5, 10.0)] == ["too_busy"]


def test_injected_fault_spares_later_connections() -> None:
    script = FaultScript([])
    script.add(Fault(kind="close"), frozenset({1}))
    assert script.take_due(2, 0, 0.0) == []
    assert len(script.take_due(1, 0, 0.0)) == 1
