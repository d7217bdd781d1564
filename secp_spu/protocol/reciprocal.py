"""The reciprocal of a secret x between FLOOR and 1: a Fourier series of one opening, and one Newton step.

SPU's own reciprocal looks for the highest bit of x first, which takes most of its 51 messages; it is not needed where
the range is known. The series is fitted to 1/x on [FLOOR, TOP], and only kept near 1/FLOOR below: an x that falls under
the floor, or below zero, gives a large number and never a sign or a size out of bounds.

    y = a_0 + sum_k a_k cos(2 pi k x / P) + b_k sin(2 pi k x / P),  k = 1..K
    1/x = y (2 - x y), up to the square of y's relative error
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial

import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.protocol.correlation import CosineCorrelation, declare_correlation, is_declared_by
from secp_spu.protocol.fixed import Fixed, Number, as_fixed, as_plain
from secp_spu.protocol.ring import FRACTION_BITS, from_ring, open_masked, to_ring
from secp_spu.protocol.spending import spend
from secp_spu.protocol.waves import (
    COEFFICIENT_BITS,
    FACTOR_BITS,
    POLYNOMIAL_ERROR,
    PUBLIC_BITS,
    RECURRENCE_BITS,
    RESULT_BITS,
    Waves,
    public_waves,
    series_waves,
    sum_of_products,
)
from secp_spu.trees import Floats

FLOOR, TOP = 1 / 32, 1.02
"""Range of x in which the series is near 1/x."""

LOWEST = -0.2
"""Lowest x at which the series still stays between 0.9 and 2 times 1/FLOOR."""

TERMS = 12
"""K: the series is within 3.1 % of 1/x, and a step of Newton's makes that 1e-3."""

PERIOD = 4 / 3
"""P: a turn of 3 x 2**-2 takes a public whole number, and no product."""

LARGEST_COEFFICIENT = 20.0

INPUT_BITS = 42
"""Fraction bits that x may have at most; with fewer it is raised."""

TURN_BITS = INPUT_BITS + 2

START_BITS = 8
"""Fraction bits of y before Newton's step, which repairs what rounding takes; x has INPUT_BITS - RESULT_BITS more."""

DROP = RESULT_BITS - START_BITS


@cache
def fit_reciprocal() -> tuple[Floats, float]:
    """The series with the smallest largest |x y - 1| on [FLOOR, TOP]; takes 0.3 s.

    Returns: a_0, a_1..a_K, b_1..b_K, multiples of 2**-COEFFICIENT_BITS; that error: 0.03.
    """
    from scipy.optimize import linprog  # takes longer to import than all of this package

    inside = np.concatenate([np.geomspace(FLOOR, TOP, 600), np.linspace(FLOOR, TOP, 300)])
    below = np.linspace(LOWEST, FLOOR, 150)
    waves, edge = _basis(inside) * inside[:, None], _basis(below)
    ones, zeros, unknowns = np.ones((len(inside), 1)), np.zeros((len(below), 1)), waves.shape[1]
    rows = np.block([[waves, -ones], [-waves, -ones], [edge, zeros], [-edge, zeros]])
    most = np.concatenate(
        [np.ones(len(inside)), -np.ones(len(inside)), np.full(len(below), 2 / FLOOR), np.full(len(below), -0.9 / FLOOR)]
    )
    bounds = [(-LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)] * unknowns + [(0.0, None)]
    found = linprog(np.append(np.zeros(unknowns), 1), rows, most, bounds=bounds).x[:-1]
    coefficients = np.rint(found * 2**COEFFICIENT_BITS) * 2.0**-COEFFICIENT_BITS
    grid = np.geomspace(FLOOR, TOP, 20_011)
    return coefficients, float(np.abs(grid * (_basis(grid) @ coefficients) - 1).max())


def _basis(x: Floats) -> Floats:
    """1, the cosines and the sines at every x [x, 1 + 2 TERMS]."""
    angle = 2 * np.pi / PERIOD * np.outer(x, np.arange(1, TERMS + 1))
    return np.concatenate([np.ones((len(x), 1)), np.cos(angle), np.sin(angle)], axis=1)


def declare_reciprocal(shape: Sequence[int]) -> CosineCorrelation:
    """What one call of `series_reciprocal` on numbers of this shape spends."""
    return declare_correlation(shape, harmonics=TERMS, factor_bits=FACTOR_BITS, turn_bits=TURN_BITS)


def series_reciprocal(x: Number, factor: Number | float, correlation: CosineCorrelation | None = None) -> Number:
    """factor / x: in plain JAX, or of a secret x by `secure_reciprocal`; the same function in both.

    Inside a runtime's `jit` it is `secure_reciprocal`, with a correlation that the runtime makes.

    Args:
        x: any shape: `Fixed` or SPU's own secret fixed point with a correlation, plain in plain JAX.
        factor: of a shape that broadcasts to x's, secret or public.
        correlation: see `secure_reciprocal`; None for plain JAX, and inside `jit`.
    """
    if correlation is None:
        correlation = spend(partial(declare_reciprocal, x.shape), x)
    if correlation is not None:
        return secure_reciprocal(as_fixed(x), as_fixed(factor), correlation)
    x = as_plain(x)
    constant, cosines, sines = _coefficients()
    angle = (2 * np.pi / PERIOD) * x[..., None] * jnp.arange(1, TERMS + 1)
    start = constant + jnp.cos(angle) @ cosines + jnp.sin(angle) @ sines
    return factor * start * (2 - x * start)


def _coefficients() -> tuple[float, Floats, Floats]:
    coefficients, _ = fit_reciprocal()
    return float(coefficients[0]), coefficients[1 : 1 + TERMS], coefficients[1 + TERMS :]


def secure_reciprocal(x: Fixed, factor: Fixed, correlation: CosineCorrelation) -> Fixed:
    """factor / x of a secret x from FLOOR to TOP. Only for programs compiled by SPU.

    1. open delta = 3 x 2**40 - t, a turn being 2**44                               one send
    2. y = a_0 + sum_k (a_k c_k + b_k s_k) C_k + (b_k c_k - a_k s_k) S_k, c_k and s_k = cos and sin of k delta   local
    3. round y and x                                                                one truncation
    4. x y and factor y                                                             one send
    5. (factor y) (2 - x y)                                                         one send

    Args:
        x: secret, any shape, of up to INPUT_BITS fraction bits, below 2 in size.
        factor: secret, of a shape that broadcasts to x's, with few fraction bits: the result has 31 more.
        correlation: secret t, C_k = cos k t, S_k = sin k t, by `declare_reciprocal`.
    Returns: secret, the same shape, of factor.bits + 31 fraction bits.
    Reveals: delta, uniform as long as t is fresh. This call spends `correlation`.
    Cost (a party, 64-bit ring): 8 bytes an element and 1 send for the opening, 3 products of an element in 2 sends, and
        2 truncations of an element in one.
    Error: `reciprocal_error_bound`. Below FLOOR: 0.9 to 2 times 1/FLOOR before the step, which at most triples it from
        x = -1/64 on; the plain function does the same.
    Raises: ValueError if x has more bits, or the correlation was declared for another shape or function.
    """
    _check(x, correlation)
    x = x.to(INPUT_BITS)

    delta = open_masked(x.ring * jnp.int32(3), correlation.mask)

    start = _secret_series(delta, correlation)
    start_ring, x_ring = Fixed(jnp.stack([start.ring, x.ring]), DROP).to(0, small=True).ring

    near_one, scaled = jnp.stack([x_ring, jnp.broadcast_to(factor.ring, x.shape)]) * start_ring
    correction = Fixed(jnp.int32(2), 0) - Fixed(near_one, INPUT_BITS - DROP + START_BITS)
    return Fixed(scaled, factor.bits + START_BITS) * correction


def waves_of() -> Waves:
    """What is public of the series."""
    _, cosines, sines = _coefficients()
    return series_waves(TURN_BITS, cosines.tolist(), sines.tolist(), odd=False)


def _secret_series(delta: Array, correlation: CosineCorrelation) -> Fixed:
    constant, _, _ = _coefficients()
    total = sum_of_products(public_waves(delta, waves_of()), correlation.cos, correlation.sin)
    return Fixed(to_ring(from_ring(total) + constant * 2.0 ** (RESULT_BITS - FRACTION_BITS)), RESULT_BITS)


def _check(x: Fixed, correlation: CosineCorrelation) -> None:
    if x.bits > INPUT_BITS:
        raise ValueError(f"x has {x.bits} fraction bits, at most {INPUT_BITS} are allowed: give it others with x.to")
    if not is_declared_by(lambda: declare_reciprocal(x.shape), correlation):
        raise ValueError(
            f"correlation is for shape {correlation.mask.shape}, multiples {correlation.multiples} and "
            f"{correlation.turn_bits} turn bits: declare it with declare_reciprocal({x.shape})"
        )


def reciprocal_error_bound(*, x_error: float, mask_error: float) -> float:
    """Largest relative error of `series_reciprocal` against 1/x for FLOOR <= x <= TOP, derived term by term.

    Args:
        x_error: of x against the number that 1/x is wanted of.
        mask_error: largest error of C_k and of S_k, see `correlation.joint_error_bound` and `dealt_error_bound`.
    """
    coefficients, fitted = fit_reciprocal()
    weight = np.hypot(coefficients[1 : 1 + TERMS], coefficients[1 + TERMS :])
    multiple = np.arange(1, TERMS + 1)
    # cos b is off by the polynomial's error and rounding, which multiples see squared; each step rounds once more
    start = POLYNOMIAL_ERROR + 2.0 ** -(RECURRENCE_BITS + 1)
    waves = multiple**2 * start + multiple * (multiple + 1) / 2 * 2.0**-RECURRENCE_BITS
    public = math.sqrt(2) * weight * waves + 2.0 ** -(PUBLIC_BITS + 1)
    products = math.sqrt(2) * (public + weight * mask_error) + 2 * public * mask_error
    angle = weight * 2 * np.pi * multiple * 2.0**-FRACTION_BITS  # delta cut to 18 bits of a turn
    off = float((products + angle).sum()) + 2.0**-START_BITS  # y, in front of Newton's step
    rounding = 2.0 ** -(INPUT_BITS - DROP)  # of x, for that step
    worst = max(fitted + off * x for x in (FLOOR, TOP))
    return worst**2 + (x_error + rounding) / FLOOR * (1 + worst) ** 2
