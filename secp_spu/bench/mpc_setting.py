"""A protocol, its parties and where correlations come from: what every measurement under MPC is made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, TypeVar, get_args

import jax
import numpy as np

from secp_spu.bench.records import Record
from secp_spu.errors import ConfigError
from secp_spu.inference import keep_openings, static_kernels
from secp_spu.protocol import FRACTION_BITS, Fixed, from_ring
from secp_spu.runtime import LocalRuntime, Owned
from secp_spu.runtime.sharing_runtime import Source
from secp_spu.trees import Floats, Tree

Choice = TypeVar("Choice")
ProtocolName: TypeAlias = Literal["aby3", "semi2k"]
SOURCES: tuple[Source, ...] = get_args(Source)

LEAST_PARTIES: dict[ProtocolName, int] = {"aby3": 3, "semi2k": 2}
MOST_PARTIES: dict[ProtocolName, int] = {"aby3": 3, "semi2k": 10}
"""All parties are threads of this process, each linked to every other: some ten start within seconds, forty do not."""

OWNER = "owner"
"""Who gives the inputs of a measurement and sees its result."""


@dataclass(frozen=True)
class MpcSetting:
    """What a measurement runs under; all parties are threads of this process.

    Attributes:
        protocol: "aby3" or "semi2k".
        parties: how many.
        correlations: "joint" or "dealt".
    """

    protocol: ProtocolName
    parties: int
    correlations: Source = "joint"

    @property
    def key(self) -> Record:
        """Its part of a record's key."""
        return {"protocol": self.protocol, "parties": self.parties, "correlations": self.correlations}

    def runtime(self) -> LocalRuntime:
        """A runtime of its own, whose ledger is at zero."""
        return LocalRuntime(self.protocol, self.parties, correlations=self.correlations)


def make_setting(protocol: str, parties: int | None, correlations: str) -> MpcSetting:
    """A setting from a user's words.

    Args:
        protocol: "aby3" or "semi2k".
        parties: None for the least that the protocol runs among.
        correlations: "joint" or "dealt".
    Raises: ConfigError naming the option.
    """
    name, source = _one_of(LEAST_PARTIES, protocol), _one_of(SOURCES, correlations)
    if name is None:
        raise ConfigError(f"--protocol {protocol}: must be aby3 or semi2k")
    if source is None:
        raise ConfigError(f"--correlations {correlations}: must be joint or dealt")
    parties = LEAST_PARTIES[name] if parties is None else parties
    if not LEAST_PARTIES[name] <= parties <= MOST_PARTIES[name]:
        raise ConfigError(f"--parties {parties}: aby3 runs among 3, semi2k here among 2 to {MOST_PARTIES['semi2k']}")
    return MpcSetting(name, parties, source)


def _one_of(allowed: Iterable[Choice], word: str) -> Choice | None:
    return next((choice for choice in allowed if choice == word), None)


def measure_function(
    setting: MpcSetting,
    name: str,
    function: Callable[..., Tree],
    inputs: Tree,
    *,
    public: Tree = (),
    declared: Tree = (),
    static: bool = False,
) -> Record:
    """Run a function once on random shares and compare it with plaintext.

    Args:
        setting: what to run under.
        name: of the program.
        function: of (inputs, public, correlations, secure); its results may be `Fixed`. Plaintext is the same with
            correlations None and secure false.
        inputs: pytree of arrays, secret.
        public: pytree of arrays that everybody may know.
        declared: the correlations that one run spends.
        static: the first of the inputs are parameters whose kernels' openings are kept (SEMI2K): the first run, which
            opens them, belongs to the set-up.
    Returns: setup, offline and online costs, and `max_abs_error` over all results.
    """
    expected = jax.tree.leaves(jax.jit(lambda a, b: function(a, b, None, secure=False))(inputs, public))
    run = partial(_openable, function, static)
    with setting.runtime() as runtime:
        with runtime.ledger.phase("setup"):
            shared, published = runtime.share(Owned(OWNER, inputs)), runtime.publish(public)
            if static:
                shared = (static_kernels(runtime, shared[0]), *shared[1:])
                runtime.free(runtime.run(name, run, shared, published, runtime.correlations(declared)))
        with runtime.ledger.phase("offline"):
            correlations = runtime.correlations(declared)
        result = runtime.run(name, run, shared, published, correlations)
        phases = runtime.ledger.report()
        opened = runtime.open_to(OWNER, result).value
    found = [_numbers(node) for node in jax.tree.leaves(opened, is_leaf=_is_fixed)]
    error = max(float(np.abs(a - np.asarray(b)).max()) for a, b in zip(found, expected, strict=True))
    return {**phases, "max_abs_error": error}


def _openable(function: Callable[..., Tree], static: bool, inputs: Tree, public: Tree, correlations: Tree) -> Tree:
    """The results with ring elements typed as SPU's fixed point, which is what owners read."""
    if static:
        inputs = (keep_openings(inputs[0]), *inputs[1:])
    results = function(inputs, public, correlations, secure=True)
    return jax.tree.map(lambda r: Fixed(from_ring(r.ring), r.bits) if _is_fixed(r) else r, results, is_leaf=_is_fixed)


def _is_fixed(node: object) -> bool:
    return isinstance(node, Fixed)


def _numbers(node: Fixed | Floats) -> Floats:
    return np.asarray(node.ring) * 2.0 ** (FRACTION_BITS - node.bits) if isinstance(node, Fixed) else node
