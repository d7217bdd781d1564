"""Fourier series of a public angle: cosines and sines of its multiples, and the fraction bits that series have."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax

from secp_spu.protocol.cosine import public_cos_sin

FACTOR_BITS = 24
"""Fraction bits of the secret factors, which are products of two parties' factors of 12 each."""


PUBLIC_BITS = 11
"""Fraction bits of the public factors: what the next dense layer makes of the result is within 30 bits of its bias."""


RESULT_BITS = FACTOR_BITS + PUBLIC_BITS
"""Fraction bits of the result, 35: all that the products have."""


COEFFICIENT_BITS = 20
"""Fraction bits of the coefficients a_k, which are below 16."""


RECURRENCE_BITS = 20
"""Fraction bits of the public cosines and sines. Their products with a_k are shifted to PUBLIC_BITS, by less than 31:
to JAX these are numbers of 32 bits, of which a longer shift leaves nothing."""


def public_multiples(delta: Array, turn_bits: int, count: int, *, odd: bool) -> Iterator[tuple[Array, Array]]:
    """cos n b and sin n b of a public angle b for n = 1, 2, 3, ... or 1, 3, 5, ...: integers of RECURRENCE_BITS.

    By Chebyshev's recurrence cos (n + m) b = 2 cos m b cos n b - cos (n - m) b, and the same for the sine, with m = 1
    from n = 0 and 1, or m = 2 from n = -1 and 1: three public operations a multiple and part, where a polynomial for
    each takes twenty.

    Args:
        delta: the angle, ring integers; a turn is 2**turn_bits.
        turn_bits: see there.
        count: how many multiples.
        odd: whether even ones are left out.
    """
    cos, sin = public_cos_sin(delta, turn_bits, RECURRENCE_BITS)
    if odd:
        step = lax.shift_right_arithmetic(cos * cos, jnp.int32(RECURRENCE_BITS - 2)) - jnp.int32(2 << RECURRENCE_BITS)
        before, now = (cos, -sin), (cos, sin)
    else:
        step = cos * jnp.int32(2)
        before, now = (jnp.full_like(cos, 1 << RECURRENCE_BITS), jnp.zeros_like(sin)), (cos, sin)
    for _ in range(count):
        yield now
        after = _next(step, now[0], before[0]), _next(step, now[1], before[1])
        before, now = now, after


def _next(step: Array, now: Array, before: Array) -> Array:
    return lax.shift_right_arithmetic(step * now, jnp.int32(RECURRENCE_BITS)) - before
