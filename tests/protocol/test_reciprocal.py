from dataclasses import replace

import numpy as np
import pytest
from parties import ABY3, MULTIPLY, REVEAL, SEMI2K_2, TRUNCATE_FAR, cost_of, shared, times
from test_cosine import SOURCES, mask_error, numbers_of

from secp_spu.protocol import (
    Fixed,
    declare_correlation,
    declare_reciprocal,
    from_storage,
    reciprocal_error_bound,
    secure_reciprocal,
    series_reciprocal,
    to_storage,
)
from secp_spu.protocol.reciprocal import FLOOR, INPUT_BITS, LOWEST, TERMS, TOP, fit_reciprocal
from secp_spu.protocol.waves import FACTOR_BITS

BITS, ONE_BITS = 40, 10
HELD_BITS = 24
"""Fraction bits of test inputs, which float32 has to hold on the way in."""
GRID = np.rint(np.geomspace(FLOOR, TOP, 301) * 2.0**HELD_BITS) * 2.0**-HELD_BITS


def bound_of(setting, source):
    return reciprocal_error_bound(x_error=0, mask_error=mask_error(setting, source, FACTOR_BITS))


def program(x, factor, correlation):
    # Raising is free: x comes with fewer bits than float32 has, and is read with BITS.
    return secure_reciprocal(
        from_storage(x, HELD_BITS, secure=True).to(BITS), from_storage(factor, ONE_BITS, secure=True), correlation
    )


def shift_cosine(x, factor, correlation):
    """A fault: every C_k is off by a twentieth."""
    return program(x, factor, replace(correlation, cos=correlation.cos + round(0.05 * 2**FACTOR_BITS)))


def run(runtime, x, factor, fn=program):
    """factor / x with all its bits, in float64."""
    with runtime.ledger.phase("offline"):
        correlation = runtime.correlations(declare_reciprocal(x.shape))
    secrets = [shared(runtime, to_storage(a, b).astype(np.float32)) for a, b in ((x, HELD_BITS), (factor, ONE_BITS))]
    return numbers_of(runtime, runtime.run("reciprocal", fn, *secrets, correlation))


def plain_reciprocal(x, factor):
    """The same function in float64."""
    constant, *waves = fit_reciprocal()[0]
    angle = 2 * np.pi * 0.75 * np.outer(x, np.arange(1, TERMS + 1))
    start = constant + np.cos(angle) @ waves[:TERMS] + np.sin(angle) @ waves[TERMS:]
    return factor * start * (2 - x * start)


def test_the_fit_is_within_3_percent_and_newtons_step_squares_that():
    coefficients, error = fit_reciprocal()
    assert 0.029 < error < 0.0315
    assert np.abs(coefficients).max() <= 20
    relative = GRID * plain_reciprocal(GRID, 1.0) - 1
    assert np.abs(relative).max() < 1e-3
    assert (relative <= 0).all(), "Newton's step comes from below"


def test_below_the_floor_it_is_large_and_positive():
    below = np.linspace(LOWEST, FLOOR, 1_001)
    found = plain_reciprocal(below, 1.0)
    assert (found > 0.9 / FLOOR).all()
    assert (found[below > -1 / 64] < 6 / FLOOR).all()


@pytest.mark.slow("the error bound over the whole range under MPC; compiles it four times")
@pytest.mark.parametrize("setting", [ABY3, SEMI2K_2], ids=["aby3", "semi2k"])
@pytest.mark.parametrize("source", SOURCES)
def test_secure_reciprocal_matches_division(runtimes, setting, source):
    bound = bound_of(setting, source)
    factor = np.resize([1.0, 1.5, 12.75], GRID.shape)
    error = np.abs(run(runtimes(setting, source), GRID, factor) * GRID / factor - 1)
    assert error.max() <= bound
    assert error.max() > bound / 20, "a bound so wide would be met by luck"
    assert bound < 0.01


def test_a_factor_that_is_off_is_rejected(runtimes):
    off = np.abs(run(runtimes(ABY3, "dealt"), GRID, np.ones_like(GRID), shift_cosine) * GRID - 1)
    assert off.max() > bound_of(ABY3, "dealt")


def test_below_the_floor_it_is_the_plain_function(runtimes):
    """To within a step of x, by which the function there changes most, and the errors of the start."""
    x = np.rint(np.linspace(LOWEST, FLOOR, 101) * 2.0**HELD_BITS) * 2.0**-HELD_BITS
    found, expected = run(runtimes(ABY3), x, np.ones_like(x)), plain_reciprocal(x, 1.0)
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_one_factor_serves_many_numbers(runtimes):
    x = np.resize(GRID, (2, 3, 5))
    factor = np.array([1.0, 4.0]).reshape(2, 1, 1)
    found = run(runtimes(ABY3), x, factor)
    np.testing.assert_allclose(found * x / factor, 1, atol=bound_of(ABY3, "joint"))


@pytest.mark.parametrize("setting", [ABY3, SEMI2K_2], ids=["aby3", "semi2k"])
def test_secure_reciprocal_costs_an_opening_three_products_and_a_truncation(runtimes, setting):
    """Two products share their messages; the one truncation is of two numbers."""
    runtime, shape = runtimes(setting), (7, 30)
    with runtime.ledger.phase("offline"):
        correlation = runtime.correlations(declare_reciprocal(shape))
    secrets = [shared(runtime, np.ones(shape, np.float32)) for _ in range(2)]
    _, cost = cost_of(runtime, lambda: runtime.run("reciprocal", program, *secrets, correlation))
    two = tuple((2 * size, sends) for size, sends in (MULTIPLY[setting], TRUNCATE_FAR[setting]))
    assert cost == times(7 * 30, REVEAL[setting], MULTIPLY[setting], *two)


def test_the_audit_accepts_the_one_opening(runtimes):
    runtime = runtimes(ABY3)
    run(runtime, GRID, np.ones_like(GRID))
    reports = {p.audit for p in runtime.programs if p.name == "reciprocal"}
    assert reports
    for report in reports:
        assert report.masks == ("2.mask",)


def test_without_a_correlation_it_is_plain_jax():
    np.testing.assert_allclose(series_reciprocal(GRID, 1.0), plain_reciprocal(GRID, 1.0), rtol=1e-4)


def test_a_correlation_for_something_else_is_refused():
    x = Fixed(np.zeros(4, np.int32), BITS)
    with pytest.raises(ValueError, match="declare it with declare_reciprocal"):
        secure_reciprocal(x, Fixed(np.int32(1), 0), declare_correlation((4,)))
    with pytest.raises(ValueError, match="at most 42"):
        secure_reciprocal(Fixed(x.ring, INPUT_BITS + 1), Fixed(np.int32(1), 0), declare_reciprocal((4,)))


def test_error_bound_grows_with_each_of_its_terms():
    base = reciprocal_error_bound(x_error=0, mask_error=0)
    assert base < reciprocal_error_bound(x_error=1e-6, mask_error=0)
    assert base < reciprocal_error_bound(x_error=0, mask_error=1e-3)
