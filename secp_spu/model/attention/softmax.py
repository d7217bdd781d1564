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
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import FRACTION_BITS, Number, batched_product, rearranged, rounded, to_fixed, to_float
from secp_spu.trees import Floats, Tree

PADDING_SCORE = -300.0
"""Added to the scores of padded keys, so that exp is zero for scores up to 200 apart: SPU's exp of a negative number,
the power (1 + x/256)**256 in fixed point, is zero from -14 to -500 and nonsense below."""


class SoftmaxAttention(Attention):
    """softmax(q k^T / sqrt(d)) v for every head; without padded keys, or of a decoder without keys after the query.

    Folded, queries come divided by sqrt(d).
    """

    adapted: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = True

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
        keys = rearranged(transpose, rounded(key, FRACTION_BITS - 2))
        scores = to_float(product(rounded(query, FRACTION_BITS), keys)) * scale
        scores = scores + self._left_out(weights, scores.shape[-1]) * PADDING_SCORE
        probabilities = to_fixed(jax.nn.softmax(scores, axis=-1), value)
        return rounded(product(probabilities, rounded(value, FRACTION_BITS - 2)), FRACTION_BITS)

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
    def scores(cls, config: TransformerConfig, tokens: int) -> int:
        """One for every key and head."""
        return config.heads * tokens
