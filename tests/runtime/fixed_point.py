"""Arithmetic as SPU's may turn out: float64, with each operation off by a random part of what it may be off.

SPU's own functions are held against these errors, over the ranges in use, in `test_forward.py`.
"""

from __future__ import annotations

import numpy as np
from parties import ULP

from secp_spu.model.precision import FACTOR_BITS
from secp_spu.protocol import cos_error_bound

# Of SPU 0.9.5: in proportion, and in units. Seen: 3.5e-4 of x**-1/2; 6e-5 of 1/x, and 4 units.
RSQRT_ERROR = 5e-4
RECIPROCAL_ERROR = 1e-4
RECIPROCAL_UNITS = 4
# SPU's e**x for x <= 0 is this power, by 8 squares: a unit of 1 + x/256 counts 256 times, of a square 128, 64, ... 1.
EXP_POWER = 256
EXP_UNITS = 511


def spu_exp(x: np.ndarray) -> np.ndarray:
    """(1 + x/256)**256, below e**x by e**x x**2 / 512 or so."""
    return np.maximum(1 + x / EXP_POWER, 0) ** EXP_POWER


class Arithmetic:
    """Operations on float64 arrays; without a generator they are exact."""

    def __init__(self, rng: np.random.Generator | None = None):
        self._rng = rng

    def off(self, x: np.ndarray, by: np.ndarray | float) -> np.ndarray:
        """x, off by up to `by`: drawn uniformly for every element."""
        return x if self._rng is None else x + self._rng.uniform(-1, 1, np.shape(x)) * by

    def given(self, x: np.ndarray, bits: int = 18) -> np.ndarray:
        """What an owner shares, rounded to so many fraction bits."""
        return self.off(np.asarray(x, np.float64), 2.0 ** -(bits + 1))

    def rounded(self, x: np.ndarray, bits: int) -> np.ndarray:
        """x after `Fixed.to`: two truncations at most."""
        return self.off(x, 2 * 2.0**-bits)

    def times(self, a: np.ndarray, b: np.ndarray | float) -> np.ndarray:
        """a * b, truncated; a factor that stands in the program is cut to a unit too."""
        return self.off(a * self.off(b, ULP) if np.isscalar(b) else a * b, ULP)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a @ b, truncated once."""
        return self.off(a @ b, ULP)

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Over the last axis, kept: the sum times a public 1/n."""
        return self.times(x.sum(-1, keepdims=True), 1 / x.shape[-1])

    def rsqrt(self, x: np.ndarray) -> np.ndarray:
        """x ** -1/2"""
        return self.off(self.off(x**-0.5, RSQRT_ERROR * x**-0.5), RECIPROCAL_UNITS * ULP)

    def reciprocal(self, x: np.ndarray) -> np.ndarray:
        """1 / x for x > 0"""
        assert (x > 0).all(), "a denominator may become negative: choose other weights"
        return self.off(self.off(1 / x, RECIPROCAL_ERROR / x), RECIPROCAL_UNITS * ULP)

    def softmax(self, x: np.ndarray) -> np.ndarray:
        """Over the last axis."""
        shifted = x - x.max(-1, keepdims=True)
        powers = np.exp(shifted) if self._rng is None else self.off(spu_exp(shifted), EXP_UNITS * ULP)
        return self.times(powers, self.reciprocal(powers.sum(-1, keepdims=True)))

    def cos_sin(self, x: np.ndarray, frequencies: np.ndarray, mask_error: float) -> np.ndarray:
        """cos and sin of 2 pi x @ frequencies, side by side, off by the protocol's own bound."""
        angle = 2 * np.pi * (x @ frequencies)
        row, column = np.abs(x).sum(-1, keepdims=True), np.abs(frequencies).sum(0)
        error = cos_error_bound(row, column, factor_bits=FACTOR_BITS, mask_error=mask_error)
        return np.concatenate([self.off(np.cos(angle), error), self.off(np.sin(angle), error)], -1)
