"""Every row of the acceptance table holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.table import Row, all_rows
from tools.acceptance_docs import described

ROWS = list(all_rows())


def _params() -> list[object]:
    return [
        pytest.param(row, id=row.name, marks=[pytest.mark.realdata] if row.recording is not None else [])
        for row in ROWS
    ]


@pytest.mark.parametrize("row", _params())
def test_row_holds(row: Row, request: pytest.FixtureRequest) -> None:
    if row.recording is not None:
        request.getfixturevalue("realdata")
    checks = row.checks()
    assert checks
    missed = [f"{check.text} is not in {check.low:g}..{check.high:g}" for check in checks if not check.passes]
    assert not missed, f"{row.name}: " + "; ".join(missed)


def test_names_are_different() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_enough_trials_are_made() -> None:
    for row in ROWS:
        least = 3_000 if "RMSE" in row.target else 400
        assert row.trials >= least or row.recording is not None


def test_the_page_has_every_row(repo_root: Path) -> None:
    page = (repo_root / "docs" / "acceptance.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert [" | ".join(line[:4]) for line in lines] == [described(row) for row in ROWS]
