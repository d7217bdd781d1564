"""GELU of a secret x as a Fourier series, with one opening and no truncation.

GELU(x) - x/2 is even: |x|/2 with its corner at zero rounded off. So it is the beginning of a triangle wave whose
corners are all rounded off alike, and such a wave, its own mirror image half a period later, has odd harmonics alone:

    GELU(x) = x/2 + a_0 + sum_k a_k cos(2 pi (2 k - 1) x / P),  k = 1..K,  for |x| <= R

with a period P some way above 2 R, so that the next corner is out of reach. A series of all harmonics needs about twice
as many of them for the same error. Beyond R the wave bends: the series is off by up to 0.17 before P/2, and from there
on by about |x| - P/2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtr

from secp_spu.protocol.correlation import CosineCorrelation, declare_correlation, is_declared_by
from secp_spu.protocol.cosine import plain_cos_sin
from secp_spu.protocol.fixed import Fixed, Number, NumberT, as_fixed, as_plain
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

FREQUENCY_BITS = 12
"""Fraction bits of 1/P: it takes a public whole number to turn x into turns, and no product."""


INPUT_BITS = 32
"""Fraction bits that x may have at most; with fewer it is raised, so that one declaration serves all."""


LEAST_INPUT_BITS = 12
"""With fewer, what raises x and turns it into turns is no 32-bit number."""


TURN_BITS = FREQUENCY_BITS + INPUT_BITS


FIT_NODES = 400


CHECK_NODES = 5_000


LIMITS = (2.0, 32.0)
"""Smallest and largest range that a series may have."""


TERMS = (2, 12)
"""Fewest and most harmonics."""


@dataclass(frozen=True)
class GeluSeries:
    """x/2 + a_0 + sum_k a_k cos(2 pi (2 k - 1) x / P); hashable, and the same for all parties.

    Attributes:
        limit: R, the largest |x| that it is for.
        frequency: 2**FREQUENCY_BITS / P.
        coefficients: a_0, a_1, ..., a_K, multiples of 2**-COEFFICIENT_BITS.
        error: largest difference to GELU on |x| <= R.
    """

    limit: float
    frequency: int
    coefficients: tuple[float, ...]
    error: float

    @property
    def terms(self) -> int:
        """K, the harmonics."""
        return len(self.coefficients) - 1

    @property
    def period(self) -> float:
        """P, in units of x."""
        return 2.0**FREQUENCY_BITS / self.frequency

    @property
    def multiples(self) -> tuple[int, ...]:
        """Multiples of the angle 2 pi x / P, one for each harmonic: 1, 3, 5, ..."""
        return odd_multiples(self.terms)


def odd_multiples(terms: int) -> tuple[int, ...]:
    """1, 3, 5, ..., so many."""
    return tuple(range(1, 2 * terms, 2))


@cache
def fit_gelu(limit: float, terms: int) -> GeluSeries:
    """The series for a range; takes 0.05 s.

    1. The period: the one, of all from 2 R to 5 R, whose least squares on Chebyshev nodes have the smallest error.
    2. The coefficients: those of the smallest largest error, by linear programming, rounded.

    Args:
        limit: R, see LIMITS.
        terms: K, see TERMS.
    Returns: the series; its largest error, on a grid that is finer than the fit's, with 4, 5, 6 and 8 terms:
        R = 4: 1.7e-4, 2.9e-5, 2.1e-6;  R = 6: 2.5e-3, 3.3e-4, 7.0e-5, 1.9e-6;  R = 8: 6.6e-3, 2.2e-3, 3.7e-4, 1.6e-5;
        R = 10: 1.5e-2, 5.3e-3, 1.8e-3, 1.3e-4;  R = 16: 6.2e-2, 3.0e-2, 1.4e-2, 3.2e-3.
    Raises: ValueError for a number out of range.
    """
    for name, value, (least, most) in (("limit", limit, LIMITS), ("terms", terms, TERMS)):
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}, allowed are {least} to {most}")
    nodes = limit / 2 * (1 - np.cos(np.pi * (np.arange(FIT_NODES) + 0.5) / FIT_NODES))
    even = _even_part(nodes)

    def worst(frequency: int) -> float:
        basis = _basis(nodes, frequency, terms)
        return float(np.abs(basis @ np.linalg.lstsq(basis, even, rcond=None)[0] - even).max())

    unit = 2.0**FREQUENCY_BITS / limit
    frequency = min(range(int(unit / 5), int(unit / 2) + 1), key=worst)

    coefficients = _least_worst(_basis(nodes, frequency, terms), even)
    coefficients = np.rint(coefficients * 2.0**COEFFICIENT_BITS) * 2.0**-COEFFICIENT_BITS

    grid = np.linspace(0, limit, CHECK_NODES)
    error = np.abs(_basis(grid, frequency, terms) @ coefficients - _even_part(grid)).max()
    return GeluSeries(limit, frequency, tuple(coefficients.tolist()), float(error))


def _even_part(x: Floats) -> Floats:
    """GELU(x) - x/2."""
    even: Floats = x * (ndtr(x) - 0.5)
    return even


def _basis(x: Floats, frequency: int, terms: int) -> Floats:
    """1 and the odd harmonics at every x [x, 1 + terms]."""
    turns = np.outer(x, np.array(odd_multiples(terms)) * (frequency * 2.0**-FREQUENCY_BITS))
    return np.concatenate([np.ones((len(x), 1)), np.cos(2 * np.pi * turns)], axis=1)


def _least_worst(basis: Floats, wanted: Floats) -> Floats:
    """Coefficients with the smallest e such that |basis @ coefficients - wanted| <= e everywhere."""
    from scipy.optimize import linprog  # takes longer to import than all of this package

    ones, unknowns = np.ones((len(basis), 1)), basis.shape[1]
    rows = np.block([[basis, -ones], [-basis, -ones]])
    price = np.append(np.zeros(unknowns), 1)
    bounds = [(None, None)] * unknowns + [(0, None)]
    found: Floats = linprog(price, rows, np.concatenate([wanted, -wanted]), bounds=bounds).x
    return found[:-1]


def declare_series(shape: Sequence[int], series: GeluSeries) -> CosineCorrelation:
    """What one call of `series_gelu` on numbers of this shape spends."""
    return declare_correlation(shape, harmonics=series.multiples, factor_bits=FACTOR_BITS, turn_bits=TURN_BITS)


def series_gelu(x: Number, series: GeluSeries, correlation: CosineCorrelation | None = None) -> Number:
    """GELU by a series: in plain JAX, or of a secret x by `secure_series_gelu`.

    Inside a runtime's `jit` it is `secure_series_gelu`, with a correlation that the runtime makes.

    Args:
        x: any shape: `Fixed` or SPU's own secret fixed point with a correlation, plain in plain JAX.
        series: public.
        correlation: see `secure_series_gelu`; None for plain JAX, and inside `jit`.
    Returns: the same shape, plain or `Fixed`.
    """
    if correlation is None:
        correlation = spend(partial(declare_series, x.shape, series), x)
    if correlation is not None:
        return secure_series_gelu(as_fixed(x), series, correlation)
    x = as_plain(x)
    constant, *coefficients = series.coefficients
    before = now = plain_cos_sin(x / series.period)[0]
    step = 4 * now * now - 2  # twice the cosine of twice the angle: the recurrence of public_waves
    total = x / 2 + constant
    for coefficient in coefficients:
        total = total + coefficient * now
        before, now = now, step * now - before
    return total


def series_gelu_and_slope(
    x: NumberT, series: GeluSeries, correlation: CosineCorrelation | None = None
) -> tuple[NumberT, NumberT]:
    """`series_gelu` and its derivative, which under MPC is another series of the same opening.

    Args:
        x: any shape: `Fixed`, or plain in plain JAX.
        series: public.
        correlation: see `secure_series_gelu`; None for plain JAX.
    Returns: both of the same shape; `Fixed` of RESULT_BITS fraction bits. Costs what `series_gelu` does.
    Error of the derivative, against the series' own: `slope_error_bound`.
    """
    if not isinstance(x, Fixed):
        return jax.jvp(lambda x: as_plain(series_gelu(x, series)), (x,), (jnp.ones_like(x),))
    if correlation is None:
        raise ValueError("correlation is None, but a secret series spends one: declare it with declare_series")
    delta = _opened(x, series, correlation)
    waves = sum_of_products(public_waves(delta, _slope_waves(series)), correlation.cos, correlation.sin)
    half = to_ring(from_ring(waves) + 0.5 * 2.0 ** (RESULT_BITS - FRACTION_BITS))
    return _value(x, delta, series, correlation), Fixed(half, RESULT_BITS)


def secure_series_gelu(x: Fixed, series: GeluSeries, correlation: CosineCorrelation) -> Fixed:
    """GELU of a secret x with |x| <= series.limit. Only for programs compiled by SPU.

    1. u = x / P in turns, a turn being 2**TURN_BITS: x times a whole number       local
    2. open delta = u - t                                                           one send
    3. c_k, s_k = a_k cos and a_k sin of (2 k - 1) 2 pi delta                       public
    4. x/2 + a_0 + sum_k (c_k C_k - s_k S_k), with all bits of the products         local

    Args:
        x: secret, any shape, of LEAST_INPUT_BITS to INPUT_BITS fraction bits.
        series: public.
        correlation: secret t, C_k = cos (2 k - 1) t, S_k = sin (2 k - 1) t, by `declare_series`.
    Returns: secret, the same shape, of RESULT_BITS fraction bits: 35.
    Reveals: delta, uniform as long as t is fresh. This call spends `correlation`.
    Cost (a party, 64-bit ring): online 8 bytes an element and 1 send in all. Offline: see correlation_maker.py.
    Error: `series_error_bound`. Beyond the limit see above: the series is periodic.
    Raises: ValueError if x has other bits, or the correlation was declared for another shape or number of terms.
    Source: Fourier GELU of one opening, arXiv 2506.15307; here of odd harmonics, a whole-ring mask, no truncation.
    """
    return _value(x, _opened(x, series, correlation), series, correlation)


def _opened(x: Fixed, series: GeluSeries, correlation: CosineCorrelation) -> Array:
    """The masked angle."""
    _check(x, series, correlation)
    turns = x.ring * jnp.int32(series.frequency << (INPUT_BITS - x.bits))
    return open_masked(turns, correlation.mask)


def _value(x: Fixed, delta: Array, series: GeluSeries, correlation: CosineCorrelation) -> Fixed:
    """x/2 + a_0 + the waves."""
    waves = sum_of_products(public_waves(delta, waves_of(series)), correlation.cos, correlation.sin)
    total = Fixed(x.ring, x.bits + 1) + Fixed(waves, RESULT_BITS)
    # a_0 as one of SPU's own numbers: the integer has more than the 32 bits that JAX knows of.
    constant = series.coefficients[0] * 2.0 ** (RESULT_BITS - FRACTION_BITS)
    return Fixed(to_ring(from_ring(total.ring) + constant), RESULT_BITS)


def waves_of(series: GeluSeries) -> Waves:
    """What is public of it."""
    coefficients = series.coefficients[1:]
    return series_waves(TURN_BITS, coefficients, [0.0] * len(coefficients), odd=True)


def slopes(series: GeluSeries) -> Floats:
    """b_k of the derivative 1/2 + sum_k b_k sin(2 pi (2 k - 1) x / P) [terms]."""
    weights: Floats = -np.array(series.coefficients[1:]) * 2 * np.pi / series.period * np.array(series.multiples)
    return weights


def _slope_waves(series: GeluSeries) -> Waves:
    return series_waves(TURN_BITS, [0.0] * series.terms, slopes(series).tolist(), odd=True)


def _check(x: Fixed, series: GeluSeries, correlation: CosineCorrelation) -> None:
    if not LEAST_INPUT_BITS <= x.bits <= INPUT_BITS:
        raise ValueError(
            f"x has {x.bits} fraction bits, allowed are {LEAST_INPUT_BITS} to {INPUT_BITS}: give it others with x.to"
        )
    if not is_declared_by(lambda: declare_series(x.shape, series), correlation):
        raise ValueError(
            f"correlation is for shape {correlation.mask.shape}, multiples {correlation.multiples}, "
            f"{correlation.factor_bits} factor bits and {correlation.turn_bits} turn bits, but {x.shape}, "
            f"{series.multiples}, {FACTOR_BITS} and {TURN_BITS} are needed: declare it with declare_series"
        )


def public_error_bound(series: GeluSeries, weights: Floats) -> Floats:
    """Largest error of the public factors [terms], against the weights' cosines and sines of the angle that is cut.

    An error at the start, of cos and sin of the angle itself, grows n-fold by the recurrence, and what is added in each
    step (n**2 - 1) / 8-fold: 2 cos 2b is off by 8 times the start, and the square and the product lose a unit each.
    """
    multiple = np.array(series.multiples, np.float64)
    start = POLYNOMIAL_ERROR + 2.0 ** -(RECURRENCE_BITS + 1)
    recurrence = multiple * start + (multiple**2 - 1) / 8 * (8 * start + 2 * 2.0**-RECURRENCE_BITS)
    return np.abs(weights) * recurrence + 2.0 ** -(PUBLIC_BITS + 1)


def series_error_bound(series: GeluSeries, *, mask_error: float) -> float:
    """Largest error of `secure_series_gelu` against GELU for |x| <= series.limit, derived term by term.

    Args:
        series: in use.
        mask_error: largest error of C_k and of S_k, see `correlation.joint_error_bound` and `dealt_error_bound`.
    """
    return series.error + _waves_error_bound(series, np.array(series.coefficients[1:]), mask_error)


def slope_error_bound(series: GeluSeries, *, mask_error: float) -> float:
    """Largest error of the derivative that `series_gelu_and_slope` gives, against the series' own, likewise."""
    unit = 2.0 ** -(COEFFICIENT_BITS + 1)  # of b_k, which are rounded
    return series.terms * math.sqrt(2) * unit + _waves_error_bound(series, slopes(series), mask_error)


def _waves_error_bound(series: GeluSeries, weights: Floats, mask_error: float) -> float:
    """Largest error of a sum of waves with these weights."""
    weight, public = np.abs(weights), public_error_bound(series, weights)
    angle = weight * 2 * np.pi * np.array(series.multiples) * 2.0**-FRACTION_BITS  # delta cut to 18 bits of a turn
    # |c dC| + |C dc| and the same for s, by Cauchy-Schwarz; |dc dC| and the same for s
    product = np.sqrt(2) * (public + weight * mask_error) + 2 * public * mask_error
    return float((angle + product).sum())
