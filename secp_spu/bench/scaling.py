"""Scales the costs of a few layers to the whole model, and adds costs by stage of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secp_spu.bench.records import Record
from secp_spu.runtime.ledger import PHASES

FIGURES = ("bytes", "bytes_total", "sends", "seconds")
CORRELATION_PROGRAMS = frozenset({"correlate", "draw", "combine", "deal"})
LAYER_PROGRAMS = CORRELATION_PROGRAMS | {"layer", "layer.forward", "layer.backward", "adam.layer"}
WORD_PROGRAMS = frozenset({"words.forward", "words.backward", "adam.words"})


def extrapolate(costs: Record, *, layers: float, words: float, shared: Mapping[str, float]) -> Record:
    """Scale linearly what layers and word embeddings take; everything else stays.

    Args:
        costs: of a run, by phase; every layer's programs have names in LAYER_PROGRAMS, and so on.
        layers: layers of the whole model for one that was run.
        words: the same for rows of word embeddings.
        shared: figures of sharing the layers and words that were not run.
    Returns: phases with `programs`, and without `operations`, which the ledger does not keep by program.
    """
    scaled: Record = {}
    for phase in PHASES:
        programs = {
            name: {figure: cost[figure] * _factor(name, layers, words) for figure in FIGURES}
            for name, cost in costs[phase]["programs"].items()
        }
        if phase == "setup" and shared["bytes"]:
            measured = programs["share"]
            seconds = measured["seconds"] * (1 + shared["bytes"] / measured["bytes"])
            programs["share"] = {k: measured[k] + shared[k] for k in FIGURES if k != "seconds"} | {"seconds": seconds}
        scaled[phase] = add(programs.values()) | {"programs": programs}
    return scaled


def _factor(program: str, layers: float, words: float) -> float:
    return layers if program in LAYER_PROGRAMS else words if program in WORD_PROGRAMS else 1.0


def stages(costs: Record) -> Record:
    """What of the online phase is forward pass, backward pass and optimizer."""
    by_stage: dict[str, list[Mapping[str, float]]] = {"forward": [], "backward": [], "optimizer": []}
    for name, cost in costs["online"]["programs"].items():
        stage = "optimizer" if name.startswith("adam") else "backward" if name.endswith(".backward") else "forward"
        by_stage[stage].append(cost)
    return {stage: add(programs) for stage, programs in by_stage.items()}


def add(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sums of bytes, sends and seconds."""
    costs = list(costs)
    return {figure: sum(cost[figure] for cost in costs) for figure in FIGURES}
