"""Hidden states in, logits of the labels out: by label words at the mask, or by similarity to label descriptions.

Both heads read one vector a sequence, hidden states weighted by the data owner's secret `readout` row: a one at the
mask position, or 1/length over the tokens.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from secp_spu.model.activation import activation
from secp_spu.model.layers import Norm
from secp_spu.model.transformer_config import EncoderConfig
from secp_spu.protocol import Number, to_float

SIMILARITY_SCALE = 20.0
"""Turns cosine similarities into logits, as in the training of sentence embeddings."""


def read_out(hidden: Number, readout: Number) -> Array:
    """One vector a sequence: hidden [batch, tokens, width], readout [batch, tokens] -> [batch, width]."""
    return to_float((hidden * readout[..., None]).sum(1))


class LabelWordHead(nn.Module):
    """The language-model head for the label words' columns alone: at the mask, or of a decoder at the last token."""

    config: EncoderConfig
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
        normed = Norm(self.config.layer_norm_epsilon, name="norm")(activation(self.config.head_activation)(dense))
        return nn.Dense(self.labels, name="decoder")(normed)


class PooledEmbedding(nn.Module):
    """The sentence embedding: the mean hidden state, of length one.

    Attributes:
        folded: the hidden states come without the last norm's gain and shift, which are parameters here.
    """

    folded: bool = False

    @nn.compact
    def __call__(self, hidden: Number, readout: Number) -> Array:
        """Embeddings [batch, width] of hidden [batch, tokens, width]; readout holds 1/length on tokens."""
        mean = read_out(hidden, readout)
        if self.folded:
            mean = mean * self.param("scale", nn.initializers.ones, mean.shape[-1:])
            mean = mean + self.param("bias", nn.initializers.zeros, mean.shape[-1:])
        return mean * jax.lax.rsqrt(jnp.sum(mean * mean, -1, keepdims=True))


class LabelEmbeddingHead(nn.Module):
    """Similarity of the sentence embedding to each label's, for encoders without a masked-LM head.

    Attributes:
        folded: as in `PooledEmbedding`.
    """

    folded: bool = False

    @nn.compact
    def __call__(self, hidden: Number, readout: Number, labels: Array) -> Array:
        """Logits [batch, labels] of hidden [batch, tokens, width]; labels: the label embeddings [labels, width]."""
        return PooledEmbedding(self.folded, name="pooled")(hidden, readout) @ labels.T * SIMILARITY_SCALE
