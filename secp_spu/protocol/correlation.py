"""What a correlation (t, cos kt, sin kt) is, how a program declares what it spends, and how far off its factors are.

t is uniform over the whole ring Z_2**64. A turn is 2**turn_bits steps: the angle of t is 2 pi (t mod 2**turn_bits) /
2**turn_bits. How the parties come by shares of it: correlation_maker.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from secp_spu.protocol.ring import FRACTION_BITS
from secp_spu.protocol.sharing import Scheme

TURN_BITS = 2 * FRACTION_BITS
DEFAULT_FACTOR_BITS = 18
LEAST_FACTOR_BITS, MOST_FACTOR_BITS = 9, 27

ANGLE_BITS = 7
"""Bits of an angle beyond those of a factor that is looked up by it: adds a twentieth to the error of rounding."""


Leaf: TypeAlias = Any  # Any: an array in a program, a shape where it is declared, a runtime's handle outside.


class SpentCorrelationError(RuntimeError):
    """A batch of correlations was taken for a second time: the difference of two openings would leak."""


@dataclass(frozen=True)
class CosineCorrelation:
    """A mask t with shares of cos kt and sin kt for some multiples k; spent by the one opening that t masks.

    A pytree: of arrays inside a program, of shapes when it is declared, of handles outside.

    Attributes:
        mask: t, ring integers [...], uniform over all 64 bits.
        cos: cos kt with `factor_bits` fraction bits, ring integers [multiples, ...].
        sin: sin kt, likewise.
        factor_bits: fraction bits of the factors, 9 to 27.
        turn_bits: a turn is 2**turn_bits steps of t.
        multiples: the k, positive and increasing.
    """

    mask: Leaf
    cos: Leaf
    sin: Leaf
    factor_bits: int = DEFAULT_FACTOR_BITS
    turn_bits: int = TURN_BITS
    multiples: tuple[int, ...] = (1,)

    @property
    def harmonics(self) -> int:
        """How many multiples of the angle the factors cover."""
        return int(self.cos.shape[0])


jax.tree_util.register_dataclass(CosineCorrelation, ["mask", "cos", "sin"], ["factor_bits", "turn_bits", "multiples"])


def declare_correlation(
    shape: Sequence[int],
    *,
    harmonics: int | Sequence[int] = 1,
    factor_bits: int = DEFAULT_FACTOR_BITS,
    turn_bits: int = TURN_BITS,
) -> CosineCorrelation:
    """What a Flax module puts into its collection "correlations" to say what one call of it spends.

    `jax.eval_shape(module.init, ...)` then tells the offline phase what to make; the zeros are never used as masks:
    the runtimes take correlations from `CorrelationMaker` alone.

    Args:
        shape: of the mask, one element for every opened value.
        harmonics: the multiples of the angle that are needed, increasing; or K for 1 to K.
        factor_bits: fraction bits of the factors, 9 to 27; made jointly, as many of them as there are factors are
            rounding errors (`joint_error_bound`).
        turn_bits: bits of a turn, 18 to 64: fraction bits of the angle that t masks, in turns.
    Raises: ValueError for a number out of range.
    """
    for name, value, least, most in (
        ("factor_bits", factor_bits, LEAST_FACTOR_BITS, MOST_FACTOR_BITS),
        ("turn_bits", turn_bits, FRACTION_BITS, 64),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}, allowed are {least} to {most}")
    multiples = tuple(range(1, harmonics + 1)) if isinstance(harmonics, int) else tuple(harmonics)
    if not multiples:
        raise ValueError(f"harmonics is {harmonics}, at least 1 is needed")
    if multiples[0] < 1 or any(after <= before for before, after in pairwise(multiples)):
        raise ValueError(f"harmonics is {harmonics}, allowed are increasing positive numbers")
    factors = jnp.zeros((len(multiples), *shape), jnp.int32)
    return CosineCorrelation(jnp.zeros(shape, jnp.int32), factors, factors, factor_bits, turn_bits, multiples)


def is_declared_by(declare: Callable[[], CosineCorrelation], correlation: CosineCorrelation) -> bool:
    """Is it of the shape, the multiples and the bits that this call of `declare_correlation` says?"""
    found = jax.tree.map(lambda leaf: shape_struct(leaf.shape, jnp.int32), correlation)
    return bool(found == jax.eval_shape(declare))


def shape_struct(shape: Sequence[int], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """What stands for an array where JAX traces a function."""
    make: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct  # JAX has no types for it
    return make(shape, dtype)


def joint_plan(scheme: Scheme, factor_bits: int) -> list[int]:
    """Fraction bits of the factors whose product has `factor_bits`, split as evenly as can be: 18 = 9 + 9 = 6 + 6 + 6.

    Two factors under ABY3, one of rank 0 and one of the others; under SEMI2K one of every party.
    """
    count = 2 if scheme.replicated else scheme.parties
    return [factor_bits // count + (number < factor_bits % count) for number in range(count)]


def dealt_error_bound(factor_bits: int) -> float:
    """Largest error of a dealt factor: it is rounded once."""
    return 2.0 ** -(factor_bits + 1)


def joint_error_bound(scheme: Scheme, factor_bits: int) -> float:
    """Largest error of a joint factor, of e^{ikt} in the complex plane: 2.9e-3 with 9 + 9 bits, 3.5e-2 with 6 + 6 + 6.

    Each party's factor is off by the rounding of its two parts and of its angle; the products lose nothing. The errors
    of a factor at opposite angles cancel, so those of the product have the mean zero over all t, and at each t a mean
    of 2e-5 e^{ikt} with 9 + 9 bits.
    """
    off = (
        math.sqrt(2) * 2.0 ** -(bits + 1) + math.pi * 2.0 ** -(bits + ANGLE_BITS)
        for bits in joint_plan(scheme, factor_bits)
    )
    return math.prod(1 + error for error in off) - 1
