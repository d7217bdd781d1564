"""CMA-ES and its separable kind, by ask and tell."""

from __future__ import annotations

import numpy as np


class CmaEs:
    """CMA-ES from the package cma, with a random stream of its own instead of numpy's global one.

    It looks at the order of the losses only, so two runs whose losses are ordered alike propose the same candidates.

    Args:
        diagonal: separable CMA-ES, which learns a variance for every coordinate and no covariances.
    Source: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772; Ros & Hansen 2008 (separable).
    """

    def __init__(
        self, intrinsic_dim: int, population: int, sigma: float, seed: int | list[int], *, diagonal: bool = False
    ):
        import cma  # brings matplotlib and scipy.stats, which parties without an optimizer need not wait for

        rng = np.random.default_rng(seed)
        options = {
            "popsize": population,
            "randn": lambda count, size: rng.standard_normal((count, size)),
            "seed": np.nan,
            "verbose": -10,
            "verb_log": 0,
            "CMA_diagonal": diagonal,
        }
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(intrinsic_dim), sigma, options)
        self._asked: list[np.ndarray] = []

    def ask(self) -> np.ndarray:
        """See `Optimizer.ask`."""
        self._asked = self._strategy.ask()
        return np.array(self._asked)

    def tell(self, losses: np.ndarray, _logits: np.ndarray) -> None:
        """See `Optimizer.tell`."""
        self._strategy.tell(self._asked, [float(loss) for loss in losses])

    @property
    def mean(self) -> np.ndarray:
        """See `Optimizer.mean`."""
        return np.array(self._strategy.mean)

    @property
    def stopped_by(self) -> list[str]:
        """Names of the package's own conditions to stop that are met, such as `tolfun`."""
        return sorted(self._strategy.stop())
