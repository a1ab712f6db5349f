"""The page about the simulator names every key that the scenario knows."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from simulator import EmitterSpec, Fault, LimitSpec, StationSpec, ToneSpec
from simulator.faults import FaultKind


def test_every_key_and_fault_kind_is_documented(repo_root: Path) -> None:
    page = (repo_root / "docs" / "simulator.md").read_text(encoding="utf-8")
    keys = {key for model in (StationSpec, EmitterSpec, ToneSpec, LimitSpec, Fault) for key in model.model_fields}
    names = (keys - {"tone", "fault"}) | set(get_args(FaultKind)) | {"[[station.tone]]", "[[station.fault]]"}
    assert sorted(name for name in names if f"`{name}`" not in page) == []
