"""Makes shares of fresh correlations: dealt by a dealer, or made by the parties alone.

Every component of t comes from a `MaskStream`, whose key its holders share.

dealt: a dealer knows all keys, computes cos kt and sin kt and sends the last component of each; the others are drawn
    from the streams. 16 bytes a harmonic to every holder of the last component, and the dealer knows every mask.

joint, ABY3 (rank r holds the components r and r + 1 mod 3): e^{ikt} = A B with A = e^{ik(t_0 + t_1)}, which rank 0
    alone knows, and B = e^{ikt_2}, which ranks 1 and 2 both know. Their bits add up to `factor_bits`, so that ring
    integers are multiplied and nothing is truncated. Streams 0, 1 and 2 are those of the components.

    1. rank 0 splits A = A' + A'', with A' from stream 1, and sends A'' to rank 2
    2. rank 1 computes Z' = A' B, rank 2 Z'' = A'' B; A B = Z' + Z''
    3. component 1 := rho_1 from stream 1, component 0 := rho_0 from stream 0; rank 1 sends Z' - rho_1 to rank 2, rank 2
       sends Z'' - rho_0 to rank 1, and both have component 2 := (Z' - rho_1) + (Z'' - rho_0)

    16 bytes a harmonic sent by each rank, in 1 message each; two delays. Rank 0 receives nothing. Rank 1 receives
    Z'' - rho_0 and has no part of stream 0; rank 2 receives A'' = A - A' and Z' - rho_1, and A' and rho_1 are different
    elements of stream 1, of which it has no part. So all that is received is uniform given what its receiver has, and
    t is uniform to every rank, which misses one of its components.

joint, SEMI2K (rank j holds component j): e^{ikt} is the product of the parties' e^{ikt_j}, which each enters as a share
    whose only non-zero component is its own; `combine_factors` multiplies them under SPU. 48 bytes a harmonic and party
    and 1 message with two parties, 192 and 4 with three. Nobody knows t: every party misses the others' components.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array
from spu import libspu

from secp_spu.protocol.correlation import ANGLE_BITS, TURN_BITS, CosineCorrelation, joint_plan
from secp_spu.protocol.sharing import RING_BYTES, MaskStream, RingArray, Scheme

Shares = tuple[libspu.Share, libspu.Share, libspu.Share]
"""One party's shares of t, cos kt and sin kt."""

Message = RingArray | None
"""What a rank sends or receives in one round: [2, harmonics, ...], or nothing."""

Received: TypeAlias = Any  # Any: a Message, None in rounds that only the exchange itself knows.

Exchange = Generator[Message, Received, Shares]
"""A rank's side of a joint correlation: yields what it sends, wants to be sent what it receives, returns its shares."""

ROUNDS: tuple[Mapping[int, int], ...] = ({0: 2}, {1: 2, 2: 1})
"""Sender -> receiver, round by round, of the messages that ABY3's parties exchange for a joint correlation."""


@dataclass(frozen=True)
class JointShares:
    """What one party of SEMI2K brings to a joint correlation: its shares of t and of every party's factors."""

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

    All holders of a stream must make the same requests in the same order.

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

    def exchange(self, wanted: CosineCorrelation) -> Exchange:
        """This rank's side of a joint correlation under ABY3, in lockstep with the others'.

        Yields its message of each of the `ROUNDS`, then wants to be sent the one it receives in that round; returns its
        shares. Streams are drawn in one order, before the first message: t, A' (stream 1 alone), rho (streams 0 and 1).
        """
        mask = self._draw_mask(wanted)
        play = (self._rank_0, self._rank_1, self._rank_2)[self._rank]
        factors = yield from play(wanted, mask, (2, *wanted.cos.shape))
        return self._shares(mask, *({c: parts[i] for c, parts in factors.items()} for i in (0, 1)))

    def _rank_0(
        self, wanted: CosineCorrelation, mask: Mapping[int, RingArray], shape: Sequence[int]
    ) -> Generator[Message, Received, dict[int, RingArray]]:
        bits, _ = joint_plan(self._scheme, wanted.factor_bits)
        masked = looked_up_factors(mask[0] + mask[1], wanted.multiples, bits, wanted.turn_bits)
        masked -= self._streams[1].draw(shape)
        rho = {component: self._streams[component].draw(shape) for component in (0, 1)}

        yield masked
        yield None
        return rho

    def _rank_1(
        self, wanted: CosineCorrelation, mask: Mapping[int, RingArray], shape: Sequence[int]
    ) -> Generator[Message, Received, dict[int, RingArray]]:
        _, bits = joint_plan(self._scheme, wanted.factor_bits)
        factor = looked_up_factors(mask[2], wanted.multiples, bits, wanted.turn_bits)
        masked = complex_product(self._streams[1].draw(shape), factor)
        rho = self._streams[1].draw(shape)
        masked -= rho

        yield None
        received = yield masked
        return {1: rho, 2: masked + received}

    def _rank_2(
        self, wanted: CosineCorrelation, mask: Mapping[int, RingArray], shape: Sequence[int]
    ) -> Generator[Message, Received, dict[int, RingArray]]:
        _, bits = joint_plan(self._scheme, wanted.factor_bits)
        factor = looked_up_factors(mask[2], wanted.multiples, bits, wanted.turn_bits)
        rho = self._streams[0].draw(shape)

        received = yield None
        masked = complex_product(received, factor)
        masked -= rho

        received = yield masked
        return {2: masked + received, 0: rho}

    def factors(self, wanted: CosineCorrelation) -> JointShares:
        """Under SEMI2K: shares of a fresh mask and of all parties' factors, for `combine_factors`; sends nothing."""
        mask = self._draw_mask(wanted)
        zeros = np.zeros(wanted.cos.shape, np.uint64)
        cos: list[libspu.Share] = []
        sin: list[libspu.Share] = []
        for component, bits in enumerate(joint_plan(self._scheme, wanted.factor_bits)):
            known = component in mask
            parts = (
                looked_up_factors(mask[component], wanted.multiples, bits, wanted.turn_bits)
                if known
                else (zeros, zeros)
            )
            for out, part in zip((cos, sin), parts, strict=True):
                out.append(self._share({self._rank: part}))
        return JointShares(self._share(mask), cos, sin)

    def dealt(self, wanted: CosineCorrelation, correction: Correction | None) -> Shares:
        """Shares of a fresh (t, cos kt, sin kt), with the dealer's correction where the last component is held."""
        last = self._scheme.parties - 1
        mask = self._draw_mask(wanted)
        factors = []
        for name in ("cos", "sin"):
            parts = {c: s.draw(wanted.cos.shape) for c, s in self._streams.items() if c != last}
            if last in self._streams:
                if correction is None:
                    raise ValueError(f"rank {self._rank} holds component {last} and needs the dealer's correction")
                parts[last] = getattr(correction, name)
            factors.append(parts)
        return self._shares(mask, *factors)

    def _draw_mask(self, wanted: CosineCorrelation) -> dict[int, RingArray]:
        return {component: stream.draw(wanted.mask.shape) for component, stream in self._streams.items()}

    def _shares(
        self, mask: Mapping[int, RingArray], cos: Mapping[int, RingArray], sin: Mapping[int, RingArray]
    ) -> Shares:
        return self._share(mask), self._share(cos), self._share(sin)

    def _share(self, components: Mapping[int, RingArray]) -> libspu.Share:
        return self._scheme.share(self._rank, components, np.dtype(np.int32))


def finish_exchange(exchange: Exchange, received: Message) -> Shares:
    """The shares that an exchange ends with, after the message of its last round.

    Raises: ValueError if it has further rounds.
    """
    try:
        exchange.send(received)
    except StopIteration as end:
        shares: Shares = end.value
        return shares
    raise ValueError("the exchange has further rounds")


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


def combine_factors(cos: Sequence[Array], sin: Sequence[Array]) -> tuple[Array, Array]:
    """The product of the parties' factors, cos t_j + i sin t_j: cos and sin of the sum of the t_j. For SEMI2K.

    One complex product a further party: three real products (Gauss) in one send. Nothing is truncated.

    Args:
        cos: a party's factors each, secret ring integers of one shape with the bits of `joint_plan`.
        sin: likewise.
    Returns: two secret arrays of the same shape, with all the plan's bits together.
    Reveals: nothing.
    Cost (a party, 64-bit ring): 48 bytes an element and 1 send with two parties, 192 and 4 with three.
    Error: `joint_error_bound`.
    """
    product_cos, product_sin = cos[0], sin[0]
    for next_cos, next_sin in zip(cos[1:], sin[1:], strict=True):
        left = jnp.stack([product_cos + product_sin, product_cos, product_sin])
        right = jnp.stack([next_cos, next_sin - next_cos, next_cos + next_sin])
        shared, sine, cosine = left * right
        product_cos, product_sin = shared - cosine, shared + sine
    return product_cos, product_sin


def complex_product(left: RingArray, right: RingArray) -> RingArray:
    """The products of complex ring integers, real parts before imaginary parts [2, ...]."""
    product = np.empty_like(left)
    part = np.empty_like(left[0])
    np.multiply(left[0], right[0], out=product[0])
    product[0] -= np.multiply(left[1], right[1], out=part)
    np.multiply(left[0], right[1], out=product[1])
    product[1] += np.multiply(left[1], right[0], out=part)
    return product


def harmonic_factors(
    t: RingArray, multiples: Sequence[int], bits: int, turn_bits: int = TURN_BITS
) -> tuple[RingArray, RingArray]:
    """cos kt and sin kt for every k of `multiples`, rounded to `bits` fraction bits, each [multiples, ...]."""
    angle = _multiples(t, multiples, turn_bits).astype(np.float64) * (2 * np.pi / 2.0**64)
    cos, sin = (np.rint(f(angle) * (1 << bits)).astype(np.int64).view(np.uint64) for f in (np.cos, np.sin))
    return cos, sin


def looked_up_factors(t: RingArray, multiples: Sequence[int], bits: int, turn_bits: int = TURN_BITS) -> RingArray:
    """The same but for the angle, of which `bits` + ANGLE_BITS bits are used: 15 times as fast [2, multiples, ...]."""
    steps = _multiples(t, multiples, turn_bits)
    steps >>= np.uint64(64 - bits - ANGLE_BITS)
    return np.take(_turn(bits), steps.view(np.int64), axis=1)


def _multiples(t: RingArray, multiples: Sequence[int], turn_bits: int) -> RingArray:
    """k t for every k of `multiples`, a turn being 2**64 [multiples, ...]; whole turns fall off."""
    column = np.array(multiples, np.uint64) << np.uint64(64 - turn_bits)
    steps: RingArray = column.reshape(-1, *([1] * t.ndim)) * t
    return steps


@cache
def _turn(bits: int) -> RingArray:
    """cos and sin in the middle of every step of a turn, rounded to `bits` fraction bits [2, steps]."""
    steps = 1 << (bits + ANGLE_BITS)
    angle = (np.arange(steps) + 0.5) * (2 * np.pi / steps)
    both = np.rint(np.stack([np.cos(angle), np.sin(angle)]) * (1 << bits))
    integers: npt.NDArray[np.int64] = both.astype(np.int64)
    return integers.view(np.uint64)


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
