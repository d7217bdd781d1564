import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import (
    ABY3,
    REVEAL,
    ULP,
    cost_of,
    peek,
    put,
    shared,
    times,
)
from uniformity import are_alike, are_uniform

from secp_spu.protocol import (
    Fixed,
    Scheme,
    cos_error_bound,
    cos_sin,
    cosine,
    dealt_error_bound,
    declare_correlation,
    encode,
    joint_error_bound,
    joint_plan,
    open_masked,
    secure_cos_sin,
    to_ring,
)
from secp_spu.protocol.correlation import ANGLE_BITS
from secp_spu.protocol.cosine import plain_cos_sin, public_factor_bits

pytestmark = pytest.mark.smoke

SOURCES = ("joint", "dealt")
BITS = (9, 18, 27)


def mask_error(setting, source, factor_bits):
    return joint_error_bound(Scheme(*setting), factor_bits) if source == "joint" else dealt_error_bound(factor_bits)


def make(runtime, shape, factor_bits=18, turn_bits=36):
    with runtime.ledger.phase("offline"):
        return runtime.correlations(declare_correlation(shape, factor_bits=factor_bits, turn_bits=turn_bits))


def run(runtime, x, w, factor_bits=18, fn=cos_sin):
    """cos and sin of 2 pi x @ w, with all their bits."""
    shape = (*x.shape[:-1], w.shape[1])
    handles = shared(runtime, x), runtime.publish(w), make(runtime, shape, factor_bits)
    return [numbers_of(runtime, result) for result in runtime.run("cos_sin", fn, *handles)]


def numbers_of(runtime, fixed):
    """What a result stands for, in float64."""
    return peek(runtime, fixed.ring).view(np.int64) * 2.0**-fixed.bits


def exact(x, w):
    angle = 2 * np.pi * (x.astype(np.float64) @ w.astype(np.float64))
    return np.cos(angle), np.sin(angle)


def bound_of(setting, source, factor_bits, x, w):
    """The function's own bound, angle by angle."""
    x_l1, w_l1 = np.abs(x).sum(-1, keepdims=True), np.abs(w).sum(0)
    error = mask_error(setting, source, factor_bits)
    return cos_error_bound(x_l1, w_l1, factor_bits=factor_bits, mask_error=error)


def numbers(shape=(2, 5, 3), seed=0):
    """Zero, both signs, tiny ones, and up to some 50 periods either way."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    flat = x.reshape(-1, shape[-1])
    flat[0], flat[1], flat[2] = 0, ULP, -ULP
    flat[3:5] *= 13
    return x


def frequencies(shape=(3, 7), seed=1):
    w = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    w[:, 0] = 0
    return w


def shift_cosine(x, w, correlation):
    """A fault: C is off by two bounds (0.03, or 7,900 of 2**-18)."""
    return cos_sin(x, w, replace(correlation, cos=correlation.cos + 7900))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("factor_bits", BITS)
def test_secure_cos_sin_matches_plaintext(runtimes, setting, source, factor_bits):
    x, w = numbers(), frequencies()
    bound = bound_of(setting, source, factor_bits, x, w)
    results = run(runtimes(setting, source), x, w, factor_bits)
    for result, expected in zip(results, exact(x, w), strict=True):
        assert result.shape == (2, 5, 7)
        error = np.abs(result - expected)
        assert (error <= bound).all()
        assert (error > bound / 10).any(), "a bound so wide would be met by luck"
    assert (np.abs(results[0] - exact(x, w)[1]) > bound).any(), "the bound cannot tell sine from cosine"


def test_the_bound_is_small_where_it_is_used(setting):
    """x of 1 and a turn a unit: 1.7e-3 by angle and public factors, the rest by the mask's."""
    found = cos_error_bound(1, 1, factor_bits=18, mask_error=mask_error(setting, "joint", 18))
    assert found < (0.06 if setting == ("semi2k", 3) else 0.006)
    assert cos_error_bound(1, 1, factor_bits=18, mask_error=mask_error(setting, "dealt", 18)) < 0.0017


def test_secure_cos_sin_takes_and_gives_other_bits(runtimes, setting):
    """x of 13 fraction bits: a turn is 2**31, and everything else is as before."""
    runtime = runtimes(setting)
    x, w = numbers(), frequencies()
    ring = put(runtime, np.rint(x.astype(np.float64) * 2.0**13).astype(np.int64))
    correlation = make(runtime, (2, 5, 7), turn_bits=31)
    results = runtime.run("cos_sin", cos_sin, Fixed(ring, 13), runtime.publish(w), correlation)
    x_l1, w_l1 = np.abs(x).sum(-1, keepdims=True), np.abs(w).sum(0)
    bound = cos_error_bound(x_l1, w_l1, factor_bits=18, x_bits=13, mask_error=mask_error(setting, "joint", 18))
    for result, expected in zip(results, exact(x, w), strict=True):
        assert result.bits == 27
        error = np.abs(numbers_of(runtime, result) - expected)
        assert (error <= bound).all()
        assert (error > bound_of(setting, "joint", 18, x, w) / 10).any()


def test_a_factor_off_by_two_bounds_is_rejected(runtimes):
    x, w = numbers(), frequencies()
    bound = bound_of(ABY3, "dealt", 18, x, w)
    assert 2 * bound[bound < 0.01].max() <= 7900 * 2.0**-18
    cos, sin = run(runtimes(ABY3, "dealt"), x, w, fn=shift_cosine)
    for result, expected in zip((cos, sin), exact(x, w), strict=True):
        assert (np.abs(result - expected) > bound).any()


def edges():
    """Multiples of 2**-18 turn, so that the angle is exact: what is left is the factors' error."""
    x = np.array([[0, 0], [2.0**44, 0], [-(2.0**44), 2.0**44], [2.0**43 - 2.0**20, -1.5], [-ULP, ULP]], np.float32)
    w = np.array([[ULP, 5 * ULP, 0.25, 1 / 3, -0.75], [ULP, -3 * ULP, 0.5, 7.5, 2.0**12]], np.float32)
    return x, (np.rint(w / ULP) * ULP).astype(np.float32)


def test_secure_cos_sin_wraps_at_the_edge_of_the_range(setting, runtime):
    """x @ w leaves the ring many times over; whole turns are lost, and nothing else."""
    x, w = edges()
    columns = [[int(value / ULP) for value in column] for column in w.T]
    steps = [[sum(int(a / ULP) * b for a, b in zip(row, column, strict=True)) for column in columns] for row in x]
    assert max(abs(step) for row in steps for step in row) > 2**64
    angle = 2 * np.pi * np.array([[step % 2**36 for step in row] for row in steps]) / 2**36
    bound = bound_of(setting, "joint", 18, 0 * x, 0 * w).max()
    cos, sin = run(runtime, x, w)
    assert np.abs(cos - np.cos(angle)).max() <= bound
    assert np.abs(sin - np.sin(angle)).max() <= bound


@pytest.mark.parametrize("source", SOURCES)
def test_root_mean_square_error_is_where_theory_says(runtimes, setting, source):
    """About 1e-3 with 9 + 9 bits, in every element of 8,192: the estimate deviates by less than 2 %, the slack is 12 %.

    cos - exact = c dC + C dc - s dS - S ds. One rounding to 2**-b has the variance 4**-b / 12, a factor's angle, which
    is looked up, (2 pi 2**-(b + 7))**2 / 12, half of it in either part; so has the product of factors of size 1.
    """
    x = (np.random.default_rng(2).integers(-(2**20), 2**20, (128, 2)) * ULP).astype(np.float32)
    w = (np.random.default_rng(3).integers(-(2**18), 2**18, (2, 32)) * ULP).astype(np.float32)
    variance = 4.0**-18 / 12
    if source == "joint":
        plan = joint_plan(Scheme(*setting), 18)
        variance = sum((1 + 2 * (math.pi * 2.0**-ANGLE_BITS) ** 2) * 4.0**-bits / 12 for bits in plan)
    expected = math.sqrt(variance + 4.0 ** -public_factor_bits(18) / 12)
    errors = np.stack(run(runtimes(setting, source), x, w)) - np.stack(exact(x, w))
    assert math.sqrt(np.mean(errors**2)) == pytest.approx(expected, rel=0.12)
    theory = {"dealt": 0.56e-3, "joint": 7.8e-3 if setting == ("semi2k", 3) else 0.98e-3}
    assert expected == pytest.approx(theory[source], rel=0.05)
    # No bias: roundings are fair. Five deviations of the mean.
    assert abs(errors.mean()) < 5 * expected / math.sqrt(errors.size)


@pytest.mark.parametrize(("shape", "features"), [((3, 5), 7), ((2, 11, 3), 13)])
@pytest.mark.parametrize("factor_bits", [9, 27])
def test_secure_cos_sin_costs(runtimes, setting, shape, features, factor_bits):
    """One reveal a pair, whatever the bits: 8 bytes and 1 send a party (SEMI2K among three: to both others)."""
    runtime = runtimes(setting, "dealt")
    x, w = shared(runtime, np.ones(shape, np.float32)), runtime.publish(np.ones((shape[-1], features), np.float32))
    correlation = make(runtime, (*shape[:-1], features), factor_bits)
    _, cost = cost_of(runtime, lambda: runtime.run("cos_sin", cos_sin, x, w, correlation))
    assert cost == times(math.prod(shape[:-1]) * features, REVEAL[setting])


# Openings

ROWS, FEATURES = 64, 64
"""4,096 openings: 16 of each value of a byte."""


def observe(x, w, correlation):
    """`cos_sin` as it is, and what it opened."""
    seen = []

    def open_and_keep(value, mask):
        seen.append(open_masked(value, mask))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosine, "open_masked", open_and_keep)
        results = cos_sin(x, w, correlation)
    (delta,) = seen
    return delta, results


def openings(runtime, x, w):
    delta, _ = runtime.run("observe", observe, shared(runtime, x), runtime.publish(w), make(runtime, (ROWS, FEATURES)))
    assert not delta.spec.secret
    return peek(runtime, delta)


@pytest.mark.parametrize("source", SOURCES)
def test_openings_are_masked(runtimes, setting, source):
    """Uniform in every byte and bit, and the same for zero as for numbers at the edge of the range."""
    runtime = runtimes(setting, source)
    w = frequencies((2, FEATURES))
    zero = openings(runtime, np.zeros((ROWS, 2), np.float32), w)
    edge = openings(runtime, np.full((ROWS, 2), 2.0**44 - 2.0**20, np.float32), w)
    assert are_uniform(zero)
    assert are_uniform(edge)
    assert are_alike(zero, edge)


@pytest.mark.parametrize("source", SOURCES)
def test_openings_of_two_runs_have_nothing_in_common(runtimes, source):
    """The same numbers under fresh masks: the difference of the openings is uniform too."""
    runtime = runtimes(ABY3, source)
    x, w = np.full((ROWS, 2), 0.7, np.float32), frequencies((2, FEATURES))
    assert are_uniform(openings(runtime, x, w) - openings(runtime, x, w))


def test_the_audit_accepts_secure_cos_sin(runtime):
    run(runtime, numbers(), frequencies())
    reports = {program.audit for program in runtime.programs if program.name == "cos_sin"}
    for report in reports:
        assert report.masks == ("2.mask",)


def open_turns(x, w, mask):
    return open_masked(to_ring(x) @ to_ring(w), mask)


@pytest.mark.usefixtures("unaudited")
def test_a_mask_of_32_bits_is_seen_through(runtimes):
    """The control of the checks above: an int32 array shared as usual. The upper half of x @ w is in the open."""
    runtime = runtimes(ABY3)
    w = runtime.publish(frequencies((2, FEATURES)))
    found = []
    for value in (0, 2.0**44 - 2.0**20):
        narrow = np.random.default_rng(4).integers(-(2**31), 2**31, (ROWS, FEATURES)).astype(np.int32)
        x = shared(runtime, np.full((ROWS, 2), value, np.float32))
        found.append(peek(runtime, runtime.run("open_turns", open_turns, x, w, shared(runtime, narrow))))
    assert not are_uniform(found[0])
    assert not are_uniform(found[1])
    assert not are_alike(*found)


@pytest.mark.usefixtures("unaudited")
def test_a_mask_used_twice_is_seen_through(runtimes):
    """The other control: each opening is uniform, but their difference is x @ w - x' @ w itself."""
    runtime = runtimes(ABY3)
    x, other = numbers((ROWS, 2)), numbers((ROWS, 2), seed=5)
    w = frequencies((2, FEATURES))
    mask = put(runtime, np.frombuffer(np.random.default_rng(6).bytes(8 * ROWS * FEATURES), np.int64).reshape(ROWS, -1))
    deltas = []
    for values in (x, other):
        handles = shared(runtime, values), runtime.publish(w), mask
        deltas.append(peek(runtime, runtime.run("open_turns", open_turns, *handles)))
    assert are_uniform(deltas[0])
    assert are_uniform(deltas[1])
    difference = deltas[0] - deltas[1]
    assert not are_uniform(difference)
    np.testing.assert_array_equal(difference, (encode(x) - encode(other)) @ encode(w))


# Plain JAX, and errors


def test_cos_sin_without_a_correlation_is_plain_jax():
    x, w = numbers(), frequencies()
    # The angle is a sum of 3 products, up to 2 pi 150: a few roundings of it, 2**-24 each.
    for result, expected in zip(cos_sin(jnp.asarray(x), jnp.asarray(w)), exact(x, w), strict=True):
        assert np.abs(result - expected).max() <= 2 * np.pi * np.abs(x).sum(-1).max() * np.abs(w).max() * 8 * 2.0**-24


def turns(scale):
    """Random ones up to a scale, and quarters of a turn and the float32 next to them: rounding begins or ends there."""
    random = np.random.default_rng(2).uniform(-scale, scale, 100_003).astype(np.float32)
    quarters = np.rint(np.linspace(-4 * scale, 4 * scale, 1009)).astype(np.float32) / 4
    return np.concatenate([random, quarters, np.nextafter(quarters, np.float32(np.inf)), [0, -0.0, 1e-30]])


@pytest.mark.parametrize("scale", [1, 97, 2.0**20, 2.0**40])
def test_plain_cos_sin_and_its_gradient(scale):
    """At any size: what float32 turns stand for is exact, and whole turns drop out of it."""
    x = turns(scale).astype(np.float32)
    angle = 2 * np.pi * (x.astype(np.float64) % 1)
    cos, sin = np.cos(angle), np.sin(angle)
    for part, (value, slope) in enumerate([(cos, -2 * np.pi * sin), (sin, 2 * np.pi * cos)]):
        found, gradient = jax.vmap(jax.value_and_grad(lambda x, part=part: plain_cos_sin(x)[part]))(x)
        assert found.dtype == np.float32
        assert np.abs(np.asarray(found, np.float64) - value).max() <= 1e-6
        assert np.abs(np.asarray(gradient, np.float64) - slope).max() <= 1e-5


def test_plain_cos_sin_has_second_derivatives_and_any_shape():
    x = turns(3)[:2002].reshape(2, 7, 11, 13)
    one = jax.grad(lambda x: plain_cos_sin(x)[0].sum())
    assert one(x).shape == x.shape
    twice = jax.grad(lambda x: one(x).sum())(x)
    np.testing.assert_allclose(twice, -((2 * np.pi) ** 2) * np.cos(2 * np.pi * x.astype(np.float64)), atol=6e-5)


@pytest.mark.parametrize(
    ("x", "w", "shape", "message"),
    [
        ((5, 3), (2, 7), (5, 7), "x has 3 columns, frequencies 2 rows: they must agree"),
        ((5, 3), (3, 7), (5, 3), r"correlation has shape \(5, 3\) and 36 turn bits, the angles \(5, 7\) and 36"),
        ((2, 5, 3), (3, 7), (5, 7), r"has shape \(5, 7\) and 36 turn bits, the angles \(2, 5, 7\) and 36: decl"),
    ],
)
def test_secure_cos_sin_refuses_shapes_that_disagree(x, w, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(secure_cos_sin, Fixed(jnp.zeros(x, jnp.int32), 18), jnp.zeros(w), declare_correlation(shape))


def test_secure_cos_sin_refuses_a_turn_of_other_bits():
    """Angles would be wrong by powers of two, silently."""
    x = Fixed(jnp.zeros((5, 3), jnp.int32), 13)
    with pytest.raises(ValueError, match="36 turn bits, .* and 31: declare it with declare_correlation"):
        jax.eval_shape(secure_cos_sin, x, jnp.zeros((3, 7)), declare_correlation((5, 7)))


def test_error_bound_grows_with_each_of_its_terms():
    def bound(x_l1=1.0, frequency_l1=1.0, factor_bits=18, x_bits=18, mask_error=1e-3):
        return cos_error_bound(x_l1, frequency_l1, factor_bits=factor_bits, x_bits=x_bits, mask_error=mask_error)

    for worse in ({"x_l1": 2}, {"frequency_l1": 2}, {"mask_error": 2e-3}, {"x_bits": 13}, {"factor_bits": 16}):
        assert bound() < bound(**worse)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((1, 1), np.float32), [[1.0]]), TypeError, "`frequencies` is a list, but must be an array"),
        ((0.5, np.ones((1, 1))), TypeError, "`x` is a float, but must be an array"),
        ((np.ones((1, 1)), np.ones(1)), ValueError, r"`frequencies` has shape \(1,\), but must be \[d, r\]"),
        ((np.float32(1), np.ones((1, 1))), ValueError, r"`x` has shape \(\), but must be \[..., d\]"),
    ],
)
def test_arguments_that_are_no_arrays_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        cos_sin(*arguments)
