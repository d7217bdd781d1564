"""Cosine and sine of a secret x times public frequencies, with one opening."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.polynomial import Chebyshev, Polynomial

from secp_spu.protocol.correlation import DEFAULT_FACTOR_BITS, CosineCorrelation, declare_correlation
from secp_spu.protocol.fixed import Fixed, Number, as_fixed, as_plain
from secp_spu.protocol.ring import FRACTION_BITS, open_masked, to_ring
from secp_spu.protocol.spending import spend
from secp_spu.protocol.waves import POLYNOMIAL_ERROR, Waves, public_waves
from secp_spu.trees import Floats


def cos_sin(
    x: Number,
    frequencies: Array | Floats,
    correlation: CosineCorrelation | None = None,
    *,
    factor_bits: int = DEFAULT_FACTOR_BITS,
) -> tuple[Number, Number]:
    """cos and sin of 2 pi x @ frequencies: in plain JAX, or of a secret x by `secure_cos_sin`.

    Inside a runtime's `jit` it is `secure_cos_sin`, with a correlation that the runtime makes.

        >>> import numpy as np
        >>> from secp_spu import LocalRuntime, Owned
        >>> angles, frequencies = np.float32([[0.25, 0.5]]), np.float32([[1.0], [1.0]])
        >>> plain, _ = cos_sin(angles, frequencies)
        >>> with LocalRuntime() as runtime:
        ...     x = runtime.share(Owned("alice", angles))
        ...     secure, _ = runtime.open_to("alice", runtime.jit(cos_sin)(x, frequencies)).value
        >>> bool(abs(secure - plain).max() < 0.01)
        True

    Args:
        x: [..., d]: `Fixed` or SPU's own secret fixed point with a correlation, plain in plain JAX.
        frequencies: in turns per unit of x [d, r], public; secret ones also work, and take a secret product more.
        correlation: see `secure_cos_sin`; None for plain JAX, and inside `jit`.
        factor_bits: of the correlation inside `jit`, see `declare_correlation`.
    Returns: two arrays [..., r], plain or `Fixed`.
    Raises: TypeError and ValueError for other arguments.
    """
    _check_arrays(x, frequencies)
    if correlation is None:
        bits = x.bits if isinstance(x, Fixed) else FRACTION_BITS
        shape = (*x.shape[:-1], frequencies.shape[1])
        correlation = spend(
            partial(declare_correlation, shape, factor_bits=factor_bits, turn_bits=bits + FRACTION_BITS), x
        )
    if correlation is not None:
        return secure_cos_sin(as_fixed(x), frequencies, correlation)
    return plain_cos_sin(as_plain(x) @ frequencies)


def _check_arrays(x: object, frequencies: object) -> None:
    for name, value in (("x", x), ("frequencies", frequencies)):
        if not hasattr(value, "shape"):
            raise TypeError(f"`{name}` is a {type(value).__name__}, but must be an array, such as np.float32([[1.0]])")
        if not value.shape or (name == "frequencies" and len(value.shape) != 2):
            wanted = "[d, r]" if name == "frequencies" else "[..., d]"
            raise ValueError(f"`{name}` has shape {tuple(value.shape)}, but must be {wanted}")


def cos_sin_of_turns(turns: Number, correlation: CosineCorrelation | None = None) -> tuple[Number, Number]:
    """cos and sin of 2 pi turns: in plain JAX without a correlation; with one as in `secure_cos_sin`, from step 2 on.

    Args:
        turns: any shape: `Fixed` with a correlation, plain without.
        correlation: of the same shape, a turn being 2**turns.bits; None for plain JAX, and inside a runtime's `jit`.
    Returns: two arrays of the same shape, plain or `Fixed`.
    Raises: ValueError if shape or bits of turns and correlation disagree.
    """
    if correlation is None:
        bits = turns.bits if isinstance(turns, Fixed) else FRACTION_BITS
        correlation = spend(partial(declare_correlation, turns.shape, turn_bits=bits), turns)
    if correlation is None:
        return plain_cos_sin(as_plain(turns))
    return _of_secret_turns(as_fixed(turns), correlation)


def _of_secret_turns(turns: Fixed, correlation: CosineCorrelation) -> tuple[Fixed, Fixed]:
    """Steps 2 to 4 of `secure_cos_sin`."""
    _check_turns(turns, correlation)

    delta = open_masked(turns.ring, correlation.mask)

    public_bits = public_factor_bits(correlation.factor_bits)
    (public_cos,), (minus_sin,) = public_waves(delta, Waves(correlation.turn_bits, start_bits=public_bits))

    mask_cos, mask_sin = correlation.cos[0], correlation.sin[0]
    cos = public_cos * mask_cos + minus_sin * mask_sin
    sin = public_cos * mask_sin - minus_sin * mask_cos
    bits = correlation.factor_bits + public_bits
    return Fixed(cos, bits), Fixed(sin, bits)


@jax.custom_jvp
def plain_cos_sin(turns: Array) -> tuple[Array, Array]:
    """cos and sin of 2 pi turns in plain JAX, any shape, within 1e-6, and their derivatives from the same two.

    XLA's own cosine for CPUs takes twenty times as long: adaptation and tuning in plaintext would spend half their time
    on it. Whole turns drop out first, so that polynomials do for the rest.
    """
    half_turns = 2 * (turns - jnp.round(turns))
    square = half_turns * half_turns
    cos, sin = (_horner(square, coefficients) for coefficients in _plain_polynomials())
    return cos, half_turns * sin


@plain_cos_sin.defjvp
def _plain_cos_sin_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    cos, sin = plain_cos_sin(*primals)
    scaled = 2 * math.pi * tangents[0]
    return (cos, sin), (-sin * scaled, cos * scaled)


def _horner(x: Array, coefficients: Sequence[float]) -> Array:
    """sum_k coefficients[k] x**k."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


@cache
def _plain_polynomials() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of cos(pi t) and sin(pi t) / t in t**2, for |t| <= 1."""
    functions = (lambda square: np.cos(np.pi * np.sqrt(square)), lambda square: np.pi * np.sinc(np.sqrt(square)))
    of_cos, of_sin = (interpolated(function, 7) for function in functions)
    return of_cos, of_sin


def interpolated(function: Callable[[Floats], Floats], degree: int) -> tuple[float, ...]:
    """Coefficients of the polynomial that interpolates a function on [0, 1], from the constant on."""
    interpolate: Any = Chebyshev.interpolate  # Any: NumPy's polynomials have no types.
    return tuple(interpolate(function, degree, domain=[0, 1]).convert(kind=Polynomial).coef.tolist())


def secure_cos_sin(x: Fixed, frequencies: Array | Floats, correlation: CosineCorrelation) -> tuple[Fixed, Fixed]:
    """cos and sin of 2 pi x @ frequencies of a secret x, with one opening. Only for programs compiled by SPU.

    1. u = x @ frequencies as ring integers, a turn being 2**turn_bits of them     local
    2. open delta = u - t                                                           one send
    3. c, s = cos and sin of 2 pi delta / 2**turn_bits                              public
    4. cos = c C - s S,  sin = s C + c S, with all bits of the products             local

    Whole turns drop out of u, so that it may wrap around the ring: nothing is truncated. Both results come from the
    same opening: r correlations give 2 r features.

    Args:
        x: secret [..., d].
        frequencies: public, in turns per unit of x [d, r]; rounded to 2**-18 turn.
        correlation: secret t, C = cos t, S = sin t for one harmonic, [..., r] each, of x.bits + 18 turn bits.
    Returns: two secrets [..., r] of 3/2 correlation.factor_bits fraction bits, rounded down.
    Reveals: delta, uniform as long as t is fresh. This call spends `correlation`.
    Cost (a party, 64-bit ring): online 8 bytes a pair and 1 send in all. Offline: see correlation_maker.py.
    Error: `cos_error_bound`.
    Raises: ValueError if x, frequencies and correlation disagree in d, r, the leading axes or the bits of a turn.
    Source: one-round cosine, arXiv 2506.15307; here with a whole-ring mask and without truncation.
    """
    if x.shape[-1] != frequencies.shape[0]:
        raise ValueError(f"x has {x.shape[-1]} columns, frequencies {frequencies.shape[0]} rows: they must agree")
    return _of_secret_turns(Fixed(x.ring @ to_ring(frequencies), x.bits + FRACTION_BITS), correlation)


def public_factor_bits(factor_bits: int) -> int:
    """Fraction bits of the public factors: as many as each of two parties' factors behind the secret ones has."""
    return factor_bits // 2


def _check_turns(turns: Fixed, correlation: CosineCorrelation) -> None:
    if correlation.mask.shape != turns.shape or correlation.turn_bits != turns.bits:
        raise ValueError(
            f"correlation has shape {correlation.mask.shape} and {correlation.turn_bits} turn bits, the angles "
            f"{turns.shape} and {turns.bits}: declare it with declare_correlation of that shape and turn_bits"
        )


def cos_error_bound(
    x_l1: float, frequency_l1: float, *, factor_bits: int, x_bits: int = FRACTION_BITS, mask_error: float
) -> float:
    """Largest error of `secure_cos_sin` for one angle, derived term by term.

    Args:
        x_l1: largest sum of |x| over a row, in units of x.
        frequency_l1: largest sum of |frequency| over a column, in turns per unit of x.
        factor_bits: fraction bits of C and S.
        x_bits: fraction bits of x.
        mask_error: largest error of C and of S, see `correlation.joint_error_bound` and `dealt_error_bound`.
    """
    ulp = 2.0**-FRACTION_BITS
    angle = (
        2
        * math.pi
        * (
            x_l1 * ulp  # each frequency encoded to within one unit
            + frequency_l1 * 2.0**-x_bits  # each x encoded to within one unit
            + ulp  # delta cut to 18 fraction bits of a turn
        )
    )
    public = 2.0 ** -(public_factor_bits(factor_bits) + 1) + POLYNOMIAL_ERROR  # c and s rounded
    # |c dC| + |C dc| and the same for s, by Cauchy-Schwarz; |dc dC| and the same for s
    product = math.sqrt(2) * (public + mask_error) + 2 * public * mask_error
    return angle + product
