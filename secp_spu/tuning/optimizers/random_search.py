"""Random search, by ask and tell."""

from __future__ import annotations

import numpy as np


class RandomSearch:
    """Independent normal candidates around zero; the best of them so far is the mean."""

    def __init__(self, intrinsic_dim: int, population: int, sigma: float, seed: list[int]):
        self._rng, self._sigma = np.random.default_rng(seed), sigma
        self._asked = np.zeros((population, intrinsic_dim))
        self._best, self.mean = np.inf, np.zeros(intrinsic_dim)

    def ask(self) -> np.ndarray:
        """See `Optimizer.ask`."""
        self._asked = self._sigma * self._rng.standard_normal(self._asked.shape)
        return self._asked

    def tell(self, losses: np.ndarray, _logits: np.ndarray) -> None:
        """See `Optimizer.tell`."""
        if losses.min() < self._best:
            self._best, self.mean = float(losses.min()), self._asked[losses.argmin()]
