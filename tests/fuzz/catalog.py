"""Every fuzz target, and the inputs that once broke it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.fuzz.target import Target
from tests.fuzz.targets import kiwi_frames, kiwi_texts, kiwi_wav, receivers_toml, sigmf_meta, spool

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (kiwi_frames, kiwi_texts, receivers_toml, sigmf_meta, kiwi_wav, spool)
    for target in module.TARGETS
}
"""All targets by name, in the order in which they run."""


def cases(name: str) -> list[Path]:
    """Returns the files with the inputs that once broke a target."""
    folder = Path(__file__).parent / "cases" / name
    return sorted(folder.iterdir()) if folder.is_dir() else []
