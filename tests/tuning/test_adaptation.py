"""Adaptation of a small random model, whose attention matters: queries and keys are long enough to choose by."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from secp_spu.config import ConfigError
from secp_spu.model import CheckpointError, Encoder, EncoderConfig, LabelWordHead, load_checkpoint, save_checkpoint
from secp_spu.model.adapt import LEAST_KERNEL, Distillation, Texts, make_student, run
from secp_spu.protocol.reciprocal import FLOOR
from secp_spu.tuning import Progress
from secp_spu.tuning.adaptation import STATE, Recipe, adapt
from secp_spu.tuning.corpus import HELD_OUT, Corpus

SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]")
WORDS = [f"w{i}" for i in range(40)]
CONFIG = EncoderConfig(
    vocab_size=45,
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
    shapes = jax.eval_shape(Encoder(CONFIG).init, jax.random.key(0), token, row)["params"]
    params = jax.tree_util.tree_map_with_path(draw, shapes)
    hidden = jnp.zeros((1, 1, CONFIG.width))
    of_head = jax.eval_shape(LabelWordHead(CONFIG, CONFIG.vocab_size).init, jax.random.key(0), hidden, row)["params"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    folder.mkdir()
    tokenizer.save(str(folder / "words.json"))
    weights = jax.tree_util.tree_map_with_path(draw, of_head) if head else None
    save_checkpoint(
        folder,
        CONFIG,
        {"params": params},
        weights,
        model_type="bert",
        tokenizer_json=folder / "words.json",
        special_ids={"pad": 0, "mask": 2, "cls": 3, "sep": 4},
    )
    return folder


@pytest.fixture(scope="module")
def models_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {head: write_model(folder / f"head-{head}", head=head) for head in (False, True)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = np.random.default_rng(1)
    lines = [" ".join(rng.choice(WORDS, rng.integers(3, 14))) for _ in range(HELD_OUT + 400)]
    path = tmp_path_factory.mktemp("corpus") / "lines.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def recipe(models_of, corpus):
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


def corpus_of(recipe):
    """As `adapt` opens it, no word hidden."""
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


def params_of(folder):
    return flatten_dict(load_checkpoint(folder).variables["params"])


@pytest.mark.parametrize("activation", [None, "series", "quadratic"])
@pytest.mark.parametrize("head", [False, True], ids=["bare", "head"])
def test_adaptation_brings_the_model_back(models_of, recipe, tmp_path, activation, head):
    """Nearer to the teacher than it began, and loaded like any checkpoint."""
    recipe = replace(recipe, model=models_of[head], activation=activation)
    measured = adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    first, *_, last = log_of(tmp_path / "out")
    assert (first["step"], last["step"]) == (0, recipe.steps)
    assert last["similarity"] == measured.similarity > first["similarity"] + 0.3 * (1 - first["similarity"])

    loaded = load_checkpoint(tmp_path / "out", attention="fourier")
    assert (loaded.config.features, loaded.config.activation) == (16, activation or "gelu")
    assert (loaded.head is not None) == head
    made = json.loads((tmp_path / "out" / "config.json").read_text())["secp_spu"]["adapted"]
    assert (made["steps"], made["lines"], made["similarity"]) == (40, HELD_OUT + 400, round(last["similarity"], 4))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("adaptation.jsonl", "adaptation.png", "config.json", "model.safetensors", "recipe.json", "tokenizer.json")
    }


def test_what_is_loaded_is_what_was_measured(recipe, tmp_path):
    measured = adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    teacher, student = load_checkpoint(recipe.model), load_checkpoint(tmp_path / "out")
    cosines = []
    for texts in corpus_of(recipe).held_out():
        pooled = []
        for checkpoint in (teacher, student):
            hidden = Encoder(checkpoint.config).apply(checkpoint.variables, texts.ids, texts.mask)
            mean = (hidden * texts.mask[..., None]).sum(1)
            pooled.append(mean / jnp.linalg.norm(mean, axis=-1, keepdims=True))
        cosines.append((pooled[0] * pooled[1]).sum(-1))
    assert np.concatenate(cosines).mean() == pytest.approx(measured.similarity, abs=1e-5)


class StopAt(Progress):
    """Ctrl-C after some steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_resumed_run_is_the_run_that_was_not_interrupted(recipe, tmp_path):
    adapt(recipe, tmp_path / "whole", resume=False, progress=Progress())
    with pytest.raises(KeyboardInterrupt):
        adapt(recipe, tmp_path / "out", resume=False, progress=StopAt(31))
    state = serialization.msgpack_restore((tmp_path / "out" / STATE).read_bytes())
    assert state["step"] == 31, "Ctrl-C loses no finished step"
    with pytest.raises(KeyboardInterrupt):
        adapt(recipe, tmp_path / "out", resume=True, progress=StopAt(31 + 4))
    adapt(recipe, tmp_path / "out", resume=True, progress=Progress())
    whole, resumed = params_of(tmp_path / "whole"), params_of(tmp_path / "out")
    for path, array in whole.items():
        np.testing.assert_array_equal(array, resumed[path], err_msg=str(path))
    assert [row["step"] for row in log_of(tmp_path / "out")] == [0, 20, 40]

    with pytest.raises(ConfigError, match=r"--resume: rate was 0.003 in .*, now it is 0.001"):
        adapt(replace(recipe, rate=1e-3), tmp_path / "out", resume=True, progress=Progress())


def test_resuming_a_finished_run_changes_nothing(recipe, tmp_path):
    recipe = replace(recipe, steps=4)
    first = adapt(recipe, tmp_path / "out", resume=False, progress=Progress())
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = adapt(recipe, tmp_path / "out", resume=True, progress=Progress())
    assert again == replace(first, was_finished=True)
    assert not first.was_finished
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_another_corpus_is_not_resumed_on(recipe, tmp_path):
    lines = recipe.corpus.read_text(encoding="utf-8")
    recipe = replace(recipe, steps=4, corpus=tmp_path / "lines.txt")
    recipe.corpus.write_text(lines, encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        adapt(recipe, tmp_path / "out", resume=False, progress=StopAt(2))
    recipe.corpus.write_text(lines + "w1 w1 w1 w1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="--resume: corpus_sha256 was"):
        adapt(recipe, tmp_path / "out", resume=True, progress=Progress())


def test_special_tokens_are_kept(recipe, tmp_path):
    """That of number zero too."""
    adapt(replace(recipe, steps=1), tmp_path / "out", resume=False, progress=Progress())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: config.get(f"{name}_token_id") for name in ("pad", "mask", "cls", "sep", "bos")} == {
        **{"pad": 0, "mask": 2, "cls": 3, "sep": 4},
        "bos": None,
    }


def test_accumulated_gradients_are_those_of_a_larger_batch(recipe):
    """The mean of two batches' gradients, in one step."""
    lines, teacher = corpus_of(recipe), load_checkpoint(recipe.model)
    student = make_student(teacher, [lines.batch(0)], features=16)
    one = Distillation(teacher, student, 10, 1e-3, accumulate=2)
    optimizer, gradient = one.optimizer(), jax.jit(jax.grad(one.objective, has_aux=True))
    layers, plain = one.trained, replace(one, accumulate=1).optimizer()
    gradients = [gradient(layers, one.given, lines.batch(i))[0] for i in range(2)]
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


def test_the_kernel_penalty_raises_the_least_kernel(recipe):
    """Its gradient alone, from a start whose queries and keys are far too long."""
    lines, teacher = corpus_of(recipe), load_checkpoint(recipe.model)
    student = make_student(teacher, [lines.batch(0)], features=16)
    one = Distillation(teacher, student, 10, 1e-3)
    layers = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 2 * leaf if path[-1].key == "frequencies" else leaf, one.trained
    )
    texts = lines.batch(1)
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


def test_a_student_starts_with_the_range_and_the_squares_of_its_teacher(recipe):
    lines, teacher = corpus_of(recipe), load_checkpoint(recipe.model)
    texts = lines.batch(0)
    inner = np.abs(
        np.concatenate([x[texts.mask == 1].ravel() for x in run(teacher.config, teacher.variables, texts).inner])
    )
    series = make_student(teacher, [texts], features=16, activation="series")
    assert series.limit == series.config.series.limit
    assert np.mean(inner <= series.limit) > 0.998 > np.mean(inner <= series.limit / 2) or series.limit == 2.0
    square = make_student(teacher, [texts], features=16, activation="quadratic")
    scales = [square.variables["params"][f"layers_{i}"]["activation"]["scale"] for i in range(2)]
    assert all(np.ptp(scale) == 0 for scale in scales)
    assert scales[0][0] != scales[1][0], "each layer has its own deviation"


def test_bfloat16_is_near_float32(recipe):
    lines, teacher = corpus_of(recipe), load_checkpoint(recipe.model)
    student = make_student(teacher, [lines.batch(0)], features=16)
    runs = [Distillation(teacher, student, 10, 1e-3, half=half) for half in (False, True)]
    losses = [float(one.objective(one.trained, one.given, lines.batch(1))[0]) for one in runs]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_bad_input_is_refused_before_anything_is_written(recipe, tmp_path):
    def refused(kind, message, resume=False, **changes):
        with pytest.raises(kind, match=message):
            adapt(replace(recipe, **changes), tmp_path / "out", resume=resume, progress=Progress())
        assert not (tmp_path / "out").exists()

    refused(ConfigError, "cannot be read", corpus=tmp_path / "none.txt")
    short = tmp_path / "short.txt"
    short.write_text("w1 w2\n" * 300)
    refused(ConfigError, "has 1 different lines, needed are 264", corpus=short)
    refused(ConfigError, "--max-tokens 18 and --prompt-tokens 3: the model has 20", max_tokens=18)
    refused(ConfigError, "holds no adaptation", resume=True)
    adapt(replace(recipe, steps=1), tmp_path / "done", resume=False, progress=Progress())
    refused(CheckpointError, "has fourier attention: adapt the checkpoint that it came from", model=tmp_path / "done")
    with pytest.raises(ConfigError, match="is not empty"):
        adapt(recipe, tmp_path / "done", resume=False, progress=Progress())


def test_texts_are_a_pytree():
    texts = Texts(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2)), jnp.ones((1, 2)))
    assert len(jax.tree.leaves(texts)) == 3
    assert LEAST_KERNEL > FLOOR
