from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from random_weights import CONFIG, transformer_variables

from secp_spu.model import (
    FOLDED,
    EncoderLayer,
    FourierAttention,
    fold_layer,
    load_checkpoint,
    orthogonal_frequencies,
    save_checkpoint,
    token_shares,
)
from secp_spu.protocol import Fixed
from secp_spu.protocol.reciprocal import FLOOR

FOURIER = replace(CONFIG, attention="fourier", features=29, feature_seed=3)
BATCH, HEADS, TOKENS, HEAD_DIM = 2, 3, 5, 7
TEXT_LENGTHS = (5, 3)
RECIPROCAL_ERROR = 1e-3
"""Of the divisor in proportion, see `protocol.reciprocal`."""


@pytest.fixture
def inputs():
    """Query, key, value and padding mask; queries and keys so short that their kernel is far from zero."""
    query, key, value = np.random.default_rng(0).normal(size=(3, BATCH, HEADS, TOKENS, HEAD_DIM)).astype(np.float32)
    mask = np.array([[i < length for i in range(TOKENS)] for length in TEXT_LENGTHS], np.float32)
    return query / 4, key / 4, value, mask


def frequencies_of(features=FOURIER.features):
    return np.stack([orthogonal_frequencies(HEAD_DIM, features, (3, 0, head)) for head in range(HEADS)])


def attend(query, key, value, mask, **options):
    module = FourierAttention(FOURIER)
    variables = {"params": {"frequencies": frequencies_of()}}
    return module.apply(variables, query, key, value, token_shares(jnp.asarray(mask), FOURIER.features), **options)


def by_loops(query, key, value, mask):
    """Query by query in float64, with the kernel mean cos 2 pi (q - k) F; and the mean kernels."""
    out, means = np.zeros(value.shape), np.zeros((*value.shape[:-1], 1))
    for b, h, i in np.ndindex(BATCH, HEADS, TOKENS):
        difference = query[b, h, i].astype(np.float64) - key[b, h]
        kernel = np.cos(2 * np.pi * difference @ frequencies_of()[h].astype(np.float64)).mean(-1) * mask[b]
        out[b, h, i] = kernel @ value[b, h] / kernel.sum()
        means[b, h, i] = kernel.sum() / mask[b].sum()
    return out, means


def test_it_is_attention_with_the_kernel_of_its_frequencies(inputs):
    expected, means = by_loops(*inputs)
    assert means.min() > 2 * FLOOR
    found = np.asarray(attend(*inputs))
    allowed = RECIPROCAL_ERROR * np.abs(expected) + 1e-5
    assert (np.abs(found - expected) <= allowed).all()
    assert np.abs(inputs[2].mean(2, keepdims=True) - expected).max() > 0.1, "uniform attention would do as well"


def test_short_queries_and_keys_have_the_gaussian_kernel():
    """exp(-|q - k|**2 / 2), as that of random feature attention, off by 5 / sqrt(2 r) at most."""
    rng, features = np.random.default_rng(1), 2**14
    query, key = rng.normal(size=(2, 50, HEAD_DIM)) / 4
    turns = (query - key) @ np.asarray(orthogonal_frequencies(HEAD_DIM, features, (3, 0, 0)), np.float64)
    gaussian = np.exp(-np.square(query - key).sum(-1) / 2)
    assert np.abs(np.cos(2 * np.pi * turns).mean(-1) - gaussian).max() < 5 / np.sqrt(2 * features)
    assert np.ptp(gaussian) > 0.3


def test_heads_have_other_frequencies(inputs):
    """Drawn from the seed, the layer and the head."""
    shares = token_shares(jnp.asarray(inputs[3]), FOURIER.features)
    found = [
        np.asarray(
            FourierAttention(FOURIER, layer).init(jax.random.key(0), *inputs[:3], shares)["params"]["frequencies"]
        )
        for layer in (0, 1)
    ]
    np.testing.assert_array_equal(found[0], frequencies_of())
    drawn = np.concatenate(found)
    assert len({head.tobytes() for head in drawn}) == 2 * HEADS


def test_padding_has_no_influence(inputs):
    *heads, mask = inputs
    real = mask.astype(bool)[:, None, :, None]
    before = np.asarray(attend(*heads, mask))
    after = np.asarray(attend(*(np.where(real, array, 100 - 7 * array) for array in heads), mask))
    real = np.broadcast_to(real, before.shape)
    np.testing.assert_array_equal(before[real], after[real])
    unmasked = np.asarray(attend(*heads, np.ones_like(mask)))
    assert np.abs(unmasked - before)[1].max() > 1e-3, "the padding mask does nothing"


def test_the_mean_kernel_is_there_to_be_seen(inputs):
    """Of all tokens that are none of padding, whatever their number and that of the features."""
    _, seen = attend(*inputs, mutable=["intermediates"])
    (kernel,) = seen["intermediates"]["mean_kernel"]
    np.testing.assert_allclose(kernel, by_loops(*inputs)[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("features", [29, 32])
def test_token_shares_have_the_mean_one(features):
    """After the two divisions by powers of two: 8 tokens for 5, and 32 frequencies."""
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    shares = np.asarray(token_shares(mask, features))
    np.testing.assert_allclose(shares.sum(-1) / 8 / 32, 1 / features, rtol=1e-6)
    assert (shares[1, 1:] == 0).all()


@pytest.mark.parametrize("activation", ["gelu", "quadratic"])
def test_a_folded_layer_computes_the_same(activation):
    """The frequencies are in the projections; weights keep 14 bits in neither, as plain arrays."""
    config = replace(FOURIER, activation=activation)
    params = transformer_variables(config)["params"]["layers_1"]
    params["attention"]["frequencies"] = params["attention"]["frequencies"] / 10
    rng = np.random.default_rng(4)
    hidden = rng.normal(size=(BATCH, TOKENS, config.width)).astype(np.float32)
    mask = np.array([[i < length for i in range(TOKENS)] for length in TEXT_LENGTHS], np.float32)
    before = {"scale": 1 + rng.normal(size=config.width) / 5, "bias": rng.normal(size=config.width) / 5}
    before = {name: array.astype(np.float32) for name, array in before.items()}

    raw = EncoderLayer(config).apply({"params": params}, hidden * before["scale"] + before["bias"], mask)
    folded = fold_layer(params, before, config)
    assert folded["query_key_value"]["kernel"].shape == (config.width, 2 * HEADS * config.features + config.width)
    assert "attention" not in folded
    rows = EncoderLayer(config, setting=FOLDED).apply({"params": folded}, hidden * mask[..., None], mask)
    norm = params["output_norm"]
    found = rows * norm["scale"] + norm["bias"]
    # The value's bias passes through weights that add up to one only as nearly as the divisor is 1/x.
    real = np.broadcast_to(mask[..., None].astype(bool), found.shape)
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(raw)[real], rtol=0, atol=2e-3)


def test_secret_frequencies_have_to_be_folded(inputs):
    secrets = [Fixed(np.zeros(array.shape, np.int32), 25) for array in inputs[:3]]
    with pytest.raises(ValueError, match="fold them with fold_layer"):
        FourierAttention(FOURIER).apply({}, *secrets, Fixed(np.zeros((BATCH, TOKENS), np.int32), 10))


def test_a_folder_keeps_the_frequencies(tmp_path):
    variables = transformer_variables(FOURIER)
    save_checkpoint(tmp_path, FOURIER, variables)
    loaded = load_checkpoint(tmp_path, attention="fourier")
    assert loaded.config == FOURIER
    for path, array in flatten_dict(dict(variables["params"])).items():
        np.testing.assert_array_equal(flatten_dict(loaded.variables["params"])[path], array)
    assert loaded.variables["params"]["layers_0"]["attention"]["frequencies"].shape == (HEADS, HEAD_DIM, 29)
