"""What a driver holds: handles to arrays of the compute parties, owners' values, and correlations to be spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np
import numpy.typing as npt

from secp_spu.protocol import CosineCorrelation
from secp_spu.runtime.program import Spec
from secp_spu.trees import Tree

Value: TypeAlias = Any  # Any: methods are called by name, and only a method's own signature says what goes in and out.
"""What a method takes or returns that is called by its name, at an owner or at a compute party."""


@dataclass(frozen=True)
class Stored:
    """A handle to an array that the compute parties keep: a leaf of the pytrees that programs take and return."""

    name: str
    spec: Spec
    runtime: int
    """The number of the runtime that made it, in this process: another runtime may have given the same name."""


@dataclass(frozen=True, repr=False)
class Owned:
    """A value at one party, which the driver moves without looking at it."""

    party: str
    value: Value

    def __repr__(self) -> str:
        return f"Owned(by {self.party})"


class Actor(Protocol):
    """An object that lives at a party: any of its methods, called with plain or Owned arguments."""

    def __getattr__(self, method: str) -> Callable[..., Owned]: ...


@dataclass(frozen=True)
class Correlations:
    """A batch of correlations for one run of one program; only `Runtime.correlations` makes them."""

    tree: Tree


def require_owned(values: object) -> None:
    """Refuse what is to be shared if it belongs to nobody.

    Raises: TypeError.
    """
    if not isinstance(values, Owned):
        raise TypeError(
            f"`values` is a {type(values).__name__}, but must say whose it is: Owned(party, values), with an array or "
            "a pytree of arrays"
        )
    require_party(values.party)


def require_party(party: object) -> None:
    """Refuse what names no party.

    Raises: TypeError.
    """
    if not isinstance(party, str) or not party:
        raise TypeError(f"`party` is {party!r}, but must be a party's name, such as 'alice'")


def is_declared(node: object) -> bool:
    """For `is_leaf` of JAX's tree functions: a correlation, of arrays or of handles."""
    return isinstance(node, CosineCorrelation)


def names_of(node: CosineCorrelation | Stored) -> tuple[str, ...]:
    """The names of a correlation's mask, cos and sin; of a single handle, its name."""
    parts = (node.mask, node.cos, node.sin) if isinstance(node, CosineCorrelation) else (node,)
    return tuple(stored.name for stored in parts)


def spec_of(value: npt.NDArray[np.generic] | jax.Array | jax.ShapeDtypeStruct, *, secret: bool) -> Spec:
    """The spec of an array that is to be shared or published; of whole ring elements, which are int32 to JAX.

    Raises: TypeError for what is no array.
    """
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"a value is a {type(value).__name__}, but must be an array, such as np.float32([1, 2])")
    dtype = np.dtype(value.dtype)
    return Spec(tuple(value.shape), np.dtype(np.int32) if dtype == np.uint64 else dtype, secret)


def values_for(party: str, arguments: Tree) -> Tree:
    """The arguments of a call at a party, with that party's own values in place of what the driver moves.

    Raises: ValueError for a value of another party.
    """

    def value_of(node: object) -> Value:
        if not isinstance(node, Owned):
            return node
        if node.party != party:
            raise ValueError(f"{party} was given a value of {node.party}: owners do not see each other's values")
        return node.value

    return jax.tree.map(value_of, arguments, is_leaf=lambda node: isinstance(node, Owned))
