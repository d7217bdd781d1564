"""Natural evolution strategies and differential evolution, by ask and tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from secp_spu.optimizers.optimizer import Optimizer, Points, Search
from secp_spu.trees import Floats

if TYPE_CHECKING:
    from jax import Array


class Evolution(Optimizer):
    """A strategy of the package evosax, which is imported when it is needed and takes seconds."""

    _name: str
    """Name of the strategy in evosax."""

    def __init__(self, search: Search):
        import evosax
        import jax

        self._key = jax.random.key(int(np.random.default_rng(search.seed).integers(2**31)))
        self._split = jax.random.split
        self._strategy = evosax.Strategies[self._name](popsize=search.population, num_dims=search.intrinsic_dim)
        self._params = self._strategy.default_params.replace(**self._settings(search.sigma))
        self._state = self._strategy.initialize(self._next_key(), self._params)
        self._asked: Array | None = None

    def _settings(self, sigma: float) -> dict[str, float]:
        """Parameters of the strategy that stand for a standard deviation sigma of the first generation."""
        raise NotImplementedError

    def _next_key(self) -> Array:
        key: Array
        self._key, key = self._split(self._key)
        return key

    @override
    def ask(self) -> Points:
        self._asked, self._state = self._strategy.ask(self._next_key(), self._state, self._params)
        return np.array(self._asked, np.float64)

    @override
    def tell(self, losses: Floats, _logits: Floats) -> None:
        self._state = self._strategy.tell(self._asked, np.float32(losses), self._state, self._params)

    @property
    @override
    def mean(self) -> Points:
        return np.array(self._state.mean, np.float64)


class NaturalEvolution(Evolution):
    """Exponential natural evolution strategies (xNES).

    Source: Glasmachers et al. 2010.
    """

    about = "natural evolution strategies"

    _name = "xNES"

    @override
    def _settings(self, sigma: float) -> dict[str, float]:
        return {"sigma_init": sigma}


class DifferentialEvolution(Evolution):
    """Differential evolution; its first generation is uniform, with the standard deviation sigma.

    Source: Storn & Price 1997.
    """

    about = "differential evolution, with a population of 7 or more"
    least_population = 7

    _name = "DE"

    @override
    def _settings(self, sigma: float) -> dict[str, float]:
        edge = sigma * np.sqrt(3)
        return {"init_min": -edge, "init_max": edge}
