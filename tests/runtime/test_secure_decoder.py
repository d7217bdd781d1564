"""A decoder under MPC against the same weights in plaintext, through the same driver as encoders."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, cost_of, opened, shared
from test_forward import random_variables

from secp_spu.model import DecoderLayer, EncoderConfig, LabelWordHead, fold_head, fold_layer, hidden_bits
from secp_spu.model.causal import causal_blocks
from secp_spu.model.precision import STREAM_BITS
from secp_spu.protocol import lift, lower
from secp_spu.runtime import Batch, PlaintextRuntime, SecureModel

CONFIG = EncoderConfig(
    vocab_size=2,
    width=21,
    layers=2,
    heads=3,
    intermediate=13,
    max_positions=41,
    position_offset=0,
    type_vocab_size=0,
    layer_norm_epsilon=1e-5,
    activation="relu",
    head_activation="relu",
    features=29,
    causal=True,
)
CANDIDATES, PROMPT_TOKENS, TEXT_TOKENS, LABELS = 2, 2, 39, 2
TOKENS = PROMPT_TOKENS + TEXT_TOKENS
TEXT_LENGTHS = (39, 4, 23)
GROWTH = 30
"""Of the first prompt token's row in proportion to the others: in GPT-2 it is by far the largest."""


def make_model(attention):
    """Variables of two layers, and params of the head."""
    config, inputs = replace(CONFIG, attention=attention), jnp.zeros((1, TOKENS, CONFIG.width))
    layers = [random_variables(DecoderLayer(config, i), inputs, seed=i) for i in range(config.layers)]
    head = random_variables(LabelWordHead(config, LABELS), inputs, jnp.ones((1, TOKENS)), seed=7)["params"]
    return config, layers, head


def make_inputs():
    """Prompts, texts, and the rows of the last tokens. What stands on padding must not matter."""
    rng = np.random.default_rng(2)
    prompts = rng.normal(size=(CANDIDATES, PROMPT_TOKENS, CONFIG.width)).astype(np.float32) / 3
    prompts[:, 0] *= GROWTH
    hidden = rng.normal(size=(len(TEXT_LENGTHS), TEXT_TOKENS, CONFIG.width)).astype(np.float32) / 3
    mask = np.float32([[i < PROMPT_TOKENS + length for i in range(TOKENS)] for length in TEXT_LENGTHS])
    readout = np.float32([[i == PROMPT_TOKENS + length - 1 for i in range(TOKENS)] for length in TEXT_LENGTHS])
    return prompts, hidden, mask, readout


def run_model(runtime, config, layers, head, inputs):
    prompts, hidden, mask, readout = inputs
    bits = hidden_bits(config)
    stored = [
        {
            "params": shared(runtime, fold_layer(layer["params"], None, config)),
            "public": runtime.publish(layer["public"]),
        }
        for layer in layers
    ]
    model = SecureModel(runtime, config, stored, shared(runtime, fold_head(head, None)), LABELS)
    texts = lower(hidden * mask[:, PROMPT_TOKENS:, None], bits)
    batch = Batch(*(shared(runtime, values) for values in (texts, mask, readout)))
    return opened(runtime, model.logits(shared(runtime, lower(prompts, bits)), batch))


def flax_logits(config, layers, head, inputs):
    """The plaintext modules with raw weights on one text after another, without padding or folding."""
    prompts, hidden, _, _ = inputs
    rows = []
    for prompt in prompts:
        for text, length in zip(hidden, TEXT_LENGTHS, strict=True):
            stream = np.concatenate([prompt, text[:length]])[None]
            for i, layer in enumerate(layers):
                stream = DecoderLayer(config, i).apply(layer, stream)
            last = np.eye(PROMPT_TOKENS + length, dtype=np.float32)[-1:]
            rows.append(LabelWordHead(config, LABELS).apply({"params": head}, stream, last)[0])
    return np.stack(rows)


LOGIT_ERROR = 0.01
"""Rows of a norm are good to 2**-12 and, by their scale, to 6e-4 of themselves; so a layer adds a few 1e-3 of the
stream's size to it, softmax also the error of SPU's exp, 2e-3 of a score's weight; the head's norm divides by that size
again, and its decoder has weights of one column length. Seen: 1.4e-3 with features, 2.9e-3 with softmax."""


@pytest.mark.parametrize(
    ("which", "attention"),
    [(ABY3, "fourier"), (ABY3, "rfa"), (ABY3, "softmax"), (SEMI2K_2, "fourier")],
)
def test_a_decoder_matches_plaintext(runtimes, which, attention):
    """With texts of several lengths, read at their last tokens, and keys in more than one block."""
    (config, layers, head), inputs = make_model(attention), make_inputs()
    assert causal_blocks(TOKENS, 2 * CONFIG.features, CONFIG.head_dim + 1) == (2, 21)
    exact = flax_logits(config, layers, head, inputs)
    assert np.ptp(exact, axis=0).min() / 10 > LOGIT_ERROR, "the tolerance cannot tell texts from each other"
    swapped = flax_logits(config, layers[::-1], head, inputs)
    assert np.abs(swapped - exact).min(0).max() > 2 * LOGIT_ERROR, "the tolerance cannot tell the layers' order"

    logits = run_model(runtimes(which), config, layers, head, inputs)
    assert logits.shape == (CANDIDATES * len(TEXT_LENGTHS), LABELS)
    assert np.abs(logits - exact).max() <= LOGIT_ERROR


@pytest.mark.parametrize("attention", ["softmax", "rfa", "fourier"])
def test_the_driver_runs_in_plaintext_too(attention):
    """Folded, where a value's bias passes a divisor of "fourier" that is good to 1e-3."""
    model, inputs = make_model(attention), make_inputs()
    allowed = 2e-3 if attention == "fourier" else 1e-4
    found = run_model(PlaintextRuntime(), *model, inputs)
    np.testing.assert_allclose(found, flax_logits(*model, inputs), rtol=0, atol=allowed)


# Sums over the parties of (bytes, sends) of one layer on [1, 42, 21], 3 heads, 29 features: two blocks of 21 tokens.
LAYER_COSTS = {
    (ABY3, "softmax"): (4_956_384, 927),
    (ABY3, "rfa"): (2_446_800, 802),
    (ABY3, "fourier"): (1_928_208, 496),
    (SEMI2K_2, "softmax"): (2_747_220, 414),
    (SEMI2K_2, "rfa"): (1_553_484, 332),
    (SEMI2K_2, "fourier"): (1_144_488, 202),
}


def layer_cost(runtime, attention, tokens):
    config, hidden = replace(CONFIG, attention=attention), np.ones((1, tokens, CONFIG.width), np.float32)
    layer = DecoderLayer(config, folded=True, opens_operands=runtime.protocol == "semi2k")
    declared = layer.init(jax.random.key(0), hidden).get("correlations", {})
    variables = random_variables(layer, hidden, seed=0)
    handles = {"params": shared(runtime, variables["params"]), "public": runtime.publish(variables["public"])}

    def run_layer(variables, correlations, hidden):
        lifted = lift(hidden, STREAM_BITS, secure=True)
        return lower(layer.apply({**variables, "correlations": correlations}, lifted), STREAM_BITS)

    with runtime.ledger.phase("offline"):
        correlations = runtime.correlations(declared)
    stream = shared(runtime, hidden)
    return cost_of(runtime, lambda: runtime.run("layer", run_layer, handles, correlations, stream))[1]


@pytest.mark.parametrize(("which", "attention"), LAYER_COSTS)
def test_a_layer_costs_what_it_did(runtimes, which, attention):
    """Pinned, as for encoders."""
    assert layer_cost(runtimes(which), attention, 42) == LAYER_COSTS[which, attention]


def test_features_cost_in_proportion_to_the_tokens(runtimes):
    """Two and four blocks, and softmax beside them, where scores outweigh all else."""
    half, whole = (layer_cost(runtimes(SEMI2K_2), "fourier", tokens)[0] for tokens in (42, 84))
    assert 2 < whole / half < 2.1
    half, whole = (layer_cost(runtimes(SEMI2K_2), "softmax", tokens)[0] for tokens in (42, 84))
    assert whole / half > 3.5
