"""Trains the adapted checkpoint on lines of public text: the model owner's own step."""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from safetensors import SafetensorError

from secp_spu.adaptation.corpus import Corpus
from secp_spu.adaptation.folder import (
    FIGURE,
    LOG,
    LOSSES,
    RECIPE,
    STATE,
    State,
    is_finished,
    read_log,
    refuse_folder,
)
from secp_spu.adaptation.student import Distillation, Texts, make_student
from secp_spu.arguments import path_of
from secp_spu.drawing import new_figure
from secp_spu.errors import ConfigError
from secp_spu.files import write_whole
from secp_spu.model import load_checkpoint, save_checkpoint
from secp_spu.model.activation import learned_activations
from secp_spu.model.hub.config_json import EXTRAS, read_config
from secp_spu.model.transformer_config import ActivationKind
from secp_spu.progress import Progress
from secp_spu.trees import JsonObject, Tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALIBRATION = 8
"""Batches on which the activation's inputs are measured."""

SPECIAL = ("bos", "pad", "eos", "mask", "cls", "sep", "unk")
"""Tokens that config.json may name."""


COUNTS = {
    **dict.fromkeys(("steps", "batch_tokens", "accumulate", "every"), (1, sys.maxsize)),
    "max_tokens": (2, sys.maxsize),
    "prompt_tokens": (0, sys.maxsize),
    "features": EXTRAS["features"],
    "seed": EXTRAS["feature_seed"],
}
"""Fields of a recipe that are whole numbers: smallest and largest value."""


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is adapted; the same recipe gives the same weights.

    Attributes:
        model: the teacher's folder, with softmax attention.
        corpus: a file with a text a line.
        features: frequencies a head.
        activation: instead of GELU, one of `learned_activations`; None for the model's own.
        steps: of training.
        rate: peak learning rate.
        batch_tokens: tokens of a gradient, padding included.
        accumulate: gradients of a step.
        max_tokens: of a text, what is longer is cut.
        prompt_tokens: random ones before every other text.
        seed: of frequencies, held-out lines and batches.
        bf16: compute in bfloat16.
        every: steps between two measurements on the held-out lines, each of which can be resumed from.
    Raises: ConfigError naming a value that is not allowed; TypeError for a path that is none.
    """

    model: Path
    corpus: Path
    features: int = 64
    activation: ActivationKind | None = None
    steps: int = 5000
    rate: float = 3e-4
    batch_tokens: int = 1024
    accumulate: int = 1
    max_tokens: int = 128
    prompt_tokens: int = 8
    seed: int = 0
    bf16: bool = False
    every: int = 250

    def __post_init__(self) -> None:
        for name in ("model", "corpus"):
            object.__setattr__(self, name, path_of(getattr(self, name), name))
        for name, (least, most) in COUNTS.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                span = f"{least} or more" if most == sys.maxsize else f"from {least} to {most}"
                raise ConfigError(f"`{name}` is {value!r}, but must be a whole number, {span}")
        if not isinstance(self.rate, int | float) or not 0 < self.rate < math.inf:
            raise ConfigError(f"`rate` is {self.rate!r}, but must be a number above 0")
        allowed = learned_activations()
        if self.activation is not None and self.activation not in allowed:
            raise ConfigError(f"`activation` is {self.activation!r}, but must be {' or '.join(allowed)}, or None")
        if not isinstance(self.bf16, bool):
            raise ConfigError(f"`bf16` is {self.bf16!r}, but must be True or False")

    def facts(self) -> JsonObject:
        """As JSON's types."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Adaptation:
    """What came of it: the last measurement on the held-out lines.

    Attributes:
        step: after which it was taken.
        similarity: mean cosine of the pooled embeddings to the teacher's.
        prompted: the same behind random prompts.
        least_kernel: the smallest mean kernel of a token.
        was_finished: there was nothing left to do.
    """

    step: int
    similarity: float
    prompted: float
    least_kernel: float
    was_finished: bool = False


def adapt(recipe: Recipe, out: Path, *, resume: bool, progress: Progress) -> Adaptation:
    """Distil the model into one with attention by features.

    Args:
        recipe: how.
        out: a folder of its own; gets the checkpoint, a log in JSON lines and a figure, and while the run lasts its
            state, from which it goes on after an interruption.
        resume: go on with what is in `out`.
        progress: told of every step.
    Raises: ConfigError and CheckpointError for what cannot be adapted, before anything is written; ConfigError for a
        training that diverges, and for a folder that is damaged or can no longer be written.
    """
    refuse_folder(out, resume=resume)
    teacher = load_checkpoint(recipe.model)
    positions = teacher.config.max_positions - teacher.config.position_offset
    if recipe.max_tokens + recipe.prompt_tokens > positions:
        raise ConfigError(
            f"`max_tokens` {recipe.max_tokens} and `prompt_tokens` {recipe.prompt_tokens}: the model has {positions} "
            "positions: lower one of them"
        )
    corpus = Corpus(
        recipe.corpus,
        recipe.model / "tokenizer.json",
        teacher.config,
        max_tokens=recipe.max_tokens,
        tokens=recipe.batch_tokens,
        prompt_tokens=recipe.prompt_tokens,
        hide_word=teacher.head is not None and not teacher.config.causal,
        seed=recipe.seed,
    )
    facts = {**recipe.facts(), "corpus_sha256": corpus.digest}
    if resume and is_finished(out, facts):
        return _last(out, was_finished=True)
    student = make_student(
        teacher,
        [corpus.batch(i) for i in range(CALIBRATION)],
        features=recipe.features,
        seed=recipe.seed,
        activation=recipe.activation,
    )
    distillation = Distillation(teacher, student, recipe.steps, recipe.rate, recipe.accumulate, recipe.bf16)
    try:
        if not resume:
            write_whole(out / RECIPE, (json.dumps(facts, indent=2) + "\n").encode())
        trained = _train(distillation, corpus, recipe, out, progress)
        _save(recipe, out, distillation, trained, corpus)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"`out` {out} cannot be written ({error}): make room, or choose another folder") from error
    return _last(out, was_finished=False)


def _last(out: Path, *, was_finished: bool) -> Adaptation:
    """What the last measurement says."""
    last = read_log(out)[-1]
    return Adaptation(
        int(last["step"]), last["similarity"], last["prompted"], last["least_kernel"], was_finished=was_finished
    )


def _train(distillation: Distillation, corpus: Corpus, recipe: Recipe, out: Path, progress: Progress) -> Tree:
    """The trained params, from the state in `out` on where there is one."""
    optimizer, given = distillation.optimizer(), jax.tree.map(jnp.asarray, distillation.given)

    @jax.jit
    def advance(layers: Tree, state: Tree, given: Tree, texts: Texts) -> tuple[Tree, Tree, dict[str, Array]]:
        gradient, losses = jax.grad(distillation.objective, has_aux=True)(layers, given, texts)
        updates, state = optimizer.update(gradient, state, layers)
        return optax.apply_updates(layers, updates), state, losses

    measure = partial(_measured, jax.jit(distillation.similarity), given, corpus)
    note = partial(_note, out, recipe, progress)
    layers = jax.tree.map(jnp.asarray, distillation.trained)
    state = State(0, layers, optimizer.init(layers)).saved(out, recipe.steps)
    progress.stage("adaptation", recipe.steps)
    for _ in range(state.step):
        progress.step()
    if state.step == 0:
        note({"step": 0, **measure(state.layers)})
    start = time.perf_counter()
    try:
        while state.step < recipe.steps:
            layers, moments, losses = state.layers, state.optimizer, {}
            for part in range(recipe.accumulate):
                texts = corpus.batch(state.step * recipe.accumulate + part)
                layers, moments, losses = advance(layers, moments, given, texts)
            step = state.step + 1
            is_measured = step % recipe.every == 0 or step == recipe.steps
            if is_measured:
                values = {name: float(loss) for name, loss in losses.items()}
                seconds = round(time.perf_counter() - start, 1)
                note({"step": step, **measure(layers), **values, "seconds": seconds})
            state = State(step, layers, moments)  # no sooner, so that no measurement is lost with an interruption
            if is_measured:
                state.save(out)
            progress.step()
    except KeyboardInterrupt:
        if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.layers)):  # else the one before is better
            state.save(out)
        raise
    return state.layers


def _measured(
    similarity: Callable[[Tree, Tree, Texts], tuple[Array, Array]], given: Tree, corpus: Corpus, layers: Tree
) -> dict[str, float]:
    """On the held-out lines, without and with random prompts before them."""
    plain, prompted = (
        [similarity(layers, given, texts) for texts in corpus.held_out(prompted=prompted)] for prompted in (False, True)
    )
    least = min(float(least) for _, least in (*plain, *prompted))
    return {"similarity": _mean_cosine(plain), "prompted": _mean_cosine(prompted), "least_kernel": least}


def _mean_cosine(found: Sequence[tuple[Array, Array]]) -> float:
    return float(np.concatenate([np.asarray(cosines) for cosines, _ in found]).mean())


def _note(out: Path, recipe: Recipe, progress: Progress, line: dict[str, float]) -> None:
    """Add a measurement to the log, after what an interrupted run has left of later ones.

    Raises: ConfigError for one that is not finite, which it does not add.
    """
    _refuse_diverged(recipe, line)
    kept = [before for before in read_log(out) if before["step"] < line["step"]]
    write_whole(out / LOG, "".join(json.dumps(row) + "\n" for row in [*kept, line]).encode())
    losses = ", ".join(f"{name} {round(line[name], 4) + 0.0:.4f}" for name in LOSSES if name in line)
    progress.line(
        f"step {line['step']:5d}: similarity {line['similarity']:.4f}, behind prompts {line['prompted']:.4f}, "
        f"{losses or 'untrained'}, least mean kernel {line['least_kernel']:.3f}"
    )


def _refuse_diverged(recipe: Recipe, line: Mapping[str, float]) -> None:
    wrong = next((name for name, value in line.items() if not math.isfinite(value)), None)
    if wrong is None:
        return
    if line["step"] == 0:
        raise ConfigError(f"`model` {recipe.model}: {wrong} is {line[wrong]} before training: its weights are unsound")
    raise ConfigError(
        f"training diverged, {wrong} is {line[wrong]} at step {line['step']}: lower `rate` {recipe.rate:g}, and choose "
        "another `out`"
    )


def _save(recipe: Recipe, out: Path, distillation: Distillation, layers: Tree, corpus: Corpus) -> None:
    """The checkpoint, with how it was made in its config.json, and the figure; then the state is done with."""
    teacher, log = distillation.teacher, read_log(out)
    hub, _ = read_config(recipe.model)
    tokens = {name: hub.get(f"{name}_token_id") for name in SPECIAL}
    special = {name: token for name, token in tokens.items() if isinstance(token, int)}
    save_checkpoint(
        out,
        distillation.student.config,
        {"params": {**jax.device_get(layers), "embeddings": teacher.variables["params"]["embeddings"]}},
        teacher.head,
        model_type=teacher.model_type,
        tokenizer_json=recipe.model / "tokenizer.json",
        special_ids=special,
    )
    path = out / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    made = {key: value for key, value in recipe.facts().items() if key not in ("model", "corpus", "every")}
    similarity = round(log[-1]["similarity"], 4)
    made |= {"corpus_sha256": corpus.digest, "lines": corpus.count, "similarity": similarity}
    written["secp_spu"]["adapted"] = made
    write_whole(path, (json.dumps(written, indent=2, sort_keys=True) + "\n").encode())
    figure = io.BytesIO()
    _draw(log).savefig(figure, format="png", dpi=120)
    write_whole(out / FIGURE, figure.getvalue())
    (out / STATE).unlink(missing_ok=True)


def _draw(log: Sequence[dict[str, float]]) -> Figure:
    """Held-out similarity and losses by step."""
    figure = new_figure(8, 3.4)
    similarity, loss = figure.subplots(1, 2)
    similarity.plot([row["step"] for row in log], [row["similarity"] for row in log], color="#3d6fb4")
    similarity.set(title="Similarity to the teacher, held-out lines", xlabel="step", ylabel="cosine", ylim=(None, 1))
    rows = [row for row in log if "hidden" in row]
    for name, colour in zip(LOSSES, ("#3d6fb4", "#e0a458"), strict=True):
        loss.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, color=colour)
    loss.set(title="Loss of the last batch", xlabel="step", yscale="log")
    loss.legend(frameon=False)
    for axes in (similarity, loss):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
