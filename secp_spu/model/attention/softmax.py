"""Softmax attention: any checkpoint's own, and the most expensive kind under MPC."""

import math
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.attention.attention import Attention, required
from secp_spu.model.attention.causal_means import transpose
from secp_spu.model.layers import keep_for_backward
from secp_spu.model.precision import COTANGENT_BITS
from secp_spu.model.setting import Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import (
    FRACTION_BITS,
    Number,
    batched_product,
    rearranged,
    rounded,
    to_fixed,
    to_float,
    widened,
)
from secp_spu.trees import Floats, Tree

PADDING_SCORE = -300.0
"""Added to the scores of padded keys, so that exp is zero for scores up to 200 apart: SPU's exp of a negative number,
the power (1 + x/256)**256 in fixed point, is zero from -14 to -500 and nonsense below."""


SCORE_COTANGENT_BITS = 16
"""Fraction bits of the cotangents of scores, whose products have 34 or less: one cheap truncation, or SPU's own."""


class SoftmaxAttention(Attention):
    """softmax(q k^T / sqrt(d)) v for every head; without padded keys, or of a decoder without keys after the query.

    Folded, queries come divided by sqrt(d).
    """

    adapted: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = True
    has_backward: ClassVar[bool] = True

    @nn.compact
    def __call__(self, query: Number, key: Number, value: Number, weights: Number | None) -> Number:
        """Attend.

        Args:
            query, key, value: [batch, heads, tokens, head_dim].
            weights: 1 for tokens, 0 for padding [batch, tokens]; a decoder, whose padding comes last, needs none.
        Returns: [batch, heads, tokens, head_dim].
        """
        scale = 1.0 if self.setting.folded else 1 / math.sqrt(query.shape[-1])
        product = partial(batched_product, opens_operands=self.setting.opens_operands)
        # Keys and values have two bits fewer, so that the product takes one cheap truncation.
        query, key, value = rounded(query, FRACTION_BITS), *(rounded(x, FRACTION_BITS - 2) for x in (key, value))
        scores = to_float(product(query, rearranged(transpose, key))) * scale
        scores = scores + self._left_out(weights, scores.shape[-1]) * PADDING_SCORE
        probabilities = to_fixed(jax.nn.softmax(scores, axis=-1), value)
        keep_for_backward(self, query=query, key=key, value=value, probabilities=probabilities)
        return rounded(product(probabilities, value), FRACTION_BITS)

    def _left_out(self, padding_mask: Number | None, tokens: int) -> Array:
        """1 for pairs that are to have no weight, of a shape that broadcasts to that of scores."""
        if self.config.causal:
            return jnp.asarray(1 - np.tri(tokens), jnp.float32)
        return (1 - to_float(required(padding_mask)))[:, None, None, :]

    @classmethod
    def fold(cls, kernel: Floats, bias: Floats, params: Tree, config: TransformerConfig) -> tuple[Floats, Floats, Tree]:
        """Divide queries by sqrt(head_dim)."""
        del params
        queries, keys, values = np.ones((3, config.width), np.float32)
        queries /= math.sqrt(config.head_dim)
        scale = np.concatenate([queries, keys, values]).astype(np.float32)
        return kernel * scale, bias * scale, {}

    @classmethod
    def pull_back(
        cls, kept: Tree, cotangent: Number, tokens: Number, setting: Setting, wanted: slice
    ) -> tuple[Number, Number, Number]:
        """The cotangents of queries, keys and values: products alone, no exponential again.

        With out = P v and P = softmax(q k^T), queries being divided by sqrt(d) in the projections:

            dv = P^T g,  dP = g v^T,  dS = P (dP - sum dP P)
            dq = dS k,  dk = dS^T q
        """
        del tokens
        query, key, value, shares = (kept[name] for name in ("query", "key", "value", "probabilities"))
        product = partial(batched_product, opens_operands=setting.opens_operands)
        transposed = partial(rearranged, transpose)
        of_shares = rounded(product(cotangent, transposed(value)), COTANGENT_BITS)
        mean = rounded((of_shares * shares).sum(-1, keepdims=True), COTANGENT_BITS)
        of_scores = rounded(shares * (of_shares - widened(mean, shares.shape[-1])), SCORE_COTANGENT_BITS)
        of_query = product(of_scores[:, :, wanted], key)
        of_key = product(transposed(of_scores[..., wanted]), query)
        of_value = product(transposed(shares[..., wanted]), cotangent)
        return rounded(of_query, FRACTION_BITS), rounded(of_key, FRACTION_BITS), rounded(of_value, FRACTION_BITS)

    @classmethod
    def kept_elements(cls, config: TransformerConfig, tokens: int) -> int:
        """Queries, keys, values and weights."""
        return tokens * (3 * config.width + config.heads * tokens)

    @classmethod
    def scores(cls, config: TransformerConfig, tokens: int) -> int:
        """One for every key and head."""
        return config.heads * tokens
