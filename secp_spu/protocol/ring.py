"""Converts between fixed-point numbers and ring integers; the one place where a value is opened.

SPU keeps a secret number x as the integer round(x 2**18) in the ring Z_2**64. `lax.bitcast_convert_type` between
float32 and int32 only relabels that integer: under SPU there are no IEEE bits. In plain JAX the same line does give
IEEE bits, so nothing here may run outside a program compiled for SPU; `cos_sin` and its like branch before.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from spu.experimental import reveal

FRACTION_BITS = 18
"""Fraction bits of a fixed-point number; the runtimes configure SPU with the same."""


def to_ring(x: ArrayLike) -> Array:
    """The ring integers behind fixed-point numbers of any shape (x 2**18). Local and free.

    XLA computes with constants itself, and would take the IEEE bits of one, so numbers that are known while a function
    is traced are encoded here.

    Raises: ValueError for a known number beyond +-2**13, whose ring integer has more than 32 bits.
    """
    if isinstance(x, jax.core.Tracer):
        return lax.bitcast_convert_type(x, jnp.int32)
    encoded = np.rint(np.asarray(x, np.float64) * 2.0**FRACTION_BITS)
    if not (np.abs(encoded) < 2.0**31).all():
        raise ValueError("a program has a constant that is not finite, or beyond +-8192: make it an argument")
    return jnp.asarray(encoded.astype(np.int32))


def from_ring(z: Array) -> Array:
    """The fixed-point numbers that ring integers stand for (z 2**-18). Local and free."""
    return lax.bitcast_convert_type(z, jnp.float32)


def open_masked(value: Array, mask: Array) -> Array:
    """Open value - mask: the only opening of this package.

    The result is uniform, and so tells nothing, as long as `mask` is uniform over the whole 64-bit ring, secret, and
    used in no other place. `audit_program` proves the last for a compiled program; `correlation` sees to the others.

    Args:
        value: secret ring integers of any shape.
        mask: secret ring integers of the same shape, the mask of a correlation.
    Returns: public ring integers of the same shape.
    Reveals: value - mask. Cost (a party): 8 bytes an element and 1 send.
    Raises: ValueError if the shapes differ: a broadcast mask would be used more than once.
    """
    if value.shape != mask.shape:
        raise ValueError(f"the mask has shape {mask.shape}, the value {value.shape}: a mask is never broadcast")
    opened: Array = reveal(value - mask)
    return opened
