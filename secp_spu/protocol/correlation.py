"""Declarations in, shares of fresh correlations (t, cos kt, sin kt) out: dealt by a dealer or made jointly.

A turn is 2**36 steps: t is uniform over the whole ring Z_2**64, and its angle is 2 pi (t mod 2**36) / 2**36. Every
component of t comes from a `MaskStream`, whose key its holders share:

- dealt: a dealer knows all keys, computes cos kt and sin kt and sends the last component of each; the others are
  drawn from the streams. 16 bytes a harmonic to every holder of the last component, and the dealer knows every mask.
- joint: the holders of component j know t_j, hence e^{i k t_j}, which they enter as a share whose only non-zero
  component is j; e^{i k t} is the product of these, computed by `combine_factors` under SPU. Nobody knows t: any one
  party misses at least one component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from spu import libspu

from secp_spu.protocol.ring import FRACTION_BITS, truncate
from secp_spu.protocol.sharing import RING_BYTES, MaskStream, RingArray, Scheme

TURN_BITS = 2 * FRACTION_BITS
DEFAULT_FACTOR_BITS = 18


class SpentCorrelationError(RuntimeError):
    """A batch of correlations was taken for a second time: the difference of two openings would leak."""


@struct.dataclass
class CosineCorrelation:
    """A mask t with shares of cos kt and sin kt for some multiples k; spent by the one opening that t masks.

    A pytree: of arrays inside a program, of shapes when it is declared, of handles outside.

    Attributes:
        mask: t, ring integers [...], uniform over all 64 bits.
        cos: cos kt with `factor_bits` fraction bits, ring integers [multiples, ...].
        sin: sin kt, likewise.
        factor_bits: fraction bits of the factors, 9 to 18; with 9 the products of `secure_cos_sin` need no truncation.
        turn_bits: a turn of the angle is 2**turn_bits steps of t.
        multiples: the k, positive and increasing.
    """

    mask: Any
    cos: Any
    sin: Any
    factor_bits: int = struct.field(pytree_node=False, default=DEFAULT_FACTOR_BITS)
    turn_bits: int = struct.field(pytree_node=False, default=TURN_BITS)
    multiples: tuple[int, ...] = struct.field(pytree_node=False, default=(1,))

    @property
    def harmonics(self) -> int:
        """How many multiples of the angle the factors cover."""
        return self.cos.shape[0]


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
        factor_bits: fraction bits of the factors, 9 to 18.
        turn_bits: see `CosineCorrelation`.
    Raises: ValueError for a number out of range.
    """
    if not FRACTION_BITS // 2 <= factor_bits <= FRACTION_BITS:
        raise ValueError(f"factor_bits is {factor_bits}, allowed are {FRACTION_BITS // 2} to {FRACTION_BITS}")
    multiples = tuple(range(1, harmonics + 1)) if isinstance(harmonics, int) else tuple(harmonics)
    if not multiples:
        raise ValueError(f"harmonics is {harmonics}, at least 1 is needed")
    if multiples[0] < 1 or any(after <= before for before, after in pairwise(multiples)):
        raise ValueError(f"harmonics is {harmonics}, allowed are increasing positive numbers")
    factors = jnp.zeros((len(multiples), *shape), jnp.int32)
    return CosineCorrelation(jnp.zeros(shape, jnp.int32), factors, factors, factor_bits, turn_bits, multiples)


def is_correlation(node: object) -> bool:
    """For `is_leaf` of JAX's tree functions."""
    return isinstance(node, CosineCorrelation)


def joint_plan(parties: int, factor_bits: int) -> list[int]:
    """Fraction bits of each party's factors e^{i k t_j} such that their product ends with `factor_bits`.

    Every product drops 18 bits; the bits of its two operands are as equal as can be, so that the rounding of neither
    dominates. Three parties and 9 bits: [16, 16, 13], by way of a first product with 14.
    """
    bits: list[int] = []
    target = factor_bits
    for _ in range(parties - 1):
        total = target + FRACTION_BITS
        bits.insert(0, total // 2)
        target = total - total // 2
    return [target, *bits]


def combine_factors(cos: Sequence[Array], sin: Sequence[Array]) -> tuple[Array, Array]:
    """The product of the parties' factors, cos t_j + i sin t_j: cos and sin of the sum of the t_j.

    One complex product a further party: three real products (Gauss) in one send, then one truncation of both parts.

    Args:
        cos: a party's factors each, secret ring integers of one shape with the bits of `joint_plan`.
        sin: likewise.
    Returns: two secret arrays of the same shape, with the factor bits of the plan.
    Cost: pinned in tests/protocol/test_correlation.py. Nothing is revealed. Error: `joint_error_bound`.
    """
    product_cos, product_sin = cos[0], sin[0]
    for next_cos, next_sin in zip(cos[1:], sin[1:], strict=True):
        left = jnp.stack([product_cos + product_sin, product_cos, product_sin])
        right = jnp.stack([next_cos, next_sin - next_cos, next_cos + next_sin])
        shared, sine, cosine = left * right
        product_cos, product_sin = truncate(jnp.stack([shared - cosine, shared + sine]))
    return product_cos, product_sin


def dealt_error_bound(factor_bits: int) -> float:
    """Largest error of a dealt factor: it is rounded once."""
    return 2.0 ** -(factor_bits + 1)


def joint_error_bound(parties: int, factor_bits: int) -> float:
    """Largest error of a joint factor: each party's is rounded, each product loses up to one unit and a half.

    (Probabilistic truncation is off by less than one unit, under three parties' local truncation by one more half.)
    """
    plan = joint_plan(parties, factor_bits)
    bits, error = plan[0], 2.0 ** -(plan[0] + 1)
    for next_bits in plan[1:]:
        bits += next_bits - FRACTION_BITS
        error = np.sqrt(2) * (error + 2.0 ** -(next_bits + 1)) + 1.5 * 2.0**-bits
    return float(error)


@dataclass(frozen=True)
class JointShares:
    """What one party brings to a joint correlation: its share of t, and its share of every party's factors."""

    mask: libspu.Share
    cos: list[libspu.Share]
    sin: list[libspu.Share]


@dataclass(frozen=True)
class Correction:
    """What the dealer sends to the holders of the last component: that component of the factors."""

    cos: RingArray
    sin: RingArray

    @property
    def nbytes(self) -> int:
        """Size on the wire for one holder."""
        return self.cos.nbytes + self.sin.nbytes


class CorrelationMaker:
    """One party's side of the offline phase: its streams, and the shares it builds from them.

    Both sides of every stream must make the same requests in the same order.

    Args:
        scheme: how values are shared.
        rank: of the party.
        streams: one for each component of `scheme.held_by(rank)`.
    Raises: ValueError if a stream is missing or one too many.
    """

    def __init__(self, scheme: Scheme, rank: int, streams: Mapping[int, MaskStream]):
        if set(streams) != set(scheme.held_by(rank)):
            raise ValueError(f"rank {rank} holds components {scheme.held_by(rank)}, but has streams for {set(streams)}")
        self._scheme, self._rank, self._streams = scheme, rank, dict(streams)

    def joint(self, wanted: CosineCorrelation) -> JointShares:
        """Shares of a fresh mask and of all parties' factors, for `combine_factors`; sends nothing."""
        plan = joint_plan(self._scheme.parties, wanted.factor_bits)
        mask = {c: stream.draw(wanted.mask.shape) for c, stream in self._streams.items()}
        cos: list[libspu.Share] = []
        sin: list[libspu.Share] = []
        for component, bits in enumerate(plan):
            known = component in mask
            factors = (
                harmonic_factors(mask[component], wanted.multiples, bits, wanted.turn_bits) if known else (None, None)
            )
            for out, factor in zip((cos, sin), factors, strict=True):
                out.append(self._single(component, factor, wanted.cos.shape))
        return JointShares(self._scheme.share(self._rank, mask, np.dtype(np.int32)), cos, sin)

    def dealt(
        self, wanted: CosineCorrelation, correction: Correction | None
    ) -> tuple[libspu.Share, libspu.Share, libspu.Share]:
        """Shares of a fresh (t, cos kt, sin kt), with the dealer's correction where the last component is held."""
        last = self._scheme.parties - 1
        mask = {c: stream.draw(wanted.mask.shape) for c, stream in self._streams.items()}
        factors = []
        for name in ("cos", "sin"):
            parts = {c: s.draw(wanted.cos.shape) for c, s in self._streams.items() if c != last}
            if last in self._streams:
                if correction is None:
                    raise ValueError(f"rank {self._rank} holds component {last} and needs the dealer's correction")
                parts[last] = getattr(correction, name)
            factors.append(parts)
        int32 = np.dtype(np.int32)
        mask_share, cos, sin = (self._scheme.share(self._rank, parts, int32) for parts in (mask, *factors))
        return mask_share, cos, sin

    def _single(self, component: int, value: RingArray | None, shape: Sequence[int]) -> libspu.Share:
        zeros = np.zeros(shape, np.uint64)
        parts = {c: value if c == component and value is not None else zeros for c in self._streams}
        return self._scheme.share(self._rank, parts, np.dtype(np.int32))


class Dealer:
    """The dealer's side: knows every mask, so it must be no compute party and see no opening.

    Args:
        scheme: how values are shared.
        streams: one for each component, twins of the parties'.
    """

    def __init__(self, scheme: Scheme, streams: Sequence[MaskStream]):
        if len(streams) != scheme.parties:
            raise ValueError(f"the dealer needs {scheme.parties} streams, one a component, got {len(streams)}")
        self._streams = list(streams)

    def correct(self, wanted: CosineCorrelation) -> Correction:
        """The last component of cos kt and sin kt of a fresh t."""
        mask = sum((s.draw(wanted.mask.shape) for s in self._streams), np.zeros(wanted.mask.shape, np.uint64))
        factors = harmonic_factors(mask, wanted.multiples, wanted.factor_bits, wanted.turn_bits)
        corrected = []
        for factor in factors:
            for stream in self._streams[:-1]:
                factor = factor - stream.draw(factor.shape)
            corrected.append(factor)
        return Correction(*corrected)


def harmonic_factors(
    t: RingArray, multiples: Sequence[int], bits: int, turn_bits: int = TURN_BITS
) -> tuple[RingArray, RingArray]:
    """cos kt and sin kt for every k of `multiples`, as ring elements with `bits` fraction bits [multiples, ...]."""
    column = np.array(multiples, np.uint64).reshape(-1, *([1] * t.ndim))
    steps = (column * t) << np.uint64(64 - turn_bits)  # whole turns fall off
    angle = steps.astype(np.float64) * (2 * np.pi / 2.0**64)
    cos, sin = (np.rint(f(angle) * (1 << bits)).astype(np.int64).view(np.uint64) for f in (np.cos, np.sin))
    return cos, sin


def party_streams(scheme: Scheme) -> tuple[list[dict[int, MaskStream]], list[MaskStream]]:
    """Fresh streams for all parties of one process, by rank and component, and the dealer's twins of them.

    With joint correlations the twins are to be dropped: who keeps them knows every mask.
    """
    originals = [MaskStream() for _ in range(scheme.parties)]
    by_rank = [{c: originals[c].twin() for c in scheme.held_by(rank)} for rank in range(scheme.parties)]
    return by_rank, originals


def dealer_bytes(scheme: Scheme, wanted: CosineCorrelation) -> int:
    """What a dealer sends in all for one correlation: a correction to each holder of the last component."""
    elements = 2 * int(np.prod(wanted.cos.shape, dtype=np.int64))
    return elements * RING_BYTES * len(scheme.holders(scheme.parties - 1))
