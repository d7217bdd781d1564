"""Token ids or embeddings in, hidden states out: BERT's and RoBERTa's encoder, in plaintext and under MPC alike.

The same modules serve three uses. `init` (or `jax.eval_shape` of it) declares three collections: "params", secret
under MPC; "public", what everybody may know; "correlations", what one call spends. `apply` with the first two is the
plaintext model; `apply` with all three is for SPU.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from secp_spu.model.activation import Activation
from secp_spu.model.attention import RandomFeatureAttention, SoftmaxAttention
from secp_spu.model.config import EncoderConfig
from secp_spu.protocol import to_float


class Embeddings(nn.Module):
    """Word, position and type embeddings and their layer norm: the data owner's part of the model, in plaintext."""

    config: EncoderConfig

    def setup(self):
        """Declare the tables."""
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.width)
        self.position = nn.Embed(config.max_positions, config.width)
        self.type = nn.Embed(config.type_vocab_size, config.width)
        self.norm = layer_norm(config)

    def __call__(self, vectors: Array, first_position: int = 0) -> Array:
        """Word vectors as the first layer wants them.

        Args:
            vectors: word embeddings or soft prompts [batch, tokens, width].
            first_position: place of the first of them in the whole sequence.
        Returns: [batch, tokens, width].
        """
        positions = jnp.arange(vectors.shape[1]) + first_position + self.config.position_offset
        return self.norm(vectors + self.position(positions) + self.type(jnp.zeros(1, jnp.int32)))

    def words(self, token_ids: Array) -> Array:
        """Word embeddings of ids [batch, tokens], without position: [batch, tokens, width]."""
        return self.word(token_ids)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with its residual and a layer norm after it."""

    config: EncoderConfig
    layer: int = 0

    @nn.compact
    def __call__(self, hidden: Array, padding_mask: Array) -> Array:
        """One layer.

        Args:
            hidden: [batch, tokens, width].
            padding_mask: 1 for tokens, 0 for padding [batch, tokens].
        Returns: [batch, tokens, width].
        """
        config = self.config
        batch, tokens, width = hidden.shape
        heads = nn.Dense(3 * width, name="query_key_value")(hidden)
        heads = heads.reshape(batch, tokens, 3, config.heads, config.head_dim).transpose(2, 0, 3, 1, 4)
        attention = RandomFeatureAttention if config.attention == "rfa" else SoftmaxAttention
        attended = attention(config, self.layer, name="attention")(heads[0], heads[1], heads[2], padding_mask)
        attended = attended.transpose(0, 2, 1, 3).reshape(batch, tokens, width)
        hidden = layer_norm(config, "attention_norm")(hidden + nn.Dense(width, name="attention_output")(attended))

        inner = nn.Dense(config.intermediate, name="intermediate")(hidden)
        inner = to_float(Activation(config, name="activation")(inner))
        return layer_norm(config, "output_norm")(hidden + nn.Dense(width, name="output")(inner))


class Encoder(nn.Module):
    """The whole stack in one module: the plaintext model, and what training scripts differentiate."""

    config: EncoderConfig

    def setup(self):
        """Declare embeddings and layers."""
        self.embeddings = Embeddings(self.config)
        self.layers = [EncoderLayer(self.config, i) for i in range(self.config.layers)]

    def __call__(self, token_ids: Array, padding_mask: Array) -> Array:
        """Hidden states [batch, tokens, width] of token ids [batch, tokens]."""
        return self.encode(self.embeddings(self.embeddings.words(token_ids)), padding_mask)

    def encode(self, hidden: Array, padding_mask: Array) -> Array:
        """The layers alone, on what `Embeddings` returns."""
        for layer in self.layers:
            hidden = layer(hidden, padding_mask)
        return hidden


def layer_norm(config: EncoderConfig, name: str | None = None) -> nn.LayerNorm:
    """A layer norm whose variance is taken after the mean: the one-pass formula cancels in fixed point."""
    return nn.LayerNorm(config.layer_norm_epsilon, use_fast_variance=False, name=name)
