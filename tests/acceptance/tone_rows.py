"""The frequency of a tone against the bound of Rife and Boorstyn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from dsp_svc.estimate.offset import Tone, find_tone
from tests.acceptance.table import Check, Row, at_most
from tests.signals import tone, white_noise

TRIALS: Final = 4_000

Draw = Callable[[np.random.Generator], float]


def _measure(rng: np.random.Generator, count: int, n_snr_db: float, draw: Draw) -> list[Check]:
    snr = 10 ** (n_snr_db / 10) / count
    bound = np.sqrt(6.0 / (snr * count * (count**2 - 1.0))) / (2 * np.pi)
    noise = white_noise(rng, (TRIALS, count))
    errors, missed = [], 0
    for trial in range(TRIALS):
        cycles = draw(rng)
        found = find_tone(noise[trial] + tone(count, cycles, np.sqrt(snr), rng.uniform()))
        if isinstance(found, Tone):
            error = found.cycles_per_sample - cycles
            errors.append((error - round(error)) / bound)
        else:
            missed += 1
    return [
        Check("RMSE over the bound", float(np.sqrt(np.mean(np.square(errors)))), 0.95, 1.08, 2),
        at_most("bias over its square root", float(np.mean(errors)), 0.1, 2),
        at_most("share refused", missed / TRIALS, 0.02),
    ]


_FREQUENCIES: Final[list[tuple[str, Draw]]] = [
    ("f uniform on +-0.48 fs", lambda rng: float(rng.uniform(-0.48, 0.48))),
    ("f = 0", lambda rng: 0.0),
    ("f uniform within one bin of 0", lambda rng: float(rng.uniform(-1 / 256, 1 / 256))),
    ("f uniform within one bin of fs/2", lambda rng: float((0.5 + rng.uniform(-1 / 256, 1 / 256) + 0.5) % 1.0 - 0.5)),
]

ROWS: Final = [
    Row(
        "offset",
        f"{count} samples, N SNR {n_snr_db:g} dB, {frequencies}",
        "RMSE over the square root of the bound in 0.95 to 1.08; bias below 0.1 of it",
        TRIALS,
        partial(_measure, count=count, n_snr_db=n_snr_db, draw=draw),
    )
    for count, n_snr_db, chosen in (
        (256, 17.0, _FREQUENCIES),
        (256, 64.0, _FREQUENCIES),
        (1024, 17.0, _FREQUENCIES[:1]),
        (4096, 26.0, _FREQUENCIES[:1]),
        (4096, 76.0, _FREQUENCIES[:1]),
    )
    for frequencies, draw in chosen
]
