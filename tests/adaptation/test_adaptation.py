"""Adaptation of a small random model, whose attention matters: queries and keys are long enough to choose by."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner
from words import CLS, MASK, PAD, SEP, UNKNOWN, VOCABULARY, write_lines, write_tokenizer

from secp_spu.adaptation import training as adaptation
from secp_spu.adaptation.corpus import HELD_OUT, Corpus
from secp_spu.adaptation.folder import FIGURE, RECIPE, STATE, read_log
from secp_spu.adaptation.student import LEAST_KERNEL, RANGE_SHARE, Distillation, Texts, make_student, run
from secp_spu.adaptation.training import Recipe, adapt
from secp_spu.cli.adapt_command import Interrupted
from secp_spu.cli.app import app
from secp_spu.errors import ConfigError
from secp_spu.model import (
    CheckpointError,
    LabelWordHead,
    Transformer,
    TransformerConfig,
    load_checkpoint,
    save_checkpoint,
)
from secp_spu.model.activation.quadratic import Quadratic, fitted_squares
from secp_spu.progress import Progress
from secp_spu.protocol.reciprocal import FLOOR

LINES = HELD_OUT + 400
SPECIAL_IDS = {"pad": PAD, "unk": UNKNOWN, "mask": MASK, "cls": CLS, "sep": SEP}
CONFIG = TransformerConfig(
    vocab_size=VOCABULARY,
    width=24,
    layers=2,
    heads=3,
    intermediate=32,
    max_positions=20,
    position_offset=0,
    type_vocab_size=2,
    layer_norm_epsilon=1e-5,
)


def write_model(folder: Path, *, head: bool) -> Path:
    """A BERT checkpoint with random weights and a tokenizer of whole words."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape).astype(np.float32)
        if name == "embedding":
            return noise
        if name == "kernel":
            return noise / np.float32(np.sqrt(leaf.shape[0]))
        return 1 + noise / 10 if name == "scale" else noise / 10

    token, row = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1))
    shapes = jax.eval_shape(Transformer(CONFIG).init, jax.random.key(0), token, row)["params"]
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    hidden = jnp.zeros((1, 1, CONFIG.width))
    of_head = jax.eval_shape(LabelWordHead(CONFIG, CONFIG.vocab_size).init, jax.random.key(0), hidden, row)["params"]
    folder.mkdir()
    words = write_tokenizer(folder / "words.json")
    weights = jax.tree_util.tree_map_with_path(draw, of_head) if head else None
    save_checkpoint(
        folder,
        CONFIG,
        {"params": params},
        weights,
        model_type="bert",
        tokenizer_json=words,
        special_ids=SPECIAL_IDS,
    )
    return folder


@pytest.fixture(scope="module")
def models_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {head: write_model(folder / f"head-{head}", head=head) for head in (False, True)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_lines(tmp_path_factory.mktemp("corpus") / "lines.txt", LINES)


@pytest.fixture
def recipe(models_of, corpus):
    """Batches of 8 texts, all padded to 16 tokens."""
    return Recipe(
        models_of[False],
        corpus,
        features=16,
        steps=40,
        rate=3e-3,
        batch_tokens=128,
        max_tokens=12,
        prompt_tokens=3,
        every=20,
    )


@pytest.fixture
def texts_of(recipe):
    return read(recipe).batch


def read(recipe):
    """The corpus of a recipe, whose model has no head."""
    return Corpus(
        recipe.corpus,
        recipe.model / "tokenizer.json",
        CONFIG,
        max_tokens=recipe.max_tokens,
        tokens=recipe.batch_tokens,
        prompt_tokens=recipe.prompt_tokens,
        hide_word=False,
        seed=recipe.seed,
    )


def log_of(out):
    return [json.loads(line) for line in (out / "adaptation.jsonl").read_text().splitlines()]


def without_seconds(out):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in log_of(out)]


def content_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def params_of(folder):
    return flatten_dict(load_checkpoint(folder).variables["params"])


@pytest.mark.slow("adapting pays for every activation and head; six whole adaptations")
@pytest.mark.parametrize("activation", [None, "series", "quadratic"])
@pytest.mark.parametrize("head", [False, True], ids=["bare", "head"])
def test_adaptation_brings_the_model_back(models_of, recipe, tmp_path, activation, head):
    """Nearer to the teacher than it began, and loaded like any checkpoint."""
    recipe = replace(recipe, model=models_of[head], activation=activation)
    done = adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    first, *_, last = log_of(tmp_path / "out")
    assert (first["step"], last["step"], done.step, done.was_finished) == (0, recipe.steps, recipe.steps, False)
    for name in ("similarity", "prompted"):
        assert last[name] == getattr(done, name) > first[name] + 0.3 * (1 - first[name])
    assert done.least_kernel == last["least_kernel"]

    loaded = load_checkpoint(tmp_path / "out", attention="fourier")
    assert (loaded.config.features, loaded.config.activation) == (16, activation or "gelu")
    assert (loaded.head is not None) == head
    hub = json.loads((tmp_path / "out" / "config.json").read_text())
    made = hub["secp_spu"]["adapted"]
    assert (made["steps"], made["lines"], made["similarity"]) == (40, LINES, round(last["similarity"], 4))
    assert {name: hub[f"{name}_token_id"] for name in SPECIAL_IDS} == SPECIAL_IDS, "a token may have the id 0"
    assert set(content_of(tmp_path / "out")) == {
        *("adaptation.jsonl", "adaptation.png", "config.json", "model.safetensors", "recipe.json", "tokenizer.json")
    }


@pytest.mark.slow("the similarity told is that of the saved model; a whole adaptation")
def test_what_is_loaded_is_what_was_measured(recipe, tmp_path):
    done = adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    assert _similarity(recipe, tmp_path / "out", prompted=False) == pytest.approx(done.similarity, abs=1e-5)
    assert _similarity(recipe, tmp_path / "out", prompted=True) == pytest.approx(done.prompted, abs=1e-5)
    assert abs(done.similarity - done.prompted) > 1e-4, "the tolerance cannot tell one from the other"


def _similarity(recipe, folder, *, prompted):
    """By the checkpoints on disk, of all held-out lines."""
    teacher, student = load_checkpoint(recipe.model), load_checkpoint(folder)
    cosines = []
    for texts in read(recipe).held_out(prompted=prompted):
        pooled = []
        for checkpoint in (teacher, student):
            hidden = Transformer(checkpoint.config).apply(checkpoint.variables, texts.ids, texts.mask)
            mean = (hidden * texts.mask[..., None]).sum(1)
            pooled.append(mean / jnp.linalg.norm(mean, axis=-1, keepdims=True))
        cosines.append((pooled[0] * pooled[1]).sum(-1))
    return np.concatenate(cosines).mean()


class StopAt(Progress):
    """Ctrl-C after some steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(models_of, corpus, tmp_path_factory):
    """What a run of 23 steps leaves that nobody disturbed, and its recipe: measured at 0, 10, 20 and 23."""
    recipe = Recipe(models_of[True], corpus, 16, "quadratic", 23, 3e-3, 128, 2, 12, 3, every=10)
    out = tmp_path_factory.mktemp("whole") / "out"
    adapt(recipe, out, resume=False, progress=Progress())
    assert [row["step"] for row in log_of(out)] == [0, 10, 20, 23]
    return recipe, out


def interrupted(recipe, out, stop):
    """The step after which the state of an interrupted run is."""
    with pytest.raises(KeyboardInterrupt):
        adapt(recipe, out, resume=False, progress=stop)
    assert not (out / FIGURE).exists()
    return serialization.msgpack_restore((out / STATE).read_bytes())["step"]


def assert_same_run(out, whole):
    assert without_seconds(out) == without_seconds(whole)
    for name in content_of(whole).keys() - {"adaptation.jsonl", "adaptation.png"}:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert content_of(out).keys() == content_of(whole).keys()


@pytest.mark.slow("the optimizer's state survives Ctrl-C at any step; whole adaptations")
@pytest.mark.parametrize("step", [16, 20, 23], ids=["between", "measured", "last"])
def test_ctrl_c_loses_no_step(whole, tmp_path, step):
    """The rest of the run is what it would have been."""
    recipe, undisturbed = whole
    assert interrupted(recipe, tmp_path / "out", StopAt(step)) == step
    steps = StopAt(10**6)
    assert not adapt(recipe, tmp_path / "out", resume=True, progress=steps).was_finished
    assert 10**6 - steps.left == recipe.steps
    assert_same_run(tmp_path / "out", undisturbed)


@pytest.mark.slow("the log has no gap after a stop inside a measurement; whole adaptations")
@pytest.mark.parametrize("number", [0, 1, 3], ids=["first", "between", "last"])
def test_ctrl_c_while_measuring_loses_no_measurement(whole, tmp_path, monkeypatch, number):
    """The step before the measurement is done again, so that its losses are in the log."""
    recipe, undisturbed = whole
    measured, count = adaptation._measured, iter(range(10))

    def stopped(*arguments):
        if next(count) == number:
            raise KeyboardInterrupt
        return measured(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "_measured", stopped)
        with pytest.raises(KeyboardInterrupt):
            adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    assert len(read_log(tmp_path / "out")) == number
    assert (tmp_path / "out" / STATE).exists() == (number > 0)
    adapt(recipe, tmp_path / "out", resume=True, progress=Progress())
    assert_same_run(tmp_path / "out", undisturbed)


@pytest.mark.slow("a stop after the last step loses nothing; a whole adaptation")
def test_ctrl_c_while_the_figure_is_drawn_leaves_a_run_to_finish(whole, tmp_path, monkeypatch):
    recipe, undisturbed = whole
    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "_draw", _interrupt)
        assert interrupted(recipe, tmp_path / "out", Progress()) == recipe.steps
    assert not adapt(recipe, tmp_path / "out", resume=True, progress=Progress()).was_finished
    assert_same_run(tmp_path / "out", undisturbed)


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_before_the_run_began_promises_nothing(recipe, tmp_path, monkeypatch):
    call = ["adapt", "--model", recipe.model, "--corpus", recipe.corpus, "--out", tmp_path / "out"]
    call += ["--features", 16, "--batch-tokens", 128, "--max-tokens", 12, "--prompt-tokens", 3]
    for name, message in (
        ("make_student", "interrupted before the run began"),
        ("_measured", f"interrupted; go on with --resume --out {tmp_path / 'out'}"),
    ):
        monkeypatch.setattr(adaptation, name, _interrupt)
        ended = CliRunner().invoke(app, list(map(str, call))).exception
        assert (type(ended), str(ended)) == (Interrupted, message)
        assert (tmp_path / "out").exists() == (name == "_measured")
        monkeypatch.undo()


@pytest.mark.slow("no state with nan is ever saved; adaptations that really diverge")
def test_a_run_that_diverges_ends_with_its_last_good_state(recipe, tmp_path):
    """The first of two steps of warm-up is of length zero, the second far too long."""
    recipe = replace(recipe, rate=1e30, steps=20)
    with pytest.raises(ConfigError, match=r"diverged, .* is nan at step 2: lower `rate` 1e\+30, and choose another"):
        adapt(replace(recipe, every=1), tmp_path / "out", resume=False, progress=Progress())
    assert [row["step"] for row in log_of(tmp_path / "out")] == [0, 1]
    assert serialization.msgpack_restore((tmp_path / "out" / STATE).read_bytes())["step"] == 1
    with pytest.raises(KeyboardInterrupt):
        adapt(recipe, tmp_path / "stopped", resume=False, progress=StopAt(3))
    assert not (tmp_path / "stopped" / STATE).exists()


def test_a_model_that_overflows_is_named(recipe, tmp_path):
    huge = tmp_path / "huge"
    shutil.copytree(recipe.model, huge)
    tensors = load_file(huge / "model.safetensors")
    huge_ones = {name: tensor * np.float32(1e30) for name, tensor in tensors.items() if "dense" in name}
    save_file(tensors | huge_ones, huge / "model.safetensors", metadata={"format": "pt"})
    call = partial(adapt, resume=False, progress=Progress())
    with pytest.raises(CheckpointError, match="huge computes values that are not finite: take a model whose"):
        call(replace(recipe, model=huge, activation="series"), tmp_path / "series")
    assert not (tmp_path / "series").exists()
    with pytest.raises(ConfigError, match="`model` .*huge: similarity is nan before training"):
        call(replace(recipe, model=huge), tmp_path / "out")


def test_resuming_a_finished_run_changes_nothing_and_says_so(whole, monkeypatch):
    """At once: nothing is calibrated or compiled."""
    monkeypatch.setattr(adaptation, "make_student", None)
    recipe, out = whole
    before, last = content_of(out), log_of(out)[-1]
    done = adapt(recipe, out, resume=True, progress=Progress())
    assert content_of(out) == before
    assert (done.was_finished, done.step, done.similarity) == (True, recipe.steps, last["similarity"])

    call = ["adapt", "--model", recipe.model, "--corpus", recipe.corpus, "--out", out, "--resume"]
    call += ["--features", 16, "--activation", "quadratic", "--steps", 23, "--rate", 3e-3, "--batch-tokens", 128]
    call += ["--accumulate", 2, "--max-tokens", 12, "--prompt-tokens", 3, "--every", 10]
    printed = CliRunner().invoke(app, list(map(str, call)))
    assert printed.exit_code == 0, printed.output
    assert printed.stdout == (
        f"finished before: similarity to the teacher on held-out lines {last['similarity']:.4f}, "
        f"behind random prompts {last['prompted']:.4f}; checkpoint in {out}\n"
    )
    assert content_of(out) == before


@pytest.mark.slow("a changed corpus or recipe is refused on resume; runs to resume")
def test_a_run_is_resumed_with_its_own_recipe_and_corpus_alone(recipe, corpus, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_bytes(corpus.read_bytes())
    recipe, out = replace(recipe, corpus=lines, steps=3, every=3), tmp_path / "out"
    assert interrupted(recipe, out, StopAt(2)) == 2
    before = content_of(out)
    again = partial(adapt, out=out, resume=True, progress=Progress())

    with pytest.raises(ConfigError, match=r"`resume`: rate was 0.003 in .*, now it is 0.001"):
        again(replace(recipe, rate=1e-3))
    lines.write_text(lines.read_text() + "w1 w2 w3 w4\n")
    with pytest.raises(ConfigError, match=r"`resume`: corpus_sha256 was '\w{64}' in .*, now it is '\w{64}': give the"):
        again(recipe)
    assert content_of(out) == before

    lines.write_bytes(corpus.read_bytes())
    again(recipe)
    lines.write_text(lines.read_text() + "w1 w2 w3 w4\n")
    with pytest.raises(ConfigError, match="corpus_sha256"):
        again(recipe)
    written = [json.loads((out / name).read_text()) for name in (RECIPE, "config.json")]
    assert written[0]["corpus_sha256"] == written[1]["secp_spu"]["adapted"]["corpus_sha256"]


@pytest.mark.slow("`accumulate` takes a mean, not a sum; compiles a real gradient")
def test_accumulated_gradients_are_those_of_a_larger_batch(recipe, texts_of):
    """The mean of two batches' gradients, in one step."""
    teacher = load_checkpoint(recipe.model)
    student = make_student(teacher, [texts_of(0)], features=16)
    one = Distillation(teacher, student, 10, 1e-3, accumulate=2)
    optimizer, gradient = one.optimizer(), jax.jit(jax.grad(one.objective, has_aux=True))
    layers, plain = one.trained, replace(one, accumulate=1).optimizer()
    gradients = [gradient(layers, one.given, texts_of(i))[0] for i in range(2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    state, plain_state = optimizer.init(layers), plain.init(layers)
    for _ in range(2):  # the learning rate of the first step is zero
        nothing, state = optimizer.update(gradients[0], state, layers)
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(nothing))
        last, state = optimizer.update(gradients[1], state, layers)
        expected, plain_state = plain.update(mean, plain_state, layers)
    assert np.abs(jax.tree.leaves(expected)[0]).max() > 1e-4
    for found, wanted in zip(jax.tree.leaves(last), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_the_kernel_penalty_raises_the_least_kernel(recipe, texts_of):
    """Its gradient alone, from a start whose queries and keys are far too long."""
    teacher = load_checkpoint(recipe.model)
    student = make_student(teacher, [texts_of(0)], features=16)
    one = Distillation(teacher, student, 10, 1e-3)
    layers = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 2 * leaf if path[-1].key == "frequencies" else leaf, one.trained
    )
    texts = texts_of(1)
    penalty = jax.jit(jax.value_and_grad(lambda layers: one.objective(layers, one.given, texts)[1]["kernel"]))
    before, _ = penalty(layers)
    least = one.similarity(layers, one.given, texts)[1]
    assert least < 0 < before
    adam = optax.adam(3e-3)
    state = adam.init(layers)
    for _ in range(100):
        _, gradient = penalty(layers)
        updates, state = adam.update(gradient, state)
        layers = optax.apply_updates(layers, updates)
    assert penalty(layers)[0] < before / 4
    assert one.similarity(layers, one.given, texts)[1] > least


def test_a_student_starts_with_the_range_and_the_squares_of_its_teacher(recipe, texts_of):
    teacher = load_checkpoint(recipe.model)
    batches = [texts_of(i) for i in range(2)]
    seen = [(run(teacher.config, teacher.variables, texts).inner, texts.mask == 1) for texts in batches]
    inner = [np.concatenate([layers[i][mask] for layers, mask in seen]) for i in range(CONFIG.layers)]
    sizes = np.abs(np.concatenate(inner))
    series = make_student(teacher, batches, features=16, activation="series")
    assert series.limit == series.config.series.limit
    assert np.mean(sizes <= series.limit) >= RANGE_SHARE > np.mean(sizes <= series.limit - 0.5)
    square = make_student(teacher, batches, features=16, activation="quadratic")
    for i in range(CONFIG.layers):
        found = square.variables["params"][f"layers_{i}"]["activation"]
        for name, values in zip(Quadratic.parameters, fitted_squares(inner[i]), strict=True):
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_near_float32(recipe, texts_of):
    teacher = load_checkpoint(recipe.model)
    student = make_student(teacher, [texts_of(0)], features=16)
    runs = [Distillation(teacher, student, 10, 1e-3, half=half) for half in (False, True)]
    losses = [float(one.objective(one.trained, one.given, texts_of(1))[0]) for one in runs]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_bad_input_is_refused_before_anything_is_written(models_of, recipe, tmp_path):
    def refused(kind, message, resume=False, **changes):
        with pytest.raises(kind, match=message):
            adapt(replace(recipe, **changes), tmp_path / "out", resume=resume, progress=Progress())
        assert not (tmp_path / "out").exists()

    refused(ConfigError, "cannot be read", corpus=tmp_path / "none.txt")
    short = write_lines(tmp_path / "short.txt", HELD_OUT + 7)
    refused(ConfigError, "has 263 different lines, needed are 264", corpus=short)
    refused(ConfigError, "`max_tokens` 18 and `prompt_tokens` 3: the model has 20 positions", max_tokens=18)
    headed = tmp_path / "headed"
    shutil.copytree(models_of[True], headed)
    write_tokenizer(headed / "tokenizer.json", mask="[NONE]")
    refused(ConfigError, "has no mask token", model=headed)
    refused(ConfigError, "holds no adaptation", resume=True)
    adapt(replace(recipe, steps=1), tmp_path / "done", resume=False, progress=Progress())
    refused(CheckpointError, "has fourier attention: adapt the checkpoint that it came from", model=tmp_path / "done")


def test_a_folder_that_will_not_do_is_named_before_anything_is_computed(whole, tmp_path, monkeypatch):
    recipe, finished = whole
    monkeypatch.setattr(adaptation, "make_student", None)

    def refused(message, out, resume=False):
        with pytest.raises(ConfigError, match=message):
            adapt(recipe, out, resume=resume, progress=Progress())

    (tmp_path / "file").touch()
    refused("`out`: .*file is a file: choose a folder", tmp_path / "file")
    refused("`out` .*out holds an adaptation already: choose another folder, or go on with `resume`", finished)
    for name in (RECIPE, "adaptation.jsonl"):
        damaged = tmp_path / name.split(".")[0]
        shutil.copytree(finished, damaged)
        (damaged / name).write_bytes((damaged / name).read_bytes()[:-20])
        refused(f"`resume`: .*{name} is damaged", damaged, resume=True)


def test_a_damaged_state_is_named(whole, tmp_path):
    recipe, finished = whole
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out" / STATE).write_bytes(b"")
    with pytest.raises(ConfigError, match="`resume`: .*state.msgpack is damaged"):
        adapt(recipe, tmp_path / "out", resume=True, progress=Progress())


def test_a_folder_that_can_no_longer_be_written_is_named(recipe, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adaptation, "write_whole", full)
    with pytest.raises(ConfigError, match="`out` .*out cannot be written .*No space left.*: make room, or choose an"):
        adapt(recipe, tmp_path / "out", resume=False, progress=Progress())


@pytest.mark.parametrize("option", [("--features", 2**16 + 1), ("--seed", 2**63), ("--rate", "inf")], ids=str)
def test_what_no_checkpoint_can_say_is_refused(recipe, tmp_path, option):
    call = ["adapt", "--model", recipe.model, "--corpus", recipe.corpus, "--out", tmp_path / "out", *option]
    assert CliRunner().invoke(app, list(map(str, call))).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_texts_are_a_pytree():
    texts = Texts(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2)), jnp.ones((1, 2)))
    assert len(jax.tree.leaves(texts)) == 3
    assert LEAST_KERNEL > FLOOR
