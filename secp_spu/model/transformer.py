"""Computes hidden states of token ids or embeddings: encoder or decoder, in plaintext and under MPC alike.

The same modules serve three uses, with plain arrays and with `Fixed`. `init` (or `jax.eval_shape` of it) declares
three collections: "params", secret under MPC; "public", what everybody may know; "correlations", what one call spends.
`apply` with the first two is the plaintext model; `apply` with all three is for SPU.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.activation import activation_class
from secp_spu.model.attention import attention_class
from secp_spu.model.layers import Dense, Norm, Residual, keep_for_backward
from secp_spu.model.precision import HIDDEN_BITS, OUTPUT_WEIGHT_BITS, STREAM_BITS, SUM_BITS
from secp_spu.model.setting import PLAIN, Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import Number, as_plain, rearranged, rounded


class Embeddings(nn.Module):
    """Word, position and type embeddings and their layer norm: the data owner's part of the model, in plaintext.

    A decoder has neither types nor a norm here.
    """

    config: TransformerConfig

    def setup(self) -> None:
        """Declare the tables."""
        config = self.config
        self.word = nn.Embed(config.vocab_size, config.width)
        self.position = nn.Embed(config.max_positions, config.width)
        if not config.causal:
            self.type = nn.Embed(config.type_vocab_size, config.width)
            self.norm = Norm(config.layer_norm_epsilon)

    def __call__(self, vectors: Array, first_position: int = 0) -> Array:
        """Word vectors as the first layer wants them.

        Args:
            vectors: word embeddings or soft prompts [batch, tokens, width].
            first_position: place of the first of them in the whole sequence.
        Returns: [batch, tokens, width].
        """
        positions = jnp.arange(vectors.shape[1]) + first_position + self.config.position_offset
        placed = vectors + self.position(positions)
        return placed if self.config.causal else self.norm(placed + self.type(jnp.zeros(1, jnp.int32)))

    def words(self, token_ids: Array) -> Array:
        """Word embeddings of ids [batch, tokens], without position: [batch, tokens, width]."""
        return self.word(token_ids)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with its residual and a layer norm after it.

    Attributes:
        config: of the transformer.
        layer: its number, from which random frequencies are drawn.
        setting: where it runs; folded (folding.py), what comes in and goes out are a norm's rows without its gain and
            shift, zero where a token is padding.
    """

    config: TransformerConfig
    layer: int = 0
    setting: Setting = PLAIN

    @nn.compact
    def __call__(self, hidden: Number, padding_mask: Number, weights: Number | None = None) -> Number:
        """One layer.

        Args:
            hidden: [batch, tokens, width], of HIDDEN_BITS fraction bits under SPU.
            padding_mask: 1 for tokens, 0 for padding [batch, tokens].
            weights: the attention's `token_weights` of the padding mask, where one program makes them for all layers
                (`Attention.weight_bits`); made here if None.
        Returns: [batch, tokens, width], likewise.
        """
        config, setting = self.config, self.setting
        keep_for_backward(self, tokens=padding_mask.sum(-1))
        if weights is None:
            weights = attention_class(config).token_weights(padding_mask, config)
        attended = self._attend(hidden, weights) + Residual(setting, name="attention_residual")(hidden)
        hidden = Norm(config.layer_norm_epsilon, setting, name="attention_norm")(rounded(attended, SUM_BITS))

        inner = self._feed_forward(hidden) + Residual(setting, name="output_residual")(hidden)
        keep = padding_mask if setting.folded else None
        return Norm(config.layer_norm_epsilon, setting, name="output_norm")(rounded(inner, SUM_BITS), keep)

    def _attend(self, rows: Number, weights: Number | None) -> Number:
        """Attention and its output [batch, tokens, width] of a norm's rows; weights: as its kind wants them."""
        config, setting = self.config, self.setting
        query, key, value = self._project(rows)
        attention = attention_class(config)(config, self.layer, setting, name="attention")
        attended = rearranged(join_heads, attention(query, key, value, weights))
        return Dense(config.width, setting, name="attention_output")(attended)

    def _feed_forward(self, rows: Number) -> Number:
        """[batch, tokens, width] of a norm's rows."""
        config, setting = self.config, self.setting
        inner = Dense(config.intermediate, setting, name="intermediate")(rows)
        inner = activation_class(config)(config, setting, name="activation")(inner)
        return Dense(config.width, setting, OUTPUT_WEIGHT_BITS, name="output")(inner)

    def _project(self, hidden: Number) -> list[Number]:
        """Queries, keys and values [batch, heads, tokens, columns], with the columns that the attention says."""
        config, setting = self.config, self.setting
        columns = attention_class(config).projected_columns(config, setting)
        projected = Dense(sum(columns), setting, name="query_key_value")(hidden)
        ends = np.cumsum(columns)
        split = partial(split_heads, heads=config.heads)
        return [rearranged(split, projected[..., end - size : end]) for end, size in zip(ends, columns, strict=True)]


def split_heads(projected: Array, heads: int) -> Array:
    """[batch, tokens, heads * columns] to [batch, heads, tokens, columns]."""
    batch, tokens, columns = projected.shape
    return projected.reshape(batch, tokens, heads, columns // heads).transpose(0, 2, 1, 3)


def join_heads(attended: Array) -> Array:
    """[batch, heads, tokens, head_dim] to [batch, tokens, width]."""
    batch, heads, tokens, head_dim = attended.shape
    return attended.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * head_dim)


class DecoderLayer(EncoderLayer):
    """Causal attention and feed-forward, each with a layer norm before it and added to the residual stream.

    Tokens before padding never see it, and what becomes of padding nobody reads, so that no mask is needed.

    Folded, gains and shifts of the norms are in the dense layers that read them (folding.py).
    """

    @nn.compact
    def __call__(self, hidden: Number, padding_mask: Number | None = None, weights: Number | None = None) -> Number:
        """One layer.

        Args:
            hidden: the residual stream [batch, tokens, width], of STREAM_BITS fraction bits under SPU.
            padding_mask, weights: as encoder layers have them; not used.
        Returns: [batch, tokens, width], likewise.
        """
        del padding_mask, weights
        norm = partial(Norm, self.config.layer_norm_epsilon, self.setting, stream=True)
        hidden = rounded(hidden + self._attend(norm(name="attention_norm")(hidden), None), STREAM_BITS)
        return rounded(hidden + self._feed_forward(norm(name="intermediate_norm")(hidden)), STREAM_BITS)


def layer_class(config: TransformerConfig) -> type[EncoderLayer]:
    """What the layers of such a model are."""
    return DecoderLayer if config.causal else EncoderLayer


def hidden_bits(config: TransformerConfig) -> int:
    """Fraction bits of what goes from layer to layer under SPU."""
    return STREAM_BITS if config.causal else HIDDEN_BITS


class Transformer(nn.Module):
    """The whole stack in one module: the plaintext model, and what training scripts differentiate.

    A decoder's last norm is in its head.
    """

    config: TransformerConfig

    def setup(self) -> None:
        """Declare embeddings and layers."""
        self.embeddings = Embeddings(self.config)
        self.layers = [layer_class(self.config)(self.config, i) for i in range(self.config.layers)]

    def __call__(self, token_ids: Array, padding_mask: Array) -> Array:
        """Hidden states [batch, tokens, width] of token ids [batch, tokens]."""
        return self.encode_vectors(self.embeddings.words(token_ids), padding_mask)

    def encode_vectors(self, vectors: Array, padding_mask: Array) -> Array:
        """The same of word embeddings or soft prompts [batch, tokens, width]."""
        return self.encode(self.embeddings(vectors), padding_mask)

    def encode(self, hidden: Array, padding_mask: Array) -> Array:
        """The layers alone, on what `Embeddings` returns."""
        for layer in self.layers:
            hidden = as_plain(layer(hidden, padding_mask))
        return hidden
