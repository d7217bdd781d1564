"""A decoder under MPC against the same weights in plaintext, through the same driver as encoders."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, opened, shared
from test_forward import random_variables

from secp_spu.model import DecoderLayer, EncoderConfig, LabelWordHead, fold_head, fold_layer, hidden_bits
from secp_spu.model.causal import causal_blocks
from secp_spu.protocol import lower
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
    """The plaintext modules with raw weights on one text after another, without prompt padding or folding."""
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


@pytest.mark.parametrize(
    ("which", "attention"),
    [(ABY3, "fourier"), (ABY3, "rfa"), (ABY3, "softmax"), (SEMI2K_2, "fourier")],
)
def test_a_decoder_matches_plaintext(runtimes, which, attention):
    model, inputs = make_model(attention), make_inputs()
    assert causal_blocks(TOKENS, 2 * CONFIG.features, CONFIG.head_dim + 1)[0] > 1
    exact = flax_logits(*model, inputs)
    np.testing.assert_allclose(run_model(PlaintextRuntime(), *model, inputs), exact, rtol=0, atol=2e-3)
    logits = run_model(runtimes(which), *model, inputs)
    print(attention, np.abs(logits - exact).max(), np.ptp(exact, axis=0))
