"""The prompts' derivative under MPC: that of the plaintext to what the arithmetic is off by, and what it costs."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, SEMI2K_2, is_kept, opened, peek, shared
from small_model import (
    CANDIDATES,
    CONFIG,
    LABELS,
    PROMPT_TOKENS,
    TEXTS,
    TOKENS,
    folded,
    make_parts,
    secure_model,
    shared_batch,
)

from secp_spu.inference import BackwardPass, setting_of
from secp_spu.model import FOLDED, EncoderLayer, LabelWordHead, backward
from secp_spu.model.attention import fourier, softmax
from secp_spu.model.backward import backward_params, pull_back_layer
from secp_spu.model.precision import COTANGENT_BITS, HIDDEN_BITS, SUM_BITS
from secp_spu.protocol import Fixed, fit_gelu, from_storage, to_storage
from secp_spu.runtime import PlaintextRuntime

SCALE = 1024.0
"""Of the cotangents that the data owner shares."""

ROOT_MEAN_SQUARE = 10.0
"""Of a layer's cotangents that have the size that precision.py says."""

DRAWS, DEVIATIONS = 32, 6
"""As in test_secure_model.py."""

KINDS = {
    "fourier-quadratic": {"attention": "fourier", "activation": "quadratic"},
    "fourier-series": {"attention": "fourier", "activation": "series", "series": fit_gelu(8.0, 5)},
    "softmax-gelu_tanh": {"attention": "softmax", "activation": "gelu_tanh"},
    "fourier-relu": {"attention": "fourier", "activation": "relu"},
}


def parts_of(kind, layers=2):
    return make_parts(replace(CONFIG, head_activation="gelu_tanh", layers=layers, **KINDS[kind]), layers)


def cotangents(seed=0):
    return np.random.default_rng(seed).normal(size=(CANDIDATES * TEXTS, LABELS)).astype(np.float32)


def forward(runtime, parts):
    """A model, its way back, and what a forward pass keeps."""
    model = secure_model(runtime, parts)
    back = BackwardPass(model)
    prompts = shared(runtime, to_storage(parts.prompts, HIDDEN_BITS))
    logits, kept = model.logits_and_kept(prompts, shared_batch(runtime, parts))
    return back, opened(runtime, logits), kept


def gradient(runtime, parts, scale=SCALE):
    """[candidates, prompt_tokens, width], of cotangents() at the logits."""
    back, _, kept = forward(runtime, parts)
    found = back.prompts(kept, shared(runtime, cotangents() * scale), PROMPT_TOKENS)
    return np.asarray(from_storage(opened(runtime, found), SUM_BITS, secure=False)) / scale


def by_jax(parts):
    """The same by JAX's derivative of the plaintext modules."""
    config = parts.config
    layers, head, _ = folded(parts)
    texts = jnp.asarray(parts.hidden * parts.padding_mask[:, PROMPT_TOKENS:, None])

    def logits(prompts):
        found = []
        for prompt in prompts:
            hidden = jnp.concatenate([jnp.broadcast_to(prompt, (TEXTS, *prompt.shape)), texts], 1)
            for number, params in enumerate(layers):
                hidden = EncoderLayer(config, number, FOLDED).apply({"params": params}, hidden, parts.padding_mask)
            found.append(LabelWordHead(config, LABELS).apply({"params": head}, hidden, parts.readout))
        return jnp.concatenate(found)

    return np.asarray(jax.vjp(logits, jnp.asarray(parts.prompts))[1](cotangents())[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_driver_runs_in_plaintext_too(kind, monkeypatch):
    monkeypatch.setattr(fourier, "series_reciprocal", lambda x, share, _: share / x)
    parts = parts_of(kind)
    with PlaintextRuntime() as runtime:
        found = gradient(runtime, parts)
    expected = by_jax(parts)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.slow("whole backward passes against JAX's derivative; runs under MPC")
@pytest.mark.parametrize(
    ("which", "kind"),
    [
        (ABY3, "fourier-quadratic"),
        (SEMI2K_2, "fourier-quadratic"),
        (ABY3, "fourier-series"),
        (SEMI2K_2, "softmax-gelu_tanh"),
        (ABY3, "fourier-relu"),
    ],
)
def test_the_prompts_gradient_is_that_of_plaintext(runtimes, which, kind):
    """To two percent with so small a model's weights, whose forward pass is off too."""
    parts = parts_of(kind)
    found, expected = gradient(runtimes(which), parts), by_jax(parts)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


# One layer, term by term


def one_layer(runtime, kind):
    """A layer's program, what it reads, and what it gives [batch, tokens, width] of COTANGENT_BITS and SUM_BITS."""
    parts = parts_of(kind, layers=1)
    model = secure_model(runtime, parts)
    prompts = shared(runtime, to_storage(parts.prompts, HIDDEN_BITS))
    _, kept = model.logits_and_kept(prompts, shared_batch(runtime, parts))
    prepare = partial(backward_params, parts.config, secure=True)
    params = runtime.run("transpose", prepare, model.layer_params[0])
    mask = np.tile(parts.padding_mask, (CANDIDATES, 1))[..., None]
    g = (
        np.random.default_rng(5).normal(size=(*mask.shape[:2], CONFIG.width)).astype(np.float32)
        * mask
        * ROOT_MEAN_SQUARE
    )
    handle = shared(runtime, to_storage(g, COTANGENT_BITS))

    def program(params, kept, g):
        number = from_storage(g, COTANGENT_BITS, secure=True)
        return to_storage(pull_back_layer(parts.config, setting_of(runtime), params, kept, number), SUM_BITS)

    return program, (params, kept.layers[0], handle), parts.config


def numbers(runtime, inputs):
    """What the parties keep of a program's inputs, as plain arrays that stand for the same numbers."""

    def plain(x):
        ring, bits = (x.ring, x.bits) if isinstance(x, Fixed) else (x, 18)
        return jnp.asarray(peek(runtime, ring).view(np.int64) * 2.0**-bits, jnp.float32)

    params, kept, g = jax.tree.map(plain, inputs, is_leaf=lambda x: isinstance(x, Fixed))
    return params, kept, from_storage(g, COTANGENT_BITS, secure=False)


@pytest.mark.slow("a layer's backward pass within what its roundings add up to; runs under MPC")
@pytest.mark.parametrize(
    ("which", "kind"),
    [
        (ABY3, "fourier-quadratic"),
        (SEMI2K_2, "fourier-quadratic"),
        (ABY3, "fourier-series"),
        (ABY3, "softmax-gelu_tanh"),
    ],
)
def test_a_layer_is_off_by_what_its_roundings_are(runtimes, which, kind, monkeypatch):
    """The expected spread is that of DRAWS passes in plaintext, of which every rounding is off by a random part."""
    runtime = runtimes(which)
    program, inputs, config = one_layer(runtime, kind)
    found = from_storage(opened(runtime, runtime.run("layer.backward", program, *inputs)), SUM_BITS, secure=False)
    params, kept, g = numbers(runtime, inputs)

    def plain():
        return np.asarray(pull_back_layer(config, FOLDED, params, kept, g), np.float64)

    exact, rng = plain(), np.random.default_rng(3)

    def off_rounded(x, bits, **_):
        return x + rng.uniform(-2, 2, x.shape).astype(np.float32) * 2.0**-bits

    def off_constant(value, bits, _):
        return value + float(rng.uniform(-0.5, 0.5)) * 2.0**-bits

    for module in (backward, fourier, softmax):
        monkeypatch.setattr(module, "rounded", off_rounded)
        monkeypatch.setattr(module, "constant", off_constant, raising=False)
    spread = np.sqrt(np.mean([np.square(plain() - exact) for _ in range(DRAWS)], axis=0)).max()
    error = np.abs(found - exact)
    assert spread < 0.02 * np.abs(exact).max(), "a tolerance so wide would mean nothing"
    assert error.max() <= DEVIATIONS * spread
    assert error.max() > spread / 10


# Sums over the parties of (bytes, sends) on [6, 7, 21], 3 heads, 61 features, 13 neurons: a layer's pass forward that
# keeps what backward reads, the same without keeping, and the pass backward.
COSTS = {
    (ABY3, "fourier-quadratic"): ((3_827_904, 474), (3_827_904, 474), (6_608_952, 253)),
    (SEMI2K_2, "fourier-quadratic"): ((1_741_032, 188), (1_741_032, 188), (3_586_992, 102)),
    (ABY3, "fourier-series"): ((3_812_616, 469), (3_812_616, 469), (6_624_240, 258)),
    (SEMI2K_2, "softmax-gelu_tanh"): ((1_395_492, 466), (1_321_236, 450), (579_264, 82)),
}


@pytest.mark.slow("a byte or send more in a layer's backward pass; compiles each for MPC")
@pytest.mark.parametrize(("which", "kind"), COSTS)
def test_a_layer_costs_what_it_did(runtimes, which, kind):
    """Keeping costs nothing, but for gelu_tanh, which makes its derivative besides.

    Of a second pass: under SEMI2K the first opens the weights, those of the backward pass too.
    """
    runtime, parts = runtimes(which), parts_of(kind, layers=1)
    model = secure_model(runtime, parts)
    back = BackwardPass(model)
    batch, prompts = shared_batch(runtime, parts), shared(runtime, to_storage(parts.prompts, HIDDEN_BITS))

    def passes():
        before = program_costs(runtime)
        runtime.free(model.logits(prompts, batch))
        logits, kept = model.logits_and_kept(prompts, batch)
        runtime.free([logits, back.prompts(kept, shared(runtime, cotangents()), TOKENS)])
        after = program_costs(runtime)
        return {name: tuple(cost - before.get(name, 0)) for name, cost in after.items()}

    passes()
    found = passes()
    assert tuple(found[name] for name in ("layer.forward", "layer", "layer.backward")) == COSTS[which, kind]
    assert found["prompts.backward"] == (0, 0)


def program_costs(runtime):
    """Bytes and sends of all parties, by program."""
    programs = runtime.ledger.report()["online"]["programs"]
    return {name: runtime.parties * np.array([p["bytes"], p["sends"]]) for name, p in programs.items()}


@pytest.mark.slow("what a backward pass leaves behind; runs under MPC")
def test_a_step_leaves_its_result_and_nothing_else(runtimes):
    runtime, parts = runtimes(ABY3), parts_of("fourier-quadratic")
    back, _, kept = forward(runtime, parts)
    given = shared(runtime, cotangents())
    handles = [handle.name for handle in jax.tree.leaves([kept.layers, kept.vector, kept.readout])]
    first = int(next(runtime._names)[1:])
    found = back.prompts(kept, given, PROMPT_TOKENS)
    made = map("v{}".format, range(first + 1, int(next(runtime._names)[1:])))
    assert [name for name in (*handles, *made) if is_kept(runtime, name)] == [found.name]


def test_a_model_without_a_backward_pass_is_refused():
    config = replace(CONFIG, attention="rfa", head_activation="gelu_tanh")
    with PlaintextRuntime() as runtime, pytest.raises(ValueError, match="attention rfa has no backward pass"):
        BackwardPass(secure_model(runtime, make_parts(config, 1)))
