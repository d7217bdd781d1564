from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from parties import ABY3, SEMI2K_2, opened
from tiny import (
    ENCODER,
    FINE_TUNING_RATE,
    PROMPT_RATE,
    PROMPT_TOKENS,
    embeddings,
    few_shot,
    fine_tuning,
    prompt_tuning,
    weights,
)

from secp_spu.baseline import LOSS_SCALE
from secp_spu.baseline.adam import EPSILON
from secp_spu.baseline.backpropagation import Backpropagation, silent
from secp_spu.model import Embeddings, EncoderLayer, LabelWordHead
from secp_spu.runtime import LocalRuntime, PlaintextRuntime

STEPS = 3

GRADIENT_ERROR = 0.1
"""Of a gradient's length. SPU's exp is (1 + x/256)**256, off by x**2/512 of itself: 5 % for a score 5 below the
largest. Gradients are linear in the attention of each of the two layers. What fixed point adds is some units."""

LOSS_ERROR = 0.01
"""The tiny model's logits are within 0.01 of plaintext (tests/inference/test_secure_model.py); the loss moves less."""


def loss_of(params, prompt=None):
    """The plaintext loss by the model's own modules, for jax.grad."""
    tokens, labels = few_shot()
    embed = Embeddings(ENCODER)
    words = jnp.asarray(params["embeddings"]["word"]["embedding"])[tokens.token_ids]
    padding_mask, readout = tokens.padding_mask, tokens.mask_row
    if prompt is None:
        hidden = embed.apply({"params": params["embeddings"]}, words)
    else:
        spread = jnp.broadcast_to(prompt, (len(labels), *prompt.shape))
        hidden = embed.apply({"params": params["embeddings"]}, jnp.concatenate([spread, words], 1))
        ones = np.ones((len(labels), PROMPT_TOKENS), np.float32)
        padding_mask, readout = (
            np.concatenate([first, row], 1) for first, row in ((ones, padding_mask), (0 * ones, readout))
        )
    for layer in params["layers"]:
        hidden = EncoderLayer(ENCODER).apply({"params": layer}, hidden, padding_mask)
    logits = LabelWordHead(ENCODER, 2).apply({"params": params["head"]}, hidden, readout)
    return optax.softmax_cross_entropy(logits, labels).mean()


def optax_losses(loss, start, rate):
    """The losses before each step of optax's Adam, and what is trained after them."""
    optimizer = optax.adam(rate, eps=0, eps_root=EPSILON / LOSS_SCALE**2)
    trained, state, losses = start, optimizer.init(start), []
    for _ in range(STEPS):
        value, gradient = jax.value_and_grad(loss)(trained)
        update, state = optimizer.update(gradient, state)
        trained = optax.apply_updates(trained, update)
        losses.append(float(value))
    return losses, trained


def train(runtime, make):
    """The losses before each step, and the trainer."""
    trainer = make(runtime)
    return [float(opened(runtime, trainer.step())) for _ in range(STEPS)], trainer


@pytest.mark.slow("gradients of all weights, embeddings too, against JAX's; compiles both")
def test_plaintext_fine_tuning_is_jax_and_optax():
    runtime = PlaintextRuntime()
    losses, trainer = train(runtime, fine_tuning)
    expected, trained = optax_losses(loss_of, weights(), FINE_TUNING_RATE)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    found = opened(runtime, trainer.weights)
    table = trained["embeddings"]["word"]["embedding"]
    np.testing.assert_allclose(np.concatenate(found["words"]), table, atol=FINE_TUNING_RATE / 10)
    for ours, theirs in ((found["layers"], trained["layers"]), (found["head"], trained["head"])):
        far = [np.abs(a - b).ravel() for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)]
        assert (
            np.quantile(np.concatenate(far), 0.99) < FINE_TUNING_RATE / 10
        )  # where a gradient is zero its sign is noise


def test_plaintext_prompt_tuning_is_jax_and_optax():
    runtime = PlaintextRuntime()
    losses, trainer = train(runtime, prompt_tuning)
    fixed = weights()
    start = jnp.asarray(embeddings()["word"]["embedding"][:PROMPT_TOKENS], jnp.float32)
    expected, prompt = optax_losses(lambda prompt: loss_of(fixed, prompt), start, PROMPT_RATE)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    assert np.quantile(np.abs(opened(runtime, trainer.prompt) - prompt), 0.99) < PROMPT_RATE / 10


@pytest.mark.slow("whole steps of the baselines, optimizer included, under MPC")
@pytest.mark.parametrize(("setting", "make"), [(ABY3, fine_tuning), (SEMI2K_2, prompt_tuning)])
def test_under_mpc_follows_plaintext_and_lowers_the_loss(setting, make):
    expected, _ = train(PlaintextRuntime(), make)
    with LocalRuntime(*setting) as runtime:
        losses, _ = train(runtime, make)
    assert sorted(losses, reverse=True) == losses
    assert losses[0] - losses[-1] > 3 * LOSS_ERROR
    # A step on a wrong gradient shows in the loss after it: each may be off by GRADIENT_ERROR of what a step lowers.
    for done, (found, wanted) in enumerate(zip(losses, expected, strict=True)):
        assert abs(found - wanted) <= LOSS_ERROR + done * GRADIENT_ERROR * (expected[0] - expected[-1])


def first_gradients(runtime, make):
    """What Adam's first moments are after one step, by group of weights."""
    trainer = make(runtime)
    trainer.step()
    moments = trainer._moments if isinstance(trainer._moments, dict) else {"prompt": trainer._moments}
    return {key: np.concatenate([np.ravel(g) for g in opened(runtime, m.first)]) for key, m in moments.items()}


@pytest.mark.slow("each weight's own gradient under MPC, which a loss hides")
@pytest.mark.parametrize("make", [fine_tuning, prompt_tuning])
def test_gradients_under_mpc_match_plaintext(make):
    expected = first_gradients(PlaintextRuntime(), make)
    with LocalRuntime(*ABY3) as runtime:
        found = first_gradients(runtime, make)
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        length = np.linalg.norm(gradient)
        assert np.linalg.norm(found[key] - gradient) <= GRADIENT_ERROR * length, key
        assert np.linalg.norm(found[key] - 1.25 * gradient) > GRADIENT_ERROR * length  # a quarter off is refused


def test_fine_tuning_in_parts_of_the_vocabulary_is_the_same(monkeypatch):
    whole, _ = train(PlaintextRuntime(), fine_tuning)
    monkeypatch.setattr("secp_spu.baseline.fine_tuning.VOCABULARY_ROWS", 50)
    monkeypatch.setattr("secp_spu.baseline.adam.ELEMENTS", 1000)
    parts, trainer = train(PlaintextRuntime(), fine_tuning)
    assert len(trainer.weights["words"]) > 2
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_nothing_is_left_behind():
    """A step more keeps no more arrays: residuals, gradients and old weights are freed."""
    for make in (fine_tuning, prompt_tuning):
        runtime = PlaintextRuntime()
        trainer = make(runtime)
        kept = []
        for _ in range(3):
            runtime.free(trainer.step())
            kept.append(len(runtime._values))
        assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "rfa"}, "train with softmax"),
        ({"causal": True}, "is a decoder's, but the baselines train encoders"),
    ],
)
def test_models_that_would_be_computed_otherwise_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Backpropagation(PlaintextRuntime(), replace(ENCODER, **changes), 2, weights=True, on_layer=silent)
