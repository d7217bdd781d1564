import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, MULTIPLY, REVEAL, SEMI2K_2, SEMI2K_3, TRUNCATE, cost_of, peek, shared, times
from random_weights import CONFIG, random_like

from secp_spu.model import FOLDED, Dense, EncoderLayer, activation_class, activation_function, fold_layer
from secp_spu.model.activation.quadratic import (
    INPUT_DEVIATION,
    LEAST_CURVATURE,
    Quadratic,
    fitted_squares,
    gelu_quadratic,
)
from secp_spu.protocol import (
    CosineCorrelation,
    Fixed,
    Scheme,
    fit_gelu,
    from_storage,
    joint_error_bound,
    series_error_bound,
    to_storage,
)
from secp_spu.protocol.waves import FACTOR_BITS, RESULT_BITS

GRID = np.linspace(-11, 11, 2003)
BITS = 25
WIDTH, INNER = 7, 23

DEFINITIONS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
}

# A few float32 roundings of factors up to 11: 11 * 8 * 2**-24 = 5e-6.
TOLERANCE = 5e-6

SERIES = replace(CONFIG, activation="series", series=fit_gelu(6, 4))
QUADRATIC = replace(CONFIG, activation="quadratic")
RELU = replace(CONFIG, activation="relu")


def exact(kind, x):
    return np.vectorize(DEFINITIONS[kind])(x)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_activation_matches_its_definition(kind):
    np.testing.assert_allclose(
        activation_function(kind)(jnp.asarray(GRID, jnp.float32)), exact(kind, GRID), rtol=0, atol=TOLERANCE
    )


def test_gelu_tanh_is_as_near_to_gelu_as_its_docstring_says():
    x = jnp.asarray(GRID, jnp.float32)
    difference = np.abs(activation_function("gelu_tanh")(x) - activation_function("gelu")(x)).max()
    assert 4e-4 < difference <= 5e-4


# In plaintext


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_functions_have_no_variables(kind):
    config, x = replace(CONFIG, activation=kind), jnp.asarray(GRID, jnp.float32)
    module = activation_class(config)(config)
    variables = module.init(jax.random.key(0), x)
    assert not variables
    np.testing.assert_array_equal(module.apply(variables, x), activation_function(kind)(x))


def test_a_series_is_gelu_within_its_range_and_declares_a_correlation():
    x = jnp.asarray(np.linspace(-6, 6, 2003), jnp.float32)
    module = activation_class(SERIES)(SERIES)
    variables = module.init(jax.random.key(0), x)
    assert variables.keys() == {"correlations"}
    (correlation,) = jax.tree.leaves(variables, is_leaf=lambda node: isinstance(node, CosineCorrelation))
    assert correlation.multiples == (1, 3, 5, 7)
    assert correlation.mask.shape == x.shape
    assert np.abs(module.apply({}, x) - exact("gelu", x)).max() <= SERIES.series.error + TOLERANCE


def test_a_config_without_its_series_is_refused():
    with pytest.raises(ValueError, match="activation is series, series None: one goes with the other, by fit_gelu"):
        replace(CONFIG, activation="series")
    with pytest.raises(ValueError, match="activation is gelu, series GeluSeries"):
        replace(SERIES, activation="gelu")


@pytest.mark.parametrize("deviation", [0.5, INPUT_DEVIATION, 3])
def test_the_initial_quadratic_is_nearest_to_gelu(deviation):
    """By least squares over a normal distribution, integrated numerically."""
    x, weight = np.polynomial.hermite_e.hermegauss(180)
    x, weight = x * deviation, np.sqrt(weight)
    basis = np.stack([x**2, x, np.ones_like(x)], axis=1)
    a, b, c = np.linalg.lstsq(basis * weight[:, None], exact("gelu", x) * weight, rcond=None)[0]
    scale, shift, offset = gelu_quadratic(deviation)
    np.testing.assert_allclose([scale**2, 2 * scale * shift, shift**2 + offset], [a, b, c], atol=1e-6)


def test_each_neuron_gets_the_square_that_is_nearest_on_its_inputs():
    rng = np.random.default_rng(5)
    centers, deviations = np.array([0, -1.5, 0.7, 3, -0.2]), np.array([1, 0.8, 2, 0.7, 0])
    x = np.float32(rng.normal(size=(4000, 5)) * deviations + centers)
    scale, shift, offset = fitted_squares(x)
    for i in range(5):
        column = x[:, i].astype(np.float64)
        wanted, basis = exact("gelu", column), np.stack([column**2, column, np.ones_like(column)], axis=1)
        if i == 3:  # nearly a line: less curvature than the least one
            assert np.linalg.lstsq(basis, wanted, rcond=None)[0][0] < LEAST_CURVATURE == pytest.approx(scale[i] ** 2)
            line = np.linalg.lstsq(basis[:, 1:], wanted - LEAST_CURVATURE * column**2, rcond=None)[0]
            expected = LEAST_CURVATURE * column**2 + basis[:, 1:] @ line
        else:
            expected = basis @ np.linalg.lstsq(basis, wanted, rcond=None)[0]
        np.testing.assert_allclose((scale[i] * column + shift[i]) ** 2 + offset[i], expected, atol=1e-5)


def test_a_quadratic_has_three_parameters_a_neuron():
    x = jnp.asarray(np.linspace(-2, 2, 5 * INNER).reshape(5, INNER), jnp.float32)
    module = Quadratic(QUADRATIC)
    params = module.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(np.shape, params) == dict.fromkeys(("scale", "shift", "offset"), (INNER,))
    assert 0.05 < np.abs(module.apply({"params": params}, x) - exact("gelu", x)).max() < 0.2, "it begins near GELU"
    params = random_like(params, 3)
    expected = (np.asarray(x) * params["scale"] + params["shift"]) ** 2 + params["offset"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=TOLERANCE)


def dense_layers(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"scale": INNER, "shift": INNER, "offset": INNER}
    params = {name: rng.normal(size=size) for name, size in shapes.items()}
    return params, *(rng.normal(size=s) for s in ((WIDTH, INNER), INNER, (INNER, WIDTH), WIDTH))


def test_a_folded_quadratic_is_the_same_function():
    params, kernel, bias, output_kernel, output_bias = dense_layers()
    x = np.random.default_rng(1).normal(size=(11, WIDTH))
    inner = ((x @ kernel + bias) * params["scale"] + params["shift"]) ** 2 + params["offset"]
    expected = inner @ output_kernel + output_bias
    kernel, bias, output_bias = Quadratic.fold(params, kernel, bias, output_kernel, output_bias)
    found = (x @ kernel + bias) ** 2 @ output_kernel + output_bias
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_a_folded_layer_with_a_quadratic_is_the_same_function():
    rng = np.random.default_rng(2)
    hidden, mask = rng.normal(size=(2, 5, QUADRATIC.width)).astype(np.float32), np.ones((2, 5), np.float32)
    raw, folded = EncoderLayer(QUADRATIC), EncoderLayer(QUADRATIC, setting=FOLDED)
    params = random_like(jax.eval_shape(raw.init, jax.random.key(0), hidden, mask)["params"], 5)
    expected = np.asarray(raw.apply({"params": params}, hidden, mask))
    norm = params["output_norm"]
    found = np.asarray(folded.apply({"params": fold_layer(params, None, QUADRATIC)}, hidden, mask))
    # Rows of up to 5 in size, some fifty roundings of 2**-24 of the sums in front of them.
    np.testing.assert_allclose(found * norm["scale"] + norm["bias"], expected, rtol=0, atol=1e-4)
    del params["activation"]
    other = EncoderLayer(RELU).apply({"params": params}, hidden, mask)
    assert np.abs(np.asarray(other) - expected).max() > 0.1


# Under MPC


@cache
def program(config):
    return lambda x, correlations: activation_class(config)(config, FOLDED).apply(
        {"correlations": correlations} if correlations else {}, from_storage(x, BITS, secure=True)
    )


def run(runtime, config, x):
    """What the activation makes of x with BITS fraction bits, in float64; its bits; what it costs the parties."""
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    declared = jax.eval_shape(activation_class(config)(config, FOLDED).init, jax.random.key(0), shape).get(
        "correlations", {}
    )
    with runtime.ledger.phase("offline"):
        correlations = runtime.correlations(declared)
    secret = shared(runtime, to_storage(x, BITS).astype(np.float32))
    result, cost = cost_of(
        runtime, lambda: runtime.run("activation", program(config), secret, correlations), phase="online"
    )
    return peek(runtime, result.ring).view(np.int64) * 2.0**-result.bits, result.bits, cost


def inputs(limit, count=2 * 101):
    x = np.linspace(-limit, limit, count).reshape(2, -1)
    return np.rint(x * 2.0**15) * 2.0**-15


def test_a_series_under_mpc(runtimes, setting):
    x = inputs(6)
    found, bits, cost = run(runtimes(setting), SERIES, x)
    mask_error = joint_error_bound(Scheme(*setting), FACTOR_BITS)
    error = np.abs(found - exact("gelu", x)).max()
    assert error <= series_error_bound(SERIES.series, mask_error=mask_error)
    assert bits == RESULT_BITS
    assert cost == times(x.size, REVEAL[setting])


def test_a_quadratic_under_mpc(runtimes, setting):
    """A square of 50 bits, of which one truncation drops 16: off by less than a unit, among three parties by two."""
    x = inputs(15.9)
    found, bits, cost = run(runtimes(setting), QUADRATIC, x)
    assert bits == 2 * BITS - 16
    units = np.abs(found - x**2).max() * 2.0**bits
    assert units <= (2 if setting == SEMI2K_3 else 1)
    assert cost == times(x.size, MULTIPLY[setting], TRUNCATE[setting])
    per_party = {ABY3: 52 / 3, SEMI2K_2: 20, SEMI2K_3: 48}
    assert cost[0] == pytest.approx(per_party[setting] * setting[1] * x.size)


def test_relu_under_mpc_is_exact(runtimes, setting):
    x = inputs(500)
    found, bits, _ = run(runtimes(setting), RELU, x)
    assert bits == BITS
    np.testing.assert_array_equal(found, np.maximum(x, 0))


def test_functions_of_spu_under_mpc(runtimes):
    x = inputs(6)
    for kind, bound in (("gelu", 1e-3), ("gelu_tanh", 0.02)):
        found, bits, _ = run(runtimes(ABY3), replace(CONFIG, activation=kind), x)
        assert bits == 18
        assert np.abs(found - exact(kind, x)).max() < bound


def test_the_audit_finds_one_opening_and_only_in_a_series(runtimes):
    runtime = runtimes(ABY3)
    for config in (SERIES, QUADRATIC):
        run(runtime, config, inputs(1))
    masks = [mask for p in runtime.programs if p.name == "activation" for mask in p.audit.masks]
    assert set(masks) == {"1.series.mask"}
    assert any(not p.audit.openings for p in runtime.programs if p.name == "activation")


def test_a_quadratic_that_is_not_folded_is_refused():
    with pytest.raises(ValueError, match="quadratic has parameters of its own: fold them with fold_layer"):
        jax.eval_shape(
            lambda ring: Quadratic(QUADRATIC).init(jax.random.key(0), Fixed(ring, BITS)), jnp.zeros(3, jnp.int32)
        )


@cache
def feed_forward(config):
    """Dense, activation, dense, as a layer has them, all with folded parameters."""

    def apply(kernels, x, correlations):
        first, second = Dense(INNER, FOLDED), Dense(WIDTH, FOLDED, bits=13)
        u = first.apply({"params": kernels[0]}, from_storage(x, 11, secure=True))
        spent = {"correlations": correlations} if correlations else {}
        return second.apply({"params": kernels[1]}, activation_class(config)(config, FOLDED).apply(spent, u))

    return apply


@pytest.mark.parametrize("config", [SERIES, QUADRATIC], ids=["series", "quadratic"])
def test_dense_layers_take_the_bits_as_they_come(runtimes, config):
    """The next product and bias have room for all of them."""
    runtime, rng = runtimes(ABY3), np.random.default_rng(4)
    x = np.rint(rng.normal(size=(5, WIDTH)) * 2.0**11) * 2.0**-11
    kernels = [rng.normal(size=(WIDTH, INNER)) / 4, rng.normal(size=(INNER, WIDTH)) / 4]
    kernels = [np.rint(k * 2.0**13) * 2.0**-13 for k in kernels]
    biases = [np.rint(rng.normal(size=size) * 2.0**10) * 2.0**-10 for size in (INNER, WIDTH)]
    u = x @ kernels[0] + biases[0]
    assert np.abs(u).max() < 6
    inner = u**2 if config is QUADRATIC else exact("gelu", u)
    expected = inner @ kernels[1] + biases[1]
    lowered = [
        {"kernel": to_storage(np.float32(k), bits), "bias": np.float32(b)}
        for k, b, bits in zip(kernels, biases, (14, 13), strict=True)
    ]
    declared = jax.eval_shape(activation_class(config)(config, FOLDED).init, jax.random.key(0), jnp.zeros((5, INNER)))
    with runtime.ledger.phase("offline"):
        correlations = runtime.correlations(declared.get("correlations", {}))
    secret = shared(runtime, (lowered, to_storage(np.float32(x), 11)))
    result = runtime.run("feed_forward", feed_forward(config), *secret, correlations)
    found = peek(runtime, result.ring).view(np.int64) * 2.0**-result.bits
    mask_error = joint_error_bound(Scheme(*ABY3), FACTOR_BITS)
    off = 2.0**-34 if config is QUADRATIC else series_error_bound(SERIES.series, mask_error=mask_error)
    assert (np.abs(found - expected) <= off * np.abs(kernels[1]).sum(0) + 1e-12).all()
