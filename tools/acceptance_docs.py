"""Writes docs/acceptance.md from the table in tests/acceptance, with the numbers measured now."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.acceptance.table import SEED, Row, all_rows, recordings

_ROOT: Final = Path(__file__).resolve().parent.parent
_INTRODUCTION: Final = f"""# What the estimators reach

Generated from the table in `tests/acceptance` by `make acceptance`; do not edit.

Every row is also a test of `make test`. Signals are made with NumPy's `default_rng`, seeded with {SEED} and the CRC-32
of the row's metric and condition, so that the numbers are the same every time. Some rows use real recordings instead:
without them their tests skip, and this page is not written. How the quantities are measured is in
[measurements.md](measurements.md).

| metric | condition | target | trials | measured |
|---|---|---|---|---|"""


def described(row: Row) -> str:
    """The part of a row's line that needs no measurement."""
    trials = "recording" if row.recording is not None else f"{row.trials:,}"
    return f"| {row.metric} | {row.condition} | {row.target} | {trials}"


def page(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the page; measures every row."""
    yield _INTRODUCTION
    for row in rows:
        checks = row.checks()
        passed = "" if all(check.passes for check in checks) else "**missed**: "
        yield f"{described(row)} | {passed}{'; '.join(check.text for check in checks)} |"


def main() -> None:
    """Writes the page, or refuses if a row can not be measured or misses its target."""
    rows = list(all_rows())
    root = recordings(_ROOT, os.environ.get("HEIMDALL_REALDATA"))
    missing = sorted(
        {row.recording for row in rows if row.recording is not None and not (root / row.recording).is_dir()}
    )
    if missing:
        sys.exit(
            f"acceptance: no {', '.join(missing)} in {root}; set HEIMDALL_REALDATA to the folder of the recordings"
        )
    text = "\n".join(page(rows)) + "\n"
    (_ROOT / "docs" / "acceptance.md").write_text(text, encoding="utf-8")
    missed = text.count("**missed**")
    if missed:
        sys.exit(f"acceptance: {missed} rows miss their target; see docs/acceptance.md")


if __name__ == "__main__":
    main()
