"""Cosines and sines of an opened angle: integers that are the same at every party.

What follows from an opened angle alone is public, so every party computes it for itself. `public_waves` does so for all
functions of one opening; where it runs depends on who compiles the program:

- for a runtime of this package, inside `as_native_steps`, it is one operation, NATIVE_WAVES, between two parts of the
  program: every party computes it in NumPy, by `native_waves` (runtime/chain.py)
- for a foreign SPU device SPU's interpreter computes it, an operation at a time, which takes ten times as long

Both follow `_integer_waves`, in integers throughout: so both give the same, on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from secp_spu.protocol.ring import FRACTION_BITS
from secp_spu.protocol.sharing import RingArray

FACTOR_BITS = 24
"""Fraction bits of a series' secret factors, which are products of two parties' factors of 12 each."""


PUBLIC_BITS = 11
"""Fraction bits of a series' public factors: what the next dense layer makes of the result is within 30 bits of its
bias."""


RESULT_BITS = FACTOR_BITS + PUBLIC_BITS
"""Fraction bits of a series' result, 35: all that the products have."""


COEFFICIENT_BITS = 20
"""Fraction bits of a series' coefficients, which are below 16."""


RECURRENCE_BITS = 20
"""Fraction bits of a series' public cosines and sines. Their products with coefficients are shifted to PUBLIC_BITS, by
less than 31: to JAX these are numbers of 32 bits, of which a longer shift leaves nothing."""


POLYNOMIAL_BITS = 24
"""Fraction bits of the polynomial that a cosine begins with: its products stay below 2**52."""


POLYNOMIAL_ERROR = 2e-6
"""Largest error of a public cosine before rounding: 8e-7 by interpolation, and six cuts to 2**-24."""


STEPS = 1 << FRACTION_BITS
"""Angles to a turn, after what is below them has been cut off."""


NATIVE_WAVES = "secp_spu.waves"
"""Name of the operation that takes an opened angle and `Waves.as_constant`, and gives what `public_waves` does."""

Untyped: TypeAlias = Any  # Any: the insides of JAX have no types.
Integers: TypeAlias = Any  # Any: an array of NumPy or JAX; the same operators serve both, on 64 bits.


@dataclass(frozen=True)
class Waves:
    """Two integers for each multiple n of an angle b: a_n cos n b + b_n sin n b and b_n cos n b - a_n sin n b.

    With C_n = cos n t and S_n = sin n t of the mask, the first times C_n plus the second times S_n is
    a_n cos n v + b_n sin n v of the masked angle v = b + t.

    Attributes:
        turn_bits: a turn is 2**turn_bits, 18 to 64.
        cosines: the a_n, for n = 1, 2, 3, ...; integers of some fraction bits.
        sines: the b_n, likewise.
        odd: for n = 1, 3, 5, ... instead.
        start_bits: fraction bits of cos n b and sin n b.
        drop: how many of the products' fraction bits are cut off in the end.
    """

    turn_bits: int
    cosines: tuple[int, ...] = (1,)
    sines: tuple[int, ...] = (0,)
    odd: bool = False
    start_bits: int = RECURRENCE_BITS
    drop: int = 0

    def as_constant(self) -> npt.NDArray[np.int32]:
        """All of it as an array [1 + multiples, 4], which programs carry."""
        head = (self.turn_bits, int(self.odd), self.start_bits, self.drop)
        rows = [(n + 1, a, b, 0) for n, (a, b) in enumerate(zip(self.cosines, self.sines, strict=True))]
        return np.array([head, *rows], np.int32)

    @staticmethod
    def from_constant(constant: npt.NDArray[np.int64]) -> Waves:
        """The reverse of `as_constant`.

        Raises: ValueError for an array that no `Waves` gives.
        """
        (turn_bits, odd, start_bits, drop), *rows = constant.tolist()
        waves = Waves(turn_bits, tuple(r[1] for r in rows), tuple(r[2] for r in rows), bool(odd), start_bits, drop)
        valid = rows and FRACTION_BITS <= turn_bits <= 64 and 0 < start_bits <= POLYNOMIAL_BITS and 0 <= drop < 32
        if not valid or not np.array_equal(waves.as_constant(), constant):
            raise ValueError("an operand of public waves is no constant that this release makes")
        return waves


def series_waves(turn_bits: int, cosines: Sequence[float], sines: Sequence[float], *, odd: bool) -> Waves:
    """Those of a series with these coefficients, below 16, as public factors of PUBLIC_BITS."""
    of_cosines, of_sines = (tuple(round(c * 2**COEFFICIENT_BITS) for c in part) for part in (cosines, sines))
    drop = RECURRENCE_BITS + COEFFICIENT_BITS - PUBLIC_BITS
    return Waves(turn_bits, of_cosines, of_sines, odd, RECURRENCE_BITS, drop)


def public_waves(delta: Array, waves: Waves) -> Array:
    """What `Waves` says of a public angle [2, multiples, ...]. Only for programs compiled by SPU.

    Args:
        delta: public ring integers of any shape.
        waves: see there.
    Returns: public ring integers of waves.start_bits and the coefficients' bits less waves.drop, rounded to nearest.
    """
    found: Array = _WAVES.bind(delta, jnp.asarray(waves.as_constant()), waves=waves)
    return found


_NATIVE: ContextVar[bool] = ContextVar("native", default=False)


@contextmanager
def as_native_steps() -> Iterator[None]:
    """Programs that are compiled inside have NATIVE_WAVES, which SPU does not know: the caller cuts them there."""
    token = _NATIVE.set(True)
    try:
        yield
    finally:
        _NATIVE.reset(token)


def _shape(delta: Untyped, constant: Untyped, *, waves: Waves) -> Untyped:
    del constant
    return delta.update(shape=(2, len(waves.cosines), *delta.shape))


def _interpreted(delta: Array, constant: Array, *, waves: Waves) -> Array:
    """Operation by operation."""
    del constant
    step = lax.shift_right_logical(delta, jnp.int32(waves.turn_bits - FRACTION_BITS)) & (STEPS - 1)
    of_cos, of_sin = zip(*_integer_waves(step, waves), strict=True)
    return jnp.stack([jnp.stack(of_cos), jnp.stack(of_sin)])


def _lowered(context: Untyped, delta: ir.Value, constant: ir.Value, *, waves: Waves) -> Untyped:
    if not _NATIVE.get():
        return mlir.lower_fun(partial(_interpreted, waves=waves), multiple_results=False)(context, delta, constant)
    call: Untyped = stablehlo.CustomCallOp
    kinds, has_effect = [mlir.aval_to_ir_type(aval) for aval in context.avals_out], ir.BoolAttr.get(False)
    return call(kinds, [delta, constant], call_target_name=NATIVE_WAVES, has_side_effect=has_effect).results


def _batched(values: tuple[Array, Array], axes: tuple[int, None], *, waves: Waves) -> tuple[Array, int]:
    """For jax.vmap: every angle by itself, behind the two new axes."""
    return _WAVES.bind(*values, waves=waves), axes[0] + 2


_WAVES: Untyped = Primitive("public_waves")
_WAVES.def_abstract_eval(_shape)
batching.primitive_batchers[_WAVES] = _batched
mlir.register_lowering(_WAVES, _lowered)


def sum_of_products(public: Array, cos: Array, sin: Array) -> Array:
    """sum_n public[0, n] C_n + public[1, n] S_n: the series at the masked angle.

    Args:
        public: of `public_waves` [2, multiples, ...].
        cos: secret C_n [multiples, ...].
        sin: secret S_n [multiples, ...].
    """
    total = public[0, 0] * cos[0] + public[1, 0] * sin[0]
    for n in range(1, cos.shape[0]):
        total = total + public[0, n] * cos[n] + public[1, n] * sin[n]
    return total


def native_waves(delta: RingArray, waves: Waves) -> RingArray:
    """The same in NumPy, by a table of all steps of a turn: for a party that has opened delta."""
    step = delta >> np.uint64(waves.turn_bits - FRACTION_BITS)
    step &= np.uint64(STEPS - 1)
    places, table = step.view(np.int64).ravel(), _table(waves)
    found = np.empty((*table.shape[:2], places.size), np.int64)
    for start in range(0, places.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        for rows, out in zip(table, found, strict=True):
            for row, wave in zip(rows, out, strict=True):
                wave[block] = row.take(places[block], mode="clip")  # not "raise", which would make a copy first
    return found.view(np.uint64).reshape(*table.shape[:2], *delta.shape)


def waves_digest() -> str:
    """SHA-256 of all cosines and sines that this machine computes, in hexadecimal: the same at all parties."""
    every_step = np.arange(STEPS, dtype=np.uint64)
    return hashlib.sha256(native_waves(every_step, Waves(FRACTION_BITS)).tobytes()).hexdigest()


_BLOCK = 1 << 15
"""Angles at a time: as many as stay in the cache."""


@lru_cache(maxsize=64)
def _table(waves: Waves) -> npt.NDArray[np.int16] | npt.NDArray[np.int32]:
    """All values of `Waves` [2, multiples, STEPS], in as few bits as hold them."""
    both = np.array([list(pair) for pair in _integer_waves(np.arange(STEPS), waves)]).swapaxes(0, 1)
    if np.abs(both).max() < 2**15:
        return both.astype(np.int16)
    return both.astype(np.int32)


def _integer_waves(step: Integers, waves: Waves) -> Iterator[tuple[Integers, Integers]]:
    """The pair for each multiple, of an angle of `step` / STEPS turns.

    By Chebyshev's recurrence cos (n + m) b = 2 cos m b cos n b - cos (n - m) b, and the same for the sine, with m = 1
    from n = 0 and 1, or m = 2 from n = -1 and 1: three operations a multiple and part, where a polynomial for each
    takes twenty.
    """
    quarter_before = (step - STEPS // 4) & (STEPS - 1)
    cos, sin = (_rounded(_cosine(turn), POLYNOMIAL_BITS - waves.start_bits) for turn in (step, quarter_before))
    if waves.odd:
        factor = ((cos * cos) >> (waves.start_bits - 2)) - (2 << waves.start_bits)
        before, now = (cos, -sin), (cos, sin)
    else:
        factor = cos * 2
        before, now = (0 * cos + (1 << waves.start_bits), 0 * sin), (cos, sin)
    for a, b in zip(waves.cosines, waves.sines, strict=True):
        yield (
            _rounded(_times(a, now[0]) + _times(b, now[1]), waves.drop),
            _rounded(_times(b, now[0]) - _times(a, now[1]), waves.drop),
        )
        after = _next(factor, now[0], before[0], waves), _next(factor, now[1], before[1], waves)
        before, now = now, after


def _next(factor: Integers, now: Integers, before: Integers, waves: Waves) -> Integers:
    return ((factor * now) >> waves.start_bits) - before


def _times(coefficient: int, wave: Integers) -> Integers:
    """A product that costs nothing where it can be spared: SPU's interpreter computes what it is told to."""
    return 0 if coefficient == 0 else wave if coefficient == 1 else coefficient * wave


def _rounded(value: Integers, bits: int) -> Integers:
    """Without the lowest bits, rounded to nearest."""
    return (value + (1 << (bits - 1))) >> bits if bits else value


def _cosine(step: Integers) -> Integers:
    """cos(2 pi turn) = -cos(2 pi a) with a = turn - 1/2, by a polynomial in (2 a)**2 with POLYNOMIAL_BITS.

    In integers, by Horner's rule: SPU's own cosine of a public number takes seven times as long.
    """
    centred = step - STEPS // 2
    square = (centred * centred) >> (2 * FRACTION_BITS - 2 - POLYNOMIAL_BITS)
    *lower, highest = COSINE
    value = highest
    for coefficient in reversed(lower):
        value = ((value * square) >> POLYNOMIAL_BITS) + coefficient
    return value


COSINE = (-16777203, 82791275, -68082559, 22353240, -3852661, 345136)
"""c_k of -cos(2 pi a) = sum_k c_k (2 a)**(2 k) for |a| <= 1/2, by Chebyshev interpolation, with POLYNOMIAL_BITS; off by
8e-7. Written down, for the parties' machines might not round alike."""
