"""The optimizers by the names that the configuration has for them."""

from __future__ import annotations

import numpy as np

from secp_spu.config import OptimizerKind
from secp_spu.tuning.optimizers.cma_es import CmaEs
from secp_spu.tuning.optimizers.evolution import Evolution
from secp_spu.tuning.optimizers.gauss_newton import GaussNewton
from secp_spu.tuning.optimizers.optimizer import Optimizer
from secp_spu.tuning.optimizers.random_search import RandomSearch
from secp_spu.tuning.optimizers.spsa import Spsa


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
