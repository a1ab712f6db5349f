"""Writes docs/faults.md to standard output, from the table of cases in tests/e2e/faults."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from tests.e2e.faults.table import all_cases

_INTRODUCTION = """# When things go wrong

Generated from the cases in `tests/e2e/faults` by `tools/fault_docs.py`; do not edit.

What fails, what a user sees of it, and what is stored. `make test-faults` brings each of these about, in the socket or
the process, against the real services as processes and simulated receivers, and compares what was stored, sample by
sample, with what was sent. Names in capitals are states, gap reasons and error reasons of
[the contracts](contracts.md)."""


def page() -> Iterator[str]:
    """Yields the lines of the page."""
    yield _INTRODUCTION
    for group, cases in groupby(all_cases(), lambda case: case.group):
        yield from (
            "",
            f"## {group.value}",
            "",
            "| fault | what the user sees | what is stored | test |",
            "|---|---|---|---|",
        )
        for case in cases:
            yield f"| {case.fault} | {case.sees} | {case.stored} | `{case.test}` |"


def main() -> None:
    """Prints the page."""
    print("\n".join(page()))


if __name__ == "__main__":
    main()
