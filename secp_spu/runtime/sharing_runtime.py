"""The methods of runtimes whose compute parties keep shares, written once: a backend says how the parties are asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Literal, get_args

import jax
import numpy as np
from typing_extensions import override

from secp_spu.protocol import CosineCorrelation, Scheme
from secp_spu.runtime.base import Runtime
from secp_spu.runtime.handles import Correlations, Owned, Stored, Value, is_declared, require_owned, require_party
from secp_spu.trees import Tree

Source = Literal["joint", "dealt"]
"""Who makes correlations: the parties together, or a dealer."""


def check_source(correlations: object) -> None:
    """Raises: ValueError for what is no source of correlations."""
    if correlations not in get_args(Source):
        raise ValueError(f"correlations is {correlations!r}, but must be 'joint' or 'dealt'")


class SharingRuntime(Runtime):
    """A runtime whose compute parties keep shares, and make correlations with each other or with a dealer.

    Args:
        protocol: "aby3" (three parties) or "semi2k" (two or more).
        parties: how many.
    Raises: ValueError for a protocol or number of parties that does not exist.
    """

    def __init__(self, protocol: str, parties: int):
        self._scheme = Scheme(protocol, parties)
        super().__init__(protocol, parties)

    @abstractmethod
    def _ask_all(self, method: str, *args: object, each: Sequence[object] | None = None) -> list[Value]:
        """Run a method of `ComputeParty` at all parties, and book what it costs.

        Args:
            method: its name.
            args: the same for all parties.
            each: one more argument, by rank.
        Returns: what it returned, by rank; where parties are elsewhere, references to it.
        """

    @abstractmethod
    def _split_at_owner(self, values: Owned) -> tuple[Tree, Iterable[tuple[int, Sequence[Value]]]]:
        """The owner's work of sharing.

        Returns: the arrays' specs, as a pytree; and in the order of its leaves how many arrays the next parts are of,
            with the parts by rank.
        """

    @abstractmethod
    def _join_at_owner(self, party: str, specs: Tree, parts: list[Value]) -> Owned:
        """The owner's work of opening: the arrays that the parts of all ranks add up to."""

    @abstractmethod
    def _correct(self, wanted: CosineCorrelation) -> Value:
        """The dealer's work: its correction for one correlation."""

    @property
    @abstractmethod
    def _has_dealer(self) -> bool:
        """Whether correlations are dealt; otherwise the parties make them."""

    def _booked(self, program: str) -> AbstractContextManager[object]:
        """Book time and costs of what is asked inside under a name, unless the parties have ledgers of their own."""
        del program
        return nullcontext()

    @override
    def share(self, values: Owned) -> Tree:
        require_owned(values)
        specs, batches = self._split_at_owner(values)
        handles = jax.tree.map(self._handle, specs)
        rest: Iterator[Stored] = iter(jax.tree.leaves(handles))
        with self._booked("share"):
            for count, parts in batches:
                some = list(islice(rest, count))
                dtypes = [handle.spec.dtype for handle in some]
                self._ask_all("store_secret", names_in(some), dtypes, each=parts)
        return handles

    @override
    def publish(self, values: Tree) -> Tree:
        leaves, tree = jax.tree.flatten(values)
        handles = self._public_handles(leaves)
        if leaves:
            self._ask_all("store_public", names_in(handles), leaves)
        return jax.tree.unflatten(tree, handles)

    @override
    def open_to(self, party: str, values: Tree, *, whole: bool = False) -> Owned:
        require_party(party)
        self._refuse_unopenable(values)
        with self._booked("open_to"):
            parts = self._ask_all("parts", names_in(values))
        specs = jax.tree.map(lambda handle: handle.spec, values)
        if whole:
            specs = jax.tree.map(lambda spec: replace(spec, dtype=np.dtype(np.uint64)), specs)
        return self._join_at_owner(party, specs, parts)

    @override
    def free(self, values: Tree) -> None:
        self._let_go(values)
        if names := names_in(values):
            self._ask_all("free", names)

    @override
    def correlations(self, declared: Tree) -> Correlations:
        make = self._deal if self._has_dealer else self._correlate if self._scheme.replicated else self._combine
        return self._made(jax.tree.map(make, declared, is_leaf=is_declared))

    def _deal(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        receivers = self._scheme.holders(self.parties - 1)
        with self._booked("deal"):
            correction = self._correct(wanted)
            received = [correction if rank in receivers else None for rank in range(self.parties)]
            self._ask_all("deal", wanted, name_tree(handles), each=received)
        return handles

    def _correlate(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        with self._booked("correlate"):
            self._ask_all("correlate", wanted, name_tree(handles))
        return handles

    def _combine(self, wanted: CosineCorrelation) -> CosineCorrelation:
        handles = self._handles(wanted)
        factors = self._factor_handles(handles)
        with self._booked("draw"):
            self._ask_all("draw", wanted, handles.mask.name, *map(names_in, factors))
        return self._combined(handles, factors)


def names_in(values: Tree) -> list[str]:
    """The names of a pytree's handles."""
    return [handle.name for handle in jax.tree.leaves(values)]


def name_tree(handles: CosineCorrelation) -> CosineCorrelation:
    """A correlation of names."""
    names: CosineCorrelation = jax.tree.map(lambda handle: handle.name, handles)
    return names
