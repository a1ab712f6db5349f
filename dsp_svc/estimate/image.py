"""How strongly a receiver's image of an emission shows on the other side of its tuned centre."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsp_svc.estimate.noise import NoiseFloor
from dsp_svc.estimate.psd import Spectrum, Welch
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import Band

_FALSE_ALARM = 1e-3  # an emission without an image shows one this rarely
_METHOD = "mirror-correlation"
_DB = 10.0 / math.log(10.0)


@dataclass(frozen=True)
class MirrorProducts:
    """A sum of products of opposite lines; sums of separate runs add up to those of both."""

    welch: Welch
    """How the lines were made."""
    total: npt.NDArray[np.complex128]
    """The sum of X(f) X(-f) over the segments, for f = 1, 2, ... bins, shape (segment_length / 2 - 1,)."""
    segment_count: int
    """The number of segments in the sum."""

    @classmethod
    def none(cls, welch: Welch) -> MirrorProducts:
        """Make the empty sum."""
        return cls(welch, np.zeros(welch.segment_length // 2 - 1, dtype=np.complex128), 0)

    def __add__(self, other: MirrorProducts) -> MirrorProducts:
        return MirrorProducts(self.welch, self.total + other.total, self.segment_count + other.segment_count)


def mirror_products(lines: npt.NDArray[np.complex64], welch: Welch) -> MirrorProducts:
    """Sum the products of opposite lines of a batch.

    Args:
        lines: The transforms X of segments, shape (rows, segment_length), complex64, FFT bin order.
        welch: How they were made.

    Returns:
        The sum over the rows.
    """
    half = welch.segment_length // 2
    products = lines[:, 1:half] * lines[:, :half:-1]
    return MirrorProducts(welch, products.sum(axis=0, dtype=np.complex128), len(lines))


def image_ratio_db(products: MirrorProducts, spectrum: Spectrum, noise: NoiseFloor, band: Band | None) -> Quantity:
    """Estimate the power of an emission's image over that of the emission.

    A receiver whose I and Q differ by a gain g and a phase phi adds an image, the conjugate of the signal times
    e = (g exp(j phi) - 1) / (g exp(j phi) + 1) or its conjugate. Its lines follow those of the emission, while
    whatever else lies there does not: |e| = |sum X(f) X(-f)| / sum (|X(f)|² - N0), over the bins f of the
    emission and all segments. Chance gives |sum X(f) X(-f)|² the mean v = sum |X(f)|² |X(-f)|² r / K for the
    K segments, where r counts the lines that scatter together, and passes v ln(1/p) with probability p, here 0.001.

    Args:
        products: The sum of X(f) X(-f).
        spectrum: The spectrum of the same samples and settings.
        noise: The noise floor of that spectrum.
        band: The emission, from `strongest_band`.

    Returns:
        The ratio 20 log10 |e| in dB, negative, with sigma (20 / ln 10) sqrt(v / 2) over the sum; the rejection is
        the same number without its sign. An upper limit when the products are no larger than chance makes them.
        Absent when there is no emission, when its band holds a frequency and its opposite (`STRADDLES_CENTER`),
        when the receiver's filter leaves nothing opposite (`MIRROR_OUTSIDE_PASSBAND`), and without a noise floor.
        Two emissions at opposite frequencies that carry the same modulation look like an image.

    References:
        M. Valkama, M. Renfors, V. Koivunen, "Advanced methods for I/Q imbalance compensation in communication
        receivers", IEEE Trans. Signal Processing 49, 2001, for the model.

    Examples:
        An emission of density 1 in ten bins over a floor of 1e-6, and its image at -40 dB:

        >>> import numpy as np
        >>> welch = Welch(64)
        >>> density = np.full(64, 1e-6)
        >>> density[42:52], density[13:23] = 1.0, 1e-4 + 1e-6
        >>> spectrum = Spectrum(welch, density, 64.0, 1e6)
        >>> quiet = NoiseFloor(1e-6, 0.0, density > 0.0, density > 1e-5, Quantity.valid(-60.0, 0.0, ""))
        >>> total = np.where(density[33:] == 1.0, 0.01, 0.0) * 1e6 * 64.0 * welch.taper_energy + 0j
        >>> round(image_ratio_db(MirrorProducts(welch, total, 10**6), spectrum, quiet, Band(9.5, 19.5)).value, 3)
        -40.0
    """
    if noise.density is None or products.segment_count == 0:
        return Quantity.absent(Reason.NO_NOISE_FLOOR, _METHOD)
    if band is None:
        return Quantity.absent(Reason.NO_SIGNAL, _METHOD)
    if band.low_hz < 0.0 < band.high_hz:
        return Quantity.absent(Reason.STRADDLES_CENTER, _METHOD)
    half = spectrum.welch.segment_length // 2
    frequencies_hz = spectrum.frequencies_hz
    inside = (frequencies_hz > band.low_hz) & (frequencies_hz < band.high_hz) & noise.passband
    # Bin half + m is m bins above the centre: both halves in the order of the products.
    above, below = slice(half + 1, None), slice(half - 1, 0, -1)
    here, opposite = (above, below) if band.low_hz >= 0.0 else (below, above)
    used = inside[here] & noise.passband[opposite]
    if not used.any():
        return Quantity.absent(Reason.MIRROR_OUTSIDE_PASSBAND, _METHOD)
    emission, mirror = spectrum.density[here][used], spectrum.density[opposite][used]
    power = float(np.sum(emission - noise.density))
    if power <= 0.0:
        return Quantity.absent(Reason.NO_SIGNAL, _METHOD)
    welch = spectrum.welch
    scale = products.segment_count * spectrum.sample_rate_hz * welch.taper_energy
    found = abs(complex(products.total[used].sum())) / scale
    # What shares samples may keep step over a whole overlap: a carrier's products correlate as the amplitudes do.
    shared = products.segment_count / spectrum.effective_count
    together = welch.bins_per_independent_bin * (1.0 + math.sqrt(2.0 * max(shared - 1.0, 0.0)))
    chance = float(np.sum(emission * mirror)) * together / products.segment_count
    of_chance = math.sqrt(chance * math.log(1.0 / _FALSE_ALARM))
    if found <= of_chance:
        return Quantity.upper_limit(20.0 * math.log10((found + of_chance) / power), Reason.NO_SIGNAL, _METHOD)
    return Quantity.valid(20.0 * math.log10(found / power), 2.0 * _DB * math.sqrt(chance / 2.0) / found, _METHOD)
