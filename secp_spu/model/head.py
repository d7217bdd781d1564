"""Makes logits of the labels from hidden states: by label words at the mask, or by similarity to label descriptions.

Both heads read one vector a sequence, hidden states weighted by the data owner's secret `readout` row: a one at the
mask position, or 1/length over the tokens.

How large a head's logits can be, whatever text and prompt it reads, tells wrong logits from right ones. The label-word
head ends with a norm and one dense layer. A norm's row z has sum(z) = 0 and |z|^2 <= width, so that

    |logit_j| = |z . (gain * w_j) + shift . w_j + b_j|  <=  sqrt(width) |gain * w_j|_2 + |shift . w_j + b_j|

for the column w_j and the bias b_j of label word j. The label-embedding head's logits are cosines times a scale.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.activation import activation_function
from secp_spu.model.layers import Norm
from secp_spu.model.setting import PLAIN, Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import Number, to_float
from secp_spu.trees import Tree

SIMILARITY_SCALE = 20.0
"""Turns cosine similarities into logits, as in the training of sentence embeddings."""

SECURE_MARGIN = 9 / 8
"""Factor for the secure arithmetic. Its largest relative errors come from SPU's inverse roots, which have 18 fraction
bits: 4e-3 for a row of deviation 1,000."""


def read_out(hidden: Number, readout: Number) -> Array:
    """One vector a sequence: hidden [batch, tokens, width], readout [batch, tokens] -> [batch, width]."""
    return to_float((hidden * readout[..., None]).sum(1))


class LabelWordHead(nn.Module):
    """The language-model head for the label words' columns alone: at the mask, or of a decoder at the last token."""

    config: TransformerConfig
    labels: int

    @nn.compact
    def __call__(self, hidden: Number, readout: Number) -> Array:
        """Logits of the label words.

        Args:
            hidden: [batch, tokens, width].
            readout: one at the mask position or the last token, zero elsewhere [batch, tokens].
        Returns: [batch, labels].
        """
        at_mask = read_out(hidden, readout)
        if self.config.causal:
            normed = Norm(self.config.layer_norm_epsilon, name="norm")(at_mask)
            return nn.Dense(self.labels, use_bias=False, name="decoder")(normed)
        dense = nn.Dense(self.config.width, name="dense")(at_mask)
        active = activation_function(self.config.head_activation)(dense)
        normed = Norm(self.config.layer_norm_epsilon, name="norm")(active)
        return nn.Dense(self.labels, name="decoder")(normed)


class PooledEmbedding(nn.Module):
    """The sentence embedding: the mean hidden state, of length one.

    Attributes:
        setting: where it runs; folded, the hidden states come without the last norm's gain and shift, which are
            parameters here.
    """

    setting: Setting = PLAIN

    @nn.compact
    def __call__(self, hidden: Number, readout: Number) -> Array:
        """Embeddings [batch, width] of hidden [batch, tokens, width]; readout holds 1/length on tokens."""
        mean = read_out(hidden, readout)
        if self.setting.folded:
            mean = mean * self.param("scale", nn.initializers.ones, mean.shape[-1:])
            mean = mean + self.param("bias", nn.initializers.zeros, mean.shape[-1:])
        return mean * jax.lax.rsqrt(jnp.sum(mean * mean, -1, keepdims=True))


class LabelEmbeddingHead(nn.Module):
    """Similarity of the sentence embedding to each label's, for encoders without a masked-LM head.

    Attributes:
        setting: as in `PooledEmbedding`.
    """

    setting: Setting = PLAIN

    @nn.compact
    def __call__(self, hidden: Number, readout: Number, labels: Array) -> Array:
        """Logits [batch, labels] of hidden [batch, tokens, width]; labels: the label embeddings [labels, width]."""
        return PooledEmbedding(self.setting, name="pooled")(hidden, readout) @ labels.T * SIMILARITY_SCALE


def label_word_limit(head: Tree) -> float:
    """The size that no logit of the label words exceeds, a power of two.

    Args:
        head: parameters of `LabelWordHead`: "norm" with "scale" and "bias" [width], "decoder" with "kernel"
            [width, labels] and, of an encoder, "bias" [labels].
    """
    kernel = np.asarray(head["decoder"]["kernel"], np.float64)
    gain, shift = (np.asarray(head["norm"][name], np.float64) for name in ("scale", "bias"))
    constant = shift @ kernel + np.asarray(head["decoder"].get("bias", 0.0), np.float64)
    largest = math.sqrt(len(gain)) * np.linalg.norm(gain[:, None] * kernel, axis=0) + np.abs(constant)
    return _rounded_up(float(largest.max()))


def label_embedding_limit() -> float:
    """The size that no similarity to a label's embedding exceeds, a power of two."""
    return _rounded_up(SIMILARITY_SCALE)


def _rounded_up(size: float) -> float:
    """With the secure arithmetic's margin, to a power of two: coarse, so that it says little of the weights."""
    return 2.0 ** math.ceil(math.log2(max(size, 2.0**-18) * SECURE_MARGIN))
