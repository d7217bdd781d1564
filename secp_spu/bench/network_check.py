"""Checks predicted seconds against measured ones: parties as processes on relayed links run one encoder layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import flax.linen as nn
import jax
import numpy as np
from jax import Array

from secp_spu.bench.mpc_setting import MpcSetting, measure_function
from secp_spu.bench.network_model import NETWORKS, PREDICTED_PHASES, Network, predict
from secp_spu.bench.processes import ProcessRuntime
from secp_spu.bench.records import Case, Record
from secp_spu.bench.tables import Table, setting_name
from secp_spu.model import FOLDED, HIDDEN_BITS, EncoderLayer, TransformerConfig, apply_module, fold_layer
from secp_spu.protocol import FRACTION_BITS, Number, from_storage, to_storage
from secp_spu.trees import Tree

Direct = tuple[Record, list[float]]
"""The run without a relay that is predicted from, and the seconds of all of them."""

ERROR_BOUND = 0.1
"""Largest error of one layer's outputs, which the layer norm keeps near one: a wrong program's is far above."""

RUNS = 3
"""How often the layer runs, without a relay and with one; the run of median length counts, and all are recorded."""

LONG_SECONDS = 10
"""A run as long as this is not repeated: what other work on the machine adds is small beside it."""


@dataclass(frozen=True)
class LinkedSetting(MpcSetting):
    """A setting whose parties are processes.

    Attributes:
        network: between them; None for loopback as it is.
    """

    network: Network | None = None

    def runtime(self) -> ProcessRuntime:
        """See `MpcSetting.runtime`."""
        return ProcessRuntime(self.protocol, self.parties, self.network)


def layer_config(attention: Literal["rfa", "softmax"], width: int = 64) -> TransformerConfig:
    """A small layer with `heads` of 16 dimensions."""
    return TransformerConfig(
        vocab_size=32,
        width=width,
        layers=1,
        heads=width // 16,
        intermediate=2 * width,
        max_positions=128,
        position_offset=0,
        type_vocab_size=1,
        layer_norm_epsilon=1e-5,
        attention=attention,
    )


def check_cases(
    settings: Sequence[MpcSetting], networks: Sequence[Network] = NETWORKS, *, width: int = 64, tokens: int = 32
) -> list[Case]:
    """One layer by protocol, attention and network.

    Args:
        settings: protocols and parties.
        networks: to measure on.
        width: of the layer.
        tokens: of its one sequence.
    """
    cases = []
    for setting in settings:
        for attention in ("rfa", "softmax"):
            layer = _Layer(layer_config(attention, width), tokens)
            direct = cache(partial(_measure, LinkedSetting(setting.protocol, setting.parties), layer))
            sizes = {"attention": attention, "width": width, "heads": layer.config.heads, "seq_len": tokens}
            for network in networks:
                key = {"bench": "network-check", "variant": network.name, **setting.key, **sizes}
                cases.append(Case(key, partial(_compare, setting, network, layer, direct)))
    return cases


class _Layer:
    """An encoder layer with random weights, on a random sequence whose last quarter is padding."""

    def __init__(self, config: TransformerConfig, tokens: int):
        rng = np.random.default_rng(0)
        self.config, self.module = config, EncoderLayer(config, setting=FOLDED)
        self.hidden = rng.normal(size=(1, tokens, config.width)).astype(np.float32)
        self.padding_mask = (np.arange(tokens) < tokens - tokens // 4).astype(np.float32)[None]
        self.hidden *= self.padding_mask[..., None]
        variables = jax.device_get(EncoderLayer(config).init(jax.random.key(0), self.hidden, self.padding_mask))
        self.params, self.public = fold_layer(variables["params"], None, config), variables.get("public", {})
        shapes = jax.eval_shape(self.module.init, jax.random.key(0), self.hidden, self.padding_mask)
        self.declared = shapes.get("correlations", ())

    def measure(self, setting: MpcSetting) -> Record:
        """Its costs and error.

        Raises: RuntimeError if the result is not that of plaintext.
        """
        given = self.params, to_storage(self.hidden, HIDDEN_BITS), self.padding_mask
        function = partial(_apply, self.module)
        found = measure_function(setting, "layer", function, given, public=self.public, declared=self.declared)
        if not found["max_abs_error"] <= ERROR_BOUND:
            raise RuntimeError(f"the layer's output is off by {found['max_abs_error']:.3g}: nothing was measured")
        return found


def _apply(
    module: nn.Module, given: tuple[Tree, Array, Array], public: Tree, correlations: Tree, *, secure: bool
) -> Number:
    params, hidden, padding_mask = given
    spent = {"correlations": correlations} if correlations else {}
    inputs = from_storage(hidden, HIDDEN_BITS, secure=secure), from_storage(padding_mask, FRACTION_BITS, secure=secure)
    result: Number = apply_module(module, {"params": params, "public": public, **spent}, *inputs)
    return result


def _measure(setting: LinkedSetting, layer: _Layer) -> tuple[Record, list[float]]:
    """The run of median length, and the seconds of all runs."""
    runs = [layer.measure(setting)]
    while len(runs) < RUNS and seconds_of(runs[-1]) < LONG_SECONDS:
        runs.append(layer.measure(setting))
    ordered = sorted(runs, key=seconds_of)
    return ordered[len(runs) // 2], [seconds_of(run) for run in runs]


def seconds_of(record: Record) -> float:
    """Offline and online together."""
    return float(sum(record[phase]["seconds"] for phase in PREDICTED_PHASES))


def _compare(setting: MpcSetting, network: Network, layer: _Layer, direct: Callable[[], Direct]) -> Record:
    base, direct_runs = direct()
    parts = [predict(base[phase], network, setting.protocol, setting.parties) for phase in PREDICTED_PHASES]
    found, runs = _measure(LinkedSetting(setting.protocol, setting.parties, network=network), layer)
    predicted, measured = sum(part.seconds for part in parts), seconds_of(found)
    return {
        **found,
        "compute_seconds": sum(part.compute_seconds for part in parts),
        "latency_seconds": sum(part.latency_seconds for part in parts),
        "transfer_seconds": sum(part.transfer_seconds for part in parts),
        "predicted_seconds": predicted,
        "measured_seconds": measured,
        "error": predicted / measured - 1,
        "direct_runs_seconds": direct_runs,
        "measured_runs_seconds": runs,
    }


def check_tables(records: Sequence[Record]) -> list[Table]:
    """Predicted and measured seconds."""
    rows = [_row(record) for record in records if record["bench"] == "network-check"]
    columns = [
        "setting",
        "attention",
        "network",
        "compute s",
        "delays s",
        "transfer s",
        "predicted s",
        "measured s",
        "error",
    ]
    note = "One layer, offline and online; the parties are processes. Compute is measured so, without a relay."
    return [Table("The prediction against relayed links", columns, rows, [note], words=3)] if rows else []


def _row(record: Record) -> list[str]:
    names = ("compute_seconds", "latency_seconds", "transfer_seconds", "predicted_seconds", "measured_seconds")
    words = [setting_name(record), record["attention"], record["variant"]]
    return [*words, *(f"{record[name]:,.2f}" for name in names), f"{record['error']:+.1%}"]
