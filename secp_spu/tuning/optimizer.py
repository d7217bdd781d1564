"""A seed in, candidates out by ask and tell: gradient-free optimizers, repeatable from seed and losses."""

from __future__ import annotations

import hashlib
from typing import Protocol

import cma
import numpy as np


class Optimizer(Protocol):
    """A gradient-free optimizer whose course is decided by its seed and the losses it is told."""

    def ask(self) -> np.ndarray:
        """The next generation's candidates [population, intrinsic_dim]."""
        ...

    def tell(self, losses: np.ndarray) -> None:
        """The losses [population] of the candidates asked for last."""
        ...

    @property
    def mean(self) -> np.ndarray:
        """The best guess so far [intrinsic_dim]."""
        ...


class CmaEs:
    """CMA-ES from the package cma, with a random stream of its own instead of numpy's global one.

    It looks at the order of the losses only, so two runs whose losses are ordered alike propose the same candidates.

    Source: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772.
    """

    def __init__(self, intrinsic_dim: int, population: int, sigma: float, seed: int | list[int]):
        rng = np.random.default_rng(seed)
        options = {
            "popsize": population,
            "randn": lambda count, size: rng.standard_normal((count, size)),
            "seed": np.nan,
            "verbose": -10,
            "verb_log": 0,
        }
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(intrinsic_dim), sigma, options)
        self._asked: list[np.ndarray] = []

    def ask(self) -> np.ndarray:
        """See `Optimizer.ask`."""
        self._asked = self._strategy.ask()
        return np.array(self._asked)

    def tell(self, losses: np.ndarray) -> None:
        """See `Optimizer.tell`."""
        self._strategy.tell(self._asked, [float(loss) for loss in losses])

    @property
    def mean(self) -> np.ndarray:
        """See `Optimizer.mean`."""
        return np.array(self._strategy.mean)


def fingerprint(candidates: np.ndarray) -> str:
    """What a checkpoint keeps of a generation's candidates, to notice a resumed run that goes another way."""
    return hashlib.sha256(np.ascontiguousarray(candidates, np.float64).tobytes()).hexdigest()
