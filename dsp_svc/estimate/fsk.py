"""The centre and the deviation of two-tone frequency keying."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from dsp_svc.estimate.emission import emission_in
from dsp_svc.estimate.result import Quantity, Reason
from dsp_svc.estimate.snr import Band
from heimdall.samples import Samples

MIN_SAMPLES = 256
"""Shorter runs hold too few symbols to show that there are two tones."""
_OVERSAMPLING = 4  # samples of the narrow signal for one of its bandwidth
_KEPT_DEVIATIONS = 4.0  # on both sides of the centre: what is farther off is noise to the frequency
_SMOOTHING_CYCLES = 1.0 / 7.0  # of the deviation, for which the phase advances: a third of a symbol at one turn each
_POWER_SAMPLES = 9  # that a power is averaged over, to find where a burst is on
_ON = 0.25  # of the power near the strongest
_MAX_ENVELOPE_SCATTER = 0.5  # of the power in a burst: frequency keying has none, Gaussian noise 1
_MAX_TONE_SCATTER = 0.235  # of the tones' distance: a Gaussian distribution has 0.44, an even one 0.37
_MIN_SHARE = 0.35  # of the time on each tone
_BLOCKS = 16
_MIN_BLOCKS = 8
_METHOD = "fsk-midpoint"
_DEVIATION_METHOD = "fsk-half-distance"
_MAD_SIGMA = 1.4826  # the standard deviation of a Gaussian over its median absolute deviation

Frequencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TwoTones:
    """What frequency keying moves between."""

    centre_hz: Quantity
    """The midpoint of the two tones relative to the tuned centre, in Hz."""
    deviation_hz: Quantity
    """Half their distance in Hz."""


def two_tones(samples: Samples, sample_rate_hz: float, band: Band) -> TwoTones:
    """Find the two frequencies that an emission dwells on.

    The band is filtered out by a mask over its Fourier lines, y. Where its power is above a quarter of the strongest,
    the instantaneous frequency is arg(y[n+m] y*[n]) fs / (2 pi m). Half of the time belongs to each tone, so that the
    tones h and l are the medians of the two halves, which are the quartiles of the frequency. The centre is (h + l)/2
    and the deviation d = (h - l)/2. A first look at the whole band, with m = 1, gives the band for the second one, the
    centre and four deviations on both sides, and its m of 1/(7 d) in time. Sigma is the scatter of centre and
    deviation over 16 parts of the signal that are estimated by themselves, over the root of their number.

    Args:
        samples: Complex amplitudes without a loss between them, shape (n,), complex64.
        sample_rate_hz: The sample rate fs in Hz.
        band: The emission's band relative to the tuned centre, within +-fs/2.

    Returns:
        Centre and deviation in Hz; the deviation is read up to a tenth low, and a seventh at a modulation index of 0.5
        and 10 dB of SNR, as the transitions between the tones count too. Absent (NOT_TWO_TONES) unless the power
        scatters by less than half of itself, each tone has 35 % of the time, and the frequency scatters by less than
        0.235 of the tones' distance about them (from median deviations). Noise, phase keying, a sweep, speech and
        keying of four tones fail this; frequency modulation by one sine passes, and its midpoint is right too. It
        holds above about 13 dB of SNR in the band. Absent (TOO_FEW_SAMPLES) below 256 samples, and where fewer than
        half of the parts show both tones.

    References:
        Boashash 1992 (instantaneous frequency).

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(1)
        >>> keyed = np.repeat(rng.choice([-1.0, 1.0], 200), 20)
        >>> x = np.exp(2j * np.pi * np.cumsum(0.1 + 0.02 * keyed)).astype(np.complex64)
        >>> found = two_tones(x, 1000.0, Band(40.0, 160.0))
        >>> round(found.centre_hz.value), round(found.deviation_hz.value)
        (100, 20)
    """
    if len(samples) < MIN_SAMPLES:
        return _absent(Reason.TOO_FEW_SAMPLES)
    coarse = _frequencies_while_on(samples, sample_rate_hz, band, 0.0)
    if len(coarse) < MIN_SAMPLES:
        return _absent(Reason.NOT_TWO_TONES)
    low_hz, high_hz = _quartiles(coarse)
    middle_hz, reach_hz = (low_hz + high_hz) / 2.0, _KEPT_DEVIATIONS * (high_hz - low_hz) / 2.0
    narrower = Band(max(band.low_hz, middle_hz - reach_hz), min(band.high_hz, middle_hz + reach_hz))
    smoothing_s = _SMOOTHING_CYCLES * _KEPT_DEVIATIONS / reach_hz if reach_hz > 0.0 else 0.0
    frequencies_hz = _frequencies_while_on(samples, sample_rate_hz, narrower, smoothing_s)
    if len(frequencies_hz) < MIN_SAMPLES or not _dwells(frequencies_hz):
        return _absent(Reason.NOT_TWO_TONES)
    low_hz, high_hz = _quartiles(frequencies_hz)
    parts = [_quartiles(part) for part in np.array_split(frequencies_hz, _BLOCKS)]
    pairs = np.array([part for part in parts if part[1] - part[0] > (high_hz - low_hz) / 2.0])
    if len(pairs) < _MIN_BLOCKS:
        return _absent(Reason.TOO_FEW_SAMPLES)
    of_centre = float(np.std(pairs.sum(axis=1) / 2.0, ddof=1)) / math.sqrt(len(pairs))
    of_deviation = float(np.std((pairs[:, 1] - pairs[:, 0]) / 2.0, ddof=1)) / math.sqrt(len(pairs))
    return TwoTones(
        Quantity.valid((low_hz + high_hz) / 2.0, of_centre, _METHOD),
        Quantity.valid((high_hz - low_hz) / 2.0, of_deviation, _DEVIATION_METHOD),
    )


def _absent(reason: Reason) -> TwoTones:
    return TwoTones(Quantity.absent(reason, _METHOD), Quantity.absent(reason, _DEVIATION_METHOD))


def _frequencies_while_on(samples: Samples, sample_rate_hz: float, band: Band, smoothing_s: float) -> Frequencies:
    """Give the frequency in Hz, relative to the tuned centre, where the emission is on; none if its envelope varies."""
    emission = emission_in(samples, band.low_hz / sample_rate_hz, band.high_hz / sample_rate_hz)
    count = max(min(scipy.fft.next_fast_len(_OVERSAMPLING * len(emission.lines)), len(samples)), len(emission.lines))
    narrow = emission.samples(count)
    rate_hz = sample_rate_hz * count / len(samples)
    power = np.asarray(narrow.real**2 + narrow.imag**2, dtype=np.float64)
    smooth = np.convolve(power, np.full(_POWER_SAMPLES, 1.0 / _POWER_SAMPLES), "same")
    on = smooth > _ON * float(np.quantile(smooth, 0.99))
    within = power[on]
    middle = float(np.median(within)) if within.size else 0.0
    if middle == 0.0 or _scatter(within, middle) > _MAX_ENVELOPE_SCATTER * middle:
        return np.zeros(0)
    step = max(1, round(smoothing_s * rate_hz))
    turns = np.cumsum(np.angle(narrow[1:] * np.conj(narrow[:-1]))) / (2.0 * np.pi)
    advance = np.diff(turns, prepend=0.0) if step == 1 else (turns[step:] - turns[:-step]) / step
    first = len(turns) - len(advance)  # both ends of an advance must be on
    kept = on[first + 1 :] & on[: len(advance)]
    return np.asarray(advance[kept] * rate_hz + emission.centre_cycles * sample_rate_hz, dtype=np.float64)


def _quartiles(frequencies: Frequencies) -> tuple[float, float]:
    low, high = np.quantile(frequencies, (0.25, 0.75))
    return float(low), float(high)


def _dwells(frequencies: Frequencies) -> bool:
    low, high = _quartiles(frequencies)
    above = frequencies > (low + high) / 2.0
    if not _MIN_SHARE < float(np.mean(above)) < 1.0 - _MIN_SHARE:
        return False
    scatter = (_scatter(frequencies[~above], low) + _scatter(frequencies[above], high)) / 2.0
    return scatter < _MAX_TONE_SCATTER * (high - low)


def _scatter(values: Frequencies, middle: float) -> float:
    """Estimate the standard deviation about a value from the median deviation."""
    return _MAD_SIGMA * float(np.median(np.abs(values - middle)))
