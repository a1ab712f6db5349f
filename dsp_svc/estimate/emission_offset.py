"""The frequency offset of whatever emission is the strongest, by the method that suits it."""

from __future__ import annotations

import numpy as np

from dsp_svc.estimate.centroid import centroid_hz
from dsp_svc.estimate.fsk import two_tones
from dsp_svc.estimate.noise import NoiseFloor
from dsp_svc.estimate.offset import Tone, frequency_offset_hz
from dsp_svc.estimate.psd import Spectrum
from dsp_svc.estimate.psk import psk_offset_hz
from dsp_svc.estimate.result import Quantity, Reason, Validity
from dsp_svc.estimate.snr import Band
from heimdall.samples import Samples

MAX_SAMPLES = 1 << 16
"""Of a longer run only the loudest stretch of this length is looked at, which bounds the cost."""
_STEP_SAMPLES = 1 << 14
_METHOD = "emission"


def best_offset(
    samples: Samples,
    sample_rate_hz: float,
    spectrum: Spectrum | None,
    noise: NoiseFloor | None,
    band: Band | None,
    tone: Tone | Reason,
) -> Quantity:
    """Choose the frequency offset of an emission: its carrier, the middle of its tones, or its centroid.

    The first of these that shows wins, and the method says which: a line (`find_tone`), a line of the M-th power
    (`psk_offset_hz`), the midpoint of two tones (`two_tones`), the noise-subtracted centroid (`centroid_hz`). Where
    there is a line nothing else is computed. Otherwise at most 65,536 samples are filtered and searched: of a longer
    run the stretch with the most power, so that a burst is not missed.

    Args:
        samples: The run that the tone was looked for in, shape (n,), complex64.
        sample_rate_hz: The sample rate in Hz.
        spectrum: The spectrum of the stretch, or None if it has none.
        noise: The noise floor of that spectrum, or None if it has none.
        band: The strongest emission inside the passband, from `strongest_band`.
        tone: What `find_tone` returned, searching the passband.

    Returns:
        The offset relative to the tuned centre in Hz. A centroid is the middle of the power, not a carrier: fading
        or one-sided keying moves it, and its sigma does not know that. Absent with NO_SIGNAL where nothing stands
        out of the noise, with NO_NOISE_FLOOR where that can not be told, and for an empty or silent run with the
        reason that `find_tone` gave.

    Examples:
        >>> best_offset(np.zeros(0, np.complex64), 12000.0, None, None, None, Tone(0.125, 1e-6, 30.0)).value
        1500.0
    """
    if isinstance(tone, Tone) or tone in (Reason.NO_SAMPLES, Reason.ALL_ZERO):
        return frequency_offset_hz(tone, sample_rate_hz)
    if spectrum is None or noise is None or noise.estimate.validity is not Validity.VALID:
        return Quantity.absent(Reason.NO_NOISE_FLOOR, _METHOD)
    if band is None:
        return Quantity.absent(Reason.NO_SIGNAL, _METHOD)
    centroid = centroid_hz(spectrum, noise, band)
    if centroid.value is None:
        return Quantity.absent(Reason.NO_SIGNAL, _METHOD)
    loudest = _loudest(samples)
    inside = _within(band, sample_rate_hz)
    keyed = psk_offset_hz(loudest, sample_rate_hz, inside, centroid.value)
    if keyed.value is not None:
        return keyed
    middle = two_tones(loudest, sample_rate_hz, inside).centre_hz
    return centroid if middle.value is None else middle


def _loudest(samples: Samples) -> Samples:
    """Choose the stretch of at most 65,536 samples with the most energy, in steps of 16,384."""
    if len(samples) <= MAX_SAMPLES:
        return samples
    steps, width = len(samples) // _STEP_SAMPLES, MAX_SAMPLES // _STEP_SAMPLES
    parts = samples[: steps * _STEP_SAMPLES].view(np.float32).reshape(steps, -1)
    energies = np.einsum("ij,ij->i", parts, parts, dtype=np.float64)
    first = int(np.argmax(np.convolve(energies, np.ones(width), "valid"))) * _STEP_SAMPLES
    return samples[first : first + MAX_SAMPLES]


def _within(band: Band, sample_rate_hz: float) -> Band:
    half_hz = sample_rate_hz / 2.0
    return Band(max(band.low_hz, -half_hz), min(band.high_hz, half_hz))
