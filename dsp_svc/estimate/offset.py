"""The frequency of one complex tone in an unbroken run of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from dsp_svc.estimate.result import Quantity, Reason
from heimdall.samples import Samples

MIN_SAMPLES = 256
"""Shorter runs have too few neighbouring bins to measure the noise beside the tone."""
MAX_SAMPLES = 1 << 18
"""A longer run is searched in its first part only, which bounds the memory of the search."""
MIN_N_SNR_DB = 14.0
"""Below this integrated SNR the search hits noise instead of the tone too often to be believed."""
_PADDING = 2
_ITERATIONS = 3
_ROWS = 256
_BESIDE_BINS = np.arange(3, 33)  # around the tone, past the bins that the fit itself has emptied
_CRLB_MARGIN = 1.1
_METHOD = "line-aboutanios-mulgrew"


@dataclass(frozen=True)
class Tone:
    """A tone found in a run of samples."""

    cycles_per_sample: float
    """The frequency in -0.5..0.5 cycles a sample."""
    sigma_cycles_per_sample: float
    """Its 1-sigma uncertainty."""
    n_snr_db: float
    """The integrated SNR, samples times A²/sigma², against the noise beside the tone, in dB."""


def find_tone(samples: Samples, low_cycles: float = -0.5, high_cycles: float = 0.5) -> Tone | Reason:
    """Estimate the frequency of the strongest tone.

    The peak of the twice zero-padded spectrum is refined by Aboutanios and Mulgrew (2005): with the
    spectrum X at half a bin on both sides of the estimate, d += Re[(X+ + X-) / (X+ - X-)] / 2 bins.
    Sigma is 1.1 in variance over the bound of Rife and Boorstyn (1974),
    var f = 6 / ((2 pi)² SNR N (N² - 1)) cycles²/sample², where the noise in SNR is measured 3 to 32 bins
    beside the tone once the tone is taken out, so that modulation near the carrier widens sigma.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64.
        low_cycles: The lowest frequency to search, cycles a sample.
        high_cycles: The highest frequency to search, cycles a sample.

    Returns:
        The tone, or the reason why there is none: fewer than 256 samples, nothing but zeros, or an integrated
        SNR below 14 dB.

    References:
        E. Aboutanios, B. Mulgrew, "Iterative frequency estimation by interpolation on Fourier coefficients", IEEE
        Trans. SP 53, 2005; D. Rife, R. Boorstyn, "Single-tone parameter estimation from discrete-time
        observations", IEEE Trans. IT 20, 1974.

    Examples:
        >>> tone = find_tone(np.exp(2j * np.pi * 0.123456 * np.arange(1000)).astype(np.complex64))
        >>> round(tone.cycles_per_sample, 6)
        0.123456
        >>> find_tone(np.zeros(1000, dtype=np.complex64)).value
        'ALL_ZERO'
    """
    samples = samples[:MAX_SAMPLES]
    count = len(samples)
    if count < MIN_SAMPLES:
        return Reason.TOO_FEW_SAMPLES
    start = _search(samples, low_cycles, high_cycles)
    if start is None:
        return Reason.ALL_ZERO
    columns = count // (_ROWS if count >= 16 * _ROWS else _ROWS // 4)
    rows = count // columns
    # A tone stays a tone in the sums of equal rows, so all further work is on these few.
    sums = _row_sums(samples[: rows * columns].reshape(rows, columns), start)
    turns = -2j * np.pi * np.arange(rows) / rows
    shift = 0.0  # bins of the samples used
    for _ in range(_ITERATIONS):
        plus, minus = np.sum(sums * np.exp(turns * (shift + 0.5))), np.sum(sums * np.exp(turns * (shift - 0.5)))
        if plus == minus:
            return Reason.NO_LINE  # an impulse: its spectrum has no slope at all
        shift += 0.5 * float(((plus + minus) / (plus - minus)).real)
    n_snr = _integrated_snr(sums * np.exp(turns * shift))
    if n_snr < 10.0 ** (MIN_N_SNR_DB / 10.0):
        return Reason.NO_LINE
    frequency = start + shift / (rows * columns)
    sigma = math.sqrt(_CRLB_MARGIN * 6.0 / (n_snr * ((rows * columns) ** 2 - 1.0))) / (2.0 * math.pi)
    return Tone((frequency + 0.5) % 1.0 - 0.5, sigma, 10.0 * math.log10(n_snr))


def frequency_offset_hz(tone: Tone | Reason, sample_rate_hz: float) -> Quantity:
    """Express a tone's frequency in Hz relative to the tuned centre.

    Args:
        tone: What `find_tone` returned.
        sample_rate_hz: The true sample rate in Hz; its own uncertainty is not part of sigma.

    Returns:
        The offset in Hz, absent with the reason that `find_tone` gave.

    Examples:
        >>> frequency_offset_hz(Tone(0.25, 1e-6, 30.0), 12000.0).value
        3000.0
    """
    if isinstance(tone, Reason):
        return Quantity.absent(tone, _METHOD)
    return Quantity.valid(
        tone.cycles_per_sample * sample_rate_hz, tone.sigma_cycles_per_sample * sample_rate_hz, _METHOD
    )


def _search(samples: Samples, low_cycles: float, high_cycles: float) -> float | None:
    """Find the strongest line of the zero-padded spectrum.

    The padded transform is taken as short ones, of the samples shifted by fractions of a bin: one by one they stay
    in the cache, and with mostly factors of two they need a fraction of the time of a long one.
    """
    twos = 1 << max(len(samples).bit_length() - 5, 0)
    length = twos * scipy.fft.next_fast_len(-(-len(samples) // twos))
    fraction = _phasor(len(samples), 1.0 / (_PADDING * length))
    power = np.empty((_PADDING, length), dtype=np.float32)
    shifted = samples
    for row in power:
        lines = scipy.fft.fft(shifted, length)
        np.add(lines.real**2, lines.imag**2, out=row)
        shifted = shifted * fraction
    if low_cycles > -0.5 or high_cycles < 0.5:
        bins = scipy.fft.fftfreq(length)
        power *= (bins >= low_cycles) & (bins <= high_cycles)
    shift, peak = divmod(int(np.argmax(power)), length)
    if power[shift, peak] == 0.0:
        return None
    return (peak + shift / _PADDING) / length


def _phasor(count: int, cycles: float) -> npt.NDArray[np.complex64]:
    """Tabulate exp(-j 2 pi cycles n), n < count, as the product of two short tables."""
    columns = math.isqrt(count) + 1
    inner = np.exp(-2j * np.pi * cycles * np.arange(columns)).astype(np.complex64)
    outer = np.exp(-2j * np.pi * cycles * columns * np.arange(columns)).astype(np.complex64)
    table: npt.NDArray[np.complex64] = np.multiply.outer(outer, inner)
    return table.reshape(-1)[:count]


def _row_sums(table: Samples, frequency: float) -> npt.NDArray[np.complex128]:
    """Sum each row with the phase of a frequency taken out; two short phasor tables replace a long one."""
    rows, columns = table.shape
    inner = np.exp(-2j * np.pi * frequency * np.arange(columns)).astype(np.complex64)
    outer = np.exp(-2j * np.pi * frequency * columns * np.arange(rows))
    # Not a matrix product: a BLAS library would wake its threads for this little work.
    sums: npt.NDArray[np.complex128] = np.einsum("ij,j->i", table, inner) * outer
    return sums


def _integrated_snr(turned: npt.NDArray[np.complex128]) -> float:
    """Compare the power of the line at zero with the mean of those beside it."""
    rows = len(turned)
    line = complex(np.sum(turned))
    spectrum = np.abs(np.fft.fft(turned - line / rows)) ** 2
    beside = _BESIDE_BINS[: rows // 4 - 2]
    # A row's sum is a low pass, so the lines beside the tone have lost a little of their power.
    noise = float(np.mean((spectrum[beside] + spectrum[rows - beside]) / (2.0 * np.sinc(beside / rows) ** 2)))
    return abs(line) ** 2 / noise if noise > 0.0 else math.inf
