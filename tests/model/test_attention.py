import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from random_weights import CONFIG

from secp_spu.model import RandomFeatureAttention, SoftmaxAttention, orthogonal_frequencies

BATCH, HEADS, TOKENS, HEAD_DIM = 2, 3, 5, 7
TEXT_LENGTHS = (5, 3)
LENGTHS = np.array([0.7, 0.9, 1.1], np.float32)


@pytest.fixture
def inputs():
    """Query, key, value and padding mask."""
    heads = np.random.default_rng(0).normal(size=(3, BATCH, HEADS, TOKENS, HEAD_DIM)).astype(np.float32)
    mask = np.array([[i < length for i in range(TOKENS)] for length in TEXT_LENGTHS], np.float32)
    return (*heads, mask)


def softmax_attention(query, key, value, mask):
    return np.asarray(SoftmaxAttention(CONFIG).apply({}, query, key, value, mask))


def random_feature_attention(query, key, value, mask, *, features=128, layer=0):
    frequencies = orthogonal_frequencies(HEAD_DIM, features, (0, layer))
    variables = {"params": {"length": LENGTHS}, "public": {"frequencies": frequencies}}
    module = RandomFeatureAttention(replace(CONFIG, attention="rfa", features=features), layer)
    return np.asarray(module.apply(variables, query, key, value, mask))


def naive_attention(query, key, value, mask, kernel):
    """Attention query by query in float64, with `kernel(head, q, k)` for the weights; and these weights."""
    query, key, value = (array.astype(np.float64) for array in (query, key, value))
    out, weights = np.zeros_like(query), np.zeros((BATCH, HEADS, TOKENS, TOKENS))
    for b, h, i in np.ndindex(BATCH, HEADS, TOKENS):
        for j in range(TOKENS):
            weights[b, h, i, j] = mask[b, j] * kernel(h, query[b, h, i], key[b, h, j])
        out[b, h, i] = weights[b, h, i] @ value[b, h] / weights[b, h, i].sum()
    return out, weights


def exponential(_head, q, k):
    return math.exp(q @ k / math.sqrt(HEAD_DIM))


def gaussian(head, q, k):
    """exp(tau^2 (cos - 1))"""
    cosine = q @ k / (np.linalg.norm(q) * np.linalg.norm(k))
    return math.exp(float(LENGTHS[head]) ** 2 * (cosine - 1))


def test_softmax_attention_matches_a_loop(inputs):
    expected, _ = naive_attention(*inputs, exponential)
    # |score| <= 10 after 9 roundings: off by 10 * 9 * 2**-24 = 5e-6, as are the weights in proportion; |value| <= 4.
    np.testing.assert_allclose(softmax_attention(*inputs), expected, rtol=0, atol=2 * 4 * 5e-6)


def test_random_feature_attention_estimates_the_gaussian_kernel(inputs):
    """One kernel value is off by 1 / sqrt(2 r) at most (one deviation), hence the bound for 5 deviations."""
    features = 2**16
    expected, weights = naive_attention(*inputs, gaussian)
    kernel_error = 5 / math.sqrt(2 * features)
    spread = np.abs(inputs[2][:, :, None] - expected[:, :, :, None]) * inputs[3][:, None, None, :, None]
    tokens = np.array(TEXT_LENGTHS)[:, None, None]
    bound = kernel_error * spread.sum(3) / (weights.sum(-1) - tokens * kernel_error)[..., None]
    error = np.abs(random_feature_attention(*inputs, features=features) - expected)
    assert (error <= bound).all()

    wrong_length, _ = naive_attention(*inputs, lambda _head, q, k: gaussian(0, q, k))
    assert (np.abs(wrong_length - expected) > bound).any(), "the bound cannot tell a wrong length"


def test_random_feature_attention_error_falls_with_the_root_of_features(inputs):
    """Sixteen times the features, a quarter of the error; 16 draws fix each error to about 10 %, so 1.5 is generous."""
    expected, _ = naive_attention(*inputs, gaussian)

    def deviation(features):
        draws = [random_feature_attention(*inputs, features=features, layer=layer) for layer in range(16)]
        return np.sqrt(np.mean((np.array(draws) - expected) ** 2))

    ratio = deviation(112) / deviation(16 * 112)
    assert 4 / 1.5 < ratio < 4 * 1.5


@pytest.mark.parametrize("attend", [softmax_attention, random_feature_attention])
def test_padding_has_no_influence(attend, inputs):
    *heads, mask = inputs
    real = mask.astype(bool)[:, None, :, None]
    before = attend(*heads, mask)
    after = attend(*(np.where(real, array, 100 - 7 * array) for array in heads), mask)
    real = np.broadcast_to(real, before.shape)
    np.testing.assert_array_equal(before[real], after[real])

    unmasked = attend(*heads, np.ones_like(mask))
    assert np.abs(unmasked - before)[1].min(axis=(-1, -2)).max() > 1e-3, "the padding mask does nothing"


@pytest.mark.parametrize("attend", [softmax_attention, random_feature_attention])
def test_weights_of_a_query_sum_to_one(attend, inputs):
    """The column of ones is the denominator: equal values come out as they went in."""
    query, key, value, mask = inputs
    equal = np.broadcast_to(value[:, :, :1], value.shape)
    # Numerator and denominator sum the same products; 256 of them, with an |sum| above a tenth of their absolute sum.
    np.testing.assert_allclose(attend(query, key, equal, mask), equal, rtol=256 * 10 * 2.0**-24, atol=1e-7)


def test_random_feature_attention_ignores_the_scale_of_queries_and_keys(inputs):
    query, key, value, mask = inputs
    # NORM_EPSILON is 1e-4, squared norms are above 1/2: lengths change by 1e-4, logits by 2 tau^2 1e-4; values are < 4.
    assert min((query**2).sum(-1).min(), (key**2).sum(-1).min()) > 0.5
    np.testing.assert_allclose(
        random_feature_attention(3 * query, 5 * key, value, mask, features=2048),
        random_feature_attention(query, key, value, mask, features=2048),
        rtol=0,
        atol=2 * 1.1**2 * 1e-4 * 2 * 4,
    )


def columns(features, *, head_dim=HEAD_DIM, seed=(3, 0)):
    """Frequencies in radians, in float64."""
    return 2 * np.pi * np.asarray(orthogonal_frequencies(head_dim, features, seed), np.float64)


def test_orthogonal_frequencies_are_orthogonal_within_a_block():
    frequencies = columns(17)
    assert frequencies.shape == (HEAD_DIM, 17)
    unit = frequencies / np.linalg.norm(frequencies, axis=0)
    cosines = np.abs(unit.T @ unit - np.eye(17))
    same_block = np.equal.outer(np.arange(17) // HEAD_DIM, np.arange(17) // HEAD_DIM)
    assert cosines[same_block].max() < 2.0**-22  # two factors, each rounded to 24 bits
    assert cosines[~same_block].max() > 0.1


def test_orthogonal_frequencies_are_standard_gaussian_one_by_one():
    frequencies = columns(7 * 1024)
    # Squared norms are chi-squared with 7 degrees of freedom (mean 7, variance 14); bounds are 5 deviations.
    squares = (frequencies**2).sum(0)
    assert abs(squares.mean() - 7) < 5 * math.sqrt(14 / squares.size)
    # Their variance: the fourth central moment is 14 * (3 * 14 + 48) for 7 degrees of freedom, less 14^2.
    assert abs(squares.var() - 14) < 5 * math.sqrt((3 * 14**2 + 48 * 7 - 14**2) / squares.size)
    for row in frequencies:
        assert abs((row**2).mean() - 1) < 5 * math.sqrt(2 / row.size)


def test_orthogonal_frequencies_follow_from_seed_and_layer():
    first = columns(11, seed=(3, 0))
    np.testing.assert_array_equal(first, columns(11, seed=(3, 0)))
    for other in ((3, 1), (4, 0), (0, 3)):
        assert np.abs(first - columns(11, seed=other)).min() > 0


def test_random_feature_attention_draws_the_frequencies_of_its_layer(inputs):
    config = replace(CONFIG, attention="rfa", features=11, feature_seed=3)
    for layer in (0, 2):
        variables = RandomFeatureAttention(config, layer).init(jax.random.key(0), *inputs)
        np.testing.assert_array_equal(
            variables["public"]["frequencies"], orthogonal_frequencies(HEAD_DIM, 11, (3, layer))
        )
