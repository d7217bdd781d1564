"""Numbers with a choice of fraction bits: products that need no truncation, and truncation where it is wanted.

SPU drops 18 bits after every product of fixed-point numbers, which costs more than the product itself. Here a product
keeps all its bits, sums align them, and the caller says when to round. Everything fits as long as a number's fraction
bits and the bits of its size stay below 62 together.

Model code is written once, for `Fixed` under SPU and for plain arrays elsewhere: `from_storage`, `to_storage`,
`rounded` and `to_float` say where the two differ, and do nothing to plain arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import Literal, TypeAlias, TypeVar, cast, overload

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from secp_spu.protocol.ring import FRACTION_BITS, from_ring, to_ring
from secp_spu.trees import Floats

DROP_BITS = 16
"""What a cheap truncation drops at most. SPU multiplies by a constant below 2**-16 with more bits of it, which costs
more and wants a ring integer below 2**44, but drops any number of bits (tried up to 40, SPU 0.9.5)."""

Index: TypeAlias = "int | slice | EllipsisType | None | tuple[int | slice | EllipsisType | None, ...]"
"""What an array is indexed by."""


@dataclass(frozen=True)
class Fixed:
    """Secret ring integers z for the numbers z 2**-bits; local, but for products and `to`. A pytree.

    Attributes:
        ring: int32 to JAX, whole 64-bit ring elements to SPU.
        bits: fraction bits.
    """

    ring: Array
    bits: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.ring.shape

    def __getitem__(self, index: Index) -> Fixed:
        return Fixed(self.ring[index], self.bits)

    def __add__(self, other: Fixed) -> Fixed:
        _require_fixed(other)
        bits = max(self.bits, other.bits)
        return Fixed(self._raised(bits) + other._raised(bits), bits)

    def __sub__(self, other: Fixed) -> Fixed:
        _require_fixed(other)
        bits = max(self.bits, other.bits)
        return Fixed(self._raised(bits) - other._raised(bits), bits)

    def __mul__(self, other: Fixed) -> Fixed:
        """All bits of the product. A party sends 8 bytes an element and 1 message under ABY3, 16 under SEMI2K."""
        _require_fixed(other)
        return Fixed(self.ring * other.ring, self.bits + other.bits)

    def __matmul__(self, other: Fixed) -> Fixed:
        """All bits of the product; a message for each matrix of a batch."""
        _require_fixed(other)
        return Fixed(self.ring @ other.ring, self.bits + other.bits)

    def sum(self, axis: int, *, keepdims: bool = False) -> Fixed:
        """Over one axis: the product with public ones. SPU's own sum takes ten times as long, and ABY3 a message."""
        ones = jnp.ones(self.shape[axis], jnp.int32)
        total = jnp.tensordot(self.ring, ones, axes=(axis, 0))
        return Fixed(jnp.expand_dims(total, axis) if keepdims else total, self.bits)

    def multiply(self, other: Fixed) -> Fixed:
        """The product without its lowest 18 bits: SPU's own, for a truncation by 18 that `to` has no cheap way to."""
        return Fixed(to_ring(from_ring(self.ring) * from_ring(other.ring)), self.bits + other.bits - FRACTION_BITS)

    def to(self, bits: int, *, small: bool = False) -> Fixed:
        """The same number with other fraction bits, at most one unit off for each truncation.

        More bits are free. One cheap truncation drops up to 16; to drop more, a second follows, which is a dear one for
        more than 32; or, of small numbers, a single dear one does it.

        Args:
            bits: to have.
            small: |ring| is at most 2**44; without, it may be 2**60, or 2**(44 + drop) where fewer than 16 are dropped:
                SPU multiplies by 2**(18 - drop) before it drops 18.
        Cost of a truncation of an element (a party): ABY3 28/3 bytes (40/3 if dear) and 5/3 sends in all; SEMI2K with
            two parties 4 (8) and 1, with three 16 and 2.
        """
        drop = self.bits - bits
        if drop <= 0:
            return Fixed(self._raised(bits), bits)
        if drop <= DROP_BITS or small:
            return Fixed(to_ring(from_ring(self.ring) * 2.0**-drop), bits)
        # XLA would fold two truncations in a row into one constant; it cannot look through the sum, which is 1 unit.
        once = self.to(self.bits - DROP_BITS)
        return Fixed(once.ring + 1, once.bits).to(bits, small=True)

    def _raised(self, bits: int) -> Array:
        if bits == self.bits:
            return self.ring
        if bits - self.bits > 30:
            raise ValueError(f"{bits - self.bits} more fraction bits are no 32-bit factor")
        raised: Array = self.ring * jnp.int32(1 << (bits - self.bits))
        return raised


jax.tree_util.register_dataclass(Fixed, ["ring"], ["bits"])


def _require_fixed(other: object) -> None:
    if not isinstance(other, Fixed):
        raise TypeError(
            f"a Fixed number meets a {type(other).__name__}: take `protocol.to_float` of the first, or `as_fixed` of "
            "the second"
        )


Number = Fixed | Array
"""A secret under SPU, or a plain array."""

NumberT = TypeVar("NumberT", Fixed, Array, Number)
"""What goes in and comes out is of one kind: both `Fixed`, or both plain."""


def constant(value: float, bits: int, like: NumberT) -> NumberT:
    """A public number with `bits` fraction bits, for products with `like`; a plain one is the number itself."""
    return Fixed(jnp.int32(round(value * 2**bits)), bits) if isinstance(like, Fixed) else cast(Array, value)


@overload
def from_storage(x: Array, bits: int, *, secure: Literal[True]) -> Fixed: ...
@overload
def from_storage(x: Array, bits: int, *, secure: Literal[False]) -> Array: ...
@overload
def from_storage(x: Array, bits: int, *, secure: bool) -> Number: ...
@overload
def from_storage(x: Floats, bits: int, *, secure: Literal[False]) -> Floats: ...
def from_storage(x: Array | Floats, bits: int, *, secure: bool) -> Number | Floats:
    """Numbers to compute with, of an array that `to_storage` gave or of its ring integers.

    Args:
        x: an array as owners share it and programs pass it on, or int32 ring integers.
        bits: fraction bits of its encoding.
        secure: the program is for SPU.
    Returns: `Fixed` under SPU, the plain numbers elsewhere.
    """
    if secure:
        return Fixed(cast(Array, x) if x.dtype == jnp.int32 else to_ring(x), bits)
    return x * 2.0 ** (FRACTION_BITS - bits)


def from_storage_like(x: Array, bits: int, like: NumberT) -> NumberT:
    """`from_storage`, for products with `like`: of the same kind."""
    return from_storage(x, bits, secure=True) if isinstance(like, Fixed) else from_storage(x, bits, secure=False)


@overload
def to_storage(x: Number, bits: int) -> Array: ...
@overload
def to_storage(x: Floats, bits: int) -> Floats: ...
def to_storage(x: Number | Floats, bits: int) -> Array | Floats:
    """An array that owners share or a program returns, whose encoding for SPU has `bits` fraction bits instead of 18.

    Args:
        x: plain numbers, or `Fixed` in a program.
        bits: fraction bits of the encoding; `from_storage` needs the same.
    """
    if isinstance(x, Fixed):
        return from_ring(x.to(bits).ring)
    return x * 2.0 ** (bits - FRACTION_BITS)


def rounded(x: NumberT, bits: int, *, small: bool = False) -> NumberT:
    """`Fixed.to`; nothing to plain arrays."""
    return x.to(bits, small=small) if isinstance(x, Fixed) else x


def multiply(x: NumberT, y: NumberT) -> NumberT:
    """`Fixed.multiply`; the plain product of plain arrays."""
    return x.multiply(as_fixed(y)) if isinstance(x, Fixed) else x * y


def widened(x: NumberT, columns: int) -> NumberT:
    """A column [..., 1] as so many [..., columns], for operations with arrays of that shape.

    By a product with public ones, which is local: SPU takes three to four times as long for an element of an array that
    is broadcast. Plain arrays as they are, for JAX broadcasts them at no cost.
    """
    return Fixed(x.ring @ jnp.ones((1, columns), jnp.int32), x.bits) if isinstance(x, Fixed) else x


def to_float(x: Number) -> Array:
    """As SPU's own fixed-point numbers, or plain."""
    return from_ring(x.to(FRACTION_BITS).ring) if isinstance(x, Fixed) else x


def as_fixed(x: Fixed | ArrayLike) -> Fixed:
    """SPU's own fixed-point numbers, or numbers that are known now, as `Fixed`. Only for programs compiled by SPU.

    Raises: ValueError for secret integers, which have no fraction bits.
    """
    if isinstance(x, Fixed):
        return x
    if jnp.issubdtype(jnp.result_type(x), jnp.integer) and isinstance(x, Tracer):
        raise ValueError("x holds integers, but float32 is needed: convert it with x.astype(jnp.float32)")
    return Fixed(to_ring(x), FRACTION_BITS)


def as_plain(x: Number) -> Array:
    """A plain array as it is.

    Raises: ValueError for `Fixed`.
    """
    if isinstance(x, Fixed):
        raise ValueError("x is secret, but a plain array is needed here: call this in a program of a runtime")
    return x


def to_fixed(x: Array, like: NumberT) -> NumberT:
    """SPU's own fixed-point numbers as `Fixed` where `like` is; plain arrays stay."""
    return Fixed(to_ring(x), FRACTION_BITS) if isinstance(like, Fixed) else x


def inverse_sqrt(x: NumberT, epsilon: float) -> NumberT:
    """1 / sqrt(x + epsilon); for `Fixed` of 18 + 2 k fraction bits by SPU's own function, with 18 - k fraction bits.

    SPU takes the ring integers for numbers of 18 bits, so for 4**k x, whose inverse root is 2**-k of what is wanted.
    """
    if not isinstance(x, Fixed):
        return lax.rsqrt(x + epsilon)
    half, odd = divmod(x.bits - FRACTION_BITS, 2)
    if odd:
        raise ValueError(f"x has {x.bits} fraction bits, an even number is needed")
    root = lax.rsqrt(from_ring(x.ring) + epsilon * 4.0**half)
    return Fixed(to_ring(root), FRACTION_BITS - half)


def doubled(x: NumberT) -> NumberT:
    """2 x: for `Fixed` nothing but a bit less."""
    return Fixed(x.ring, x.bits - 1) if isinstance(x, Fixed) else 2 * x


def mean_of(total: NumberT, count: int) -> NumberT:
    """A sum divided by how many there were, rounded up to a power of two: for `Fixed` nothing but more bits."""
    halvings = math.ceil(math.log2(count))
    return Fixed(total.ring, total.bits + halvings) if isinstance(total, Fixed) else total * 2.0**-halvings


def rearranged(move: Callable[..., Array], *xs: NumberT) -> NumberT:
    """Rearrange numbers of the same bits by a function that only moves elements, such as a reshape.

    Raises: ValueError for different bits.
    """
    if not isinstance(xs[0], Fixed):
        return move(*xs)
    numbers = [as_fixed(x) for x in xs]
    bits = {x.bits for x in numbers}
    if len(bits) > 1:
        raise ValueError(
            f"numbers of {sorted(bits)} fraction bits cannot stand in one array: round or raise them first"
        )
    return Fixed(move(*(x.ring for x in numbers)), numbers[0].bits)
