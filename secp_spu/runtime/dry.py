"""A runtime that compiles and audits programs, and executes nothing: what it opens is zero."""

from __future__ import annotations

import jax
import numpy as np

from secp_spu.protocol import CosineCorrelation, combine_factors
from secp_spu.runtime.base import Correlations, Owned, Stored, is_declared, spec_of
from secp_spu.runtime.one_process import OneProcessRuntime
from secp_spu.runtime.program import Program, Tree


class AuditRuntime(OneProcessRuntime):
    """Takes the driver through all programs of a run without running them."""

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
        """See `Runtime.correlations`; the program that makes joint ones is compiled too."""

        def make(wanted: CosineCorrelation) -> CosineCorrelation:
            factors = [[Stored(next(self._names), spec_of(wanted.cos, secret=True))] * self.parties] * 2
            cos, sin = self.run("combine", combine_factors, *factors)
            mask = Stored(next(self._names), spec_of(wanted.mask, secret=True))
            return wanted.replace(mask=mask, cos=cos, sin=sin)

        return self._made(jax.tree.map(make, declared, is_leaf=is_declared))

    def free(self, values: Tree) -> None:
        """See `Runtime.free`."""

    def close(self) -> None:
        """See `Runtime.close`."""

    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        """Programs are compiled before this, and that is all."""
