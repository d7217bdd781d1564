"""A seed in, candidates out by ask and tell: gradient-free optimizers, repeatable from seed and what they are told."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np

from secp_spu.config import OptimizerKind
from secp_spu.tuning.optimizers.evolution import Evolution, RandomSearch, Spsa
from secp_spu.tuning.optimizers.gauss_newton import GaussNewton


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


def make_optimizer(
    kind: OptimizerKind, intrinsic_dim: int, population: int, sigma: float, seed: list[int], *, labels: np.ndarray
) -> Optimizer:
    """The optimizer called `kind`.

    Args:
        kind: its name in the configuration.
        intrinsic_dim: length of a point.
        population: candidates a generation.
        sigma: the first generation's standard deviation.
        seed: decides its course, together with what it is told.
        labels: of the texts that candidates are judged on [texts]; only Gauss-Newton looks at them.
    """
    sizes = intrinsic_dim, population, sigma, seed
    if kind == "gauss-newton":
        return GaussNewton(*sizes, labels)
    if kind in ("xnes", "de"):
        return Evolution("xNES" if kind == "xnes" else "DE", *sizes)
    if kind in ("spsa", "random"):
        return Spsa(*sizes) if kind == "spsa" else RandomSearch(*sizes)
    return CmaEs(*sizes, diagonal=kind == "sep-cma")


def stopped_by(optimizer: Optimizer) -> list[str]:
    """Why an optimizer itself would go no further; only CMA-ES knows such conditions."""
    return optimizer.stopped_by if isinstance(optimizer, CmaEs) else []


def fingerprint(candidates: np.ndarray) -> str:
    """What a checkpoint keeps of a generation's candidates, or of p0, to notice a resumed run that goes another way."""
    return hashlib.sha256(np.ascontiguousarray(candidates, np.float64).tobytes()).hexdigest()
