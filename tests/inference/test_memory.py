"""A pass has as many sequences as its estimated memory allows; tests/bench holds the estimate against passes."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from secp_spu.bench import SHAPES
from secp_spu.inference import pass_bytes, sequences_within
from secp_spu.inference.memory import BLOCK_BYTES, KEPT_PAIR_BYTES, WIDTH_BYTES, kept_bytes, sequence_bytes
from secp_spu.model import FOLDED, EncoderLayer
from secp_spu.model.attention.causal_means import causal_blocks


@pytest.mark.parametrize("attention", ["rfa", "softmax"])
def test_as_many_sequences_as_the_limit_holds(attention):
    config = replace(SHAPES["minilm"], attention=attention)
    for limit in (2 * 10**9, 10**10):
        count = sequences_within(limit, config, 56)
        assert pass_bytes(config, count, 56) <= limit < pass_bytes(config, count + 1, 56)
    assert sequences_within(0, config, 56) == 1


@pytest.mark.parametrize(
    "larger", [{"width": 3840}, {"intermediate": 3000}, {"attention": "rfa", "features": 512}, {"activation": "gelu"}]
)
def test_the_estimate_grows_with_every_size(larger):
    config = replace(SHAPES["minilm"], activation="relu")
    assert pass_bytes(config, 4, 56) < pass_bytes(config, 5, 56) < pass_bytes(config, 5, 57)
    assert pass_bytes(config, 4, 56) < pass_bytes(replace(config, **larger), 4, 56)


DECODER = replace(SHAPES["minilm"], causal=True, type_vocab_size=0, intermediate=64, activation="relu")


@pytest.mark.parametrize("attention", ["rfa", "fourier"])
@pytest.mark.parametrize(("tokens", "blocks"), [(9, 1), (512, 22)])
def test_a_decoders_kernels_and_summaries_count(attention, tokens, blocks):
    """With 8 frequencies blocks are of 24 tokens, so that a token has 24 kernels and 16 (cos, sin) pairs a head."""
    config = replace(DECODER, attention=attention, features=8)
    found, size = causal_blocks(tokens, 16, 33)
    assert found == blocks
    elements = 12 * blocks * (size**2 + 16 * 33)
    expected = tokens * (KEPT_PAIR_BYTES * 2 * 12 * 8 + WIDTH_BYTES * 384) + BLOCK_BYTES * elements
    assert sequence_bytes(config, tokens) == expected > sequence_bytes(replace(config, causal=False), tokens)


def test_a_decoders_estimate_is_linear_in_the_tokens_with_features_alone():
    def growth(**changes):
        config = replace(DECODER, **changes)
        return sequence_bytes(config, 1920) / sequence_bytes(config, 480)

    assert 3.9 < growth(attention="fourier", features=8) < 4.1
    assert growth(attention="softmax") > 8


def test_what_outweighs_the_kernels_is_the_estimate():
    """With 64 frequencies making the correlations takes most, as for an encoder."""
    config = replace(DECODER, attention="fourier", features=64)
    assert sequence_bytes(config, 512) == sequence_bytes(replace(config, causal=False), 512)


@pytest.mark.parametrize("attention", ["fourier", "softmax"])
def test_what_a_layer_keeps_for_the_backward_pass_is_counted(attention):
    """All but a scale a row of each norm, and a count a text."""
    config, tokens = replace(SHAPES["minilm"], attention=attention, activation="quadratic", layers=1), 56
    module, inputs = EncoderLayer(config, setting=FOLDED), (jnp.ones((1, tokens, config.width)), jnp.ones((1, tokens)))
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    keep = partial(module.apply, mutable=["kept"])
    kept = jax.eval_shape(keep, {"params": params}, *inputs)[1]["kept"]
    elements = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(kept))
    assert 16 * (elements - 2 * tokens - 1) == kept_bytes(config, tokens)


def test_passes_that_keep_have_fewer_sequences():
    config = replace(SHAPES["minilm"], attention="fourier", activation="quadratic")
    limit = 4 * 10**9
    few, many = (sequences_within(limit, config, 56, keeping=keeping) for keeping in (True, False))
    assert few < many
    assert pass_bytes(config, few, 56) + few * kept_bytes(config, 56) <= limit
