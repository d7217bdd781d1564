"""One compute party's side, whatever links it to the others: an SPU runtime, its variables, its random streams."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import numpy.typing as npt
from spu import Runtime as SpuRuntime
from spu import libspu

from secp_spu.protocol import (
    FRACTION_BITS,
    ROUNDS,
    Correction,
    CorrelationMaker,
    CosineCorrelation,
    MaskStream,
    Message,
    Scheme,
    decode,
    encode,
    finish_exchange,
)
from secp_spu.protocol.sharing import RingArray, public_elements, public_share
from secp_spu.protocol.waves import NATIVE_WAVES, Waves, native_waves
from secp_spu.runtime.chain import chain_of
from secp_spu.runtime.handles import Value
from secp_spu.runtime.ledger import Cost
from secp_spu.runtime.program import Spec
from secp_spu.trees import JsonObject


class ComputeParty:
    """What one party does with its shares.

    Args:
        scheme: how values are shared.
        rank: of the party.
        spu: its SPU runtime.
        link: of that runtime; messages of correlations travel by a sub-link of it.
        streams: of the components that it holds, for correlations.
    """

    def __init__(
        self,
        scheme: Scheme,
        rank: int,
        spu: SpuRuntime,
        link: libspu.link.Context,
        *,
        streams: Mapping[int, MaskStream],
    ):
        self._scheme, self._rank, self._spu, self._link = scheme, rank, spu, link.spawn()
        self._maker = CorrelationMaker(scheme, rank, streams)

    def ask(self, method: str, *args: Value) -> tuple[Value, Cost | None]:
        """Run one of the methods below.

        Returns: its result; and what this party sent for it, or was sent by an owner or the dealer, if that is booked.
        """
        result = getattr(self, method)(*args)
        return result, _cost(method, args, result)

    def store_secret(
        self, names: Sequence[str], dtypes: Sequence[np.dtype[np.generic]], parts: Sequence[Mapping[int, RingArray]]
    ) -> int:
        """Keep an owner's arrays, given as components by number; returns how many bytes those were."""
        for name, dtype, components in zip(names, dtypes, parts, strict=True):
            self._spu.set_var(name, self._scheme.share(self._rank, components, dtype))
        return sum(components[c].nbytes for components in parts for c in self._scheme.held_by(self._rank))

    def store_public(self, names: Sequence[str], values: Sequence[npt.NDArray[np.generic]]) -> None:
        """Keep arrays that everybody may know."""
        for name, value in zip(names, values, strict=True):
            self._spu.set_var(name, self._scheme.public(value))

    def parts(self, names: Sequence[str]) -> list[RingArray]:
        """This party's part of each array; the parts of all parties add up to it."""
        return [self._scheme.part(self._rank, self._spu.get_var(name)) for name in names]

    def free(self, names: Sequence[str]) -> None:
        """Delete arrays."""
        for name in names:
            self._spu.del_var(name)

    def correlate(self, wanted: CosineCorrelation, names: CosineCorrelation) -> list[int]:
        """Keep a fresh joint correlation, made together with the other parties of ABY3.

        Returns: the sizes of the messages that it sent, in bytes.
        """
        exchange = self._maker.exchange(wanted)
        sent: list[int] = []
        received: Message = None
        for routes in ROUNDS:
            message = exchange.send(received)
            if message is not None:
                self._link.send(routes[self._rank], message.tobytes())
                sent.append(message.nbytes)
            senders = [sender for sender, receiver in routes.items() if receiver == self._rank]
            received = self._receive(senders[0], wanted) if senders else None
        self._keep(names, finish_exchange(exchange, received))
        return sent

    def _receive(self, sender: int, wanted: CosineCorrelation) -> RingArray:
        return np.frombuffer(self._link.recv(sender), np.uint64).reshape(2, *wanted.cos.shape)

    def _keep(self, names: CosineCorrelation, shares: Sequence[libspu.Share]) -> None:
        for name, share in zip(jax.tree.leaves(names), shares, strict=True):
            self._spu.set_var(name, share)

    def draw(self, wanted: CosineCorrelation, mask: str, cos: Sequence[str], sin: Sequence[str]) -> None:
        """Keep a fresh joint mask and its share of every party's factors, for `combine_factors`; sends nothing."""
        shares = self._maker.factors(wanted)
        self._spu.set_var(mask, shares.mask)
        for name, share in zip([*cos, *sin], [*shares.cos, *shares.sin], strict=True):
            self._spu.set_var(name, share)

    def deal(self, wanted: CosineCorrelation, names: CosineCorrelation, correction: Correction | None) -> int:
        """Keep a fresh dealt correlation; returns how many bytes the dealer sent for it."""
        self._keep(names, self._maker.dealt(wanted, correction))
        return correction.nbytes if correction else 0

    def execute(self, name: str, code: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> float:
        """Run a program, together with the other parties; its public steps are computed here.

        Returns: the seconds that those took.
        """
        chain, seconds = chain_of(code), 0.0
        variables = {f"%arg{number}": variable for number, variable in enumerate(inputs)}
        for step in chain:
            given, done = ([variables[value] for value in values] for values in (step.inputs, step.last))
            made = outputs if step is chain[-1] else [f"{outputs[0]}{value}" for value in step.outputs]
            variables.update(zip(step.outputs, made, strict=True))
            if step.code is None:
                begin = time.perf_counter()
                self._compute(given, made)
                seconds += time.perf_counter() - begin
            else:
                self._spu.run(libspu.Executable(name=name, input_names=given, output_names=made, code=step.code))
            self.free(done)
        return seconds

    def _compute(self, given: Sequence[str], made: Sequence[str]) -> None:
        """A public step, which is `native_waves`: the only one that there is."""
        delta, constant = (public_elements(self._spu.get_var(name)) for name in given)
        found = native_waves(delta, Waves.from_constant(constant.view(np.int64)))
        self._spu.set_var(made[0], public_share(found, np.dtype(np.int32)))


BOOKED = {"store_secret": "share", "parts": "open_to", "correlate": "correlate", "draw": "draw", "deal": "deal"}
"""Methods of a party whose time is booked, and the names that they are booked under."""


def _cost(method: str, args: tuple[Value, ...], result: Value) -> Cost | None:
    """Bytes and messages of one call."""
    if method == "store_secret":
        return Cost(result, len(args[0]))
    if method == "parts":
        return Cost(sum(part.nbytes for part in result), len(result))
    if method == "correlate":
        return Cost(sum(result), len(result))
    if method == "deal":
        return Cost(result, int(result > 0))
    return None


def public_steps(seconds: Sequence[float]) -> list[tuple[str, Cost]]:
    """A ledger's row of what `ComputeParty.execute` returned at some parties, averaged; none if no step was taken."""
    mean = sum(seconds) / len(seconds)
    return [(NATIVE_WAVES, Cost(seconds=mean))] if mean else []


def split(
    leaves: Sequence[npt.NDArray[np.generic]], scheme: Scheme, stream: MaskStream
) -> list[list[dict[int, RingArray]]]:
    """At an owner: fresh components of arrays, for each rank those that it holds."""
    components = [dict(enumerate(scheme.split(encode(leaf), stream))) for leaf in leaves]
    return [[{c: parts[c] for c in scheme.held_by(rank)} for parts in components] for rank in range(scheme.parties)]


def join(parts: Sequence[Sequence[RingArray]], specs: Sequence[Spec]) -> list[npt.NDArray[np.generic]]:
    """At an owner: the arrays that all ranks' parts add up to."""
    sums = (np.add.reduce(column, dtype=np.uint64) for column in zip(*parts, strict=True))
    return [decode(elements, spec.dtype) for elements, spec in zip(sums, specs, strict=True)]


def spu_settings(scheme: Scheme, *, on_this_machine: int = 1) -> JsonObject:
    """SPU's settings, as JSON's types.

    Args:
        scheme: how values are shared.
        on_this_machine: how many of the parties share its cores: more threads than cores take turns at every operation.
    """
    return {
        "protocol": scheme.kind.name,
        "field": "FM64",
        "fxp_fraction_bits": FRACTION_BITS,
        "enable_pphlo_profile": True,
        "max_concurrency": max(1, len(os.sched_getaffinity(0)) // on_this_machine),
    }


def spu_config(scheme: Scheme) -> libspu.RuntimeConfig:
    """The same as SPU's own object, for parties that are all on this machine."""
    config = libspu.RuntimeConfig()
    config.ParseFromJsonString(json.dumps(spu_settings(scheme, on_this_machine=scheme.parties)))
    return config
