"""The level of a run of samples."""

from __future__ import annotations

import math

import numpy as np

from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.samples import Samples

_METHOD = "mean-power"


def energy(samples: Samples) -> float:
    """Sum |x|² over the samples.

    Args:
        samples: Complex amplitudes, shape (n,), complex64, full scale 1.

    Returns:
        The sum of the squared magnitudes, relative to a full-scale tone's power per sample.
    """
    components = samples.view(np.float32)
    return float(np.einsum("i,i->", components, components, dtype=np.float64))


def power_dbfs(total_energy: float, sample_count: int) -> Quantity:
    """Express a mean power in dBFS.

    P = 10 log10(sum |x|² / n); a complex tone of magnitude 1 has 0 dBFS.

    Args:
        total_energy: The sum of |x|² that `energy` gives, over any number of runs.
        sample_count: The number of samples n in that sum.

    Returns:
        The power in dBFS. It is the exact level of these samples, so sigma is not given. Absent without
        samples, and when every sample is zero: a receiver that sends zeros has no level.
    """
    if sample_count == 0:
        return Quantity.absent(Reason.NO_SAMPLES, _METHOD)
    if total_energy == 0.0:
        return Quantity.absent(Reason.ALL_ZERO, _METHOD)
    return Quantity.valid(10.0 * math.log10(total_energy / sample_count), None, _METHOD)
