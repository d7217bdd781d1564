"""Computes means over the keys up to each query, from features of queries and keys: linear in the number of tokens.

A sum over the keys before a query is a prefix sum of phi(k)^T columns, too large to be kept for every token. So tokens
come in blocks of B: kernels of single pairs within a block, and phi(q) times one summary of all blocks before it.

    sum over j <= i of k(q_i, k_j) c_j  =  sum over j <= i in i's block of (phi(q_i) . phi(k_j)) c_j
                                           +  phi(q_i) (sum over the blocks before of phi(k)^T c)
"""

from __future__ import annotations

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.precision import ATTENDED_BITS, KERNEL_BITS, SUMMARY_BITS
from secp_spu.model.setting import PLAIN, Setting
from secp_spu.protocol import Fixed, NumberT, as_fixed, as_plain, batched_product, mean_of, rearranged, rounded
from secp_spu.trees import Floats

COUNT_BITS = 5
"""Bits of 1/(number of keys) after its leading one, rounded down. The error is up to 1/32 of the mean, and cancels."""


def causal_blocks(tokens: int, features: int, columns: int) -> tuple[int, int]:
    """How many blocks, and of how many tokens; the last one may have fewer.

    A token has B kernels, and 1/B of a summary of features * columns elements: least together for B near the root.

    Args:
        tokens: in all.
        features: columns of phi.
        columns: of what is summed up.
    """
    blocks = max(1, round(tokens / math.sqrt(features * columns)))
    size = math.ceil(tokens / blocks)
    return math.ceil(tokens / size), size


def summarise_causal(phi_query: NumberT, phi_key: NumberT, columns: NumberT, setting: Setting = PLAIN) -> NumberT:
    """phi(q_i) times the mean over the keys j <= i of phi(k_j)^T columns_j, divided by the number of frequencies.

    A mean is up to 1/32 short, of a row the same for all columns.

    Args:
        phi_query, phi_key: features [batch, heads, tokens, 2 * frequencies].
        columns: [batch, heads, tokens, columns].
        setting: where it runs.
    Returns: [batch, heads, tokens, columns], of ATTENDED_BITS fraction bits under SPU.
    """
    tokens, features = phi_key.shape[-2:]
    blocks, size = causal_blocks(tokens, features, columns.shape[-1])
    product = partial(batched_product, opens_operands=setting.opens_operands)
    query, key, values = (
        rearranged(partial(_in_blocks, blocks=blocks, size=size), x) for x in (phi_query, phi_key, columns)
    )

    kernels = rounded(mean_of(product(query, rearranged(transpose, key)), features // 2), KERNEL_BITS)
    total = product(kernels * _public(np.tri(size), 0, kernels), values)

    if blocks > 1:
        summaries = product(rearranged(transpose, key[:, :, :-1]), values[:, :, :-1])
        before = product(query[:, :, 1:], rounded(_prefix_means(summaries, size, tokens), SUMMARY_BITS))
        before = mean_of(before, features // 2) * _public(_halved(size, blocks)[:, None, None], 0, before)
        total = total + rearranged(_behind_an_empty_block, before)

    counts, bits = _inverse_counts(tokens, features // 2)
    joined = rearranged(partial(_out_of_blocks, tokens=tokens), total)
    return rounded(joined * _public(counts[:, None], bits, joined), ATTENDED_BITS)


def _prefix_means(summaries: NumberT, size: int, tokens: int) -> NumberT:
    """Sums of the first 1, 2, ... blocks' summaries, each divided by its `_halved` [batch, heads, blocks - 1, ...]."""
    blocks = summaries.shape[2] + 1
    halvings = math.ceil(math.log2(tokens))
    weights = _public(np.tri(blocks - 1) / _halved(size, blocks)[:, None], halvings, summaries)

    def add_up(weights: Array, summaries: Array) -> Array:
        return jnp.moveaxis(jnp.tensordot(weights, summaries, axes=(1, 2)), 0, 2)

    if isinstance(summaries, Fixed):
        return Fixed(add_up(as_fixed(weights).ring, summaries.ring), halvings + summaries.bits)
    return add_up(as_plain(weights), summaries)


def _halved(size: int, blocks: int) -> Floats:
    """Numbers of keys before the blocks from the second on, rounded up to powers of two [blocks - 1]."""
    powers: Floats = 2.0 ** np.ceil(np.log2(size * np.arange(1, blocks)))
    return powers


def _inverse_counts(tokens: int, frequencies: int) -> tuple[Floats, int]:
    """1/(i + 1) for every token, times what `mean_of` frequencies lacks; and the fraction bits they have.

    Rounded down to COUNT_BITS significant ones, so that the mean of kernels of at most one is at most one.
    """
    wanted = 2 ** math.ceil(math.log2(frequencies)) / frequencies / np.arange(1, tokens + 1)
    unit = 2.0 ** (np.floor(np.log2(wanted)) - COUNT_BITS)
    return np.floor(wanted / unit) * unit, COUNT_BITS + math.ceil(math.log2(tokens))


def _public(values: Floats, bits: int, like: NumberT) -> NumberT:
    """Public numbers that so many fraction bits hold exactly, for products with `like`."""
    return Fixed(jnp.asarray(values * 2**bits, jnp.int32), bits) if isinstance(like, Fixed) else jnp.asarray(values)


def _in_blocks(x: Array, *, blocks: int, size: int) -> Array:
    """[batch, heads, tokens, columns] to [batch, heads, blocks, size, columns], with zeros at the end."""
    missing = blocks * size - x.shape[2]
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) if missing else x
    return padded.reshape(*x.shape[:2], blocks, size, x.shape[-1])


def _out_of_blocks(x: Array, *, tokens: int) -> Array:
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :tokens]


def _behind_an_empty_block(x: Array) -> Array:
    return jnp.concatenate([jnp.zeros_like(x[:, :, :1]), x], axis=2)


def transpose(matrices: Array) -> Array:
    """[..., rows, columns] to [..., columns, rows]."""
    return matrices.swapaxes(-1, -2)
