"""Gradient-free optimizers, a file for each; they know neither models nor MPC.

A new one is a file with a subclass of `Optimizer` and a line in `OPTIMIZERS`: configurations and benches take its name
from there.
"""

from secp_spu.optimizers.cma_es import CmaEs, SeparableCmaEs
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
"""Optimizers by the names that configurations have for them."""

__all__ = ["OPTIMIZERS", "Optimizer", "Search", "fingerprint"]
