"""The acceptance table of the estimators: what each must reach, and what it does."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

SEED: Final = 20_261_125
"""Every row draws from a generator of its own, seeded by this number and the row's name."""
_MODULES: Final = (
    "spectrum_rows",
    "floor_rows",
    "snr_rows",
    "bandwidth_rows",
    "tone_rows",
    "recording_rows",
    "shape_rows",
    "invariance_rows",
)


@dataclass(frozen=True)
class Check:
    """One measured number against its target."""

    quantity: str
    """What was measured; behind a comma its unit, if it has one."""
    measured: float
    """The number."""
    low: float
    """The smallest value that passes."""
    high: float
    """The largest value that passes."""
    digits: int = 3
    """The digits after the point that are shown: few enough that every machine shows the same."""

    @property
    def passes(self) -> bool:
        """Whether the number is within its target; a number that is none is not."""
        return bool(self.low <= self.measured <= self.high)

    @property
    def text(self) -> str:
        """The quantity and the number."""
        shown = round(self.measured, self.digits) + 0.0  # no negative zero
        name, _, unit = self.quantity.partition(", ")
        return f"{name} {shown:.{self.digits}f} {unit}".rstrip()


@dataclass(frozen=True)
class Row:
    """One row: a metric under a condition."""

    metric: str
    """The estimator."""
    condition: str
    """How it is tested."""
    target: str
    """What it must reach, in words."""
    trials: int
    """The signals that it was tried on; 0 for recordings."""
    measure: Callable[[np.random.Generator], list[Check]]
    """Tries the estimator."""
    recording: str | None = None
    """The folder of real recordings that it needs."""

    @property
    def name(self) -> str:
        """The name of the row's test."""
        return f"{self.metric}: {self.condition}"

    def checks(self) -> list[Check]:
        """Tries the estimator with the row's own fixed sequence."""
        return self.measure(np.random.default_rng([SEED, zlib.crc32(self.name.encode())]))


def at_most(quantity: str, measured: float, limit: float, digits: int = 3) -> Check:
    """A number whose magnitude must not pass a limit."""
    return Check(quantity, measured, -limit, limit, digits)


def all_rows() -> Iterator[Row]:
    """Every row in the order of the page."""
    for module in _MODULES:
        yield from importlib.import_module(f"tests.acceptance.{module}").ROWS


def recordings(repo_root: Path, configured: str | None) -> Path:
    """The folder of real recordings."""
    return Path(configured) if configured else repo_root.parent / "shared" / "data"
