"""A runtime that compiles and audits programs, and executes nothing: what it opens is zero."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from typing_extensions import override

from secp_spu.protocol import CosineCorrelation
from secp_spu.runtime.handles import Owned, Stored, Value, spec_of
from secp_spu.runtime.one_process import OneProcessRuntime
from secp_spu.runtime.program import Program
from secp_spu.runtime.sharing_runtime import SharingRuntime
from secp_spu.trees import Tree


class AuditRuntime(OneProcessRuntime, SharingRuntime):
    """Takes the driver through all programs of a run without running them.

    Args:
        protocol: see `LocalRuntime`.
        parties: how many.
        correlations: "joint" or "dealt".
    """

    def __init__(self, protocol: str, parties: int, *, correlations: str = "joint"):
        super().__init__(protocol, parties)
        self._dealt = correlations == "dealt"

    @property
    @override
    def _has_dealer(self) -> bool:
        return self._dealt

    @override
    def _ask_all(self, method: str, *args: object, each: Sequence[object] | None = None) -> list[Value]:
        return [None] * self.parties

    @override
    def _split_at_owner(self, values: Owned) -> tuple[Tree, list[tuple[int, list[Value]]]]:
        return jax.tree.map(lambda leaf: spec_of(leaf, secret=True), values.value), []

    @override
    def _join_at_owner(self, party: str, specs: Tree, parts: list[Value]) -> Owned:
        return Owned(party, jax.tree.map(lambda spec: np.zeros(spec.shape, spec.dtype), specs))

    @override
    def _correct(self, wanted: CosineCorrelation) -> None:
        """Nothing, for nobody asks for it."""

    @override
    def _execute(self, program: Program, inputs: list[Stored], outputs: list[Stored]) -> None:
        """Programs are compiled before this, and that is all."""

    @override
    def close(self) -> None:
        """Nothing is kept."""
