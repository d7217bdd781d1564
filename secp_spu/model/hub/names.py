"""A model's config in, names and shapes out: which of Hugging Face's keys and tensors make which of our own."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from secp_spu.model.activation import QUADRATIC
from secp_spu.model.transformer_config import FunctionKind, TransformerConfig


class _Module(NamedTuple):
    """A module of ours and those of theirs whose arrays are joined to its own, on the last axis, in this order.

    `sizes`: shape of one source's weight as Hugging Face lays it out, in attributes of TransformerConfig; `transposed`:
    it is [out, in], as most of their kernels are.
    """

    name: str
    arrays: Mapping[str, str]
    sources: tuple[str, ...]
    sizes: tuple[str, ...]
    transposed: bool = True


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
_QUERY_KEY_VALUE = ("attention.self.query", "attention.self.key", "attention.self.value")

_EMBEDDINGS = (
    _Module("word", _TABLE, ("embeddings.word_embeddings",), ("vocab_size", "width")),
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
_DECODER_EMBEDDINGS = (
    _Module("word", _TABLE, ("wte",), ("vocab_size", "width")),
    _Module("position", _TABLE, ("wpe",), ("max_positions", "width")),
)
_DECODER_LAYER = (
    _Module("attention_norm", _NORM, ("ln_1",), ("width",)),
    _Module("query_key_value", _DENSE, ("attn.c_attn",), ("width", "projected"), transposed=False),
    _Module("attention_output", _DENSE, ("attn.c_proj",), ("width", "width"), transposed=False),
    _Module("intermediate_norm", _NORM, ("ln_2",), ("width",)),
    _Module("intermediate", _DENSE, ("mlp.c_fc",), ("width", "intermediate"), transposed=False),
    _Module("output", _DENSE, ("mlp.c_proj",), ("intermediate", "width"), transposed=False),
)
IGNORED = re.compile(
    r"((bert|roberta)\.)?(embeddings\.(position_ids|token_type_ids)|pooler\.dense\.(weight|bias))"
    r"|transformer\.h\.\d+\.attn\.(masked_)?bias|cls\.seq_relationship\.(weight|bias)"
)
"""Names of buffers, and of heads for other tasks."""

_SIZES = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
}
"""Fields of TransformerConfig, and their keys in config.json."""

_DECODER_SIZES = {
    "vocab_size": "vocab_size",
    "width": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "intermediate": "n_inner",
    "max_positions": "n_positions",
}

_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_DECODER_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}


class Family(NamedTuple):
    """What the model types name or do differently.

    Attributes:
        classes: prefix of transformers' class names.
        head_class: what follows it in the name of the class with a language-model head.
        prefix: of the names in such a model, but for its head's.
        head: its head's modules, the last of which is the decoder.
        decoder_bias: name under which the decoder's bias is stored; None if it has none.
        padding_id: default of pad_token_id; None if there need be none.
        head_activation: of the head; None for that of the layers.
        counts_from_padding: so position ids do.
        embeddings, layer: modules of `Embeddings` and of a layer.
        layer_prefix: of a layer's names, in front of its number.
        attention_prefix, activation_prefix: of the names of adapted attention's and activation's own parameters.
        sizes: fields of TransformerConfig and their keys in config.json.
        activation, epsilon: keys of the layers' activation and of their norms' epsilon, and the defaults.
        fixed: keys that must have these values, which are their defaults.
        causal: it is a decoder, whose head every folder has.
    """

    classes: str
    head: tuple[_Module, ...]
    decoder_bias: str | None
    head_activation: FunctionKind | None
    padding_id: int | None
    counts_from_padding: bool
    prefix: str
    head_class: str = "ForMaskedLM"
    embeddings: tuple[_Module, ...] = _EMBEDDINGS
    layer: tuple[_Module, ...] = _LAYER
    layer_prefix: str = "encoder.layer."
    attention_prefix: str = "attention.self."
    activation_prefix: str = "intermediate.activation."
    sizes: Mapping[str, str] = _SIZES
    activation: tuple[str, str] = ("hidden_act", "gelu")
    epsilon: tuple[str, float] = ("layer_norm_eps", 1e-12)
    fixed: Mapping[str, Any] = _FIXED
    causal: bool = False

    @property
    def decoder(self) -> str:
        """Hugging Face's name of the head's last module."""
        return self.head[-1].sources[0]

    @property
    def words(self) -> str:
        """Hugging Face's name of the word embeddings, without prefix."""
        return self.embeddings[0].sources[0]

    def fixed_fields(self, padding_id: int | None, activation: FunctionKind) -> dict[str, Any]:
        """Fields of TransformerConfig that follow from the model type, the padding id and hidden_act."""
        return {
            "position_offset": padding_id + 1 if self.counts_from_padding and padding_id is not None else 0,
            "head_activation": self.head_activation or activation,
            "causal": self.causal,
            **({} if "type_vocab_size" in self.sizes else {"type_vocab_size": 0}),
        }


def _head(dense: str, norm: str, decoder: str) -> tuple[_Module, _Module, _Module]:
    return (
        _Module("dense", _DENSE, (dense,), ("width", "width")),
        _Module("norm", _NORM, (norm,), ("width",)),
        _Module("decoder", _DENSE, (decoder,), ("vocab_size", "width")),
    )


_BERT_HEAD = _head("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder")
_ROBERTA_HEAD = _head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")
_GPT2_HEAD = (
    _Module("norm", _NORM, ("transformer.ln_f",), ("width",)),
    _Module("decoder", {"kernel": "weight"}, ("lm_head",), ("vocab_size", "width")),
)
FAMILIES = {
    "bert": Family("Bert", _BERT_HEAD, "cls.predictions.bias", None, 0, counts_from_padding=False, prefix="bert."),
    "roberta": Family("Roberta", _ROBERTA_HEAD, "lm_head.bias", "gelu", 1, counts_from_padding=True, prefix="roberta."),
    "gpt2": Family(
        "GPT2",
        _GPT2_HEAD,
        decoder_bias=None,
        head_activation=None,
        padding_id=None,
        counts_from_padding=False,
        prefix="transformer.",
        head_class="LMHeadModel",
        embeddings=_DECODER_EMBEDDINGS,
        layer=_DECODER_LAYER,
        layer_prefix="h.",
        attention_prefix="attn.",
        activation_prefix="mlp.activation.",
        sizes=_DECODER_SIZES,
        activation=("activation_function", "gelu_new"),
        epsilon=("layer_norm_epsilon", 1e-5),
        fixed=_DECODER_FIXED,
        causal=True,
    ),
}


def module_leaves(config: TransformerConfig, modules: Sequence[_Module], path: tuple = (), prefix: str = "") -> Leaves:
    """The arrays of modules, by their path in our tree."""
    leaves = {}
    for module in modules:
        shape = tuple(getattr(config, size) for size in module.sizes)
        for ours, theirs in module.arrays.items():
            tensors = tuple(f"{prefix}{source}.{theirs}" for source in module.sources)
            bias_shape = shape[:1] if module.transposed else shape[-1:]
            transposed = ours == "kernel" and module.transposed
            leaf = Leaf(tensors, shape if theirs == "weight" else bias_shape, transposed)
            leaves[(*path, module.name, ours)] = leaf
    return leaves


def encoder_leaves(config: TransformerConfig, family: Family, prefix: str) -> Leaves:
    """The arrays of `Transformer`, by their path in its params."""
    leaves = module_leaves(config, family.embeddings, ("embeddings",), prefix)
    for layer in range(config.layers):
        ours, theirs = f"layers_{layer}", f"{prefix}{family.layer_prefix}{layer}."
        leaves |= module_leaves(config, family.layer, (ours,), theirs)
        attention = f"{theirs}{family.attention_prefix}"
        if config.attention == "rfa":
            leaves[(ours, "attention", "length")] = Leaf((f"{attention}length",), (config.heads,))
        elif config.attention == "fourier":
            shape = config.heads, config.head_dim, config.features
            leaves[(ours, "attention", "frequencies")] = Leaf((f"{attention}frequencies",), shape)
        for name in QUADRATIC if config.activation == "quadratic" else ():
            tensor = f"{theirs}{family.activation_prefix}{name}"
            leaves[(ours, "activation", name)] = Leaf((tensor,), (config.intermediate,))
    return leaves
