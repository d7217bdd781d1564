"""Defines what a family of checkpoints says about itself: its keys of config.json and its names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from secp_spu.model.transformer_config import ActivationKind
from secp_spu.trees import Json

ConfigFields: TypeAlias = dict[str, Any]  # Any: each field of TransformerConfig has a type of its own.
"""Some fields of a TransformerConfig, by name."""


class Module(NamedTuple):
    """A module of ours and the modules of Hugging Face whose arrays are joined to its own, on the last axis.

    Attributes:
        name: of our module.
        arrays: our names of arrays, and Hugging Face's.
        sources: Hugging Face's names of modules, in the order in which they are joined.
        sizes: shape of one source's weight as Hugging Face stores it, in attributes of TransformerConfig.
        transposed: the weight is stored as [out, in], as most of Hugging Face's kernels are.
    """

    name: str
    arrays: Mapping[str, str]
    sources: tuple[str, ...]
    sizes: tuple[str, ...]
    transposed: bool = True


DENSE = {"kernel": "weight", "bias": "bias"}
NORM = {"scale": "weight", "bias": "bias"}
TABLE = {"embedding": "weight"}
"""Arrays of dense layers, layer norms and embedding tables."""


class Family(NamedTuple):
    """What checkpoints of one model type name or do differently.

    A new family is a `Family` in a file of its own and one line in `FAMILIES`.

    Attributes:
        classes: prefix of transformers' class names.
        head_class: rest of the name of the class with a language-model head.
        prefix: of the names of tensors in a model with a head, except those of its head.
        embeddings, layer: modules of `Embeddings` and of a layer.
        layer_prefix: of a layer's names, before its number.
        attention_prefix, activation_prefix: of the names of the attention's and the activation's own parameters.
        head: the head's modules, the last of which is the decoder.
        decoder_bias: name under which the decoder's bias is stored; None if it has none.
        ignored: names of tensors that are buffers, or belong to heads for other tasks.
        padding_id: default of pad_token_id; None if there need be none.
        counts_from_padding: position ids begin after the padding id.
        head_activation: of the head; None for that of the layers.
        sizes: fields of TransformerConfig and their keys in config.json.
        activation, epsilon: keys of the layers' activation and of their norms' epsilon, and the defaults.
        fixed: keys that must have these values, which are their defaults.
        causal: the models are decoders, and every folder has the head.
    """

    classes: str
    head_class: str
    prefix: str
    embeddings: tuple[Module, ...]
    layer: tuple[Module, ...]
    layer_prefix: str
    attention_prefix: str
    activation_prefix: str
    head: tuple[Module, ...]
    decoder_bias: str | None
    ignored: re.Pattern[str]
    padding_id: int | None
    counts_from_padding: bool
    head_activation: ActivationKind | None
    sizes: Mapping[str, str]
    activation: tuple[str, str]
    epsilon: tuple[str, float]
    fixed: Mapping[str, Json]
    causal: bool = False

    @property
    def decoder(self) -> str:
        """Hugging Face's name of the head's last module."""
        return self.head[-1].sources[0]

    @property
    def words(self) -> str:
        """Hugging Face's name of the word embeddings, without prefix."""
        return self.embeddings[0].sources[0]

    def fixed_fields(self, padding_id: int | None, activation: ActivationKind) -> ConfigFields:
        """Fields of TransformerConfig that follow from the model type, the padding id and hidden_act."""
        return {
            "position_offset": padding_id + 1 if self.counts_from_padding and padding_id is not None else 0,
            "head_activation": self.head_activation or activation,
            "causal": self.causal,
            **({} if "type_vocab_size" in self.sizes else {"type_vocab_size": 0}),
        }


def masked_head(dense: str, norm: str, decoder: str) -> tuple[Module, Module, Module]:
    """The modules of a masked-LM head, by Hugging Face's names of them."""
    return (
        Module("dense", DENSE, (dense,), ("width", "width")),
        Module("norm", NORM, (norm,), ("width",)),
        Module("decoder", DENSE, (decoder,), ("vocab_size", "width")),
    )
