from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixed_point import EXP_UNITS, RECIPROCAL_ERROR, RECIPROCAL_UNITS, RSQRT_ERROR, Arithmetic, spu_exp
from parties import ABY3, SEMI2K_2, SEMI2K_3, ULP, cost_of, is_kept, opened, shared, without_debugging
from small_model import (
    CANDIDATES,
    CONFIG,
    LABELS,
    PROMPT_TOKENS,
    TEXTS,
    Parts,
    lowered,
    make_parts,
    mean_readout,
    random_variables,
    run_model,
    secure_model,
    shared_batch,
)

from secp_spu.inference import Batch, setting_of
from secp_spu.model import EncoderLayer, LabelWordHead
from secp_spu.model.attention.random_features import NORM_EPSILON
from secp_spu.model.attention.softmax import PADDING_SCORE
from secp_spu.model.head import SIMILARITY_SCALE
from secp_spu.model.precision import (
    DIVISOR_BITS,
    FACTOR_BITS,
    HIDDEN_BITS,
    MEAN_VALUE_BITS,
    OUTPUT_WEIGHT_BITS,
    SCALE_BITS,
    SUM_BITS,
    SUMMARY_BITS,
    TOKEN_SHARE_BITS,
    WEIGHT_BITS,
)
from secp_spu.protocol import Scheme, from_storage, joint_error_bound, to_storage
from secp_spu.runtime import PlaintextRuntime


def flax_logits(parts):
    """The plaintext modules, one pair of candidate and text after another."""
    run_layer = jax.jit(EncoderLayer(parts.config).apply)
    run_head = jax.jit(LabelWordHead(parts.config, LABELS).apply)
    rows = []
    for prompt in parts.prompts:
        for text, padding_mask, readout in zip(parts.hidden, parts.padding_mask, parts.readout, strict=True):
            hidden = np.concatenate([prompt, text])[None]
            for layer in parts.layers:
                hidden = run_layer(layer, hidden, padding_mask[None])
            rows.append(run_head({"params": parts.head}, hidden, readout[None])[0])
    return np.stack(rows)


# The same model once more, in the arithmetic of fixed_point.py


@dataclass(frozen=True)
class SecondModel:
    """A second implementation, in numpy; exact unless its arithmetic has a generator."""

    parts: Parts
    mask_error: float
    arithmetic: Arithmetic

    def encode(self, hidden, padding_mask):
        given = self.arithmetic.given
        hidden, padding_mask = given(hidden, HIDDEN_BITS), np.asarray(padding_mask, np.float64)
        for layer in self.parts.layers:
            hidden = self.layer(layer, hidden, padding_mask)
        return hidden

    def logits(self):
        """Candidate by candidate, text by text."""
        parts = self.parts
        pairs = [np.concatenate([prompt, text]) for prompt in parts.prompts for text in parts.hidden]
        hidden = self.encode(np.stack(pairs), np.tile(parts.padding_mask, (CANDIDATES, 1)))
        at_mask = self.read_out(hidden, np.tile(parts.readout, (CANDIDATES, 1)))
        inner = np.maximum(self.dense(at_mask, parts.head["dense"]), 0)
        return self.dense(self.layer_norm(inner, parts.head["norm"]), parts.head["decoder"])

    def similarities(self):
        """Logits by label embeddings; here the texts without a prompt, and the first of them as descriptions."""
        parts = self.parts
        pooled = self.pool(self.encode(parts.hidden, parts.padding_mask[:, PROMPT_TOKENS:]), mean_readout(parts))
        return self.arithmetic.times(self.arithmetic.matmul(pooled, pooled[:LABELS].T), SIMILARITY_SCALE)

    def pool(self, hidden, readout):
        mean = self.read_out(hidden, readout)
        norm = self.arithmetic.times(mean, mean).sum(-1, keepdims=True)
        return self.arithmetic.times(mean, self.arithmetic.rsqrt(norm))

    def read_out(self, hidden, readout):
        return self.arithmetic.matmul(self.arithmetic.given(readout)[:, None, :], hidden)[:, 0, :]

    def layer(self, variables, hidden, padding_mask):
        params, heads = variables["params"], self.parts.config.heads
        batch, tokens, width = hidden.shape
        projected = self.dense(hidden, params["query_key_value"]).reshape(batch, tokens, 3, heads, -1)
        kinds = {"softmax": self.softmax, "rfa": self.random_features, "fourier": self.learned_features}
        attend = kinds[self.parts.config.attention]
        attended = attend(variables, *projected.transpose(2, 0, 3, 1, 4), padding_mask)
        attended = attended.transpose(0, 2, 1, 3).reshape(batch, tokens, width)
        attended = self.dense(attended, params["attention_output"])
        hidden = self.layer_norm(hidden + attended, params["attention_norm"])
        inner = np.maximum(self.dense(hidden, params["intermediate"]), 0)
        return self.layer_norm(hidden + self.dense(inner, params["output"]), params["output_norm"])

    def softmax(self, _variables, query, key, value, padding_mask):
        times, matmul = self.arithmetic.times, self.arithmetic.matmul
        key, value = (self.arithmetic.rounded(x, 16) for x in (key, value))
        scores = times(matmul(query, key.swapaxes(-1, -2)), query.shape[-1] ** -0.5)
        scores = scores + ((1 - padding_mask) * PADDING_SCORE)[:, None, None, :]
        return matmul(self.arithmetic.softmax(scores), value)

    def random_features(self, variables, query, key, value, padding_mask):
        times, matmul = self.arithmetic.times, self.arithmetic.matmul
        length = self.arithmetic.given(variables["params"]["attention"]["length"])[:, None, None]
        frequencies = variables["public"]["attention"]["frequencies"].astype(np.float64)
        phi = []
        for both in (query, key):
            norm = times(both, both).sum(-1, keepdims=True) + self.arithmetic.off(NORM_EPSILON, ULP)
            scaled = times(both, times(self.arithmetic.rsqrt(norm), length))
            phi.append(self.arithmetic.cos_sin(scaled, frequencies, self.mask_error))
        weight = (padding_mask / 8)[:, None, :, None]
        ones = np.broadcast_to(weight, (*value.shape[:-1], 1))
        summary = matmul(phi[1].swapaxes(-1, -2), np.concatenate([times(value, weight), ones], -1))
        attended = matmul(phi[0], self.arithmetic.rounded(summary, SUMMARY_BITS)) / 64
        divisor = self.arithmetic.rounded(self.arithmetic.reciprocal(attended[..., -1:]), DIVISOR_BITS)
        return times(attended[..., :-1], divisor)

    def learned_features(self, variables, query, key, value, padding_mask):
        times, matmul, rounded = self.arithmetic.times, self.arithmetic.matmul, self.arithmetic.rounded
        frequencies = variables["params"]["attention"]["frequencies"].astype(np.float64)
        phi = [self.arithmetic.cos_sin_of_turns(x @ frequencies, self.mask_error) for x in (query, key)]
        mask = padding_mask[:, None, :, None]
        share = 8 / padding_mask.sum(-1)[:, None, None, None] * 64 / CONFIG.features
        columns = np.concatenate([times(value, mask), np.broadcast_to(mask * share, (*value.shape[:-1], 1))], -1)
        columns = rounded(columns, MEAN_VALUE_BITS)
        attended = matmul(phi[0], rounded(matmul(phi[1].swapaxes(-1, -2), columns) / 8, SUMMARY_BITS)) / 64
        divisor = rounded(share * self.arithmetic.series_reciprocal(attended[..., -1:]), DIVISOR_BITS)
        return times(attended[..., :-1], divisor)

    def dense(self, x, params):
        given = self.arithmetic.given
        return self.arithmetic.matmul(x, given(params["kernel"], OUTPUT_WEIGHT_BITS)) + given(params["bias"])

    def layer_norm(self, x, params):
        """(x - mean) * rsqrt(variance + epsilon), of few bits, and then the gain and the shift, as good as folded."""
        times, given, rounded = self.arithmetic.times, self.arithmetic.given, self.arithmetic.rounded
        x = rounded(x, SUM_BITS)
        centred = x - rounded(self.arithmetic.mean(x), SUM_BITS)
        variance = self.arithmetic.mean(times(centred, centred)) + self.arithmetic.off(CONFIG.layer_norm_epsilon, ULP)
        normed = rounded(centred * rounded(self.arithmetic.rsqrt(variance), SCALE_BITS), HIDDEN_BITS)
        return normed * given(params["scale"], WEIGHT_BITS) + given(params["bias"])


DRAWS, DEVIATIONS = 64, 6
"""The tolerance is so many standard deviations of so many results. The largest of these is two to three deviations off,
which right results exceed in one run of twelve."""


def expected_and_tolerance(runtime, parts, compute):
    """The exact result, and the error that a right one may have.

    A result's error is a sum of many, so it is nearly normal. Its standard deviation is that of DRAWS results whose
    every operation is off by a random part of its bound.
    """
    mask_error = joint_error_bound(Scheme(runtime.protocol, runtime.parties), FACTOR_BITS)
    exact = compute(SecondModel(parts, mask_error, Arithmetic()))
    rng = np.random.default_rng(3)
    draws = [compute(SecondModel(parts, mask_error, Arithmetic(rng))) for _ in range(DRAWS)]
    return exact, DEVIATIONS * np.sqrt(np.square(np.stack(draws) - exact).mean(0)).max()


# SPU's own functions, over the ranges in use


@pytest.mark.parametrize(
    ("function", "expected", "proportion", "units"),
    [
        (lambda x: jax.lax.rsqrt(x), lambda x: x**-0.5, RSQRT_ERROR, RECIPROCAL_UNITS),
        (lambda x: 1 / x, lambda x: 1 / x, RECIPROCAL_ERROR, RECIPROCAL_UNITS),
        (lambda x: jnp.exp(-x), lambda x: spu_exp(-x), 0, EXP_UNITS),
    ],
    ids=["rsqrt", "reciprocal", "exp"],
)
def test_spus_functions_keep_the_errors_that_are_supposed(runtime, function, expected, proportion, units):
    x = (np.rint(np.geomspace(0.05, 50, 4001) / ULP) * ULP).astype(np.float32)
    result = opened(runtime, runtime.run("function", function, shared(runtime, x)))
    exact = expected(x.astype(np.float64))
    allowed = exact * proportion + units * ULP
    assert (np.abs(result - exact) <= allowed).all()
    assert (np.abs(result - exact) > allowed / 10).any(), "an error so wide would mean nothing"


def test_spus_exp_of_padded_scores_is_zero(runtime):
    """Or one unit, as far as PADDING_SCORE says; the control: it is nonsense where others would put padding."""
    x = PADDING_SCORE + np.linspace(-199, 199, 401).astype(np.float32)
    assert np.abs(opened(runtime, runtime.run("exp", jnp.exp, shared(runtime, x)))).max() <= ULP
    far = opened(runtime, runtime.run("exp", jnp.exp, shared(runtime, np.full(401, -1e4, np.float32))))
    assert np.abs(far).min() > 1, "SPU's exp has become better: PADDING_SCORE may be lower"


# The model


def parts_of(attention, layers=1):
    return make_parts(replace(CONFIG, attention=attention, layers=layers), layers)


@pytest.mark.slow("whole encoders in every setting, within a derived bound; runs under MPC")
@pytest.mark.parametrize(
    ("which", "attention"),
    [
        *((which, attention) for which in (ABY3, SEMI2K_2) for attention in ("softmax", "rfa", "fourier")),
        (SEMI2K_3, "softmax"),
    ],
)
def test_a_model_matches_plaintext(runtimes, which, attention):
    runtime, parts = runtimes(which), parts_of(attention)
    exact, tolerance = expected_and_tolerance(runtime, parts, SecondModel.logits)
    # Flax computes in float32: a few hundred roundings of numbers up to 10.
    np.testing.assert_allclose(exact, flax_logits(parts), rtol=0, atol=1e-4)

    logits = run_model(runtime, parts)
    assert logits.shape == (CANDIDATES * TEXTS, LABELS)
    assert np.abs(logits - exact).max() <= tolerance
    assert tolerance < np.ptp(exact, axis=0).min() / 10, "the tolerance cannot tell texts from each other"


def test_two_layers_match_plaintext(runtimes):
    """Each with its own weights, frequencies and correlations."""
    runtime, parts = runtimes(SEMI2K_2), parts_of("rfa", layers=2)
    exact, tolerance = expected_and_tolerance(runtime, parts, SecondModel.logits)
    np.testing.assert_allclose(exact, flax_logits(parts), rtol=0, atol=1e-4)
    assert tolerance < np.ptp(exact, axis=0).min() / 10
    assert np.abs(run_model(runtime, parts) - exact).max() <= tolerance

    swapped = replace(parts, layers=parts.layers[::-1])
    assert np.abs(flax_logits(swapped) - exact).max() > tolerance, "the tolerance cannot tell the layers' order"


@pytest.mark.slow("the head without weights, from descriptions to similarities, under MPC")
def test_label_embeddings_match_plaintext(runtimes):
    """The head without weights: the similarity of texts to descriptions, which go through the layers too."""
    runtime, parts = runtimes(SEMI2K_2), parts_of("rfa")
    exact, tolerance = expected_and_tolerance(runtime, parts, SecondModel.similarities)
    # A text is wholly similar to itself.
    np.testing.assert_allclose(np.diag(exact), SIMILARITY_SCALE, rtol=1e-9)
    assert tolerance < np.ptp(exact, axis=0).min() / 10

    rows = lowered(parts), parts.padding_mask[:, PROMPT_TOKENS:], mean_readout(parts)
    results = []
    for place in (runtime, PlaintextRuntime()):
        model = secure_model(place, parts, word_head=False)
        model.embed_labels(Batch(*(shared(place, values[:LABELS]) for values in rows)))
        no_prompt = shared(place, np.zeros((1, 0, CONFIG.width), np.float32))
        results.append(opened(place, model.logits(no_prompt, Batch(*(shared(place, values) for values in rows)))))
    assert np.abs(results[0] - exact).max() <= tolerance
    np.testing.assert_allclose(results[1], exact, rtol=0, atol=SIMILARITY_SCALE * 1e-4)


def test_the_driver_runs_in_plaintext_too():
    """The same calls on a PlaintextRuntime are the plaintext model: texts of one candidate after those of another."""
    parts = parts_of("rfa")
    np.testing.assert_allclose(run_model(PlaintextRuntime(), parts), flax_logits(parts), rtol=0, atol=1e-4)


def test_a_pass_leaves_logits_and_nothing_else(runtimes):
    """Of all that its programs return and its correlations hold; inputs and weights stay for the next pass."""
    runtime, parts = runtimes(SEMI2K_2), parts_of("rfa", layers=2)
    model, prompts, batch = secure_model(runtime, parts), shared(runtime, parts.prompts), shared_batch(runtime, parts)
    layers_done = []
    model.on_layer = lambda: layers_done.append(len(layers_done))
    first = int(next(runtime._names)[1:])
    for _ in range(2):
        logits = model.logits(prompts, batch)
        last = int(next(runtime._names)[1:])
        left = [name for name in map("v{}".format, range(first + 1, last)) if is_kept(runtime, name)]
        assert left == [logits.name]
        first = last
    assert layers_done == [0, 1, 2, 3]
    assert model.layers == 2
    for handle in jax.tree.leaves([model._layers, prompts, batch.hidden, batch.padding_mask, batch.readout]):
        assert is_kept(runtime, handle.name)


# Sums over the parties of (bytes, sends) of one layer on [2, 5, 21], 3 heads, 61 features: the program, and making its
# 2 * 2 * 3 * 5 * 61 = 3,660 correlations; "fourier" has 12 harmonics for each of 2 * 3 * 5 divisors besides.
LAYER_COSTS = {
    (ABY3, "rfa"): ((1_271_560, 792), (3_660 * 48, 3)),
    (SEMI2K_2, "rfa"): ((673_340, 330), (3_660 * 96, 2)),
    (ABY3, "fourier"): ((1_123_888, 483), ((3_660 + 12 * 30) * 48, 6)),
    (SEMI2K_2, "fourier"): ((627_416, 200), ((3_660 + 12 * 30) * 96, 4)),
    (ABY3, "softmax"): ((364_688, 818), (0, 0)),
    (SEMI2K_2, "softmax"): ((243_460, 360), (0, 0)),
}


@pytest.mark.slow("a byte or send more in an encoder's layer; compiles each for MPC")
@pytest.mark.parametrize(("which", "attention"), LAYER_COSTS)
def test_a_layer_costs_what_it_did(runtimes, which, attention):
    """Pinned: a change of a byte or a message is a change of the protocol, and wants a reason."""
    runtime, config = runtimes(which), replace(CONFIG, attention=attention)
    hidden, padding_mask = np.ones((2, 5, 21), np.float32), np.ones((2, 5), np.float32)
    layer = EncoderLayer(config, setting=setting_of(runtime))
    masks = (padding_mask, padding_mask) if attention == "fourier" else (padding_mask,)
    declared = layer.init(jax.random.key(0), hidden, *masks).get("correlations", {})
    variables = random_variables(layer, hidden, *masks, seed=0)
    handles = {"params": shared(runtime, variables["params"]), "public": runtime.publish(variables["public"])}
    inputs = [shared(runtime, values) for values in (hidden, *masks)]

    def run_layer(variables, correlations, *inputs):
        bits = HIDDEN_BITS, 18, TOKEN_SHARE_BITS
        inputs = [from_storage(values, b, secure=True) for values, b in zip(inputs, bits, strict=False)]
        return to_storage(layer.apply({**variables, "correlations": correlations}, *inputs), HIDDEN_BITS)

    def make():
        with runtime.ledger.phase("offline"):
            return runtime.correlations(declared)

    correlations, offline = cost_of(runtime, make, "offline")
    _, online = cost_of(runtime, lambda: runtime.run("layer", run_layer, handles, correlations, *inputs))
    expected, expected_offline = LAYER_COSTS[which, attention]
    scalars = 2 if (which, attention) == (ABY3, "softmax") else 0  # which become shares: the starts of two reductions
    assert (online, offline) == (without_debugging(expected, scalars), expected_offline)
