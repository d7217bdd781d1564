"""A new attention, activation and family of checkpoints: the worked example of docs/development.md runs."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pages import example
from parties import ABY3
from small_model import CONFIG, PROMPT_TOKENS, TOKENS, make_parts, random_variables, run_model
from test_secure_model import flax_logits

from secp_spu.inference import pass_bytes
from secp_spu.model import (
    ACTIVATIONS,
    ATTENTIONS,
    FAMILIES,
    LabelWordHead,
    Transformer,
    load_checkpoint,
    save_checkpoint,
)
from secp_spu.runtime import PlaintextRuntime

BOUND = 0.02
"""Of logits under MPC: hidden states are good to 2**-12, and a layer and the head make some ten times that of it."""


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The example's files, and their entries in the registries."""
    monkeypatch.setitem(ATTENTIONS, "first", example("attention").FirstTokenAttention)
    monkeypatch.setitem(ACTIVATIONS, "shift", example("activation").Shift)
    monkeypatch.setitem(FAMILIES, "toy", example("family").TOY)


NEW = replace(CONFIG, attention="first", activation="shift", layers=2)


def test_a_model_of_new_kinds_runs_in_plaintext_and_folded():
    parts = make_parts(NEW, layers=2)
    exact = flax_logits(parts)
    other = flax_logits(replace(parts, config=replace(NEW, activation="relu")))
    assert np.abs(other - exact).max() > 2 * BOUND, "the activation makes a difference"
    np.testing.assert_allclose(run_model(PlaintextRuntime(), parts), exact, rtol=0, atol=1e-4)


def test_a_model_of_new_kinds_runs_under_mpc(runtimes):
    parts = make_parts(NEW, layers=2)
    exact = flax_logits(parts)
    changed = replace(parts, prompts=parts.prompts + np.eye(PROMPT_TOKENS, dtype=np.float32)[0][:, None])
    assert np.abs(flax_logits(changed) - exact).max() > 2 * BOUND, "the first token makes a difference"
    assert np.abs(run_model(runtimes(ABY3), parts) - exact).max() <= BOUND


def test_its_memory_is_estimated():
    softmax = replace(NEW, attention="softmax")
    assert 0 < pass_bytes(NEW, 3, 500) < pass_bytes(softmax, 3, 500)
    assert pass_bytes(replace(NEW, activation="gelu"), 3, 500) > pass_bytes(NEW, 3, 500)


def test_a_checkpoint_of_a_new_family_holds_a_model_of_new_kinds(tmp_path):
    config = replace(NEW, features=64)  # the default: neither kind has features
    inputs = jnp.zeros((1, TOKENS), jnp.int32), jnp.ones((1, TOKENS))
    variables = random_variables(Transformer(config), *inputs, seed=3)
    hidden = jnp.zeros((1, TOKENS, config.width)), jnp.ones((1, TOKENS))
    head = random_variables(LabelWordHead(config, config.vocab_size), *hidden, seed=4)["params"]
    save_checkpoint(tmp_path / "model", config, variables, head, model_type="toy")

    found = load_checkpoint(tmp_path / "model")
    assert (found.config, found.model_type) == (config, "toy")
    assert found.variables["params"]["layers_0"]["activation"]["shift"].shape == (config.intermediate,)
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"], dict(variables["params"]))
    jax.tree.map(np.testing.assert_array_equal, found.head, dict(head))


def test_a_name_that_is_not_registered_is_refused():
    with pytest.raises(ValueError, match="attention is 'last', allowed: 'softmax', 'rfa', 'fourier', 'first'"):
        flax_logits(make_parts(replace(NEW, attention="last")))
    with pytest.raises(ValueError, match="activation is 'swish', allowed: 'gelu', .* 'quadratic', 'shift'"):
        flax_logits(make_parts(replace(NEW, activation="swish")))
