from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dsp_svc.estimate.clipping import Clipping, clipped_ratio, clipping, wrapped_ratio
from dsp_svc.estimate.result import Reason, Validity
from heimdall.samples import SampleCoding, SampleFormat

Make = Callable[..., Any]
CI16 = SampleCoding(SampleFormat.CI16_LE, 32768.0, 0.0)
CU8 = SampleCoding(SampleFormat.CU8, 127.5, 127.5)
CF32 = SampleCoding(SampleFormat.CF32_LE, 1.0, 0.0)


def codes_of(*codes: int) -> bytes:
    return np.array(codes, dtype="<i2").tobytes()


@pytest.mark.parametrize(
    ("codes", "clipped"),
    [((32767, 0), 1), ((0, 32767), 1), ((-32768, 0), 1), ((-32767, 0), 1), ((32766, -32766), 0), ((32767, -32768), 1)],
)
def test_a_component_at_the_extreme_code_of_16_bits_clips(codes: tuple[int, int], clipped: int) -> None:
    assert clipping(codes_of(*codes), CI16).clipped_count == clipped


@pytest.mark.parametrize(
    ("codes", "clipped"), [((255, 1), 1), ((128, 0), 1), ((0, 255), 1), ((1, 254), 0), ((127, 128), 0)]
)
def test_a_component_at_the_extreme_code_of_8_bits_clips(codes: tuple[int, int], clipped: int) -> None:
    assert clipping(bytes(codes), CU8).clipped_count == clipped


def test_the_share_is_that_of_the_samples_beyond_full_scale(rng: np.random.Generator) -> None:
    exact = rng.normal(0.0, 0.45, (100_000, 2)) * 127.5 + 127.5
    codes = np.clip(np.round(exact), 0, 255).astype(np.uint8)
    counts = clipping(codes.tobytes(), CU8)
    ratio = clipped_ratio(counts, CU8)
    assert ratio.validity is Validity.VALID
    assert ratio.value == np.mean(np.any((exact < 0.5) | (exact >= 254.5), axis=1))
    assert counts.sample_count == 100_000
    assert counts.step_count == 99_999


def test_a_tone_that_saturates_does_not_wrap(tone: Make) -> None:
    exact = tone(50_000, 0.05, 1.3).view(np.float32) * 32768.0
    saturated = np.clip(np.round(exact), -32768, 32767).astype("<i2")
    counts = clipping(saturated.tobytes(), CI16)
    assert counts.clipped_count > 10_000
    assert counts.wrapped_count == 0


def test_a_tone_that_is_cast_wraps(tone: Make) -> None:
    exact = np.round(tone(50_000, 0.01, 1.3).view(np.float32) * 32768.0).astype(np.int64)
    cast = (exact & 0xFFFF).astype(np.uint16).view("<i2")
    beyond = (exact > 32767) | (exact < -32768)
    crossings = np.any(beyond[2:].reshape(-1, 2) != beyond[:-2].reshape(-1, 2), axis=1)
    ratio = wrapped_ratio(clipping(cast.tobytes(), CI16), CI16)
    assert ratio.value == pytest.approx(np.mean(crossings))
    assert ratio.value is not None
    assert ratio.value > 0.05


@pytest.mark.parametrize(("jump", "wrapped"), [(39_321, 0), (39_322, 1)])
def test_a_step_above_1_2_full_scales_has_wrapped(jump: int, wrapped: int) -> None:
    low, high = -20_000, -20_000 + jump
    assert clipping(codes_of(0, low, 0, high), CI16).wrapped_count == wrapped
    assert clipping(codes_of(high, 0, low, 0), CI16).wrapped_count == wrapped
    # From I to Q of the same sample is no step.
    assert clipping(codes_of(low, high, low, high), CI16).wrapped_count == 0


def test_a_signal_of_a_quarter_neither_clips_nor_wraps(white_noise: Make) -> None:
    codes = np.round(white_noise(50_000, 0.01).view(np.float32) * 32768.0).astype("<i2")
    assert clipping(codes.tobytes(), CI16) == Clipping(50_000, 0, 49_999, 0)


def test_counts_of_a_long_run_are_those_of_its_parts(rng: np.random.Generator) -> None:
    codes = rng.choice(np.array([-32768, 0, 1, 2, 32767], dtype="<i2"), (70_000, 2))
    whole = clipping(codes.tobytes(), CI16)
    parts = clipping(codes[:30_001].tobytes(), CI16) + clipping(codes[30_001:].tobytes(), CI16) + Clipping.none()
    between = np.any(np.abs(codes[30_001].astype(int) - codes[30_000]) > 1.2 * 32768)
    assert whole.clipped_count == np.count_nonzero(np.any(np.abs(codes.astype(int)) >= 32767, axis=1))
    steps = np.abs(np.diff(codes.astype(int), axis=0)) > 1.2 * 32768
    assert whole.wrapped_count == np.count_nonzero(np.any(steps, axis=1))
    assert parts.clipped_count == whole.clipped_count
    assert parts.wrapped_count + int(between) == whole.wrapped_count
    assert parts.step_count + 1 == whole.step_count


def test_floats_have_no_extreme_code() -> None:
    counts = clipping(np.full(100, 5.0, np.float32).tobytes(), CF32)
    for ratio in (clipped_ratio(counts, CF32), wrapped_ratio(counts, CF32)):
        assert (ratio.value, ratio.reason) == (None, Reason.NO_EXTREME_CODE)


def test_nothing_has_no_share() -> None:
    assert clipped_ratio(clipping(b"", CU8), CU8).reason is Reason.NO_SAMPLES
    one = clipping(bytes([0, 0]), CU8)
    assert clipped_ratio(one, CU8).value == 1.0
    assert wrapped_ratio(one, CU8).reason is Reason.NO_SAMPLES


def test_a_broken_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="6 bytes are no whole number of 4-byte CI16_LE samples"):
        clipping(bytes(6), CI16)
