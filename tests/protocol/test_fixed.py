import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parties import ABY3, MULTIPLY, TRUNCATE, TRUNCATE_FAR, ULP, cost_of, opened, peek, put, shared, times

from secp_spu.protocol import (
    FRACTION_BITS,
    Fixed,
    constant,
    from_storage,
    inverse_sqrt,
    mean_of,
    multiply,
    rearranged,
    rounded,
    to_fixed,
    to_float,
    to_storage,
)

BITS = 13
"""Of the numbers below, if nothing else is said."""


def integers(limit, count=509, seed=0):
    """Ring integers up to +-limit: zero, both ends, every power of two and its neighbours, and random ones."""
    powers = [
        sign * (1 << size) + step for size in range(limit.bit_length()) for sign in (1, -1) for step in (-1, 0, 1)
    ]
    random = np.random.default_rng(seed).integers(-limit, limit + 1, count)
    return np.concatenate([[0, limit, -limit], powers, random]).astype(np.int64).clip(-limit, limit)


def fixed(runtime, z, bits=BITS):
    """A secret of ring integers."""
    return Fixed(put(runtime, np.asarray(z, np.int64)), bits)


def ring_of(runtime, value):
    """The ring integers of a result."""
    return peek(runtime, value.ring).view(np.int64)


def run(runtime, fn, *args):
    """A result, and what it cost."""
    return cost_of(runtime, lambda: runtime.run("fixed", fn, *args))


# Arithmetic


@pytest.mark.parametrize("apply", [lambda x: x + 1.0, lambda x: x - 1, lambda x: x * 2.0, lambda x: x @ np.eye(2)])
def test_a_partner_of_another_kind_is_named(apply):
    with pytest.raises(TypeError, match="a Fixed number meets a .*: take `protocol.to_float` of the first, or `as_fix"):
        apply(Fixed(jnp.zeros((2, 2), jnp.int32), BITS))


@pytest.mark.parametrize("other_bits", [BITS, BITS + 5, BITS - 5])
def test_sums_align_their_bits_for_free(runtime, other_bits):
    x, y = integers(2**40), integers(2**40, seed=1)
    for fn, sign in ((lambda a, b: a + b, 1), (lambda a, b: a - b, -1)):
        result, cost = run(runtime, fn, fixed(runtime, x), fixed(runtime, y, other_bits))
        assert result.bits == max(BITS, other_bits)
        expected = (x << (result.bits - BITS)) + sign * (y << (result.bits - other_bits))
        np.testing.assert_array_equal(ring_of(runtime, result), expected)
        assert cost == (0, 0)


def test_a_sum_cannot_align_more_than_a_32_bit_factor():
    x = Fixed(jnp.zeros(2, jnp.int32), 0)
    assert (x + Fixed(jnp.zeros(2, jnp.int32), 30)).bits == 30
    with pytest.raises(ValueError, match="31 more fraction bits are no 32-bit factor"):
        x + Fixed(jnp.zeros(2, jnp.int32), 31)
    with pytest.raises(ValueError, match="31 more fraction bits are no 32-bit factor"):
        x.to(31)


@pytest.mark.parametrize("size", [7, 101])
def test_a_product_keeps_all_bits(setting, runtime, size):
    """ABY3: 8 bytes and a message of a party; SEMI2K among two: 16. Up to 2**62, and beyond it wraps."""
    rng = np.random.default_rng(size)
    x, y = rng.integers(-(2**31), 2**31, (2, size))
    result, cost = run(runtime, lambda a, b: a * b, fixed(runtime, x), fixed(runtime, y, 18))
    assert result.bits == BITS + 18
    np.testing.assert_array_equal(ring_of(runtime, result), x * y)
    assert cost == times(size, MULTIPLY[setting])
    wrapped, _ = run(runtime, lambda a, b: a * b, fixed(runtime, x << 31), fixed(runtime, y))
    np.testing.assert_array_equal(ring_of(runtime, wrapped), (x << 31) * y)


@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 5, 7), (11, 13, 2)])
def test_a_matrix_product_keeps_all_bits(setting, runtime, rows, inner, columns):
    rng = np.random.default_rng(rows)
    x, y = rng.integers(-(2**29), 2**29, (rows, inner)), rng.integers(-(2**29), 2**29, (inner, columns))
    result, cost = run(runtime, lambda a, b: a @ b, fixed(runtime, x), fixed(runtime, y, 18))
    assert result.bits == BITS + 18
    np.testing.assert_array_equal(ring_of(runtime, result), x @ y)
    if setting == ABY3:
        assert cost == (24 * rows * columns, 3)


def test_parts_and_means_are_free(runtime):
    z = integers(2**40)[:60].reshape(3, 4, 5)
    for fn, expected, bits in (
        (lambda a: a[1, :, 2:], z[1, :, 2:], BITS),
        (lambda a: mean_of(a, 5), z, BITS + 3),
        (lambda a: mean_of(a, 4), z, BITS + 2),
    ):
        result, cost = run(runtime, fn, fixed(runtime, z))
        assert (result.bits, result.ring.spec.shape, cost) == (bits, expected.shape, (0, 0))
        np.testing.assert_array_equal(ring_of(runtime, result), expected)


@pytest.mark.parametrize(("axis", "keepdims"), [(1, False), (-1, True)])
def test_sums_over_an_axis_are_free(runtime, axis, keepdims):
    """SPU's own sum is not, under ABY3, which shares the zero that it begins with."""
    z = integers(2**40)[:60].reshape(3, 4, 5)
    result, cost = run(runtime, lambda a: a.sum(axis, keepdims=keepdims), fixed(runtime, z))
    expected = z.sum(axis, keepdims=keepdims)
    assert (result.bits, result.ring.spec.shape) == (BITS, expected.shape)
    np.testing.assert_array_equal(ring_of(runtime, result), expected)
    assert cost == (0, 0)


# Truncation

TO = {  # (drop, small): limit of |ring|, cheap truncations, dear ones
    (1, False): (2**45, 1, 0),
    (9, False): (2**53, 1, 0),
    (16, False): (2**60, 1, 0),
    (17, False): (2**60, 2, 0),
    (25, False): (2**60, 2, 0),
    (32, False): (2**60, 2, 0),
    (36, False): (2**60, 1, 1),
    (17, True): (2**44, 0, 1),
    (27, True): (2**44, 0, 1),
    (40, True): (2**44, 0, 1),
    (16, True): (2**44, 1, 0),
}


@pytest.mark.parametrize("case", TO, ids=str)
def test_to_drops_bits(setting, runtime, case):
    """A truncation is off by one unit at most; the first of two, and the unit added between, count a fraction of it."""
    drop, small = case
    limit, cheap, dear = TO[case]
    z = integers(limit)
    result, cost = run(runtime, lambda a: a.to(BITS, small=small), fixed(runtime, z, BITS + drop))
    assert result.bits == BITS
    exact = z.astype(np.longdouble) / 2**drop
    bound = 1 if cheap + dear == 1 else 1 + 2.0 ** (1 + 16 - drop)
    assert np.abs(ring_of(runtime, result) - exact).max() <= bound
    assert np.abs(ring_of(runtime, result) + 3 - exact).max() > bound, "the control passes"
    assert cost == times(z.size, *[TRUNCATE[setting]] * cheap, *[TRUNCATE_FAR[setting]] * dear)


def test_to_has_the_costs_of_its_docstring():
    """Of an element, a party: TRUNCATE and TRUNCATE_FAR are sums over the parties."""
    found = {s: (TRUNCATE[s][0] / s[1], TRUNCATE_FAR[s][0] / s[1], TRUNCATE[s][1] / s[1]) for s in TRUNCATE}
    assert found[ABY3] == (28 / 3, 40 / 3, 5 / 3)
    assert found["semi2k", 2] == (4, 8, 1)
    assert found["semi2k", 3] == (16, 16, 2)


def test_two_truncations_in_a_row_are_not_folded_into_one(setting, runtime):
    """XLA makes one dear truncation of two in a row, which is wrong beyond its limit."""
    z = np.array([5, -5, 1000, -(2**20)], np.int64) << 32
    result, _ = run(runtime, lambda a: a.to(0), fixed(runtime, z, 32))
    assert np.abs(ring_of(runtime, result) - (z >> 32)).max() <= 1
    folded, cost = run(runtime, lambda a: Fixed(_truncated_twice(a.ring), 0), fixed(runtime, z, 32))
    assert np.abs(ring_of(runtime, folded) - (z >> 32)).max() > 1, "the control: without the sum between them"
    assert cost == times(4, TRUNCATE_FAR[setting])


def _truncated_twice(z):
    bitcast = jax.lax.bitcast_convert_type
    return bitcast(bitcast(z, jnp.float32) * 2.0**-16 * 2.0**-16, jnp.int32)


def test_more_bits_are_free_and_exact(runtime):
    z = integers(2**30)
    result, cost = run(runtime, lambda a: a.to(BITS + 30), fixed(runtime, z))
    np.testing.assert_array_equal(ring_of(runtime, result), z << 30)
    assert (result.bits, cost) == (BITS + 30, (0, 0))
    same, cost = run(runtime, lambda a: a.to(BITS), fixed(runtime, z))
    np.testing.assert_array_equal(ring_of(runtime, same), z)
    assert cost == (0, 0)


@pytest.mark.parametrize(
    ("drop", "small", "size"),
    [(1, False, 2**46), (9, False, 2**54), (16, False, 2**61), (32, False, 2**61), (17, True, 2**46)],
)
def test_numbers_beyond_the_limit_do_not_fit(runtime, drop, small, size):
    """What `to` says of its range is not idle."""
    z = np.full(1009, size, np.int64)
    result, _ = run(runtime, lambda a: a.to(0, small=small), fixed(runtime, z, drop))
    assert np.abs(ring_of(runtime, result) - (z >> drop)).max() > 1


@pytest.mark.parametrize("size", [7, 101])
def test_multiply_drops_18_bits(setting, runtime, size):
    rng = np.random.default_rng(size)
    x, y = rng.integers(-(2**29), 2**29, (2, size))
    result, cost = run(runtime, lambda a, b: a.multiply(b), fixed(runtime, x), fixed(runtime, y, 20))
    assert result.bits == BITS + 20 - FRACTION_BITS
    assert np.abs(ring_of(runtime, result) - x * y / 2**18).max() <= 1
    assert cost == times(size, MULTIPLY[setting], TRUNCATE[setting])


@pytest.mark.parametrize("bits", [18, 22])
def test_inverse_sqrt(runtime, bits):
    """Within 5e-4 in proportion, as SPU's own (tests/inference/fixed_point.py), and four units of its own 18 bits."""
    x = np.concatenate([np.geomspace(0.01, 64, 101), [0.0]])
    result, _ = run(runtime, lambda a: inverse_sqrt(a, 0.01), fixed(runtime, np.rint(x * 2**bits), bits))
    assert result.bits == 18 - (bits - 18) // 2
    exact = 1 / np.sqrt(x + 0.01)
    error = np.abs(ring_of(runtime, result) * 2.0**-result.bits - exact)
    assert (error <= 5e-4 * exact + 4 * 2.0**-result.bits).all()


def test_inverse_sqrt_refuses_an_odd_number_of_bits():
    with pytest.raises(ValueError, match="x has 21 fraction bits, an even number is needed"):
        inverse_sqrt(Fixed(jnp.zeros(2, jnp.int32), 21), 0.1)


# In and out; plain arrays

NUMBERS = np.array([0, 1, -1, 3.25, -77.0625, 1000.5], np.float32)


@pytest.mark.parametrize("bits", [11, 18, 24])
def test_what_is_lowered_is_lifted(runtime, bits):
    """An owner lowers, SPU encodes, a program lifts: the number itself, rounded to its bits; and back."""
    x = shared(runtime, np.asarray(to_storage(NUMBERS, bits)))
    result, cost = run(runtime, lambda a: from_storage(a, bits, secure=True), x)
    assert (result.bits, cost) == (bits, (0, 0))
    np.testing.assert_array_equal(ring_of(runtime, result), np.rint(NUMBERS * 2.0**bits))
    again, cost = run(runtime, lambda a: to_storage(a, bits), result)
    assert cost == (0, 0)
    np.testing.assert_array_equal(opened(runtime, again) * 2.0 ** (18 - bits), NUMBERS)


def test_ring_integers_are_lifted_as_they_are(runtime):
    result, _ = run(runtime, lambda a: from_storage(a, 11, secure=True), put(runtime, np.arange(7)))
    np.testing.assert_array_equal(ring_of(runtime, result), np.arange(7))


def test_to_float_and_to_fixed_are_spus_own_numbers(runtime):
    z = np.rint(NUMBERS.astype(np.float64) * 2**27).astype(np.int64)
    result, cost = run(runtime, to_float, fixed(runtime, z, 27))
    assert np.abs(opened(runtime, result) - NUMBERS).max() <= ULP
    assert cost[0] > 0
    back, cost = run(runtime, lambda a: to_fixed(a, Fixed(a, 0)), shared(runtime, NUMBERS))
    np.testing.assert_array_equal(ring_of(runtime, back), NUMBERS * 2.0**18)
    assert (back.bits, cost) == (18, (0, 0))


def test_constants_have_their_bits(runtime):
    z = integers(2**40)
    result, cost = run(runtime, lambda a: a * constant(-0.75, 12, a), fixed(runtime, z))
    np.testing.assert_array_equal(ring_of(runtime, result), z * -3072)
    assert (result.bits, cost) == (BITS + 12, (0, 0))


def test_moved_keeps_numbers_and_their_bits(runtime):
    z = np.arange(12).reshape(3, 4)

    def stack(a, b):
        return rearranged(lambda *parts: jnp.stack(parts).reshape(-1), a, b)

    result, cost = run(runtime, stack, fixed(runtime, z), fixed(runtime, -z))
    np.testing.assert_array_equal(ring_of(runtime, result), np.stack([z, -z]).reshape(-1))
    assert (result.bits, cost) == (BITS, (0, 0))
    with pytest.raises(ValueError, match=r"numbers of \[13, 14\] fraction bits cannot stand in one array"):
        runtime.run("fixed", stack, fixed(runtime, z), fixed(runtime, z, 14))


def test_plain_arrays_stay_what_they_are():
    x = jnp.asarray(NUMBERS)
    np.testing.assert_array_equal(from_storage(to_storage(x, 11), 11, secure=False), x)
    for same in (rounded(x, 3), to_float(x), to_fixed(x, x), rearranged(jnp.asarray, x)):
        np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(multiply(x, x), x * x)
    np.testing.assert_array_equal(mean_of(x, 5), x / 8)
    assert constant(-0.75, 12, x) == -0.75
    np.testing.assert_allclose(inverse_sqrt(x**2, 0.01), 1 / np.sqrt(NUMBERS**2 + 0.01), rtol=1e-6)
