"""Defines what a kind of attention says about itself: how it computes, folds and is stored, and its memory."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn

from secp_spu.model.setting import PLAIN, Setting
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import FRACTION_BITS, Number, NumberT
from secp_spu.trees import Floats, Tree


class Attention(nn.Module):
    """One kind of attention, from queries, keys and values to the heads' output.

    A new kind is a subclass in a file of its own and one line in `ATTENTIONS`. The subclass has a `__call__`; what the
    class attributes and class methods say is all that the rest of the project asks of a kind. The weights of a query's
    keys add up to one: `fold_layer` relies on it and adds the values' bias after attention.

    Attributes:
        config: of the transformer.
        layer: number of the layer, from which random frequencies are drawn.
        setting: where the module runs.

    Class attributes:
        adapted: a checkpoint gets this kind by adaptation; Hugging Face's own models do not have it.
        has_features: the kind takes the config's `features` and `feature_seed`, which stand in config.json.
        has_gradients: the baselines can differentiate it under MPC: it spends no correlation.
        has_backward: it keeps what `pull_back` reads; of an encoder.
        watches_kernel: the mean kernel of every query is in the collection "intermediates" under "mean_kernel", and
            adaptation keeps it above a floor.
        weight_bits: fraction bits of the token weights that one program makes for all layers of an encoder; None where
            every layer reads the padding mask itself.
    """

    config: TransformerConfig
    layer: int = 0
    setting: Setting = PLAIN

    adapted: ClassVar[bool] = True
    has_features: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = False
    has_backward: ClassVar[bool] = False
    watches_kernel: ClassVar[bool] = False
    weight_bits: ClassVar[int | None] = None

    def __call__(self, query: Number, key: Number, value: Number, weights: Number | None) -> Number:
        """Attend.

        Args:
            query, key, value: [batch, heads, tokens, columns], with the columns that `projected_columns` says.
            weights: what `token_weights` gives [batch, tokens]; None for a decoder.
        Returns: [batch, heads, tokens, head_dim].
        """
        raise NotImplementedError

    @classmethod
    def projected_columns(cls, config: TransformerConfig, setting: Setting) -> tuple[int, int, int]:
        """Columns of a layer's queries, keys and values."""
        del setting
        return config.width, config.width, config.width

    @classmethod
    def token_weights(cls, padding_mask: Number, config: TransformerConfig) -> Number:
        """What a token weighs as a key [batch, tokens], made of the padding mask."""
        del config
        return padding_mask

    @classmethod
    def fold(cls, kernel: Floats, bias: Floats, params: Tree, config: TransformerConfig) -> tuple[Floats, Floats, Tree]:
        """Put parameters and constants of the kind into the projections.

        Args:
            kernel, bias: of the projections to queries, keys and values [width, 3 width], [3 width].
            params: the attention's own.
            config: of the transformer.
        Returns: kernel and bias with the columns that a folded layer has, and what is left of the parameters.
        """
        del config
        return kernel, bias, params

    @classmethod
    def pull_back(
        cls, kept: Tree, cotangent: Number, tokens: Number, setting: Setting, wanted: slice
    ) -> tuple[Number, Number, Number]:
        """The cotangents of queries, keys and values, of the same fraction bits under MPC.

        Args:
            kept: by the forward pass, with folded parameters.
            cotangent: of the result [batch, heads, tokens, head_dim], of HEAD_COTANGENT_BITS.
            tokens: how many of each text are no padding [batch].
            setting: where it runs.
            wanted: tokens whose queries', keys' and values' cotangents are wanted.
        """
        raise NotImplementedError

    @classmethod
    def backward_kernel(cls, kernel: NumberT, config: TransformerConfig) -> NumberT:
        """The projections' kernel as the backward pass multiplies by it, of WEIGHT_BITS fraction bits as before.

        Args:
            kernel: folded [width, columns].
            config: of the transformer.
        """
        del config
        return kernel

    @classmethod
    def tensors(cls, config: TransformerConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the attention's own parameters, which a checkpoint holds for each layer under these names."""
        del config
        return {}

    @classmethod
    def public(cls, config: TransformerConfig, layer: int) -> Tree:
        """A layer's collection "public", which follows from the config and is not stored."""
        del config, layer
        return {}

    @classmethod
    def initial_projections(cls, dense: Tree, squares: Floats, config: TransformerConfig) -> Tree:
        """Projections with which adaptation starts.

        Args:
            dense: "kernel" and "bias" of the teacher's.
            squares: expected |q|^2, |k|^2 and |v|^2 of every head [3, heads].
            config: of the student.
        """
        del squares, config
        return dense

    @classmethod
    def pairs(cls, config: TransformerConfig) -> int:
        """How many (cos, sin) pairs of a correlation a token takes under MPC."""
        del config
        return 0

    @classmethod
    def scores(cls, config: TransformerConfig, tokens: int) -> int:
        """How many scores a token of a sequence of `tokens` takes."""
        del config, tokens
        return 0

    @classmethod
    def block_elements(cls, config: TransformerConfig, tokens: int) -> int:
        """How many elements a sequence's blocks of causal attention take, in all heads; none for an encoder."""
        del config, tokens
        return 0

    @classmethod
    def kept_elements(cls, config: TransformerConfig, tokens: int) -> int:
        """How many elements a layer keeps of a sequence for the backward pass."""
        del config, tokens
        return 0

    @classmethod
    def result_bits(cls, config: TransformerConfig) -> int:
        """Fraction bits of the result under MPC."""
        del config
        return FRACTION_BITS


def required(weights: Number | None) -> Number:
    """The weights of an encoder's tokens, which a decoder does without.

    Raises: ValueError if there are none.
    """
    if weights is None:
        raise ValueError("weights is None, but an encoder's attention needs them: pass what token_weights gives")
    return weights
