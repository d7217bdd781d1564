"""Reads and writes Hugging Face folders: BERT and RoBERTa with or without head, and GPT-2.

A folder holds config.json, model.safetensors (or shards and their index) and tokenizer.json. Hugging Face has no names
for the attention and the activation of an adapted model. Their settings stand under the key "secp_spu" of config.json,
and their parameters are further tensors of each layer. Random frequencies and the coefficients of a series are not
stored: they follow from the seed, and from the range and the number of terms, in "secp_spu".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from secp_spu.files import unwritable
from secp_spu.model.activation import ACTIVATIONS, is_gelu
from secp_spu.model.attention import ATTENTIONS, attention_class
from secp_spu.model.hub.config_json import CheckpointError, read_config, write_config
from secp_spu.model.hub.families import FAMILIES
from secp_spu.model.hub.names import flatten, module_leaves, transformer_leaves, unflatten
from secp_spu.model.hub.tensors import Tensors, scatter
from secp_spu.model.transformer_config import ActivationKind, AttentionKind, TransformerConfig
from secp_spu.protocol import GeluSeries, fit_gelu
from secp_spu.trees import Tree

DEFAULT_TERMS = 5
"""Harmonics of a series for a checkpoint that was not adapted to one: within 2.1e-3 of GELU for |x| <= 8."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder's model.

    Attributes:
        config: the transformer's.
        variables: collections "params" and "public" of `Transformer(config)`, float32 in numpy.
        head: "params" of `LabelWordHead` over the whole vocabulary; None if the folder has no language-model head.
        model_type: "bert", "roberta" or "gpt2".
        folder: where it came from.
    """

    config: TransformerConfig
    variables: dict[str, Tree]
    head: Tree | None
    model_type: str
    folder: Path

    def layer(self, index: int) -> dict[str, Tree]:
        """Collections "params" and "public" of `EncoderLayer(config, index)`."""
        name = f"layers_{index}"
        return {"params": self.variables["params"][name], "public": self.variables["public"].get(name, {})}

    def with_activation(
        self, kind: ActivationKind, *, limit: float | None = None, terms: int | None = None, force: bool = False
    ) -> Checkpoint:
        """The same weights with another activation in the feed-forward layers.

        What computes nearly the same may be taken freely: "gelu" and "gelu_tanh" for each other (5e-4), and "series"
        for either (its error is that of `fit_gelu`, within the range). A head that has either gets the one that is
        asked for, with "series" the cheaper "gelu_tanh".

        Args:
            kind: which.
            limit: range |x| of "series"; None for that of the checkpoint.
            terms: harmonics of "series"; None for those of the checkpoint, or DEFAULT_TERMS.
            force: take one that the weights were not adapted to; "quadratic" has weights of its own and needs them.
        Raises: CheckpointError if the checkpoint was adapted to another one; ValueError for a series out of range.
        """
        own = self.config
        gelu_head = ACTIVATIONS[kind].gelu_head
        has = f"{self.folder} has activation {_describe(own)}, asked for is"
        remedy = "adapt the checkpoint first, take its own, or set model.force_activation: true"
        may = force or (is_gelu(own.activation) and gelu_head is not None)
        if kind != own.activation:  # before a range is asked for that would not help
            if ACTIVATIONS[kind].parameters:
                raise CheckpointError(f"{has} {kind}, which has weights of its own: adapt the checkpoint first")
            if not may:
                raise CheckpointError(f"{has} {kind}: {remedy}")
        head = gelu_head if gelu_head and is_gelu(own.head_activation) else own.head_activation
        wanted = replace(own, activation=kind, series=self._series(kind, limit, terms), head_activation=head)
        if (wanted.activation, wanted.series) == (own.activation, own.series):
            return replace(self, config=wanted)
        if not may:
            raise CheckpointError(f"{has} {_describe(wanted)}: {remedy}")
        return replace(self, config=wanted, variables=_without_activation(self.variables))

    def _series(self, kind: ActivationKind, limit: float | None, terms: int | None) -> GeluSeries | None:
        """The series that is asked for, where one is."""
        if not ACTIVATIONS[kind].uses_series:
            return None
        own = self.config.series
        limit = own.limit if limit is None and own else limit
        if limit is None:
            raise CheckpointError(f"{self.folder} has no range for activation series: set model.activation_range")
        return fit_gelu(float(limit), terms or (own.terms if own else DEFAULT_TERMS))

    def label_word_head(self, token_ids: Sequence[int]) -> Tree:
        """Params of `LabelWordHead(config, len(token_ids))`: the decoder's columns of these tokens alone."""
        if self.head is None:
            raise CheckpointError(
                f"{self.folder} has no masked-LM head, label words need one: take a checkpoint of "
                f"{FAMILIES[self.model_type].classes}ForMaskedLM, or LabelEmbeddingHead"
            )
        last = self.config.vocab_size - 1
        strangers = [token for token in token_ids if not 0 <= token <= last]
        if strangers:
            raise ValueError(f"token_ids holds {strangers[0]}, allowed are 0 to {last}: use this folder's tokenizer")
        decoder = {name: array[..., list(token_ids)] for name, array in self.head["decoder"].items()}
        return {**self.head, "decoder": decoder}


def load_checkpoint(folder: str | Path, *, attention: AttentionKind | None = None) -> Checkpoint:
    """The encoder of a Hugging Face folder and, where it has one, its masked-LM head.

    Args:
        folder: with config.json and model.safetensors or model.safetensors.index.json.
        attention: what the caller needs; an error if the checkpoint is of the other kind.
    Raises: CheckpointError, naming the key or the tensor.
    """
    folder = Path(folder)
    hub, config = read_config(folder)
    if attention is not None and attention != config.attention:
        remedy = "take the checkpoint it was adapted from" if not ATTENTIONS[attention].adapted else "adapt it first"
        raise CheckpointError(f"{folder} has {config.attention} attention, asked for is {attention}: {remedy}")
    tensors = Tensors(folder, hub)
    leaves = transformer_leaves(config, tensors.family, tensors.prefix)
    head_leaves = module_leaves(config, tensors.family.head) if tensors.has_head else {}
    tensors.refuse_unknown([*leaves.values(), *head_leaves.values()])
    return Checkpoint(
        config=config,
        variables={"params": tensors.gather(leaves), "public": _public(config)},
        head=tensors.gather(head_leaves) or None,
        model_type=str(hub["model_type"]),
        folder=folder,
    )


def load_transformer_config(folder: str | Path) -> TransformerConfig:
    """What config.json says about the model; no tensor of the folder is read.

    Raises: CheckpointError, naming the key.
    """
    return read_config(Path(folder))[1]


def load_embeddings(folder: str | Path) -> tuple[TransformerConfig, Tree]:
    """Config and params of `Embeddings`, the data owner's part; no other tensor of the folder is read."""
    hub, config = read_config(Path(folder))
    tensors = Tensors(Path(folder), hub)
    return config, tensors.gather(module_leaves(config, tensors.family.embeddings, prefix=tensors.prefix))


def save_embeddings(source: str | Path, folder: str | Path) -> None:
    """Write the data owner's part of a model into a folder of its own: config, tokenizer, and the embedding tables.

    config.json is written anew, with what a data owner needs to run: sizes, attention, activation. How the model was
    made (the recipe of an adaptation) and where it came from (`_name_or_path`) stay with the model owner.

    Args:
        source: the model owner's folder.
        folder: made if it is not there; `load_embeddings` opens it. No other weight goes into it.
    Raises: CheckpointError for a source that cannot be read, or a folder that cannot be written; FileExistsError for a
        folder that holds something.
    """
    source, folder = Path(source), Path(folder)
    if problem := unwritable(folder):
        raise CheckpointError(problem)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder")
    hub, config = read_config(source)
    tensors = Tensors(source, hub)
    leaves = module_leaves(config, tensors.family.embeddings, prefix=tensors.prefix)
    params = tensors.gather(leaves)
    if not (source / "tokenizer.json").exists():
        raise CheckpointError(f"{source} has no tokenizer.json, which the data owner needs")
    padding_id = hub.get("pad_token_id")  # RoBERTa's positions count from it
    described = write_config(config, str(hub["model_type"]), {"pad": padding_id} if isinstance(padding_id, int) else {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
        save_file(scatter(leaves, params, float16=False), folder / "model.safetensors", metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written ({error}): choose another folder") from error


def save_checkpoint(
    folder: str | Path,
    config: TransformerConfig,
    variables: Mapping[str, Tree],
    head: Tree | None = None,
    *,
    model_type: str = "roberta",
    tokenizer_json: str | Path | None = None,
    special_ids: Mapping[str, int] | None = None,
    float16: bool = False,
) -> None:
    """Write a folder that `load_checkpoint` and transformers open (transformers knows softmax attention only).

    Args:
        folder: made if it is not there.
        config, variables, head: as in `Checkpoint`; of the variables only "params" is stored. The decoder is tied to
            the word embeddings if it equals them.
        model_type: "bert", "roberta" or "gpt2".
        tokenizer_json: path of the tokenizer.json to copy.
        special_ids: token ids by name: {"pad": 1, "mask": 4} for pad_token_id and mask_token_id.
        float16: store weights in half the bytes, rounded to 11 significant bits.
    Raises: CheckpointError if config does not fit the model type, or an array the config, or a decoder has no head.
    """
    folder = Path(folder)
    hub = write_config(config, model_type, special_ids or {}) | {"torch_dtype": "float16" if float16 else "float32"}
    family = FAMILIES[model_type]
    if family.causal and not head:
        raise CheckpointError(f"a {model_type} model has its last norm in its head: pass head")
    prefix = family.prefix if head else ""
    tensors = scatter(transformer_leaves(config, family, prefix), variables["params"], float16=float16)
    if head:
        tensors |= scatter(module_leaves(config, family.head), head, float16=float16)
        if family.decoder_bias:
            tensors[family.decoder_bias] = tensors.pop(f"{family.decoder}.bias")
        decoder, words = tensors[f"{family.decoder}.weight"], tensors[f"{prefix}{family.words}.weight"]
        hub["tie_word_embeddings"] = np.array_equal(decoder, words)
        if hub["tie_word_embeddings"]:
            del tensors[f"{family.decoder}.weight"]
    hub["architectures"] = [family.classes + (family.head_class if head else "Model")]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hub, indent=2, sort_keys=True) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer_json is not None:
        shutil.copyfile(tokenizer_json, folder / "tokenizer.json")


def _describe(config: TransformerConfig) -> str:
    series = config.series
    return f"series of {series.terms} terms for |x| <= {series.limit:g}" if series else config.activation


def _without_activation(variables: dict[str, Tree]) -> dict[str, Tree]:
    """Without the parameters of an activation, which another has no use for."""
    flat = flatten(variables["params"])
    return {**variables, "params": unflatten({p: leaf for p, leaf in flat.items() if p[1] != "activation"})}


def _public(config: TransformerConfig) -> Tree:
    """The collection "public" of `Transformer`."""
    layers = {f"layers_{layer}": attention_class(config).public(config, layer) for layer in range(config.layers)}
    return {name: {"attention": public} for name, public in layers.items() if public}
