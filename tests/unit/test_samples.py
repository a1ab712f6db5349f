from __future__ import annotations

import struct

import numpy as np
import pytest

from heimdall.samples import SampleCoding, SampleFormat

CI16 = SampleCoding(SampleFormat.CI16_LE, 32768.0, 0.0)
CU8 = SampleCoding(SampleFormat.CU8, 127.5, 127.5)
CF32 = SampleCoding(SampleFormat.CF32_LE, 1.0, 0.0)


def test_ci16_is_signed_little_endian_with_i_first() -> None:
    samples = CI16.decode(bytes.fromhex("0040 00c0 0080 ff7f"))
    assert samples.dtype == np.complex64
    np.testing.assert_array_equal(samples, [0.5 - 0.5j, -1.0 + 1j * 32767 / 32768])


def test_cu8_is_centred_between_two_codes() -> None:
    np.testing.assert_allclose(CU8.decode(bytes([0, 255, 127, 128])), [-1 + 1j, (-0.5 + 0.5j) / 127.5], rtol=1e-6)


def test_cu8_takes_the_zero_of_the_segment() -> None:
    spyserver = SampleCoding(SampleFormat.CU8, 128.0, 128.0)
    np.testing.assert_array_equal(spyserver.decode(bytes([128, 192])), [0.5j])


def test_cf32_is_taken_as_it_is() -> None:
    np.testing.assert_array_equal(CF32.decode(struct.pack("<2f", 0.25, -3.0)), [0.25 - 3j])


def test_cf32_that_is_no_number_is_handed_on_as_it_is() -> None:
    (sample,) = CF32.decode(struct.pack("<2f", float("nan"), float("-inf")))
    assert np.isnan(sample.real)
    assert sample.imag == -np.inf


@pytest.mark.parametrize(("coding", "length"), [(CI16, 6), (CU8, 3), (CF32, 12)])
def test_a_broken_pair_is_refused(coding: SampleCoding, length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} bytes are no whole number"):
        coding.decode(bytes(length))


@pytest.mark.parametrize("full_scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_full_scale_that_can_not_be_is_refused(full_scale: float) -> None:
    with pytest.raises(ValueError, match="full_scale must be finite and above 0"):
        SampleCoding(SampleFormat.CU8, full_scale, 0.0)


def test_rounding_power_is_that_of_uniform_noise() -> None:
    # Two components, a twelfth of a code squared each: -98.1 dBFS for 16 bits, -49.9 dBFS for 8.
    assert 10 * np.log10(CI16.quantisation_power) == pytest.approx(-98.1, abs=0.05)
    assert 10 * np.log10(CU8.quantisation_power) == pytest.approx(-49.9, abs=0.05)
    assert CF32.quantisation_power == 0.0
