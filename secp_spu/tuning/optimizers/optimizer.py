"""What every gradient-free optimizer does: ask and tell, repeatable from its seed and what it is told."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np


class Optimizer(Protocol):
    """A gradient-free optimizer whose course is decided by its seed and by what it is told."""

    def ask(self) -> np.ndarray:
        """The next generation's candidates [population, intrinsic_dim]."""
        ...

    def tell(self, losses: np.ndarray, logits: np.ndarray) -> None:
        """Take the losses [population] and logits [population, texts, labels] of the candidates asked for last."""
        ...

    @property
    def mean(self) -> np.ndarray:
        """The best guess so far [intrinsic_dim]."""
        ...


def fingerprint(candidates: np.ndarray) -> str:
    """What a checkpoint keeps of a generation's candidates, or of p0, to notice a resumed run that goes another way."""
    return hashlib.sha256(np.ascontiguousarray(candidates, np.float64).tobytes()).hexdigest()
