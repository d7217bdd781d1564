"""Products of batches of secret matrices, with fewer messages than SPU's one for each matrix.

SPU multiplies the matrices of a batch one after another. Here several of them are one product: their rows stand under
each other, their columns side by side, and of the blocks of the result only those of a matrix with its own are kept.
Under SEMI2K a product costs what its operands have, so the other blocks cost local work alone; under ABY3 it costs 8
bytes for each element of all blocks.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

from secp_spu.protocol.fixed import Fixed, NumberT, as_fixed

SEND_BYTES = 2**17
"""What a message less may cost in bytes: less than half of what the paper's LAN, 3 Gbps, carries in its 0.8 ms."""

SEND_WORK = 2**22
"""What a message less may cost in products of ring elements: two cores do them in 6 ms, between a LAN's delay (0.8 ms)
and a WAN's (40 ms)."""


def batched_product(x: NumberT, y: NumberT, *, opens_operands: bool) -> NumberT:
    """x @ y over the last two axes; plain arrays as they are.

    Args:
        x: [..., m, k].
        y: [..., k, n], the same leading axes.
        opens_operands: what a product costs: its operands (SEMI2K) or its result (ABY3).
    Returns: [..., m, n]. Cost: `together` says how many matrices share a message.
    """
    if not isinstance(x, Fixed):
        return x @ y
    y = as_fixed(y)
    *batch, rows, inner = x.shape
    columns, matrices = y.shape[-1], math.prod(batch)
    group = together(matrices, rows, inner, columns, opens_operands=opens_operands)
    left = x.ring.reshape(matrices // group, group * rows, inner)
    right = y.ring.reshape(matrices // group, group, inner, columns)
    right = right.transpose(0, 2, 1, 3).reshape(matrices // group, inner, group * columns)
    blocks = (left @ right).reshape(matrices // group, group, rows, group, columns)
    return Fixed(_diagonal(blocks).reshape(*batch, rows, columns), x.bits + y.bits)


def _diagonal(blocks: Array) -> Array:
    """[products, group, rows, group, columns] to [products, group, rows, columns]."""
    return jnp.stack([blocks[:, i, :, i] for i in range(blocks.shape[1])], axis=1)


def together(matrices: int, rows: int, inner: int, columns: int, *, opens_operands: bool) -> int:
    """How many matrices are multiplied together: a divisor of their number.

    g of them take 1/g messages a matrix, and g times the local products; under ABY3 also g times the bytes of the
    result. What a message costs beyond, c, makes m / g + c g least for g = sqrt(m / c).

    Args:
        matrices: in all.
        rows, inner, columns: of one product, [rows, inner] @ [inner, columns].
        opens_operands: see `batched_product`.
    """
    most = math.isqrt(max(1, SEND_WORK // (rows * inner * columns)))
    if not opens_operands:
        most = min(most, math.isqrt(max(1, SEND_BYTES // (8 * rows * columns))))
    return max(g for g in range(1, max(1, min(most, matrices)) + 1) if matrices % g == 0)
