"""What runs at an owner's or the dealer's PYU: their objects, their shares, and the masks of a dealer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
import numpy.typing as npt
import secretflow as sf

from secp_spu.protocol import Correction, CosineCorrelation, Dealer, MaskStream, Scheme
from secp_spu.protocol.sharing import KEY_BYTES
from secp_spu.runtime.compute_party import join, split
from secp_spu.runtime.handles import Owned, Value, spec_of, values_for
from secp_spu.trees import Tree

Remote: TypeAlias = Any  # Any: SecretFlow, RayFed and Ray have no types, and a proxy's class is made while they run.
"""An object of SecretFlow's for something at a party: a proxy of an actor, or a reference to a result."""

T = TypeVar("T")


class OwnerError(Exception):
    """What an owner's object raised, on its way to the owner's driver; other parties do not get it."""

    @property
    def original(self) -> BaseException:
        """The exception itself."""
        error: BaseException = self.args[0]
        return error


class OwnerHost:
    """An object at its owner's PYU. Its first failure is the answer to all that follows."""

    def __init__(self, make: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]):
        self._failure: OwnerError | None = None
        self._instance = self._try(lambda: make(*args, **kwargs))

    def call(self, method: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Value:
        """Call a method of the object."""
        if self._failure is None:
            result = self._try(lambda: getattr(self._instance, method)(*args, **kwargs))
        if self._failure:
            raise self._failure
        return result

    def _try(self, action: Callable[[], Value]) -> Value:
        try:
            return action()
        except Exception as error:
            self._failure = OwnerError(error)


class OwnerActor:
    """An owner's object, for the driver; what its methods return belongs to the owner."""

    def __init__(self, party: str, host: Remote):
        self._party, self._host = party, host

    def __getattr__(self, method: str) -> Callable[..., Owned]:
        def call(*args: object, **kwargs: object) -> Owned:
            plain = values_for(self._party, (args, kwargs))
            return Owned(self._party, self._host.call(method, *plain))

        return call


class DealerHost:
    """The dealer, at its own PYU: makes the keys of all mask streams, and corrects."""

    def __init__(self, scheme: Scheme):
        self._keys = [os.urandom(KEY_BYTES) for _ in range(scheme.parties)]
        self._dealer = Dealer(scheme, [MaskStream(key) for key in self._keys])

    def key(self, component: int) -> bytes:
        """For the holders of a component."""
        return self._keys[component]

    def correct(self, wanted: CosineCorrelation) -> Correction:
        """The last component of fresh factors, for its holders."""
        return self._dealer.correct(wanted)


def actor(host: type, place: sf.PYU, *args: object) -> Remote:
    """An object of a class at a PYU, by which its methods are called there."""
    return sf.proxy(sf.PYUObject)(host)(*args, device=place)


def same(value: T) -> T:
    """The value, at the party that computes this."""
    return value


def split_at_owner(values: Tree, scheme: Scheme) -> tuple[Tree, ...]:
    """At the owner: specs of its arrays, and for each rank the components that it holds."""
    leaves, tree = jax.tree.flatten(values)
    specs = jax.tree.unflatten(tree, [spec_of(leaf, secret=True) for leaf in leaves])
    return specs, *split(leaves, scheme, MaskStream())


def join_at_owner(specs: Tree, *parts: Sequence[npt.NDArray[np.uint64]]) -> Tree:
    """At the owner: the arrays that the parties' parts add up to."""
    leaves, tree = jax.tree.flatten(specs)
    return jax.tree.unflatten(tree, join(parts, leaves))
