"""An encoder's config in, names and shapes out: which of Hugging Face's tensors make which of our arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from secp_spu.model.activation import QUADRATIC
from secp_spu.model.config import EncoderConfig, FunctionKind


class _Module(NamedTuple):
    """A module of ours and those of theirs whose arrays are joined to its own, on the last axis, in this order.

    `sizes`: shape of one source's weight as Hugging Face lays it out, in fields of EncoderConfig.
    """

    name: str
    arrays: Mapping[str, str]
    sources: tuple[str, ...]
    sizes: tuple[str, ...]


class Leaf(NamedTuple):
    """One array of ours: the tensors it is joined from, and the shape of each of them."""

    tensors: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Shape of our array."""
        *rows, columns = self.shape[::-1] if self.transposed else self.shape
        return (*rows, columns * len(self.tensors))


Leaves = dict[tuple[str, ...], Leaf]

_DENSE = {"kernel": "weight", "bias": "bias"}
_NORM = {"scale": "weight", "bias": "bias"}
_TABLE = {"embedding": "weight"}
WORDS = "embeddings.word_embeddings"
_QUERY_KEY_VALUE = ("attention.self.query", "attention.self.key", "attention.self.value")

EMBEDDINGS = (
    _Module("word", _TABLE, (WORDS,), ("vocab_size", "width")),
    _Module("position", _TABLE, ("embeddings.position_embeddings",), ("max_positions", "width")),
    _Module("type", _TABLE, ("embeddings.token_type_embeddings",), ("type_vocab_size", "width")),
    _Module("norm", _NORM, ("embeddings.LayerNorm",), ("width",)),
)
_LAYER = (
    _Module("query_key_value", _DENSE, _QUERY_KEY_VALUE, ("width", "width")),
    _Module("attention_output", _DENSE, ("attention.output.dense",), ("width", "width")),
    _Module("attention_norm", _NORM, ("attention.output.LayerNorm",), ("width",)),
    _Module("intermediate", _DENSE, ("intermediate.dense",), ("intermediate", "width")),
    _Module("output", _DENSE, ("output.dense",), ("width", "intermediate")),
    _Module("output_norm", _NORM, ("output.LayerNorm",), ("width",)),
)
IGNORED = (
    *("embeddings.position_ids", "embeddings.token_type_ids", "pooler.dense.weight", "pooler.dense.bias"),
    *("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
)
"""Buffers, and heads for other tasks."""


class Family(NamedTuple):
    """What BERT and RoBERTa name or do differently.

    `classes` is the prefix of transformers' class names, `decoder_bias` the name under which the bias of the decoder is
    stored, `padding_id` the default of pad_token_id. The head's activation is that of the layers if it is None here.
    """

    classes: str
    head: tuple[_Module, _Module, _Module]
    decoder_bias: str
    head_activation: FunctionKind | None
    padding_id: int
    counts_from_padding: bool

    @property
    def decoder(self) -> str:
        """Hugging Face's name of the head's last module."""
        return self.head[2].sources[0]

    def fixed_fields(self, padding_id: int, activation: FunctionKind) -> dict[str, Any]:
        """Fields of EncoderConfig that follow from the model type, the padding id and the activation of hidden_act."""
        return {
            "position_offset": padding_id + 1 if self.counts_from_padding else 0,
            "head_activation": self.head_activation or activation,
        }


def _head(dense: str, norm: str, decoder: str) -> tuple[_Module, _Module, _Module]:
    return (
        _Module("dense", _DENSE, (dense,), ("width", "width")),
        _Module("norm", _NORM, (norm,), ("width",)),
        _Module("decoder", _DENSE, (decoder,), ("vocab_size", "width")),
    )


_BERT_HEAD = _head("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder")
_ROBERTA_HEAD = _head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")
FAMILIES = {
    "bert": Family("Bert", _BERT_HEAD, "cls.predictions.bias", None, 0, counts_from_padding=False),
    "roberta": Family("Roberta", _ROBERTA_HEAD, "lm_head.bias", "gelu", 1, counts_from_padding=True),
}


def module_leaves(config: EncoderConfig, modules: Sequence[_Module], path: tuple = (), prefix: str = "") -> Leaves:
    """The arrays of modules, by their path in our tree."""
    leaves = {}
    for module in modules:
        shape = tuple(getattr(config, size) for size in module.sizes)
        for ours, theirs in module.arrays.items():
            tensors = tuple(f"{prefix}{source}.{theirs}" for source in module.sources)
            leaf = Leaf(tensors, shape if theirs == "weight" else shape[:1], transposed=ours == "kernel")
            leaves[(*path, module.name, ours)] = leaf
    return leaves


def encoder_leaves(config: EncoderConfig, prefix: str) -> Leaves:
    """The arrays of `Encoder`, by their path in its params."""
    leaves = module_leaves(config, EMBEDDINGS, ("embeddings",), prefix)
    for layer in range(config.layers):
        ours, theirs = f"layers_{layer}", f"{prefix}encoder.layer.{layer}."
        leaves |= module_leaves(config, _LAYER, (ours,), theirs)
        if config.attention == "rfa":
            leaves[(ours, "attention", "length")] = Leaf((f"{theirs}attention.self.length",), (config.heads,))
        elif config.attention == "fourier":
            shape = config.heads, config.head_dim, config.features
            leaves[(ours, "attention", "frequencies")] = Leaf((f"{theirs}attention.self.frequencies",), shape)
        for name in QUADRATIC if config.activation == "quadratic" else ():
            leaves[(ours, "activation", name)] = Leaf(
                (f"{theirs}intermediate.activation.{name}",), (config.intermediate,)
            )
    return leaves
