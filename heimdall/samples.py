"""Reading a receiver's sample bytes as complex amplitudes, for whatever works on arrays."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.complex64]


class SampleFormat(enum.Enum):
    """How a receiver codes one component; I comes before Q."""

    CI16_LE = "<i2"
    CU8 = "u1"
    CF32_LE = "<f4"


@dataclass(frozen=True)
class SampleCoding:
    """The scale of a receiver's samples: amplitude = (code - zero_offset) / full_scale."""

    sample_format: SampleFormat
    """The integer or float format of one component."""
    full_scale: float
    """The code distance from zero that is amplitude 1; positive."""
    zero_offset: float
    """The code that means zero."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.full_scale) and self.full_scale > 0):
            raise ValueError(f"full_scale must be finite and above 0, got {self.full_scale}")
        if not np.isfinite(self.zero_offset):
            raise ValueError(f"zero_offset must be finite, got {self.zero_offset}")

    @property
    def sample_size_bytes(self) -> int:
        """The size of one I,Q pair in bytes."""
        return 2 * np.dtype(self.sample_format.value).itemsize

    @property
    def quantisation_power(self) -> float:
        """The power of rounding I and Q to whole codes, 2/12 code², relative to full scale; 0 for floats."""
        if self.sample_format is SampleFormat.CF32_LE:
            return 0.0
        return 2.0 / 12.0 / self.full_scale**2

    def decode(self, data: bytes | bytearray | memoryview) -> Samples:
        """Read interleaved I,Q components as complex amplitudes.

        Args:
            data: Whole I,Q pairs in the coding's format.

        Returns:
            Complex amplitudes, shape (pair count,), complex64; magnitude 1 is 0 dBFS.

        Raises:
            ValueError: The length is no whole number of pairs.
        """
        if len(data) % self.sample_size_bytes:
            raise ValueError(
                f"{len(data)} bytes are no whole number of {self.sample_size_bytes}-byte "
                f"{self.sample_format.name} samples"
            )
        components = np.frombuffer(data, dtype=self.sample_format.value).astype(np.float32)
        if self.zero_offset:
            components -= np.float32(self.zero_offset)
        components *= np.float32(1.0 / self.full_scale)
        return components.view(np.complex64)
