"""Simultaneous perturbation stochastic approximation, by ask and tell."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from secp_spu.optimizers.optimizer import Optimizer, Points, Search
from secp_spu.trees import Floats

SPSA_DECAY, SPSA_STABILITY = 0.602, 10
"""The step sizes are sigma * (k + 1 + stability) ** -decay, Spall 1998 (An Overview of the Simultaneous Perturbation
Method), section on coefficients."""


class Spsa(Optimizer):
    """Simultaneous perturbation: pairs of candidates on both sides of the mean, and a step along their slopes.

    The slopes of a generation are averaged and scaled to length sqrt(intrinsic_dim), so that steps do not depend on the
    loss's units. Of our own, as the one kept library that has it brings scikit-learn and pandas along.

    Source: Spall 1992, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation.
    """

    about = "simultaneous perturbation"

    def __init__(self, search: Search):
        self._rng, self._pairs, self._odd = np.random.default_rng(search.seed), *divmod(search.population, 2)
        self._sigma, self._generation = search.sigma, 0
        self._mean = np.zeros(search.intrinsic_dim)
        self._signs = np.zeros((self._pairs, search.intrinsic_dim))

    @override
    def ask(self) -> Points:
        """With an odd population the mean itself is the last."""
        self._signs = self._rng.choice([-1.0, 1.0], size=self._signs.shape)
        shift = self._sigma * self._signs
        return np.concatenate([self._mean + shift, self._mean - shift, np.tile(self._mean, (self._odd, 1))])

    @override
    def tell(self, losses: Floats, _logits: Floats) -> None:
        above, below = losses[: self._pairs], losses[self._pairs : 2 * self._pairs]
        slope = (above - below) @ self._signs
        length = float(np.linalg.norm(slope))
        if length:
            step = self._sigma * ((self._generation + 1 + SPSA_STABILITY) / (1 + SPSA_STABILITY)) ** -SPSA_DECAY
            self._mean = self._mean - step * np.sqrt(len(slope)) / 2 * slope / length
        self._generation += 1

    @property
    @override
    def mean(self) -> Points:
        return self._mean
