"""CMA-ES and its separable kind, by ask and tell."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from secp_spu.optimizers.optimizer import Optimizer, Points, Search
from secp_spu.trees import Floats


class CmaEs(Optimizer):
    """CMA-ES from the package cma, with a random stream of its own instead of numpy's global one.

    It looks at the order of the losses only, so two runs whose losses are ordered alike propose the same candidates.

    Source: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv 1604.00772.
    """

    about = "CMA-ES"

    _diagonal = False

    def __init__(self, search: Search):
        import cma  # brings matplotlib and scipy.stats, which parties without an optimizer need not wait for

        rng = np.random.default_rng(search.seed)
        options = {
            "popsize": search.population,
            "randn": lambda count, size: rng.standard_normal((count, size)),
            "seed": np.nan,
            "verbose": -10,
            "verb_log": 0,
            "CMA_diagonal": self._diagonal,
        }
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(search.intrinsic_dim), search.sigma, options)
        self._asked: list[Points] = []

    @override
    def ask(self) -> Points:
        self._asked = self._strategy.ask()
        return np.array(self._asked)

    @override
    def tell(self, losses: Floats, _logits: Floats) -> None:
        self._strategy.tell(self._asked, [float(loss) for loss in losses])

    @property
    @override
    def mean(self) -> Points:
        return np.array(self._strategy.mean)

    @property
    @override
    def stopped_by(self) -> list[str]:
        return sorted(self._strategy.stop())


class SeparableCmaEs(CmaEs):
    """Separable CMA-ES: learns a variance for every coordinate and no covariances.

    Source: Ros & Hansen 2008.
    """

    about = "CMA-ES with a diagonal covariance"

    _diagonal = True
