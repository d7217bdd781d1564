"""Secret x and public frequencies in, secret cos and sin of 2 pi x @ frequencies out, with one opening."""

import math
from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.polynomial import Chebyshev, Polynomial

from secp_spu.protocol.correlation import CosineCorrelation
from secp_spu.protocol.ring import FRACTION_BITS, from_ring, open_masked, shift_public, to_ring, truncate

POLYNOMIAL_BITS = 24
"""Fraction bits of the public polynomial: its products stay below 2**52."""

POLYNOMIAL_ERROR = 2e-6
"""Of a public cosine before rounding: 8e-7 by interpolation, five steps cut to 2**-24 each, and the square once."""


def cos_sin(x: Array, frequencies: Array, correlation: CosineCorrelation | None = None) -> tuple[Array, Array]:
    """cos and sin of 2 pi x @ frequencies: in plain JAX without a correlation, by `secure_cos_sin` with one.

    Args:
        x: [..., d], secret under SPU.
        frequencies: public, in turns per unit of x [d, r].
        correlation: see `secure_cos_sin`; None for plain JAX (SPU runs that too, with its own dear cosine).
    Returns: two arrays [..., r].
    """
    if correlation is not None:
        return secure_cos_sin(x, frequencies, correlation)
    angle = 2 * jnp.pi * (x @ frequencies)
    return jnp.cos(angle), jnp.sin(angle)


def secure_cos_sin(x: Array, frequencies: Array, correlation: CosineCorrelation) -> tuple[Array, Array]:
    """cos and sin of 2 pi x @ frequencies of a secret x, with one opening. Only for programs compiled by SPU.

    1. u = x @ frequencies as ring integers: turns with 36 fraction bits       local
    2. open delta = u - t                                                      one send
    3. c, s = cos and sin of 2 pi delta, factors of b bits                     public
    4. cos = c C - s S,  sin = s C + c S; drop 2 b - 18 bits                    local for b = 9

    Both results come from the same opening: r correlations give 2 r features.

    Args:
        x: secret fixed point [..., d].
        frequencies: public, in turns per unit of x [d, r]; rounded to 2**-18 turn.
        correlation: secret t, C = cos t, S = sin t for one harmonic, [..., r] each.
    Returns: two secret fixed-point arrays [..., r].
    Reveals: delta, uniform as long as t is fresh. This call spends `correlation`.
    Cost (a party, 64-bit ring): online 8 bytes a pair and 1 send in all for factors of 9 bits. More factor bits need
        a truncation of both results: under ABY3 35 bytes and 2.7 sends for 18 bits, on average over the parties, under
        SEMI2K 24 and 2. Offline: see correlation.py.
    Error: `cos_error_bound`.
    Raises: ValueError if x, frequencies and correlation disagree in d, r or the leading axes.
    Source: one-round cosine, arXiv 2506.15307; here with a whole-ring mask and without truncation.
    """
    _check_shapes(x, frequencies, correlation)
    turns = to_ring(x) @ to_ring(frequencies)

    delta = open_masked(turns, correlation.mask)

    public_cos, public_sin = _public_factors(delta, correlation.factor_bits)

    mask_cos, mask_sin = correlation.cos[0], correlation.sin[0]
    cos = public_cos * mask_cos - public_sin * mask_sin
    sin = public_sin * mask_cos + public_cos * mask_sin
    surplus_bits = 2 * correlation.factor_bits - FRACTION_BITS
    if surplus_bits:
        cos, sin = truncate(jnp.stack([cos, sin]), surplus_bits)
    return from_ring(cos), from_ring(sin)


def _public_factors(delta: Array, bits: int) -> tuple[Array, Array]:
    """cos and sin of the public turns delta (36 fraction bits), as integers with `bits` fraction bits.

    In integers of the ring, by a polynomial: SPU's own cosine of a public number takes seven times as long.

    1. a = turn - 1/2, cut to 18 fraction bits; for the sine a quarter turn earlier
    2. cos(2 pi turn) = -cos(2 pi a), a polynomial in (2 a)^2, by Horner's rule with 24 fraction bits
    """
    turn = lax.shift_right_logical(delta, jnp.int32(FRACTION_BITS))
    both = jnp.stack([turn, turn - (1 << FRACTION_BITS) // 4]) & ((1 << FRACTION_BITS) - 1)
    centred = both - (1 << FRACTION_BITS) // 2

    square = lax.shift_right_logical(centred * centred, jnp.int32(2 * FRACTION_BITS - 2 - POLYNOMIAL_BITS))
    *lower, value = [jnp.int32(round(c * 2**POLYNOMIAL_BITS)) for c in cosine_polynomial()]
    for coefficient in reversed(lower):
        value = lax.shift_right_arithmetic(value * square, jnp.int32(POLYNOMIAL_BITS)) + coefficient
    cos, sin = shift_public(value, POLYNOMIAL_BITS - bits)
    return cos, sin


@cache
def cosine_polynomial() -> tuple[float, ...]:
    """c_k of -cos(2 pi a) = sum_k c_k (2 a)^(2 k) for |a| <= 1/2, by Chebyshev interpolation; off by 8e-7."""
    series = Chebyshev.interpolate(lambda square: -np.cos(np.pi * np.sqrt(square)), 5, domain=[0, 1])
    return tuple(series.convert(kind=Polynomial).coef)


def _check_shapes(x: Array, frequencies: Array, correlation: CosineCorrelation) -> None:
    if x.shape[-1] != frequencies.shape[0]:
        raise ValueError(f"x has {x.shape[-1]} columns, frequencies {frequencies.shape[0]} rows: they must agree")
    expected = (*x.shape[:-1], frequencies.shape[1])
    if correlation.mask.shape != expected:
        raise ValueError(
            f"correlation has shape {correlation.mask.shape}, x @ frequencies {expected}: "
            f"declare it with declare_correlation({expected})"
        )


def cos_error_bound(x_l1: float, frequency_l1: float, factor_bits: int, *, mask_error: float) -> float:
    """Largest error of `secure_cos_sin` for one angle, derived term by term.

    Args:
        x_l1: largest sum of |x| over a row, in units of x.
        frequency_l1: largest sum of |frequency| over a column, in turns per unit of x.
        factor_bits: fraction bits b of the factors.
        mask_error: largest error of C and of S, see `correlation.joint_error_bound` and `dealt_error_bound`.
    """
    ulp = 2.0**-FRACTION_BITS
    angle = (
        2
        * math.pi
        * (
            x_l1 * ulp  # each frequency encoded to within one unit
            + frequency_l1 * ulp  # each x encoded to within one unit
            + ulp  # delta cut to 18 fraction bits of a turn
        )
    )
    public = 2.0 ** -(factor_bits + 1) + POLYNOMIAL_ERROR  # c and s rounded
    product = math.sqrt(2) * (public + mask_error)  # |c dC| + |C dc| + the same for s, by Cauchy-Schwarz
    surplus = 2 * ulp if 2 * factor_bits > FRACTION_BITS else 0.0  # one truncation
    return angle + product + surplus
