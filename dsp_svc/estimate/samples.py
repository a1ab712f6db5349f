"""Which samples can be measured."""

from __future__ import annotations

import numpy as np

from heimdall.samples import Samples

_MAX_AMPLITUDE = 1e6


class BadSamplesError(ValueError):
    """Samples that can not be measured."""


def check_amplitudes(samples: Samples) -> None:
    """Refuses samples that are not finite, or so large that their power leaves the range of single precision.

    Args:
        samples: Complex amplitudes; magnitude 1 is 0 dBFS.

    Raises:
        BadSamplesError: I or Q is not finite or above 1e6 of full scale.
    """
    components = samples.view(np.float32)
    wrong = np.flatnonzero(~(np.abs(components) <= _MAX_AMPLITUDE))
    if wrong.size:
        raise BadSamplesError(
            f"sample {wrong[0] // 2} of the run is {components[wrong[0]]}, "
            f"not a finite number up to {_MAX_AMPLITUDE:g} times full scale"
        )
