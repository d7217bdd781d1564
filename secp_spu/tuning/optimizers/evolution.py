"""CMA-ES' rivals: natural evolution strategies, differential evolution, SPSA and random search, by ask and tell."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

SPSA_DECAY, SPSA_STABILITY = 0.602, 10
"""Of the step sizes: sigma * (k + 1 + stability) ** -decay, Spall 1998 (An Overview of the Simultaneous Perturbation
Method), section on coefficients."""


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


class Spsa:
    """Simultaneous perturbation: pairs of candidates on both sides of the mean, and a step along their slopes.

    The slopes of a generation are averaged and scaled to length sqrt(intrinsic_dim), so that steps do not depend on the
    loss's units. Of our own, as the one kept library that has it brings scikit-learn and pandas along.

    Source: Spall 1992, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation.
    """

    def __init__(self, intrinsic_dim: int, population: int, sigma: float, seed: list[int]):
        self._rng, self._pairs, self._odd = np.random.default_rng(seed), population // 2, population % 2
        self._sigma, self._generation = sigma, 0
        self.mean = np.zeros(intrinsic_dim)
        self._signs = np.zeros((self._pairs, intrinsic_dim))

    def ask(self) -> np.ndarray:
        """See `Optimizer.ask`; with an odd population the mean itself is the last."""
        self._signs = self._rng.choice([-1.0, 1.0], size=self._signs.shape)
        shift = self._sigma * self._signs
        return np.concatenate([self.mean + shift, self.mean - shift, np.tile(self.mean, (self._odd, 1))])

    def tell(self, losses: np.ndarray, _logits: np.ndarray) -> None:
        """See `Optimizer.tell`."""
        above, below = losses[: self._pairs], losses[self._pairs : 2 * self._pairs]
        slope = (above - below) @ self._signs
        length = float(np.linalg.norm(slope))
        if length:
            step = self._sigma * ((self._generation + 1 + SPSA_STABILITY) / (1 + SPSA_STABILITY)) ** -SPSA_DECAY
            self.mean = self.mean - step * np.sqrt(len(slope)) / 2 * slope / length
        self._generation += 1


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
