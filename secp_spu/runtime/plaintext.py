"""The same interface without MPC: for adaptation, comparison and tests. Nothing is protected and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from secp_spu.runtime.handles import Correlations, Owned, Stored, require_owned, require_party, spec_of
from secp_spu.runtime.one_process import OneProcessRuntime
from secp_spu.runtime.program import Program
from secp_spu.trees import Tree


class PlaintextRuntime(OneProcessRuntime):
    """Programs run as plain JAX in this process; correlations are not needed, so the plaintext model runs."""

    secure = False

    def __init__(self) -> None:
        super().__init__("plaintext", 1)
        self._values: dict[str, jax.Array] = {}
        self._compiled_functions: dict[Callable[..., Tree], Callable[..., Tree]] = {}

    @override
    def share(self, values: Owned) -> Tree:
        require_owned(values)
        return self._store(values.value)

    @override
    def publish(self, values: Tree) -> Tree:
        return self._store(values)

    @override
    def open_to(self, party: str, values: Tree, *, whole: bool = False) -> Owned:
        if whole:
            raise ValueError("whole is True, but in plaintext there is no ring: nothing is masked")
        require_party(party)
        self.require_own(values)
        return Owned(party, jax.tree.map(lambda handle: np.asarray(self._values[handle.name]), values))

    @override
    def correlations(self, declared: Tree) -> Correlations:
        """None are needed: without its correlations a module computes in plaintext."""
        del declared
        return Correlations({})

    @override
    def free(self, values: Tree) -> None:
        self.require_own(values)
        for handle in jax.tree.leaves(values):
            del self._values[handle.name]

    @override
    def close(self) -> None:
        self._values.clear()

    @override
    def run(self, name: str, fn: Callable[..., Tree], *args: Tree) -> Tree:
        trees = [arg.tree if isinstance(arg, Correlations) else arg for arg in args]
        self.require_own(trees)
        values = jax.tree.map(lambda handle: self._values[handle.name], trees)
        compiled = self._compiled_functions.setdefault(fn, jax.jit(fn))
        wait: Callable[[Tree], Tree] = jax.block_until_ready  # which JAX gives no types
        with self.ledger.timed(name):
            return self._store(wait(compiled(*values)))

    def _store(self, values: Tree) -> Tree:
        def keep(value: npt.NDArray[np.generic] | jax.Array) -> Stored:
            handle = self._handle(spec_of(value, secret=True))
            self._values[handle.name] = jnp.asarray(value)
            return handle

        return jax.tree.map(keep, values)

    @override
    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        raise NotImplementedError("plaintext programs are not compiled for SPU")
