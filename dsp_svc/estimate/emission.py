"""Taking one emission out of a run of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from heimdall.samples import Samples


@dataclass(frozen=True)
class Emission:
    """The Fourier lines of a run of samples inside a band."""

    lines: npt.NDArray[np.complex64]
    """The lines X[k] of the band, ascending, shape (line count,), complex64; at least one."""
    centre: int
    """The line k in the middle of them, which is at k / sample_count cycles a sample."""
    sample_count: int
    """The samples of the run N."""

    @property
    def centre_cycles(self) -> float:
        """The frequency of the middle line in cycles a sample of the run."""
        return self.centre / self.sample_count

    def samples(self, count: int) -> Samples:
        """Bring the band to zero frequency, in fewer samples.

        y[m] = (1/N) sum X[centre + k] exp(j 2 pi k m / count).

        Args:
            count: The samples wanted, at least as many as there are lines. They span the time of the whole run:
                one of them lasts N / count samples of the run.

        Returns:
            The emission with the middle line at zero, shape (count,), complex64.
        """
        table = np.zeros(count, dtype=np.complex64)
        places = np.arange(len(self.lines)) - len(self.lines) // 2
        table[places] = self.lines
        narrow: Samples = scipy.fft.ifft(table) * np.float32(count / self.sample_count)
        return narrow


def emission_in(samples: Samples, low_cycles: float, high_cycles: float) -> Emission:
    """Select a band by a mask over the Fourier lines of a run.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), n > 0, complex64.
        low_cycles: The lower edge in cycles a sample, from -0.5.
        high_cycles: The upper edge in cycles a sample, above the lower one and up to 0.5.

    Returns:
        The lines of the band, or the one nearest to its middle.

    Examples:
        >>> import numpy as np
        >>> x = np.exp(2j * np.pi * 0.25 * np.arange(64)) + np.exp(-2j * np.pi * 0.25 * np.arange(64))
        >>> narrow = emission_in(x.astype(np.complex64), 0.2, 0.3).samples(8)
        >>> np.round(np.abs(narrow), 3).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    count = len(samples)
    first, last = int(np.ceil(low_cycles * count)), int(np.floor(high_cycles * count))
    last = min(last, first + count - 1)
    if last < first:
        first = last = round((low_cycles + high_cycles) / 2.0 * count)
    spectrum = scipy.fft.fft(samples)
    lines = spectrum[np.arange(first, last + 1) % count]
    return Emission(lines, first + len(lines) // 2, count)
