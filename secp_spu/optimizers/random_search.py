"""Random search, by ask and tell."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from secp_spu.optimizers.optimizer import Optimizer, Points, Search
from secp_spu.trees import Floats


class RandomSearch(Optimizer):
    """Independent normal candidates around zero; the best of them so far is the mean."""

    about = "random search"

    def __init__(self, search: Search):
        self._rng, self._sigma = np.random.default_rng(search.seed), search.sigma
        self._asked = np.zeros((search.population, search.intrinsic_dim))
        self._best, self._mean = np.inf, np.zeros(search.intrinsic_dim)

    @override
    def ask(self) -> Points:
        self._asked = self._sigma * self._rng.standard_normal(self._asked.shape)
        return self._asked

    @override
    def tell(self, losses: Floats, _logits: Floats) -> None:
        if losses.min() < self._best:
            self._best, self._mean = float(losses.min()), self._asked[losses.argmin()]

    @property
    @override
    def mean(self) -> Points:
        return self._mean
