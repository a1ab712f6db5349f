from __future__ import annotations

import numpy as np
import pytest

from dsp_svc.estimate.samples import BadSamplesError, check_amplitudes


@pytest.mark.parametrize("bad", [complex(0.0, float("nan")), complex(float("inf"), 0.0), complex(0.0, -2e6)])
def test_an_amplitude_that_can_not_be_measured_is_refused(bad: complex) -> None:
    check_amplitudes(np.array([0.0, 1e6 - 1e6j], np.complex64))
    with pytest.raises(
        BadSamplesError, match=r"sample 1 of the run is .*, not a finite number up to 1e\+06 times full scale"
    ):
        check_amplitudes(np.array([0.0, bad], np.complex64))
