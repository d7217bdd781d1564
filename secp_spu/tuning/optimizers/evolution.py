"""Natural evolution strategies and differential evolution, by ask and tell."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np


class Evolution:
    """A strategy of the package evosax: exponential natural evolution strategies, or differential evolution.

    It is imported when it is needed, which takes seconds.

    Source: Glasmachers et al. 2010 (xNES); Storn & Price 1997 (DE).
    """

    def __init__(
        self, strategy: Literal["xNES", "DE"], intrinsic_dim: int, population: int, sigma: float, seed: list[int]
    ):
        import evosax
        import jax

        self._key = jax.random.key(int(np.random.default_rng(seed).integers(2**31)))
        self._split = jax.random.split
        self._strategy = evosax.Strategies[strategy](popsize=population, num_dims=intrinsic_dim)
        settings: dict[str, Any] = {"sigma_init": sigma} if strategy == "xNES" else _box(sigma)
        self._params = self._strategy.default_params.replace(**settings)
        self._state = self._strategy.initialize(self._next_key(), self._params)
        self._asked: Any = None

    def _next_key(self) -> Any:
        self._key, key = self._split(self._key)
        return key

    def ask(self) -> np.ndarray:
        """See `Optimizer.ask`."""
        self._asked, self._state = self._strategy.ask(self._next_key(), self._state, self._params)
        return np.array(self._asked, np.float64)

    def tell(self, losses: np.ndarray, _logits: np.ndarray) -> None:
        """See `Optimizer.tell`."""
        self._state = self._strategy.tell(self._asked, np.float32(losses), self._state, self._params)

    @property
    def mean(self) -> np.ndarray:
        """See `Optimizer.mean`."""
        return np.array(self._state.mean, np.float64)


def _box(sigma: float) -> dict[str, float]:
    """Where differential evolution begins: uniform, with the standard deviation sigma."""
    edge = sigma * np.sqrt(3)
    return {"init_min": -edge, "init_max": edge}
