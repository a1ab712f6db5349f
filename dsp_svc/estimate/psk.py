"""The frequency of a phase-keyed emission, which has no carrier line of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.fft

from dsp_svc.estimate.emission import Emission, emission_in
from dsp_svc.estimate.offset import MIN_SAMPLES, Tone, find_tone
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import Band
from heimdall.samples import Samples

ORDERS = (2, 4, 8)
"""The powers M that are tried, in this order."""
_WINDOW = 1.0 / 3.0  # of the bandwidth over M, on both sides: holds one line of those a symbol rate apart
_OWN_BINS = 4
_RIVAL = 0.4  # of the line's power: what is weaker is no rival
_STRONGEST_PAIR = 1.25  # of the line's power: the symbol-rate lines of 8-PSK come near it
_PAIR_RATIO = 1.6


def psk_offset_hz(samples: Samples, sample_rate_hz: float, band: Band, middle_hz: float) -> Quantity:
    """Estimate the carrier of M-ary phase keying from the line that the M-th power has at M times its frequency.

    The band is filtered out by a mask over its Fourier lines, y, and raised with its phase only,
    z = |y| exp(j M arg y): taking |y|^M too would let the strongest moments decide. The tone of z is found as by
    `find_tone` and divided by M, f = f_z / M, sigma = sigma_z / M. f is known up to multiples of fs/M, and z has weaker
    lines a symbol rate on both sides of the true one, so f is searched within a third of the bandwidth over M about
    the middle of the emission. The smallest M of 2, 4 and 8 that shows a line wins.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64.
        sample_rate_hz: The sample rate fs in Hz.
        band: The emission's band relative to the tuned centre, within +-fs/2.
        middle_hz: About where its middle is in Hz, from `centroid_hz`.

    Returns:
        The carrier relative to the tuned centre in Hz; the method, psk-2, psk-4 or psk-8, names M. Amplitude
        modulation without a carrier shows at M = 2 and square QAM at M = 4 too. Absent (NO_LINE) where no line has an
        integrated SNR of 14 dB, which holds for noise and for any signal with the statistics of noise. Frequency
        keying has either no line or equal ones on both sides of the carrier: a line is refused when another one has
        0.4 of its power or more, unless that one is of a pair on both sides of it. Absent (TOO_FEW_SAMPLES) below
        256 samples.

    References:
        Viterbi and Viterbi 1983 (the phase-only power); Rife and Boorstyn 1974.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(1)
        >>> symbols = np.exp(0.5j * np.pi * rng.integers(0, 4, 512))
        >>> x = np.repeat(symbols, 8) * np.exp(2j * np.pi * 0.1001 * np.arange(4096))
        >>> found = psk_offset_hz(x.astype(np.complex64), 1000.0, Band(20.0, 180.0), 98.0)
        >>> round(found.value, 1), found.method
        (100.1, 'psk-4')
    """
    if len(samples) < MIN_SAMPLES:
        return Quantity.absent(Reason.TOO_FEW_SAMPLES, _method(ORDERS[0]))
    emission = emission_in(samples, band.low_hz / sample_rate_hz, band.high_hz / sample_rate_hz)
    for order in ORDERS:
        tone = _line(emission, order, middle_hz / sample_rate_hz)
        if isinstance(tone, Tone):
            return Quantity.valid(
                tone.cycles_per_sample * sample_rate_hz, tone.sigma_cycles_per_sample * sample_rate_hz, _method(order)
            )
    return Quantity.absent(Reason.NO_LINE, "psk")


def _method(order: int) -> str:
    return f"psk-{order}"


def _line(emission: Emission, order: int, middle_cycles: float) -> Tone | Reason:
    """Find the line of one power, as a tone of the run at the carrier."""
    whole, lines = emission.sample_count, len(emission.lines)
    count = max(min(scipy.fft.next_fast_len(order * lines), whole), MIN_SAMPLES)
    narrow = emission.samples(count)
    raised = _raise(narrow, order)
    scale = count / whole / order  # cycles a sample of the run, for one of the power
    middle = (middle_cycles - emission.centre_cycles) / scale
    # The search is about zero: the middle is turned there and back.
    turn = math.floor(middle * count + 0.5) / count
    raised *= np.exp(-2j * np.pi * ((turn * np.arange(count)) % 1.0)).astype(np.complex64)
    half_window = min(_WINDOW * lines / count, 0.5)
    found = find_tone(raised, -half_window, half_window)
    if isinstance(found, Reason):
        return found
    if not _stands_alone(raised, found.cycles_per_sample):
        return Reason.NO_LINE
    cycles = emission.centre_cycles + (found.cycles_per_sample + turn) * scale
    return Tone(cycles, found.sigma_cycles_per_sample * scale, found.n_snr_db)


def _raise(narrow: Samples, order: int) -> Samples:
    """Multiply the phases by a power of two and keep the magnitudes."""
    magnitudes = np.abs(narrow)
    phasors = np.divide(narrow, magnitudes, out=np.zeros_like(narrow), where=magnitudes > 0.0)
    for _ in range(order.bit_length() - 1):
        phasors *= phasors
    raised: Samples = phasors * magnitudes
    return raised


def _stands_alone(raised: Samples, cycles: float) -> bool:
    """Tell a carrier's line from one of the lines that frequency modulation makes."""
    count = len(raised)
    power = _tapered_power(raised)
    place = round(cycles * count)
    power = np.roll(power, -place)  # the line at 0, what is above it upwards, what is below it from the end
    own = float(max(power[: _OWN_BINS + 1].max(), power[-_OWN_BINS:].max()))
    power[: _OWN_BINS + 1] = power[-_OWN_BINS:] = 0.0
    rival = int(np.argmax(power))
    strongest = float(power[rival])
    if strongest < _RIVAL * own:
        return True
    mirrored = float(power[np.arange(-1, 2) - rival].max())
    return strongest < _STRONGEST_PAIR * own and strongest < _PAIR_RATIO * mirrored


def _tapered_power(samples: Samples) -> npt.NDArray[np.float32]:
    count = len(samples)
    taper = np.sin(np.pi / count * np.arange(count, dtype=np.float32)) ** 2
    lines = scipy.fft.fft(samples * taper, overwrite_x=True)
    return np.asarray(lines.real**2 + lines.imag**2, dtype=np.float32)
