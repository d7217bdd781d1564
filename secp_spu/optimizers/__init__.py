"""Optimizers, which know neither models nor MPC: gradient-free ones, a file for each, and those of descent.py.

A new gradient-free one is a file with a subclass of `Optimizer` and a line in `OPTIMIZERS`: configurations and benches
take its name from there.
"""

from secp_spu.optimizers.cma_es import CmaEs, SeparableCmaEs
from secp_spu.optimizers.descent import Adam, Descent, GradientOptimizer, MomentumDescent, Schedule, UnseenMomentum
from secp_spu.optimizers.evolution import DifferentialEvolution, NaturalEvolution
from secp_spu.optimizers.gauss_newton import GaussNewton
from secp_spu.optimizers.optimizer import Optimizer, Search, fingerprint
from secp_spu.optimizers.random_search import RandomSearch
from secp_spu.optimizers.spsa import Spsa

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "cma": CmaEs,
    "sep-cma": SeparableCmaEs,
    "xnes": NaturalEvolution,
    "de": DifferentialEvolution,
    "spsa": Spsa,
    "random": RandomSearch,
    "gauss-newton": GaussNewton,
}
"""Gradient-free optimizers by the names that configurations have for them."""

GRADIENT_OPTIMIZERS: dict[str, type[GradientOptimizer | UnseenMomentum]] = {
    "momentum": UnseenMomentum,
    "adam": Adam,
    "sgd": MomentumDescent,
}
"""Likewise those that step along the prompt's gradient."""

__all__ = [
    "GRADIENT_OPTIMIZERS",
    "OPTIMIZERS",
    "Descent",
    "GradientOptimizer",
    "Optimizer",
    "Schedule",
    "Search",
    "UnseenMomentum",
    "fingerprint",
]
