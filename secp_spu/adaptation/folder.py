"""The folder of an adaptation: what the run was asked for, its log and its state."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import serialization

from secp_spu.errors import ConfigError
from secp_spu.files import unwritable, write_whole
from secp_spu.trees import Json, JsonObject, Tree

MEASURED = ("step", "similarity", "prompted", "least_kernel")
"""What every line of the log has."""

LOSSES = ("hidden", "output")
"""What every line but the first has, and the figure shows."""

STATE, LOG, FIGURE, RECIPE = "state.msgpack", "adaptation.jsonl", "adaptation.png", "recipe.json"


def refuse_folder(out: Path, *, resume: bool) -> None:
    """See that a run may have a folder.

    Raises: ConfigError for one that cannot be written, holds something, or has nothing to resume.
    """
    if problem := unwritable(out):
        raise ConfigError(f"`out`: {problem}")
    holds_run = (out / RECIPE).exists()
    if resume and not holds_run:
        raise ConfigError(f"`resume`: {out} holds no adaptation: leave `resume` away")
    if not resume and holds_run:
        raise ConfigError(f"`out` {out} holds an adaptation already: choose another folder, or go on with `resume`")
    if not resume and out.exists() and any(out.iterdir()):
        raise ConfigError(f"`out` {out} is not empty and holds no adaptation: choose another folder")


def is_finished(out: Path, facts: Mapping[str, Json]) -> bool:
    """Whether the run in a folder is finished.

    Args:
        out: the folder.
        facts: what the run that is to go on is asked for.
    Raises: ConfigError for a run that was asked for something else, or is damaged.
    """
    before = _read_recipe(out)
    for key in sorted(facts.keys() | before.keys()):
        if before.get(key) != facts.get(key):
            raise ConfigError(
                f"`resume`: {key} was {before.get(key)!r} in {out}, now it is {facts.get(key)!r}: give the same"
            )
    log, has_state, has_figure = read_log(out), (out / STATE).exists(), (out / FIGURE).exists()
    if (has_state or has_figure) and not log:
        raise _damaged(out / LOG, "it has no measurement")
    if has_figure and log[-1]["step"] != facts["steps"]:
        raise _damaged(out / LOG, "its last measurement is missing")
    return has_figure and not has_state


def _read_recipe(out: Path) -> JsonObject:
    try:
        recipe = json.loads((out / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(out / RECIPE, error) from error
    if not isinstance(recipe, dict):
        raise _damaged(out / RECIPE, "it holds no object")
    return recipe


def _damaged(path: Path, problem: object) -> ConfigError:
    return ConfigError(f"`resume`: {path} is damaged ({problem}): leave `resume` away, and choose another `out`")


@dataclass(frozen=True)
class State:
    """After a step: all that the next one needs."""

    step: int
    layers: Tree
    optimizer: Tree

    def save(self, out: Path) -> None:
        """Write it."""
        write_whole(out / STATE, serialization.to_bytes(vars(self)))

    def saved(self, out: Path, steps: int) -> State:
        """The one in the folder, at most so many steps on, or this one where there is none; ConfigError if damaged."""
        path = out / STATE
        if not path.exists():
            return self
        try:
            found = State(**serialization.from_bytes(vars(self), path.read_bytes()))
        except Exception as error:  # msgpack's and flax's are of many kinds
            raise _damaged(path, "it cannot be read") from error
        if found._layout() != self._layout() or not 0 <= found.step <= steps:
            raise _damaged(path, "its arrays or steps are not those of this run")
        return found

    def _layout(self) -> tuple[object, list[tuple[tuple[int, ...], str]]]:
        """The tree, and of every leaf shape and type."""
        leaves, tree = jax.tree.flatten(vars(self))
        return tree, [(np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves]


def read_log(out: Path) -> list[dict[str, float]]:
    """The measurements so far; ConfigError if the file is damaged."""
    path = out / LOG
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            values = [row[name] for name in (*MEASURED, *(LOSSES if row["step"] else ()))]
            if not all(map(math.isfinite, values)):
                raise ValueError("a value is not finite")
    except KeyError as error:
        raise _damaged(path, f"a line lacks {error}") from error
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(path, error) from error
    return rows
