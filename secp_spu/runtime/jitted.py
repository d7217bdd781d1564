"""Secure functions as `Runtime.jit` makes them: they find out what they spend, make it, and spend it at each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np
import numpy.typing as npt

from secp_spu.protocol import SpendingFunction
from secp_spu.runtime.handles import Correlations, Owned, Stored, is_declared, spec_of
from secp_spu.runtime.program import Spec
from secp_spu.trees import Tree

if TYPE_CHECKING:
    from secp_spu.runtime.base import Runtime


class Jitted:
    """A secure function on a runtime.

    Args:
        runtime: where it runs.
        fn: a JAX function.
        name: of its programs; None for the function's own.
    """

    def __init__(self, runtime: Runtime, fn: Callable[..., Tree], name: str | None = None):
        self._runtime, self._fn, self._name = runtime, fn, name or name_of(fn)
        self._program = SpendingFunction(fn)

    def __call__(self, *args: Tree) -> Tree:
        """Run it on handles and plain arrays; returns handles.

        Raises: AuditError, before anything is made or runs; ValueError for another kind of argument, and for a mask
            that might be used more than once (`secp_spu.protocol.spend`); else as `Runtime.run`.
        """
        args = jax.tree.map(_argument, args, is_leaf=_is_whole)
        if not self._runtime.secure:
            return self._run(args, self._fn)
        specs = jax.tree.map(_spec, args)
        declared = self._program.declared(specs)
        wanted = jax.tree.map(lambda leaf: spec_of(leaf, secret=True), declared)
        handles = jax.tree.map(lambda spec: Stored("", spec), (*specs, wanted))
        self._runtime.compiled(self._name, self._program, handles)  # first: nothing is made for what is refused
        return self._run(args, self._program, declared)

    def _run(self, args: tuple[Tree, ...], program: Callable[..., Tree], *declared: Tree) -> Tree:
        """Publish the plain arrays for one run, and make what it spends."""
        runtime = self._runtime
        published = runtime.publish([leaf for leaf in jax.tree.leaves(args) if not isinstance(leaf, Stored)])
        handles = iter(published)
        inputs = jax.tree.map(lambda leaf: leaf if isinstance(leaf, Stored) else next(handles), args)
        with runtime.ledger.phase("offline"):
            correlations = [runtime.correlations(each) for each in declared]
        results = runtime.run(self._name, program, *inputs, *correlations)
        runtime.free(published)
        return results


_NARROWED = {np.dtype(np.float64): np.dtype(np.float32), np.dtype(np.int64): np.dtype(np.int32)}
"""Types of Python's and NumPy's own numbers, and those that are shared instead."""


def name_of(fn: Callable[..., object]) -> str:
    """A function's name, for programs."""
    return getattr(fn, "__name__", type(fn).__name__).strip("<>")


def _is_whole(node: object) -> bool:
    return isinstance(node, Owned | Correlations) or is_declared(node)


def _argument(leaf: object) -> Stored | npt.NDArray[np.generic]:
    """A handle, or a plain array with the types of shared numbers."""
    if isinstance(leaf, Stored):
        return leaf
    if isinstance(leaf, Owned):
        raise ValueError(f"an argument is a value of {leaf.party}: hand over what the runtime's share() returns")
    if _is_whole(leaf):
        raise ValueError("an argument is a correlation, but a function of jit makes its own: take runtime.run for this")
    if isinstance(leaf, jax.core.Tracer):
        raise ValueError("a secure function is called while JAX traces another: call the plain function there")
    array = np.asarray(leaf)
    shared = array.astype(_NARROWED.get(array.dtype, array.dtype))
    if shared.dtype not in (np.float32, np.int32) or (array.dtype == np.int64 and (shared != array).any()):
        raise ValueError(f"an argument has dtype {array.dtype}: give float32, or int32, which its numbers must fit")
    return shared


def _spec(leaf: Stored | npt.NDArray[np.generic]) -> Spec:
    return leaf.spec if isinstance(leaf, Stored) else spec_of(leaf, secret=False)
