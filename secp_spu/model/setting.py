"""Says where a module runs and how its parameters come: one static attribute of every module of the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Where a module runs and how its parameters come; hashable, as a Flax module's attribute must be.

    Attributes:
        secure: the program is for SPU and computes on ring integers (`Fixed`). Programs that the baselines run under
            MPC compute on SPU's own fixed point instead, so their setting is PLAIN.
        folded: the parameters are folded (folding.py), not as checkpoints have them.
        opens_operands: a secret product opens its operands (SEMI2K) instead of resharing its result (ABY3); see
            `protocol.batched_product`.
    """

    secure: bool = False
    folded: bool = False
    opens_operands: bool = False


PLAIN = Setting()
"""Plaintext arrays, and parameters as checkpoints have them."""

FOLDED = Setting(folded=True)
"""Plaintext arrays and folded parameters; of secrets the same where a product's cost does not matter."""
