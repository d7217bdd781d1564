"""A plain SecretFlow SPU device in, fresh joint correlations as its SPUObjects out: for programs that are not ours.

With these, `secp_spu.protocol.cos_sin` and `secp_spu.model.RandomFeatureAttention` are functions for `spu(...)` like
any other. Whoever uses them so audits the programs with `secp_spu.runtime.compile_program`, and uses each correlation
once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from secp_spu.protocol import (
    FRACTION_BITS,
    ROUNDS,
    CorrelationMaker,
    CosineCorrelation,
    Exchange,
    MaskStream,
    Message,
    Scheme,
    combine_factors,
    finish_exchange,
)
from secp_spu.protocol.sharing import KEY_BYTES
from secp_spu.runtime.base import is_declared
from secp_spu.runtime.spu_logging import provide_spu_logging

provide_spu_logging()  # before SecretFlow, which cannot be imported without

import secretflow as sf  # noqa: E402
import spu as libspu  # noqa: E402
from secretflow.device.device.spu import (  # noqa: E402
    SPUCompilerNumReturnsPolicy,
    SPUIOInfo,
    SPUObject,
    SPUValueMeta,
)


class SpuCorrelations:
    """Makes correlations for an SPU device, between the PYUs of its parties; no dealer.

    Keys of mask streams are exchanged once, each between the parties that hold its component. From then on every party
    builds its own shares: under ABY3 with messages between the PYUs, under SEMI2K with a program of the device.

    Args:
        spu: of ABY3 or SEMI2K, with field FM64 and 18 fraction bits.
    Raises: ValueError for another device.
    """

    def __init__(self, spu: sf.SPU):
        protocol = spu.conf.protocol.name.lower()
        if spu.conf.field != libspu.FieldType.FM64 or spu.conf.fxp_fraction_bits != FRACTION_BITS:
            raise ValueError(
                f"the SPU device has field {spu.conf.field.name} and {spu.conf.fxp_fraction_bits} fraction bits, but "
                f"correlations are of FM64 with fxp_fraction_bits {FRACTION_BITS}"
            )
        self._spu, self._scheme = spu, Scheme(protocol, spu.world_size)
        places = [sf.PYU(party) for party in spu.actors]
        make = sf.proxy(sf.PYUObject)(_MakerHost)
        self._makers = [make(self._scheme, rank, device=place) for rank, place in enumerate(places)]
        for component in range(spu.world_size):
            first, *others = self._scheme.holders(component)
            key = self._makers[first].make_key(component)
            for rank in others:
                self._makers[rank].take_key(component, sf.PYUObject(places[rank], key.data))

    def make(self, declared: Any) -> Any:
        """Correlations for one call of one program.

        Args:
            declared: a pytree of `declare_correlation` results, or of their shapes from `jax.eval_shape`.
        Returns: the same pytree with an SPUObject at every leaf; use each once, and never again.
        """
        return jax.tree.map(self._make_one, declared, is_leaf=is_declared)

    def _make_one(self, wanted: CosineCorrelation) -> CosineCorrelation:
        return self._exchange(wanted) if self._scheme.replicated else self._combine(wanted)

    def _exchange(self, wanted: CosineCorrelation) -> CosineCorrelation:
        """Under ABY3: messages go from PYU to PYU."""
        received: list[Any] = [None] * self._scheme.parties
        for maker in self._makers:
            maker.begin(wanted)
        for routes in ROUNDS:
            sent = [maker.proceed(message) for maker, message in zip(self._makers, received, strict=True)]
            received = [None] * self._scheme.parties
            for sender, receiver in routes.items():
                received[receiver] = sf.PYUObject(self._makers[receiver].device, sent[sender].data)
        shapes = wanted.mask.shape, wanted.cos.shape, wanted.sin.shape
        ended = [
            maker.finish(message, _num_returns=len(shapes))
            for maker, message in zip(self._makers, received, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(wanted), self._infeed_all(shapes, ended))

    def _combine(self, wanted: CosineCorrelation) -> CosineCorrelation:
        """Under SEMI2K: the device multiplies the parties' factors."""
        shapes = [wanted.mask.shape, *[wanted.cos.shape] * (2 * self._scheme.parties)]
        drawn = [maker.draw(wanted, _num_returns=len(shapes)) for maker in self._makers]
        mask, *factors = self._infeed_all(shapes, drawn)
        half = self._scheme.parties
        two = {"num_returns_policy": SPUCompilerNumReturnsPolicy.FROM_USER, "user_specified_num_returns": 2}
        cos, sin = self._spu(combine_factors, **two)(factors[:half], factors[half:])
        return replace(wanted, mask=mask, cos=cos, sin=sin)

    def _infeed_all(self, shapes: Sequence[tuple[int, ...]], by_party: Sequence[Sequence]) -> list[SPUObject]:
        """Values of these shapes, of which every party has built its parts."""
        by_value = zip(*by_party, strict=True)
        return [self._infeed(shape, parts) for shape, parts in zip(shapes, by_value, strict=True)]

    def _infeed(self, shape: tuple[int, ...], parts: tuple) -> SPUObject:
        """What every party's PYU has built becomes a value of the device; each part stays with its party."""
        conf, int32 = self._spu.conf, np.dtype(np.int32)
        zeros = dict.fromkeys(range(self._scheme.parties), np.zeros(shape, np.uint64))
        info = SPUIOInfo(0, 1, self._scheme.share(0, zeros, int32).meta)
        secret = libspu.Visibility.VIS_SECRET
        meta = SPUValueMeta(shape, int32, secret, conf.protocol, conf.field, conf.fxp_fraction_bits)
        return SPUObject(self._spu, meta, self._spu.infeed_shares(info, [part.data for part in parts]))


class _MakerHost:
    """One party's mask streams, at its PYU."""

    def __init__(self, scheme: Scheme, rank: int):
        self._scheme, self._rank = scheme, rank
        self._keys: dict[int, bytes] = {}
        self._maker: CorrelationMaker | None = None
        self._under_way: Exchange

    def make_key(self, component: int) -> bytes:
        """A fresh key for a component's stream, for its other holder."""
        self._keys[component] = os.urandom(KEY_BYTES)
        return self._keys[component]

    def take_key(self, component: int, key: bytes) -> None:
        """The key that the other holder has made."""
        self._keys[component] = key

    def begin(self, wanted: CosineCorrelation) -> None:
        """Get ready for an exchange with the other parties."""
        self._under_way = self._own_maker().exchange(wanted)

    def proceed(self, received: Message) -> Message:
        """Take the message of the last round, and give that of the next."""
        return self._under_way.send(received)

    def finish(self, received: Message) -> list[bytes]:
        """This party's shares of a fresh correlation, as SPU's chunks."""
        return [share.share_chunks[0] for share in finish_exchange(self._under_way, received)]

    def draw(self, wanted: CosineCorrelation) -> list[bytes]:
        """This party's shares of a fresh mask and of all parties' factors, as SPU's chunks."""
        shares = self._own_maker().factors(wanted)
        return [share.share_chunks[0] for share in (shares.mask, *shares.cos, *shares.sin)]

    def _own_maker(self) -> CorrelationMaker:
        if self._maker is None:
            streams = {component: MaskStream(key) for component, key in self._keys.items()}
            self._maker = CorrelationMaker(self._scheme, self._rank, streams)
        return self._maker
