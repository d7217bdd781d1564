"""A decoder under MPC against the same weights in plaintext, through the same driver as encoders."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixed_point import RECIPROCAL_UNITS, RSQRT_ERROR
from parties import ABY3, SEMI2K_2, ULP, cost_of, opened, shared, without_debugging
from small_model import random_variables

from secp_spu.inference import Batch, SecureModel, setting_of
from secp_spu.model import (
    FOLDED,
    DecoderLayer,
    LabelWordHead,
    Norm,
    TransformerConfig,
    fold_head,
    fold_layer,
    hidden_bits,
)
from secp_spu.model.attention.causal_means import causal_blocks, summarise_causal
from secp_spu.model.attention.fourier import ANGLE_SCALE, FourierAttention
from secp_spu.model.attention.random_features import PROJECTION_BITS, RandomFeatureAttention
from secp_spu.model.layers import SHARE_BITS
from secp_spu.model.precision import (
    FACTOR_BITS,
    HIDDEN_BITS,
    STREAM_BITS,
    STREAM_SCALE_BITS,
    STREAM_VARIANCE_BITS,
    SUMMARY_BITS,
    VALUE_BITS,
)
from secp_spu.protocol import Scheme, from_storage, joint_error_bound, series_reciprocal, to_float, to_storage
from secp_spu.protocol.cosine import public_factor_bits
from secp_spu.protocol.reciprocal import FLOOR, LOWEST
from secp_spu.runtime import PlaintextRuntime

CONFIG = TransformerConfig(
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
PHI_BITS = FACTOR_BITS + public_factor_bits(FACTOR_BITS)
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
    texts = to_storage(hidden * mask[:, PROMPT_TOKENS:, None], bits)
    batch = Batch(*(shared(runtime, values) for values in (texts, mask, readout)))
    return opened(runtime, model.logits(shared(runtime, to_storage(prompts, bits)), batch))


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


@pytest.mark.slow("whole decoders of every attention; compiles and runs them under MPC")
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
    """Folded, where a value's bias passes a divisor that is good to 1e-3, with features."""
    model, inputs = make_model(attention), make_inputs()
    allowed = 1e-4 if attention == "softmax" else 2e-3
    found = run_model(PlaintextRuntime(), *model, inputs)
    np.testing.assert_allclose(found, flax_logits(*model, inputs), rtol=0, atol=allowed)


def test_the_norm_of_a_stream_is_good_for_rows_of_any_size(runtime):
    """From GPT-2's embeddings to its late layers, and the row of a first token, which has elements in the thousands.

    Bound: an element is off by 3 units of STREAM_BITS with the mean, and by 1 of HIDDEN_BITS at the end; the scale by
    RSQRT_ERROR and the public root in proportion, by RECIPROCAL_UNITS of a result with one bit less than SPU's own, and
    by one unit of STREAM_SCALE_BITS; the variance by 4 units of STREAM_VARIANCE_BITS; 1/768 by half a unit.
    """
    deviations = np.array([0.15, 1, 10, 30])
    x = np.random.default_rng(3).normal(size=(5, 768)) * np.append(deviations, 10)[:, None] + 0.5
    x[4, [138, 447]] = 900, -3000
    x = x.astype(np.float32)

    def norm(x):
        return to_float(Norm(1e-5, FOLDED, stream=True).apply({}, from_storage(x, STREAM_BITS, secure=True)))

    found = opened(runtime, runtime.run("norm", norm, shared(runtime, to_storage(x, STREAM_BITS))))
    centred = x - x.mean(-1, keepdims=True, dtype=np.float64)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    exact = centred / deviation
    scale = RSQRT_ERROR + 2.0**-14 + deviation * (RECIPROCAL_UNITS * 2 * ULP + 2.0**-STREAM_SCALE_BITS)
    scale = scale + 2 * 2.0**-STREAM_VARIANCE_BITS / deviation**2
    shift = 3 * 2.0**-STREAM_BITS + np.abs(x.mean(-1, keepdims=True)) * 768 * 2.0 ** -(SHARE_BITS + 1)
    allowed = np.abs(exact) * scale + shift / deviation + 2.0**-HIDDEN_BITS
    assert (np.abs(found - exact) <= allowed).all()
    assert deviation[4] > 110
    assert scale[:3].max() < 3e-3, "a bound so wide would mean nothing"
    assert (np.abs(found - exact) > allowed / 10).any()


def test_sums_over_many_blocks_match_plaintext(runtimes):
    """As long as GPT-2's texts get, with values of many deviations, and columns that mostly cancel.

    Bound: summaries of 64 blocks' 2 r features are off by a unit of SUMMARY_BITS each, which random signs add up to the
    root of their number over r, within six deviations; kernels and the result by less.
    """
    tokens, frequencies, columns = 1024, 16, 9
    angles = np.random.default_rng(8).normal(size=(2, 1, 1, tokens, frequencies)) / 3
    phi = np.concatenate([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
    values = np.random.default_rng(9).normal(size=(1, 1, tokens, columns)).astype(np.float32) * 4
    blocks, _ = causal_blocks(tokens, 2 * frequencies, columns)
    assert blocks > 50
    exact = np.asarray(summarise_causal(*phi, values))

    def secure(phi, values):
        query, key = (from_storage(x, PHI_BITS, secure=True) for x in phi)
        return to_float(summarise_causal(query, key, from_storage(values, VALUE_BITS, secure=True)))

    runtime = runtimes(ABY3)
    found = opened(
        runtime, runtime.run("sums", secure, shared(runtime, to_storage(phi, PHI_BITS)), shared(runtime, values))
    )
    allowed = 6 * np.sqrt(2 * frequencies) / frequencies * 2.0**-SUMMARY_BITS
    assert np.abs(found - exact).max() <= allowed
    assert np.abs(exact[0, 0, -100:]).mean() > 10 * allowed


KERNEL_ERROR = 6 * joint_error_bound(Scheme(*ABY3), FACTOR_BITS) / (2 * np.sqrt(CONFIG.features))
"""Of a mean kernel of single keys: a pair of features is off by the errors of two factors, whose real parts are, one
with the other, half the bound (root mean square) or less, and has the mean zero over its frequencies; within six
deviations."""

ROOT_ERROR = RSQRT_ERROR
"""Of a length: SPU's inverse root, relative."""

KERNEL_ERRORS = {"fourier": KERNEL_ERROR, "rfa": KERNEL_ERROR + 2 * np.pi * 0.5 * ROOT_ERROR}
"""Of "rfa" the angle is half a turn times a coordinate of at most one; the error of its length comes on top."""

LARGEST_WEIGHT = 160.0
"""Of a single key, instead of one: x times the reciprocal's function of x is -157 at x = -0.19."""


def few_keys(kind):
    """Queries and keys [2, 1, heads, 3, columns], and values, whose mean kernels are all that there may be.

    All frequencies of a head have one angle, so that the first query's only kernel is its cosine: from -1 to 1 by head.
    Of "fourier" they are folded, angles; of "rfa" vectors of length one, the first along an axis, which the query's is
    turned from, and every frequency is half a turn a unit along another axis.

    Returns: the module, its variables but for correlations, queries and keys, values.
    """
    kernels = np.linspace(-1, 1, 41)
    values = np.random.default_rng(6).normal(size=(1, len(kernels), 3, 7)).astype(np.float32)
    config = replace(CONFIG, attention=kind, width=len(kernels) * 7, heads=len(kernels))
    if kind == "rfa":
        both = np.random.default_rng(5).normal(size=(2, 1, len(kernels), 3, 7))
        both[:, 0, :, 0] = np.eye(7)[0]
        turned = np.arcsin(np.arccos(kernels) / np.pi)
        both[0, 0, :, 0] = np.stack([np.cos(turned), np.sin(turned)], -1) @ np.eye(7)[:2]
        frequencies = np.float32([[0, 0.5, 0, 0, 0, 0, 0]] * CONFIG.features).T
        lengths = np.ones(len(kernels), np.float32)
        variables = {"params": {"length": lengths}, "public": {"frequencies": frequencies}}
        return RandomFeatureAttention(config, setting=FOLDED), variables, both.astype(np.float32), values
    turns = np.random.default_rng(5).normal(size=(2, 1, len(kernels), 3, CONFIG.features)) / 30
    turns[:, 0, :, 0] = 0
    turns[0, 0, :, 0] = np.arccos(kernels)[:, None] / (2 * np.pi)
    turns[0, 0, :, 1:] += turns[0, 0, :, :1]
    return FourierAttention(config, setting=FOLDED), {}, (turns * ANGLE_SCALE).astype(np.float32), values


def attend_to_few_keys(runtime, module, variables, queries, keys, values):
    """Under MPC: what comes out, and the mean kernels that MPC has."""

    def attend(variables, queries, keys, values, correlations):
        secrets = [from_storage(x, PROJECTION_BITS, secure=True) for x in (queries, keys)]
        secrets.append(from_storage(values, VALUE_BITS, secure=True))
        given = {**variables, "correlations": correlations}
        found, seen = module.apply(given, *secrets, None, mutable=["intermediates"])
        return to_float(found), to_float(seen["intermediates"]["mean_kernel"][0])

    declared = module.init(jax.random.key(0), queries, keys, values, None)["correlations"]
    given = [{k: shared(runtime, v) if k == "params" else runtime.publish(v) for k, v in variables.items()}]
    given += [shared(runtime, to_storage(x, PROJECTION_BITS)) for x in (queries, keys)] + [shared(runtime, values)]
    with runtime.ledger.phase("offline"):
        correlations = runtime.correlations(declared)
    return opened(runtime, runtime.run("few_keys", attend, *given, correlations))


@pytest.mark.slow("normalisers near zero and below, under MPC")
@pytest.mark.parametrize("kind", ["fourier", "rfa"])
def test_first_queries_have_the_same_bounded_function_as_in_plaintext(runtimes, kind):
    """Mean kernels of one to three keys, which no number of other keys keeps away from zero.

    Bound: a mean kernel is off by KERNEL_ERRORS, and the sum of values that it divides by as much of their size; the
    reciprocal moves by what the plain function does within that distance, and by 1 % more.
    """
    (module, variables, (queries, keys), values), kernel_error = few_keys(kind), KERNEL_ERRORS[kind]
    exact, seen = module.apply(variables, queries, keys, values, None, mutable=["intermediates"])
    exact, kernel = np.asarray(exact), np.asarray(seen["intermediates"]["mean_kernel"][0])
    low = kernel[..., 0] < FLOOR
    assert kernel.min() < -0.9
    assert (low & (kernel[..., 0] > LOWEST)).sum() >= 10

    found, secure_kernel = attend_to_few_keys(runtimes(ABY3), module, variables, queries, keys, values)
    assert np.abs(secure_kernel - kernel).max() <= kernel_error
    here = np.asarray(series_reciprocal(kernel, 1.0))
    near = np.asarray(series_reciprocal(kernel[..., None] + kernel_error * np.linspace(-1, 1, 401), 1.0))
    moves = np.abs(near - here[..., None]).max(-1) + 0.01 * np.abs(near).max(-1)
    sums, off = np.abs(exact / here), kernel_error * np.abs(values).max()
    allowed = (sums + off) * moves + off * np.abs(here)
    assert (np.abs(found - exact) <= allowed).all()
    quotient = exact / here / kernel
    assert (np.abs(found - quotient) > allowed).any(-1)[low].mean() > 0.9, "the tolerance cannot tell it from 1/x"
    assert np.abs(found[:, :, 0] / values[:, :, 0]).max() < LARGEST_WEIGHT


# Sums over the parties of (bytes, sends) of one layer on [1, 42, 21], 3 heads, 29 features: two blocks of 21 tokens.
LAYER_COSTS = {
    (ABY3, "softmax"): (4_958_736, 937),
    (ABY3, "rfa"): (2_299_488, 672),
    (ABY3, "fourier"): (1_930_560, 506),
    (SEMI2K_2, "softmax"): (2_747_892, 418),
    (SEMI2K_2, "rfa"): (1_444_032, 270),
    (SEMI2K_2, "fourier"): (1_145_160, 206),
}

PUBLIC_SCALARS = {(ABY3, "softmax"): 2, (ABY3, "rfa"): 3, (ABY3, "fourier"): 3}
"""Which become shares."""


def layer_cost(runtime, attention, tokens):
    config, hidden = replace(CONFIG, attention=attention), np.ones((1, tokens, CONFIG.width), np.float32)
    layer = DecoderLayer(config, setting=setting_of(runtime))
    declared = layer.init(jax.random.key(0), hidden).get("correlations", {})
    variables = random_variables(layer, hidden, seed=0)
    handles = {"params": shared(runtime, variables["params"]), "public": runtime.publish(variables["public"])}

    def run_layer(variables, correlations, hidden):
        lifted = from_storage(hidden, STREAM_BITS, secure=True)
        return to_storage(layer.apply({**variables, "correlations": correlations}, lifted), STREAM_BITS)

    with runtime.ledger.phase("offline"):
        correlations = runtime.correlations(declared)
    stream = shared(runtime, hidden)
    return cost_of(runtime, lambda: runtime.run("layer", run_layer, handles, correlations, stream))[1]


@pytest.mark.slow("a byte or send more in a decoder's layer; compiles each for MPC")
@pytest.mark.parametrize(("which", "attention"), LAYER_COSTS)
def test_a_layer_costs_what_it_did(runtimes, which, attention):
    """Pinned, as for encoders."""
    expected = without_debugging(LAYER_COSTS[which, attention], PUBLIC_SCALARS.get((which, attention), 0))
    assert layer_cost(runtimes(which), attention, 42) == expected


@pytest.mark.slow("causal blocks stay linear in the text's length; four sizes under MPC")
def test_features_cost_in_proportion_to_the_tokens(runtimes):
    """Two and four blocks, and softmax beside them, where scores outweigh all else."""
    half, whole = (layer_cost(runtimes(SEMI2K_2), "fourier", tokens)[0] for tokens in (42, 84))
    assert 2 < whole / half < 2.1
    half, whole = (layer_cost(runtimes(SEMI2K_2), "softmax", tokens)[0] for tokens in (42, 84))
    assert whole / half > 3.5
