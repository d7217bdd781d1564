"""A checkpoint and lines of public text in, a folder with the adapted checkpoint out: the model owner's own step."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from matplotlib.figure import Figure

from secp_spu.config import ConfigError
from secp_spu.files import write_whole
from secp_spu.model import load_checkpoint, save_checkpoint
from secp_spu.model.adapt import Distillation, Texts, make_student
from secp_spu.model.hub_config import read_config
from secp_spu.tuning.progress import Progress
from secp_spu.tuning.task import open_tokenizer

Tree = Any

STATE, LOG, FIGURE, RECIPE = "state.msgpack", "adaptation.jsonl", "adaptation.png", "recipe.json"
HELD_OUT = 256
"""Lines that are never trained on."""

HELD_OUT_BATCH = 32


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is adapted; the same recipe gives the same weights.

    Attributes:
        model: the teacher's folder, with softmax attention.
        corpus: a file with a text a line.
        features: frequencies a head.
        activation: "series" or "quadratic" instead of GELU; None for the model's own.
        steps: of training.
        rate: peak learning rate.
        batch: texts of a gradient.
        accumulate: gradients of a step.
        max_tokens: of a text, what is longer is cut.
        seed: of frequencies, held-out lines and batches.
        half: compute in bfloat16.
        every: steps between two measurements on the held-out lines, each of which can be resumed from.
    """

    model: Path
    corpus: Path
    features: int = 64
    activation: Literal["series", "quadratic"] | None = None
    steps: int = 1500
    rate: float = 5e-4
    batch: int = 16
    accumulate: int = 1
    max_tokens: int = 64
    seed: int = 0
    half: bool = False
    every: int = 100

    def facts(self) -> dict[str, Any]:
        """As JSON's types."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


class Lines:
    """The corpus as token ids: lines to train on, and lines that are held out.

    Raises: ConfigError for a file that cannot be read, or with too few different lines.
    """

    def __init__(self, recipe: Recipe):
        self._recipe = recipe
        rows = list(dict.fromkeys(filter(None, map(str.strip, _read(recipe.corpus)))))
        if len(rows) < HELD_OUT + recipe.batch:
            raise ConfigError(
                f"--corpus {recipe.corpus} has {len(rows)} different lines, needed are {HELD_OUT + recipe.batch}: "
                f"{HELD_OUT} to measure with, and a batch"
            )
        order = np.random.default_rng(recipe.seed).permutation(len(rows))
        ids, mask = _tokenized(recipe, [rows[i] for i in order])
        self._ids, self._mask, self.count = ids, mask, len(rows)

    def batch(self, number: int) -> Texts:
        """The batch of this number, which follows from it and the seed."""
        rng = np.random.default_rng((self._recipe.seed, number))
        rows = rng.integers(HELD_OUT, self.count, self._recipe.batch)
        return self._texts(rows, rng)

    def held_out(self) -> list[Texts]:
        """The lines that are never trained on, in batches."""
        rng = np.random.default_rng(self._recipe.seed)
        starts = range(0, HELD_OUT, HELD_OUT_BATCH)
        return [self._texts(np.arange(start, start + HELD_OUT_BATCH), rng) for start in starts]

    def _texts(self, rows: np.ndarray, rng: np.random.Generator) -> Texts:
        mask = self._mask[rows]
        places = (rng.random(len(rows)) * mask.sum(-1)).astype(int)
        place = np.eye(mask.shape[1], dtype=np.float32)[places]
        return Texts(jnp.asarray(self._ids[rows]), jnp.asarray(mask), jnp.asarray(place))


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--corpus {path} cannot be read: {error}") from error


def _tokenized(recipe: Recipe, lines: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and padding mask [lines, max_tokens]."""
    tokenizer, padding = open_tokenizer(recipe.model / "tokenizer.json")
    tokenizer.enable_truncation(recipe.max_tokens)
    tokenizer.enable_padding(length=recipe.max_tokens, pad_id=tokenizer.token_to_id(padding), pad_token=padding)
    encoded = tokenizer.encode_batch(list(lines))
    ids = np.array([line.ids for line in encoded], np.int32)
    return ids, np.array([line.attention_mask for line in encoded], np.float32)


def adapt(recipe: Recipe, out: Path, *, resume: bool, progress: Progress) -> dict[str, float]:
    """Distil the model into one with attention by features.

    Args:
        recipe: how.
        out: a folder of its own; gets the checkpoint, a log in JSON lines and a figure, and while the run lasts its
            state, from which it goes on after an interruption.
        resume: go on with what is in `out`.
        progress: told of every step.
    Returns: the last measurement: "similarity", mean cosine of the pooled embeddings to the teacher's on the held-out
        lines, "least_kernel" and "step".
    Raises: ConfigError and CheckpointError for what cannot be adapted, before anything is written.
    """
    teacher = load_checkpoint(recipe.model)
    if recipe.max_tokens > teacher.config.max_positions - teacher.config.position_offset:
        raise ConfigError(f"--max-tokens {recipe.max_tokens}: the model has {teacher.config.max_positions} positions")
    lines = Lines(recipe)
    held_out = lines.held_out()
    student = make_student(
        teacher, held_out[0], features=recipe.features, seed=recipe.seed, activation=recipe.activation
    )
    distillation = Distillation(teacher, student, recipe.steps, recipe.rate, recipe.accumulate, recipe.half)
    _open(out, recipe, resume=resume)
    trained = _train(distillation, lines, held_out, recipe, out, progress)
    measured = _log(out)[-1]
    _save(recipe, out, distillation, trained, lines.count, measured)
    return measured


def _open(out: Path, recipe: Recipe, *, resume: bool) -> None:
    written = out / RECIPE
    if resume:
        if not written.exists():
            raise ConfigError(f"--resume: {out} holds no adaptation")
        before, now = json.loads(written.read_text(encoding="utf-8")), recipe.facts()
        for key in sorted(now.keys() | before.keys()):
            if before.get(key) != now.get(key):
                raise ConfigError(
                    f"--resume: {key} was {before.get(key)!r} in {out}, now it is {now.get(key)!r}: give the same"
                )
        return
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty: choose another folder, or go on with --resume")
    out.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(recipe.facts(), indent=2) + "\n", encoding="utf-8")


def _train(
    distillation: Distillation, lines: Lines, held_out: list[Texts], recipe: Recipe, out: Path, progress: Progress
) -> Tree:
    """The trained params, from the state in `out` on where there is one."""
    optimizer = distillation.optimizer()

    @jax.jit
    def advance(layers: Tree, state: Tree, texts: Texts) -> tuple[Tree, Tree, dict[str, Any]]:
        gradient, losses = jax.grad(distillation.objective, has_aux=True)(layers, texts)
        updates, state = optimizer.update(gradient, state, layers)
        return optax.apply_updates(layers, updates), state, losses

    layers = jax.tree.map(jnp.asarray, distillation.trained)
    state: Tree = {"step": 0, "layers": layers, "optimizer": optimizer.init(layers)}
    if (out / STATE).exists():
        state = serialization.from_bytes(state, (out / STATE).read_bytes())
    measure = jax.jit(distillation.similarity)
    progress.stage("adaptation", recipe.steps)
    for _ in range(state["step"]):
        progress.step()
    start = time.perf_counter()
    for step in range(state["step"], recipe.steps):
        if step == 0:
            _note(out, {"step": 0, **_measured(measure, state["layers"], held_out)}, progress)
        losses: dict[str, Any] = {}
        for part in range(recipe.accumulate):
            texts = lines.batch(step * recipe.accumulate + part)
            state["layers"], state["optimizer"], losses = advance(state["layers"], state["optimizer"], texts)
        state["step"] = step + 1
        progress.step()
        if state["step"] % recipe.every == 0 or state["step"] == recipe.steps:
            measured = _measured(measure, state["layers"], held_out)
            values = {name: float(loss) for name, loss in losses.items()}
            seconds = time.perf_counter() - start
            write_whole(out / STATE, serialization.to_bytes(state))
            _note(out, {"step": state["step"], **measured, **values, "seconds": round(seconds, 1)}, progress)
    return state["layers"]


def _measured(measure: Any, layers: Tree, held_out: list[Texts]) -> dict[str, float]:
    found = [measure(layers, texts) for texts in held_out]
    similarity = float(np.mean([np.asarray(cosines).mean() for cosines, _ in found]))
    return {"similarity": similarity, "least_kernel": min(float(least) for _, least in found)}


def _note(out: Path, line: dict[str, float], progress: Progress) -> None:
    """Add a measurement to the log, after what an interrupted run has left of later ones."""
    kept = [before for before in _log(out) if before["step"] < line["step"]]
    write_whole(out / LOG, "".join(json.dumps(row) + "\n" for row in [*kept, line]).encode())
    losses = ", ".join(f"{name} {line[name]:.4f}" for name in ("hidden", "output") if name in line)
    kernel = f"least mean kernel {line['least_kernel']:.3f}"
    progress.line(f"step {line['step']:5d}: similarity {line['similarity']:.4f}, {losses or 'untrained'}, {kernel}")


def _log(out: Path) -> list[dict[str, float]]:
    path = out / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _save(
    recipe: Recipe, out: Path, distillation: Distillation, layers: Tree, lines: int, measured: dict[str, float]
) -> None:
    """The checkpoint, with how it was made in its config.json, and the figure."""
    teacher, config = distillation.teacher, distillation.student.config
    hub, _ = read_config(recipe.model)
    params = {**jax.device_get(layers), "embeddings": teacher.variables["params"]["embeddings"]}
    special = {name: hub[f"{name}_token_id"] for name in ("bos", "pad", "eos", "mask") if hub.get(f"{name}_token_id")}
    save_checkpoint(
        out,
        config,
        {"params": params},
        teacher.head,
        model_type=teacher.model_type,
        tokenizer_json=recipe.model / "tokenizer.json",
        special_ids=special,
    )
    path = out / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    made = {key: value for key, value in recipe.facts().items() if key not in ("model", "corpus", "every")}
    written["secp_spu"]["adapted"] = {**made, "lines": lines, "similarity": round(measured["similarity"], 4)}
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _draw(_log(out)).savefig(out / FIGURE, dpi=120)
    (out / STATE).unlink(missing_ok=True)


def _draw(log: Sequence[dict[str, float]]) -> Figure:
    """Held-out similarity and losses by step."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    similarity, loss = figure.subplots(1, 2)
    similarity.plot([row["step"] for row in log], [row["similarity"] for row in log], color="#3d6fb4")
    similarity.set(title="Similarity to the teacher, held-out lines", xlabel="step", ylabel="cosine", ylim=(None, 1))
    rows = [row for row in log if "hidden" in row]
    for name, colour in (("hidden", "#3d6fb4"), ("output", "#e0a458")):
        loss.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, color=colour)
    loss.set(title="Loss of the last batch", xlabel="step", yscale="log")
    loss.legend(frameon=False)
    for axes in (similarity, loss):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
