import jax.numpy as jnp
import numpy as np
import pytest
from parties import REVEAL, ULP, cost_of, peek, put, shared, times

from secp_spu.protocol import FRACTION_BITS, from_ring, open_masked, to_ring
from secp_spu.runtime import Spec, Stored

pytestmark = pytest.mark.smoke

NUMBERS = np.array([0, 1, -1, ULP, -ULP, 3.25, -1234.5, 2.0**20 + 0.5, -(2.0**44)], np.float32)


def raise_by_one(x):
    return from_ring(to_ring(x) + 1)


def test_to_ring_and_from_ring_relabel_for_free(runtime):
    x = shared(runtime, NUMBERS)
    integers, cost = cost_of(runtime, lambda: runtime.run("to_ring", to_ring, x))
    np.testing.assert_array_equal(peek(runtime, integers).view(np.int64), NUMBERS.astype(np.float64) / ULP)
    assert integers.spec.dtype == np.int32

    raised, more = cost_of(runtime, lambda: runtime.run("raise", raise_by_one, x))
    np.testing.assert_array_equal(peek(runtime, raised).view(np.int64), NUMBERS.astype(np.float64) / ULP + 1)
    assert raised.spec.dtype == np.float32
    assert (cost, more) == ((0, 0), (0, 0))


def open_difference(value, mask):
    return open_masked(value, mask)


@pytest.mark.usefixtures("unaudited")
@pytest.mark.parametrize("size", [7, 101])
def test_open_masked_opens_all_64_bits_of_the_difference(setting, runtime, size):
    """And costs a reveal: 8 bytes an element and 1 send to every party that misses a component."""
    rng = np.random.default_rng(size)
    value, mask = rng.integers(0, 2**64, (2, size), dtype=np.uint64)
    handles = put(runtime, value), put(runtime, mask)
    delta, cost = cost_of(runtime, lambda: runtime.run("open", open_difference, *handles))
    assert isinstance(delta, Stored)
    assert delta.spec == Spec((size,), np.dtype(np.int32), secret=False)
    np.testing.assert_array_equal(peek(runtime, delta), value - mask)
    assert cost == times(size, REVEAL[setting])


def test_open_masked_refuses_a_broadcast_mask():
    value, mask = jnp.zeros((2, 3), jnp.int32), jnp.zeros(3, jnp.int32)
    with pytest.raises(ValueError, match=r"the mask has shape \(3,\), the value \(2, 3\): a mask is never broadcast"):
        open_masked(value, mask)


def test_fraction_bits_are_those_of_the_runtime(runtime):
    """A product of two fixed-point numbers loses as many bits as the ring functions suppose."""
    x = shared(runtime, np.array([3.0, -0.25], np.float32))
    product = peek(runtime, runtime.run("product", lambda x: x * 5, x)).view(np.int64)
    assert np.abs(product - np.array([15, -1.25]) * 2**FRACTION_BITS).max() <= 1
