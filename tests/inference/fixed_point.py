"""Arithmetic as SPU's may turn out: float64, with each operation off by a random part of what it may be off.

SPU's own functions are held against these errors, over the ranges in use, in `test_secure_model.py`.
"""

from __future__ import annotations

import numpy as np
from parties import ULP

from secp_spu.model.precision import FACTOR_BITS
from secp_spu.protocol import cos_error_bound
from secp_spu.protocol.reciprocal import DROP, FLOOR, INPUT_BITS, PERIOD, START_BITS, TERMS, fit_reciprocal

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

    def series_reciprocal(self, x: np.ndarray) -> np.ndarray:
        """`protocol.series_reciprocal` of x, whose fit of 1/x and rounded start Newton's step squares."""
        assert (x > FLOOR).all(), "a mean kernel is below the floor: choose other weights"
        constant, *waves = fit_reciprocal()[0]
        angle = 2 * np.pi / PERIOD * x[..., None] * np.arange(1, TERMS + 1)
        start = constant + np.cos(angle) @ waves[:TERMS] + np.sin(angle) @ waves[TERMS:]
        start = self.off(start, 2.0**-START_BITS + 0.01)
        return start * (2 - self.off(x, 2.0 ** -(INPUT_BITS - DROP)) * start)

    def softmax(self, x: np.ndarray) -> np.ndarray:
        """Over the last axis."""
        shifted = x - x.max(-1, keepdims=True)
        powers = np.exp(shifted) if self._rng is None else self.off(spu_exp(shifted), EXP_UNITS * ULP)
        return self.times(powers, self.reciprocal(powers.sum(-1, keepdims=True)))

    def cos_sin(self, x: np.ndarray, frequencies: np.ndarray, mask_error: float) -> np.ndarray:
        """cos and sin of 2 pi x @ frequencies, side by side, off by the protocol's own bound."""
        row, column = np.abs(x).sum(-1, keepdims=True), np.abs(frequencies).sum(0)
        error = cos_error_bound(row, column, factor_bits=FACTOR_BITS, mask_error=mask_error)
        return self._cos_sin(x @ frequencies, error)

    def cos_sin_of_turns(self, turns: np.ndarray, mask_error: float) -> np.ndarray:
        """cos and sin of 2 pi turns, side by side, likewise."""
        return self._cos_sin(turns, cos_error_bound(0, 0, factor_bits=FACTOR_BITS, mask_error=mask_error))

    def _cos_sin(self, turns: np.ndarray, error: np.ndarray | float) -> np.ndarray:
        angle = 2 * np.pi * turns
        return np.concatenate([self.off(np.cos(angle), error), self.off(np.sin(angle), error)], -1)
