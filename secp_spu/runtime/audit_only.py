"""A runtime that compiles and audits programs, and executes nothing: what it opens is zero."""

from __future__ import annotations

import jax
import numpy as np

from secp_spu.protocol import CosineCorrelation
from secp_spu.runtime.base import Correlations, Owned, Stored, is_declared, spec_of
from secp_spu.runtime.one_process import OneProcessRuntime
from secp_spu.runtime.program import Program, Tree


class AuditRuntime(OneProcessRuntime):
    """Takes the driver through all programs of a run without running them.

    Args:
        protocol: see `LocalRuntime`.
        parties: how many.
        correlations: "joint" or "dealt".
    """

    def __init__(self, protocol: str, parties: int, *, correlations: str = "joint"):
        super().__init__(protocol, parties)
        self._combines = protocol == "semi2k" and correlations == "joint"

    def share(self, values: Owned) -> Tree:
        """See `Runtime.share`."""
        return jax.tree.map(lambda leaf: Stored(next(self._names), spec_of(leaf, secret=True)), values.value)

    def publish(self, values: Tree) -> Tree:
        """See `Runtime.publish`."""
        return jax.tree.map(lambda leaf: Stored(next(self._names), spec_of(leaf, secret=False)), values)

    def open_to(self, party: str, values: Tree) -> Owned:
        """See `Runtime.open_to`; here the result is zero."""
        return Owned(party, jax.tree.map(lambda handle: np.zeros(handle.spec.shape, handle.spec.dtype), values))

    def correlations(self, declared: Tree) -> Correlations:
        """See `Runtime.correlations`; where a program makes them, it is compiled too."""

        def make(wanted: CosineCorrelation) -> CosineCorrelation:
            handles = self._handles(wanted)
            return self._combined(handles, self._factor_handles(handles)) if self._combines else handles

        return self._made(jax.tree.map(make, declared, is_leaf=is_declared))

    def free(self, values: Tree) -> None:
        """See `Runtime.free`."""

    def close(self) -> None:
        """See `Runtime.close`."""

    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        """Programs are compiled before this, and that is all."""
