"""Runs audited programs on a plain SecretFlow SPU device, with fresh joint correlations: for programs of your own.

With these, `secp_spu.protocol.cos_sin` and `secp_spu.model.RandomFeatureAttention` run on PYU data like any other JAX
function. What runs is the very program that was audited, and each correlation is spent by one run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar
from weakref import WeakSet

import jax
import numpy as np
import secretflow as sf
import secretflow.distributed as sfd
import spu as libspu
from secretflow.device.device.spu import SPUCompilerNumReturnsPolicy, SPUIOInfo, SPUObject, SPUValueMeta

from secp_spu.protocol import (
    FRACTION_BITS,
    ROUNDS,
    CorrelationMaker,
    CosineCorrelation,
    Exchange,
    MaskStream,
    Message,
    Scheme,
    SpendingFunction,
    SpentCorrelationError,
    combine_factors,
    finish_exchange,
)
from secp_spu.protocol.sharing import KEY_BYTES
from secp_spu.runtime.handles import Correlations, is_declared
from secp_spu.runtime.jitted import name_of
from secp_spu.runtime.program import Program, Spec, compile_program
from secp_spu.runtime.secretflow.owners import Remote
from secp_spu.trees import Tree


class SpuCorrelations:
    """Makes correlations for an SPU device, between the PYUs of its parties; no dealer.

    Keys of mask streams are exchanged once, each between the parties that hold its component. From then on every party
    builds its own shares: under ABY3 with messages between the PYUs, under SEMI2K with a program of the device.

    Args:
        spu: of ABY3 or SEMI2K, with field FM64 and 18 fraction bits.
    Attributes:
        programs: everything that `run` has compiled, with its proof.
    Raises: ValueError for another device.
    """

    _parts: ClassVar[WeakSet[SPUObject]] = WeakSet()
    """The parts of all correlations that are made in this process, whoever made them."""

    def __init__(self, spu: sf.SPU):
        protocol = spu.conf.protocol.name.lower()
        if spu.conf.field != libspu.FieldType.FM64 or spu.conf.fxp_fraction_bits != FRACTION_BITS:
            raise ValueError(
                f"the SPU device has field {spu.conf.field.name} and {spu.conf.fxp_fraction_bits} fraction bits, but "
                f"correlations are of FM64 with fxp_fraction_bits {FRACTION_BITS}"
            )
        self._spu, self._scheme = spu, Scheme(protocol, spu.world_size)
        self._fresh: list[Correlations] = []
        self._compiled: dict[tuple[object, ...], Program] = {}
        places = [sf.PYU(party) for party in spu.actors]
        make = sf.proxy(sf.PYUObject)(_MakerHost)
        self._makers = [make(self._scheme, rank, device=place) for rank, place in enumerate(places)]
        for component in range(spu.world_size):
            first, *others = self._scheme.holders(component)
            key = self._makers[first].make_key(component)
            for rank in others:
                self._makers[rank].take_key(component, sf.PYUObject(places[rank], key.data))

    @property
    def programs(self) -> list[Program]:
        """Everything that `run` has compiled, with its proof."""
        return list(self._compiled.values())

    def jit(self, fn: Callable[..., Tree], *, name: str | None = None) -> Callable[..., SPUObject]:
        """A JAX function as a secure one, which makes and spends its own correlations: see `Runtime.jit`.

        It takes pytrees of device objects and of public arrays, and returns its results as one object of the device.

        Args:
            fn: a JAX function that gives the same for the same arguments.
            name: of the program, in messages; by default the function's.
        """
        program, called = SpendingFunction(fn), name or name_of(fn)

        def secure(*args: Tree) -> SPUObject:
            (placed, _) = self._spu._place_arguments(*args)
            specs = self._specs(placed)
            declared = program.declared(specs)
            wanted = jax.tree.map(lambda leaf: Spec(leaf.shape, np.dtype(leaf.dtype), True), declared)
            self._compile(called, program, (*specs, wanted))  # first, so that nothing is made for what is refused
            return self.run(called, program, *placed, self.make(declared))

        return secure

    def make(self, declared: Tree) -> Correlations:
        """Correlations for one run of one program.

        Args:
            declared: a pytree of `declare_correlation` results, or of their shapes from `jax.eval_shape`.
        """
        made = Correlations(jax.tree.map(self._make_one, declared, is_leaf=is_declared))
        self._fresh.append(made)
        self._parts.update(jax.tree.leaves(made.tree))
        return made

    def run(self, name: str, fn: Callable[..., Tree], *args: Tree) -> SPUObject:
        """Compile and audit a JAX function, and run what was audited.

        Args:
            name: of the program, in messages.
            fn: a JAX function; keep it alive, programs are cached by its identity.
            args: pytrees of device objects and of public arrays; or what `make` returned, which this run spends.
        Returns: its results, as one object of the device.
        Raises: AuditError, before anything runs; SpentCorrelationError.
        """
        self._check([arg for arg in args if isinstance(arg, Correlations)], args)
        trees = tuple(arg.tree if isinstance(arg, Correlations) else arg for arg in args)
        (placed, _) = self._spu._place_arguments(*trees)
        program = self._compile(name, fn, self._specs(placed))
        self._fresh = [fresh for fresh in self._fresh if not any(fresh is arg for arg in args)]
        leaves, outputs = jax.tree.leaves(placed), [str(i) for i in range(len(jax.tree.leaves(program.outputs)))]
        executable = libspu.Executable(
            name=name, input_names=[str(i) for i in range(program.inputs)], output_names=outputs, code=program.code
        )
        single = SPUCompilerNumReturnsPolicy.SINGLE
        done = [
            actor.run.options(num_returns=2).remote(
                single, program.outputs, executable, *[leaf.shares_name[rank] for leaf in leaves]
            )
            for rank, actor in enumerate(self._spu.actors.values())
        ]
        return SPUObject(self._spu, done[0][0], [names for _, names in done])

    def _check(self, given: Sequence[Correlations], args: tuple[Tree, ...]) -> None:
        """Refuse correlations that are not fresh, that are given twice, or whose parts come in by another way."""
        for correlations in given:
            if sum(correlations is fresh for fresh in self._fresh) != 1 or sum(correlations is g for g in given) != 1:
                raise SpentCorrelationError("correlations serve one run, as one argument: make others with make()")
        plain = jax.tree.leaves([arg for arg in args if not isinstance(arg, Correlations)])
        if any(leaf in self._parts for leaf in plain if isinstance(leaf, SPUObject)):
            raise SpentCorrelationError("an argument is part of a correlation: hand over what make() returned")

    def _specs(self, placed: tuple[Tree, ...]) -> tuple[Tree, ...]:
        """Shapes, types and visibility of objects, each of which may stand for a pytree."""
        leaves, tree = jax.tree.flatten(placed)
        metas = [leaf.meta if _is_here(leaf.meta) else sfd.get(leaf.meta) for leaf in leaves]
        is_secret = libspu.Visibility.VIS_SECRET

        def spec(meta: SPUValueMeta) -> Spec:
            return Spec(tuple(meta.shape), np.dtype(meta.dtype), meta.vtype == is_secret)

        specs: tuple[Tree, ...] = jax.tree.unflatten(tree, [jax.tree.map(spec, meta) for meta in metas])
        return specs

    def _compile(self, name: str, fn: Callable[..., Tree], specs: tuple[Tree, ...]) -> Program:
        leaves, tree = jax.tree.flatten(specs)
        key = (fn, tree, tuple(leaves))
        if key not in self._compiled:
            self._compiled[key] = compile_program(name, fn, specs, native=False)
        return self._compiled[key]

    def _make_one(self, wanted: CosineCorrelation) -> CosineCorrelation:
        return self._exchange(wanted) if self._scheme.replicated else self._combine(wanted)

    def _exchange(self, wanted: CosineCorrelation) -> CosineCorrelation:
        """Under ABY3: messages go from PYU to PYU."""
        received: list[Remote] = [None] * self._scheme.parties
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
        made: CosineCorrelation = jax.tree.unflatten(jax.tree.structure(wanted), self._infeed_all(shapes, ended))
        return made

    def _combine(self, wanted: CosineCorrelation) -> CosineCorrelation:
        """Under SEMI2K: the device multiplies the parties' factors."""
        shapes = [wanted.mask.shape, *[wanted.cos.shape] * (2 * self._scheme.parties)]
        drawn = [maker.draw(wanted, _num_returns=len(shapes)) for maker in self._makers]
        mask, *factors = self._infeed_all(shapes, drawn)
        half = self._scheme.parties
        two = {"num_returns_policy": SPUCompilerNumReturnsPolicy.FROM_USER, "user_specified_num_returns": 2}
        cos, sin = self._spu(combine_factors, **two)(factors[:half], factors[half:])
        return replace(wanted, mask=mask, cos=cos, sin=sin)

    def _infeed_all(self, shapes: Sequence[tuple[int, ...]], by_party: Sequence[Sequence[Remote]]) -> list[SPUObject]:
        """Values of these shapes, of which every party has built its parts."""
        by_value = zip(*by_party, strict=True)
        return [self._infeed(shape, parts) for shape, parts in zip(shapes, by_value, strict=True)]

    def _infeed(self, shape: tuple[int, ...], parts: tuple[Remote, ...]) -> SPUObject:
        """What every party's PYU has built becomes a value of the device; each part stays with its party."""
        conf, int32 = self._spu.conf, np.dtype(np.int32)
        zeros = dict.fromkeys(range(self._scheme.parties), np.zeros(shape, np.uint64))
        info = SPUIOInfo(0, 1, self._scheme.share(0, zeros, int32).meta)
        secret = libspu.Visibility.VIS_SECRET
        meta = SPUValueMeta(shape, int32, secret, conf.protocol, conf.field, conf.fxp_fraction_bits)
        return SPUObject(self._spu, meta, self._spu.infeed_shares(info, [part.data for part in parts]))


def _is_here(meta: Tree) -> bool:
    """Whether this is a pytree of what objects are, and no reference to one."""
    return all(isinstance(leaf, SPUValueMeta) for leaf in jax.tree.leaves(meta))


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
