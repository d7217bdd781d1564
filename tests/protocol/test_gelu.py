import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, REVEAL, SEMI2K_2, cost_of, peek, shared, times
from scipy.optimize import nnls
from scipy.special import ndtr
from test_cosine import SOURCES, mask_error, numbers_of
from uniformity import are_alike, are_uniform

from secp_spu.protocol import (
    Fixed,
    declare_correlation,
    declare_series,
    fit_gelu,
    from_storage,
    open_masked,
    secure_series_gelu,
    series_error_bound,
    series_gelu,
    series_gelu_and_slope,
    slope_error_bound,
    to_storage,
)
from secp_spu.protocol import gelu as gelu_module
from secp_spu.protocol.gelu import INPUT_BITS, LEAST_INPUT_BITS, TURN_BITS, slopes
from secp_spu.protocol.waves import FACTOR_BITS, RESULT_BITS

BITS = 25
SHORT, WIDE = fit_gelu(6, 4), fit_gelu(10, 7)

ERRORS = {
    (4, 4): 1.7e-4,
    (4, 5): 2.9e-5,
    (4, 6): 2.1e-6,
    (6, 4): 2.5e-3,
    (6, 5): 3.3e-4,
    (6, 6): 7.0e-5,
    (6, 8): 1.9e-6,
    (8, 4): 6.6e-3,
    (8, 5): 2.2e-3,
    (8, 6): 3.7e-4,
    (8, 8): 1.6e-5,
    (10, 4): 1.5e-2,
    (10, 5): 5.3e-3,
    (10, 6): 1.8e-3,
    (10, 8): 1.3e-4,
    (16, 4): 6.2e-2,
    (16, 5): 3e-2,
    (16, 6): 1.4e-2,
    (16, 8): 3.2e-3,
}
"""Largest error of a fit by range and terms, as the docstring of `fit_gelu` says."""


def gelu(x):
    return x * ndtr(x)


def bound_of(setting, source, of):
    return series_error_bound(of, mask_error=mask_error(setting, source, FACTOR_BITS))


def grid(limit, count=211):
    """Both edges of the range, zero, and what lies between, with BITS fraction bits."""
    return np.rint(np.linspace(-limit, limit, count) * 2.0**BITS) * 2.0**-BITS


def run(runtime, x, of, bits=BITS, fn=secure_series_gelu):
    """The series of x with all its bits, in float64."""
    with runtime.ledger.phase("offline"):
        correlation = runtime.correlations(declare_series(x.shape, of))
    secret = shared(runtime, to_storage(x, bits).astype(np.float32))
    # A function of the size and the series alone is compiled once.
    return numbers_of(runtime, runtime.run("series", program(of, bits, fn), secret, correlation))


def program(of, bits, fn, kept={}):  # noqa: B006
    return kept.setdefault(
        (of, bits, fn), lambda x, correlation: fn(from_storage(x, bits, secure=True), of, correlation)
    )


def shift_cosine(x, of, correlation):
    """A fault: every C_k is off by a hundredth."""
    return secure_series_gelu(x, of, replace(correlation, cos=correlation.cos + round(0.01 * 2**FACTOR_BITS)))


# The fit


@pytest.mark.parametrize(("limit", "terms"), ERRORS)
def test_a_fit_is_as_near_to_gelu_as_its_docstring_says(limit, terms):
    fit, x = fit_gelu(limit, terms), np.linspace(-limit, limit, 20_011)
    assert (fit.limit, fit.terms, fit.multiples) == (limit, terms, tuple(range(1, 2 * terms, 2)))
    angle = 2 * np.pi * np.outer(x, fit.multiples) / fit.period
    found = x / 2 + fit.coefficients[0] + np.cos(angle) @ np.array(fit.coefficients[1:])
    error = np.abs(found - gelu(x)).max()
    assert error == pytest.approx(fit.error, rel=1e-3)
    assert ERRORS[limit, terms] * 0.9 < error <= ERRORS[limit, terms]


@pytest.mark.parametrize("off", [0, 1e-3])
def test_a_fit_has_the_smallest_largest_error_there_is(off):
    """Kolmogorov's criterion: no change of coefficients makes the error smaller wherever it is largest.

    That is, zero is a mean, with weights, of what a change does there to the error's size.
    """
    x = np.linspace(0, SHORT.limit, 2_003)
    basis = np.cos(2 * np.pi * np.outer(x, (0, *SHORT.multiples)) / SHORT.period)
    error = x / 2 + basis @ (np.array(SHORT.coefficients) + off * np.eye(5)[1]) - gelu(x)
    largest = np.abs(error) > 0.995 * np.abs(error).max()
    changes = basis[largest] * np.sign(error[largest])[:, None]
    _, distance = nnls(np.vstack([changes.T, np.ones(len(changes))]), np.array([0, 0, 0, 0, 0, 1]))
    assert (distance < 0.02) == (off == 0)


def test_odd_harmonics_do_better_than_all_of_them():
    """Four of them against the first four: the best period of thirty for those."""
    x = np.linspace(0, 6, 601)
    errors = []
    for period in np.linspace(12.5, 27, 30):
        basis = np.cos(2 * np.pi * np.outer(x, np.arange(5)) / period)
        even = gelu(x) - x / 2
        errors.append(np.abs(basis @ np.linalg.lstsq(basis, even, rcond=None)[0] - even).max())
    assert min(errors) > 6 * SHORT.error


@pytest.mark.parametrize(("limit", "terms"), [(1.9, 4), (33, 4), (6, 1), (6, 13)])
def test_a_fit_out_of_range_is_refused(limit, terms):
    name = "limit" if terms == 4 else "terms"
    with pytest.raises(ValueError, match=rf"{name} is \d.*, allowed are 2.* to \d"):
        fit_gelu(limit, terms)


def test_the_widest_range_and_the_most_terms_are_fitted():
    assert fit_gelu(32, 12).error < 0.02
    assert fit_gelu(2, 12).error < 1e-5


# Under MPC


@pytest.mark.slow("the error bound in each setting and source, over the whole range")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("of", [SHORT, WIDE], ids=["short", "wide"])
def test_secure_series_gelu_matches_gelu(runtimes, setting, source, of):
    x = grid(of.limit)
    bound = bound_of(setting, source, of)
    error = np.abs(run(runtimes(setting, source), x, of) - gelu(x))
    assert error.max() <= bound
    assert error.max() > bound / 10, "a bound so wide would be met by luck"
    assert np.abs(gelu(x) - np.maximum(x, 0)).max() > bound, "the bound cannot tell GELU from relu"


@pytest.mark.parametrize("of", [SHORT, WIDE], ids=["short", "wide"])
def test_the_slope_of_a_series_is_its_derivative(of):
    """JAX's own, and the value beside it is unchanged."""
    x = grid(of.limit).astype(np.float32)
    value, slope = series_gelu_and_slope(x, of)
    np.testing.assert_array_equal(value, series_gelu(x, of))
    angle = 2 * np.pi * np.outer(x.astype(np.float64), of.multiples) / of.period
    np.testing.assert_allclose(slope, 0.5 + np.sin(angle) @ slopes(of), atol=1e-5)


@pytest.mark.parametrize("which", [ABY3, SEMI2K_2])
def test_the_secure_slope_costs_nothing_and_is_within_its_bound(runtimes, which):
    runtime, x = runtimes(which), grid(SHORT.limit)
    of_value, of_both = (
        cost_of(runtime, lambda fn=fn: run(runtime, x, SHORT, fn=fn))
        for fn in (secure_series_gelu, lambda *a: series_gelu_and_slope(*a)[1])
    )
    assert of_both[1] == of_value[1]
    bound = slope_error_bound(SHORT, mask_error=mask_error(which, "joint", FACTOR_BITS))
    angle = 2 * np.pi * np.outer(x, SHORT.multiples) / SHORT.period
    error = np.abs(of_both[0] - (0.5 + np.sin(angle) @ slopes(SHORT)))
    assert bound / 10 < error.max() <= bound < 0.01


def test_a_secret_slope_without_a_correlation_is_refused():
    with pytest.raises(ValueError, match="correlation is None"):
        series_gelu_and_slope(Fixed(jnp.zeros(3, jnp.int32), BITS), SHORT)


def test_the_bound_is_small_where_it_is_used():
    """Beyond the fit, by 11 public bits and two factors of 12. Among three parties of SEMI2K there are three, of 8."""
    assert bound_of(ABY3, "joint", SHORT) - SHORT.error < 2.7e-3
    assert bound_of(SEMI2K_2, "joint", WIDE) - WIDE.error < 4.4e-3
    assert bound_of(("semi2k", 3), "joint", SHORT) - SHORT.error < 0.03
    assert bound_of(ABY3, "dealt", SHORT) - SHORT.error < 1.5e-3


def test_a_factor_that_is_off_is_rejected(runtimes):
    x = grid(SHORT.limit)
    off = np.abs(run(runtimes(ABY3, "dealt"), x, SHORT, fn=shift_cosine) - gelu(x))
    assert off.max() > bound_of(ABY3, "dealt", SHORT)


@pytest.mark.parametrize("bits", [LEAST_INPUT_BITS, 18, INPUT_BITS])
def test_one_declaration_serves_all_fraction_bits(runtimes, bits):
    x = np.rint(grid(SHORT.limit) * 2.0**12) * 2.0**-12
    error = np.abs(run(runtimes(ABY3), x, SHORT, bits) - gelu(x))
    assert error.max() <= bound_of(ABY3, "joint", SHORT)


def test_numbers_of_spu_are_taken_too(runtimes):
    x = np.rint(grid(SHORT.limit) * 2.0**12) * 2.0**-12
    runtime = runtimes(ABY3)
    with runtime.ledger.phase("offline"):
        correlation = runtime.correlations(declare_series(x.shape, SHORT))
    result = runtime.run(
        "series", lambda x, c: series_gelu(x, SHORT, c), shared(runtime, x.astype(np.float32)), correlation
    )
    assert result.bits == RESULT_BITS == 35
    assert np.abs(numbers_of(runtime, result) - gelu(x)).max() <= bound_of(ABY3, "joint", SHORT)


def test_beyond_its_range_a_series_is_wrong(runtimes):
    """By up to 0.17 before half a period, the next corner of the wave, and from there on by what is beyond it."""
    half = SHORT.period / 2
    x = np.array([-2 * half, -1.5 * half, 0.75 - half, half - 0.75, 1.5 * half, 2 * half, 100 * half])
    x = np.rint(x * 2.0**BITS) * 2.0**-BITS
    found = run(runtimes(ABY3), x, SHORT)
    bound = bound_of(ABY3, "joint", SHORT)
    wave = np.asarray(series_gelu(x, SHORT), np.float64)
    assert np.abs(found - wave).max() <= bound - SHORT.error + 1e-4, "it is the wave, wherever x is"
    wrong = np.abs(found - gelu(x))
    beyond = np.maximum(np.abs(x) - half, 0)
    np.testing.assert_allclose(wrong[[2, 3]], 0.17, atol=0.01)
    np.testing.assert_allclose(wrong[[0, 1, 4, 5]], beyond[[0, 1, 4, 5]], atol=0.02)
    assert wrong[6] > 40 * half


@pytest.mark.slow("one opening however many terms; compiles each setting and shape")
@pytest.mark.parametrize("shape", [(7,), (5, 13)])
@pytest.mark.parametrize("of", [SHORT, WIDE], ids=["short", "wide"])
def test_secure_series_gelu_costs_one_opening(runtimes, setting, shape, of):
    """8 bytes an element and 1 send a party (SEMI2K among three: to both others), whatever the terms."""
    runtime = runtimes(setting)
    with runtime.ledger.phase("offline"):
        correlation = runtime.correlations(declare_series(shape, of))
    x = shared(runtime, np.zeros(shape, np.float32))
    _, cost = cost_of(runtime, lambda: runtime.run("series", program(of, BITS, secure_series_gelu), x, correlation))
    assert cost == times(math.prod(shape), REVEAL[setting])


def test_correlations_cost_16_bytes_a_term(runtimes):
    """Under ABY3, a party; in three messages in all."""
    runtime = runtimes(ABY3)
    for of in (SHORT, WIDE):
        declared = declare_series((5, 13), of)
        _, cost = cost_of(runtime, lambda: offline(runtime, declared), "offline")  # noqa: B023
        assert cost == (3 * 16 * of.terms * 5 * 13, 3)


def offline(runtime, declared):
    with runtime.ledger.phase("offline"):
        return runtime.correlations(declared)


@pytest.mark.parametrize("source", SOURCES)
def test_correlations_of_odd_multiples_hold(runtimes, setting, source):
    runtime = runtimes(setting, source)
    tree = offline(runtime, declare_series((11, 3), SHORT)).tree
    angle = (peek(runtime, tree.mask) % np.uint64(2**TURN_BITS)) * (2 * np.pi / 2**TURN_BITS)
    for handle, function in ((tree.cos, np.cos), (tree.sin, np.sin)):
        found = peek(runtime, handle).view(np.int64) * 2.0**-FACTOR_BITS
        for k, factor in zip((1, 3, 5, 7), found, strict=True):
            assert np.abs(factor - function(k * angle)).max() <= mask_error(setting, source, FACTOR_BITS)
            assert np.abs(factor - function((k + 1) * angle)).max() > 0.1, "the multiple is told from the next"


# Openings

COUNT = 4_096


def observe(x, of, correlation):
    """`secure_series_gelu` as it is, but what it opened."""
    seen = []

    def open_and_keep(value, mask):
        seen.append(open_masked(value, mask))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gelu_module, "open_masked", open_and_keep)
        secure_series_gelu(x, of, correlation)
    (delta,) = seen
    return delta


@pytest.mark.parametrize("source", SOURCES)
def test_openings_are_masked(runtimes, setting, source):
    """Uniform in every byte and bit, and the same for zero as for numbers at the edge of the ring."""
    runtime, found = runtimes(setting, source), []
    for value in (0, 2.0**30):
        with runtime.ledger.phase("offline"):
            correlation = runtime.correlations(declare_series((COUNT,), SHORT))
        x = shared(runtime, to_storage(np.full(COUNT, value, np.float32), BITS))
        delta = runtime.run("observe", program(SHORT, BITS, observe), x, correlation)
        assert not delta.spec.secret
        found.append(peek(runtime, delta))
    assert are_uniform(found[0])
    assert are_uniform(found[1])
    assert are_alike(*found)


def test_the_audit_accepts_the_one_opening(runtimes):
    runtime = runtimes(ABY3)
    run(runtime, grid(SHORT.limit), SHORT)
    reports = {p.audit for p in runtime.programs if p.name == "series"}
    assert reports
    for report in reports:
        assert report.masks == ("1.mask",)


# Plain JAX, and errors


def test_series_gelu_without_a_correlation_is_plain_jax():
    x = grid(WIDE.limit)
    found = series_gelu(jnp.asarray(x, jnp.float32), WIDE)
    # Sums of eight numbers below 5 and angles below 13 turns, some ten roundings of 2**-24 of each.
    assert np.abs(np.asarray(found) - gelu(x)).max() <= WIDE.error + 5e-5


@pytest.mark.parametrize(("limit", "terms", "bound"), [(4, 4, 2e-6), (8, 5, 2e-6), (8, 8, 2e-6), (16, 12, 6e-6)])
def test_plain_series_gelu_is_its_definition(limit, terms, bound):
    """x/2 + a_0 + sum_k a_k cos((2 k - 1) 2 pi x / P) with numpy's cosines in float64, and its derivative.

    A float32 below 8 is rounded by 2.4e-7, one below 16 by twice as much, in each of the sum's additions.
    """
    of = fit_gelu(limit, terms)
    x = np.linspace(-limit, limit, 20_011).astype(np.float32)
    constant, *coefficients = of.coefficients
    angles = np.outer(np.array(of.multiples), 2 * np.pi * x.astype(np.float64) / of.period)
    wanted = x.astype(np.float64) / 2 + constant + coefficients @ np.cos(angles)
    slope = 0.5 - (np.array(coefficients) * of.multiples) @ np.sin(angles) * 2 * np.pi / of.period
    found, gradient = jax.vmap(jax.value_and_grad(lambda x: series_gelu(x, of)))(x)
    assert np.abs(np.asarray(found, np.float64) - wanted).max() <= bound
    assert np.abs(np.asarray(gradient, np.float64) - slope).max() <= 3e-6


def abstract(function, x, bits, *others):
    return jax.eval_shape(lambda ring, c: function(Fixed(ring, bits), SHORT, c), jnp.zeros(x, jnp.int32), *others)


@pytest.mark.parametrize(
    ("correlation", "message"),
    [
        (declare_series((5, 4), SHORT), r"for shape \(5, 4\), .* but \(5, 3\), .* declare it with declare_series"),
        (declare_series((5, 3), WIDE), r"multiples \(1, 3, 5, 7, 9, 11, 13\), .* but .* \(1, 3, 5, 7\), 24 and 44"),
        (declare_correlation((5, 3), harmonics=4, factor_bits=24, turn_bits=44), r"multiples \(1, 2, 3, 4\)"),
        (declare_correlation((5, 3), harmonics=(1, 3, 5, 7), turn_bits=44), r"18 factor bits"),
        (declare_correlation((5, 3), harmonics=(1, 3, 5, 7), factor_bits=24), r"36 turn bits"),
    ],
)
def test_a_correlation_for_something_else_is_refused(correlation, message):
    with pytest.raises(ValueError, match=message):
        abstract(secure_series_gelu, (5, 3), BITS, correlation)


@pytest.mark.parametrize("bits", [LEAST_INPUT_BITS - 1, INPUT_BITS + 1])
def test_other_fraction_bits_are_refused(bits):
    with pytest.raises(ValueError, match=f"x has {bits} fraction bits, allowed are 12 to 32"):
        abstract(secure_series_gelu, (5, 3), bits, declare_series((5, 3), SHORT))


@pytest.mark.parametrize("harmonics", [(), (0, 1), (1, 1), (3, 1), (-1, 2)])
def test_multiples_that_make_no_sense_are_refused(harmonics):
    with pytest.raises(ValueError, match=r"harmonics is \(.*\), "):
        declare_correlation((5,), harmonics=harmonics)


def test_error_bound_grows_with_each_of_its_terms():
    base = series_error_bound(SHORT, mask_error=1e-3)
    assert base < series_error_bound(SHORT, mask_error=2e-3)
    assert base < series_error_bound(replace(SHORT, error=SHORT.error + 1e-3), mask_error=1e-3)
    larger = (SHORT.coefficients[0], *(2 * a for a in SHORT.coefficients[1:]))
    assert base < series_error_bound(replace(SHORT, coefficients=larger), mask_error=1e-3)
