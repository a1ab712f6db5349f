"""The table of faults: every case of this folder with what a user sees of it and what is stored."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

TestT = TypeVar("TestT", bound=Callable[..., Any])


class Group(Enum):
    """What fails; the headings of docs/faults.md in their order."""

    RECEIVERS = "Receivers"
    KILLED = "A process is killed"
    STOPPED = "A process is told to stop"
    FROZEN = "A process stands still"
    NETWORK = "The network"
    DISK = "The disk of storage"
    CALLERS = "Callers"
    CLOCKS = "Clocks"


@dataclass(frozen=True)
class FaultCase:
    """One row."""

    group: Group
    fault: str
    """What happens."""
    sees: str
    """What the user sees."""
    stored: str
    """What is stored."""
    test: str
    """The test that shows it, as module.function."""


_CASES: Final[list[FaultCase]] = []


def fault_case(group: Group, *, fault: str, sees: str, stored: str) -> Callable[[TestT], TestT]:
    """Enters the test that it stands above into the table; a test that shows several cases has several rows.

    Args:
        group: What fails.
        fault: What happens.
        sees: What the user sees.
        stored: What is stored.
    """

    def enter(test: TestT) -> TestT:
        name = f"{test.__module__.rpartition('.')[2]}.{test.__name__}"
        _CASES.append(FaultCase(group, fault, sees, stored, name))
        return test

    return enter


def all_cases() -> Iterator[FaultCase]:
    """Yields every case, group by group, within a group in the order of the code."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(f"tests.e2e.faults.{path.stem}")
    for group in Group:
        yield from (case for case in _CASES if case.group is group)
