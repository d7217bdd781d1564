import math

import jax.numpy as jnp
import numpy as np
import pytest

from secp_spu.model import activation

GRID = np.linspace(-11, 11, 2003)

DEFINITIONS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
}

# A few float32 roundings of factors up to 11: 11 * 8 * 2**-24 = 5e-6.
TOLERANCE = 5e-6


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_activation_matches_its_definition(kind):
    expected = np.array([DEFINITIONS[kind](x) for x in GRID])
    np.testing.assert_allclose(activation(kind)(jnp.asarray(GRID, jnp.float32)), expected, rtol=0, atol=TOLERANCE)


def test_gelu_tanh_is_as_near_to_gelu_as_its_docstring_says():
    x = jnp.asarray(GRID, jnp.float32)
    difference = np.abs(activation("gelu_tanh")(x) - activation("gelu")(x)).max()
    assert 4e-4 < difference <= 5e-4
