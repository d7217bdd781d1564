"""The pull-back of folded layers is JAX's derivative of the plaintext modules."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import CONFIG, transformer_variables

from secp_spu.model import FOLDED, EncoderLayer, fold_layer
from secp_spu.model.attention import fourier
from secp_spu.model.backward import backward_params, lacks_backward, pull_back_layer
from secp_spu.protocol import fit_gelu

MASK = np.float32([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
ATTENTIONS, ACTIVATIONS = ("fourier", "softmax"), ("quadratic", "series", "relu", "gelu_tanh")


def config_of(attention, activation):
    series = fit_gelu(8.0, 5) if activation == "series" else None
    return replace(CONFIG, attention=attention, activation=activation, features=16, series=series)


def folded_layers(config):
    params = transformer_variables(config)["params"]
    layers = [params[f"layers_{i}"] for i in range(config.layers)]
    if config.attention == "fourier":  # small angles, so that mean kernels are far above the reciprocal's floor
        layers = [{**p, "attention": {"frequencies": p["attention"]["frequencies"] / 40}} for p in layers]
    before = [None, *(p["output_norm"] for p in layers)]
    return [fold_layer(p, norm, config) for p, norm in zip(layers, before, strict=False)]


def rows(seed):
    return np.random.default_rng(seed).normal(size=(*MASK.shape, CONFIG.width)).astype(np.float32) * MASK[..., None]


def pulled_back(config, layers, hidden, cotangent):
    """By the layers' own pull-back, from the last to the first."""
    kept = []
    for number, params in enumerate(layers):
        module = EncoderLayer(config, number, FOLDED)
        hidden, collections = module.apply({"params": params}, hidden, MASK, mutable=["kept"])
        kept.append(collections["kept"])
    for params, of_layer in zip(reversed(layers), reversed(kept), strict=True):
        back = backward_params(config, params, secure=False)
        cotangent = pull_back_layer(config, FOLDED, back, of_layer, cotangent)
    return cotangent


def by_jax(config, layers, hidden, cotangent):
    def run(hidden):
        for number, params in enumerate(layers):
            hidden = EncoderLayer(config, number, FOLDED).apply({"params": params}, hidden, MASK)
        return hidden

    return jax.vjp(run, jnp.asarray(hidden))[1](cotangent)[0]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_pull_back_as_jax_does(attention, activation, monkeypatch):
    """Rows of padding, whose derivative nobody reads, are left out."""
    monkeypatch.setattr(fourier, "series_reciprocal", lambda x, share, _: share / x)
    config = config_of(attention, activation)
    layers, hidden, cotangent = folded_layers(config), rows(0), rows(1)
    found, expected = (np.asarray(pull(config, layers, hidden, cotangent))[MASK == 1] for pull in (pulled_back, by_jax))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_the_reciprocals_derivative_is_that_of_the_true_reciprocal():
    """The series' own derivative differs from -1/x**2 by what its fit wobbles, in proportion."""
    config = config_of("fourier", "quadratic")
    layers, hidden, cotangent = folded_layers(config), rows(0), rows(1)
    found, by_series = (
        np.asarray(pull(config, layers, hidden, cotangent))[MASK == 1] for pull in (pulled_back, by_jax)
    )
    assert 0 < np.linalg.norm(found - by_series) < 5e-3 * np.linalg.norm(by_series)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"attention": "rfa"}, "attention rfa"),
        ({"activation": "gelu"}, "activation gelu"),
        ({"causal": True}, "a decoder"),
        ({}, None),
    ],
)
def test_what_has_no_backward_pass_is_named(changes, missing):
    assert lacks_backward(replace(config_of("fourier", "quadratic"), **changes)) == missing
