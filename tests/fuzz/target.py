"""What a fuzz target is: a parser with its contract, where its inputs begin, and how they are changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fuzz.mutation import havoc


@dataclass(frozen=True)
class Target:
    """One parser under attack."""

    name: str
    """Name on the command line, and of the folder of its found cases."""
    run: Callable[[bytes], None]
    """Parses an input and asserts what must hold; raises whatever breaks the parser's contract."""
    seeds: Callable[[], Sequence[bytes]]
    """Returns valid inputs to begin with."""
    max_bytes: int
    """Longest input."""
    mutate: Callable[[bytes, random.Random], bytes] = havoc
    """Returns a changed input that still has the outer form which blind changes would break."""
