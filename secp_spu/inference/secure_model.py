"""Runs a model on a runtime, from shared inputs to secret logits: the layers are programs, one after another.

Every layer is the same compiled program, run with that layer's weights, so compile time and the masks' memory stay
those of one layer. Weights are shared once. A whole population goes through in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import DictKey
from spu.experimental import make_cached_var

from secp_spu.model import (
    EncoderLayer,
    LabelEmbeddingHead,
    LabelWordHead,
    PooledEmbedding,
    Setting,
    TransformerConfig,
    apply_module,
    attention_class,
    hidden_bits,
    layer_class,
    read_out,
)
from secp_spu.model.layers import with_bias
from secp_spu.protocol import FRACTION_BITS, Number, from_storage, to_ring, to_storage
from secp_spu.protocol.correlation import shape_struct
from secp_spu.runtime.base import Runtime
from secp_spu.runtime.handles import Stored
from secp_spu.runtime.ledger import Phase
from secp_spu.trees import Tree


def setting_of(runtime: Runtime) -> Setting:
    """The setting of modules in a runtime's programs, with folded parameters."""
    return Setting(secure=runtime.secure, folded=True, opens_operands=runtime.protocol == "semi2k")


@dataclass(frozen=True)
class Batch:
    """Shared inputs of a set of texts.

    Attributes:
        hidden: the texts' embeddings, ready for the first layer, zero on padding, encoded with `hidden_bits` fraction
            bits (`protocol.to_storage`) [texts, text_tokens, width].
        padding_mask: of prompt and text [texts, tokens].
        readout: what the head reads, of prompt and text [texts, tokens].
    """

    hidden: Stored
    padding_mask: Stored
    readout: Stored

    @property
    def handles(self) -> list[Stored]:
        """All of them, to be freed."""
        return [self.hidden, self.padding_mask, self.readout]


@dataclass(frozen=True)
class Kept:
    """What a forward pass left in shares for its backward pass.

    Attributes:
        layers: of each layer, what its modules kept.
        vector: what the head read [candidates * texts, width].
        readout: from which tokens [candidates * texts, tokens].
        texts: how many stood behind each prompt.
    """

    layers: list[Tree]
    vector: Stored
    readout: Stored
    texts: int


class StreamedLayers:
    """Layers that are shared when their turn comes and deleted after it: memory for one, their traffic in every pass.

    Args:
        runtime: where they go.
        count: how many.
        share: gives the variables of layer number i, as handles.
    """

    def __init__(self, runtime: Runtime, count: int, share: Callable[[int], Tree]):
        self._runtime, self._count, self._share = runtime, count, share

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tree]:
        for number in range(self._count):
            with self._runtime.ledger.phase("setup"):
                variables = self._share(number)
            yield variables
            self._runtime.free(variables)


class SecureModel:
    """A model whose weights and inputs the compute parties keep.

    Args:
        runtime: where it runs.
        config: of the transformer.
        layers: each layer's variables ("params", folded; "public"), as pytrees of handles; or `StreamedLayers`.
        head: parameters as handles: of the label-word head, folded (`fold_head`); or "scale" and "bias" of the last
            norm, for the label-embedding head.
        labels: how many.
        on_layer: called after every layer, for progress.

    Attributes:
        runtime: where it runs.
        config: of the transformer.
        keeps_openings: the first pass opens the weights' products for all later ones (SEMI2K, unless streamed).
        on_layer: called after every layer.
        head: the head's parameters.
        head_module: what computes the logits.
        labels: what the label-embedding head compares with, once `embed_labels` has been called.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: TransformerConfig,
        layers: Sequence[Tree] | StreamedLayers,
        head: Tree,
        labels: int,
        *,
        on_layer: Callable[[], None] = lambda: None,
    ):
        self.runtime, self.config, self._layers, self.head, self.on_layer = runtime, config, layers, head, on_layer
        self.labels: tuple[Stored, ...] = ()
        setting = setting_of(runtime)
        self._layer_module = layer_class(config)(config, setting=setting)
        stay = setting.secure and not isinstance(layers, StreamedLayers)
        self.keeps_openings = stay and setting.opens_operands
        if stay:
            prepare = static_kernels if self.keeps_openings else joined_biases
            self._layers = [{**v, "params": prepare(runtime, v["params"])} for v in layers]
        self._run_layer = partial(_run_layer, self._layer_module, self.keeps_openings)
        weighs = attention_class(config).weight_bits is not None and not config.causal
        self._weigh_tokens = partial(_weigh_tokens, config) if weighs else None
        bits = hidden_bits(config)
        self._pool = partial(_run_head, PooledEmbedding(setting), bits, setting)
        by_words = "decoder" in head
        self.head_module: nn.Module = LabelWordHead(config, labels) if by_words else LabelEmbeddingHead(setting)
        self._run_head = partial(_run_head, self.head_module, bits, setting)
        self._run_head_keeping = partial(_run_head_keeping, self.head_module, bits, setting)
        self._run_layer_keeping = partial(_run_layer_keeping, self._layer_module, self.keeps_openings)

    @property
    def layer_params(self) -> list[Tree]:
        """Each layer's parameters, which stay; ValueError where layers are streamed."""
        if isinstance(self._layers, StreamedLayers):
            raise ValueError("layers are streamed, but what is asked for needs them to stay")
        return [variables["params"] for variables in self._layers]

    @property
    def layers(self) -> int:
        """How many layers a forward pass runs."""
        return len(self._layers)

    def embed_labels(self, descriptions: Batch) -> None:
        """Compute the label embeddings [labels, width] that the label-embedding head compares with."""
        hidden = self._encode(descriptions.hidden, descriptions.padding_mask)
        self.labels = (self.runtime.run("embed_labels", self._pool, self.head, hidden, descriptions.readout),)
        self.head = {"pooled": self.head}
        self.runtime.free(hidden)

    def logits(self, prompts: Stored, batch: Batch, *, offline: Phase = "offline") -> Stored:
        """A forward pass of every prompt before every text.

        Args:
            prompts: ready for the first layer, encoded as the texts [candidates, prompt_tokens, width].
            batch: the texts.
            offline: what making the correlations is booked as.
        Returns: secret logits [candidates * texts, labels], the texts of one candidate after those of another.
        """
        hidden, readout = self._read(prompts, batch, offline, None)
        logits: Stored = self.runtime.run("head", self._run_head, self.head, hidden, readout, *self.labels)
        self.runtime.free([hidden, readout])
        return logits

    def logits_and_kept(self, prompts: Stored, batch: Batch, *, offline: Phase = "offline") -> tuple[Stored, Kept]:
        """`logits`, and what the backward pass reads: for each layer some 15 hidden states of all tokens."""
        kept: list[Tree] = []
        hidden, readout = self._read(prompts, batch, offline, kept)
        inputs = self.head, hidden, readout, *self.labels
        logits, vector = self.runtime.run("head.forward", self._run_head_keeping, *inputs)
        self.runtime.free(hidden)
        return logits, Kept(kept, vector, readout, batch.hidden.spec.shape[0])

    def _read(self, prompts: Stored, batch: Batch, offline: Phase, kept: list[Tree] | None) -> tuple[Stored, Stored]:
        """What the head reads: hidden states and readout."""
        rows = batch.padding_mask, batch.readout
        assembled, padding_mask, readout = self.runtime.run("assemble", _assemble, prompts, batch.hidden, *rows)
        hidden = self._encode(assembled, padding_mask, offline, kept)
        self.runtime.free([assembled, padding_mask])
        return hidden, readout

    def _encode(
        self, hidden: Stored, padding_mask: Stored, offline: Phase = "offline", kept: list[Tree] | None = None
    ) -> Stored:
        """All layers, each with fresh correlations; what comes in is left to the caller unless a layer made it.

        What each layer keeps for the backward pass is appended to `kept`, where there is one.
        """
        masks = [padding_mask]
        if self._weigh_tokens is not None:
            masks.append(self.runtime.run("token_shares", self._weigh_tokens, padding_mask))
        declared = self._declare(hidden, *masks)
        first = hidden
        for variables in self._layers:
            with self.runtime.ledger.phase(offline):
                correlations = self.runtime.correlations(declared)
            if kept is None:
                result = self.runtime.run("layer", self._run_layer, variables, correlations, hidden, *masks)
            else:
                keeping = self._run_layer_keeping
                result, of_layer = self.runtime.run("layer.forward", keeping, variables, correlations, hidden, *masks)
                kept.append(of_layer)
            if hidden is not first:
                self.runtime.free(hidden)
            hidden = result
            self.on_layer()
        self.runtime.free(masks[1:])
        return hidden

    def _declare(self, *inputs: Stored) -> Tree:
        """What one layer spends on inputs of these shapes."""
        shapes = [shape_struct(stored.spec.shape, stored.spec.dtype) for stored in inputs]
        return jax.eval_shape(self._layer_module.init, jax.random.key(0), *shapes).get("correlations", {})


def joined_biases(runtime: Runtime, params: Tree) -> Tree:
    """A layer's parameters whose dense layers have the bias in the kernel: for ABY3, where that costs no bytes."""
    dense = {name: node for name, node in params.items() if "kernel" in node}
    joined: dict[str, Tree] = runtime.run("join_biases", _join_biases, dense)
    runtime.free(dense)
    return {**params, **joined}


def _join_biases(dense: dict[str, Tree]) -> dict[str, Tree]:
    return {name: with_bias(params) for name, params in dense.items()}


def static_kernels(runtime: Runtime, params: Tree) -> Tree:
    """Parameters whose kernels are ring integers, which stay where they are: what `keep_openings` wants."""

    def convert(path: tuple[DictKey, ...], leaf: Stored) -> Stored:
        if path[-1].key != "kernel":
            return leaf
        integers: Stored = runtime.run("ring", to_ring, leaf)
        runtime.free(leaf)
        runtime.pin(integers)
        return integers

    return jax.tree_util.tree_map_with_path(convert, params)


def keep_openings(params: Tree) -> Tree:
    """In a program under SEMI2K: kernels whose openings SPU keeps from its first run on."""

    def keep(path: tuple[DictKey, ...], leaf: Array) -> Array:
        kept: Array = make_cached_var(leaf) if path[-1].key == "kernel" else leaf
        return kept

    return jax.tree_util.tree_map_with_path(keep, params)


def _run_layer(module: EncoderLayer, cached: bool, variables: Tree, correlations: Tree, *inputs: Array) -> Array:
    found, _ = _apply_layer(module, cached, variables, correlations, inputs, mutable=[])
    return found


def _run_layer_keeping(
    module: EncoderLayer, cached: bool, variables: Tree, correlations: Tree, *inputs: Array
) -> tuple[Array, Tree]:
    found, collections = _apply_layer(module, cached, variables, correlations, inputs, mutable=["kept"])
    return found, collections["kept"]


def _apply_layer(
    module: EncoderLayer,
    cached: bool,
    variables: Tree,
    correlations: Tree,
    inputs: Sequence[Array],
    *,
    mutable: list[str],
) -> tuple[Array, Tree]:
    if cached:
        variables = {**variables, "params": keep_openings(variables["params"])}
    hidden = hidden_bits(module.config)
    bits = hidden, FRACTION_BITS, attention_class(module.config).weight_bits or FRACTION_BITS
    numbers = (from_storage(array, b, secure=module.setting.secure) for array, b in zip(inputs, bits, strict=False))
    found, collections = module.apply({**variables, "correlations": correlations}, *numbers, mutable=mutable)
    return to_storage(found, hidden), collections


def _weigh_tokens(config: TransformerConfig, padding_mask: Array) -> Array:
    """What all layers' attention reads instead of the padding mask."""
    kind = attention_class(config)
    return to_storage(kind.token_weights(padding_mask, config), kind.weight_bits or FRACTION_BITS)


def _run_head(
    module: nn.Module, bits: int, setting: Setting, params: Tree, hidden: Array, readout: Array, *labels: Array
) -> Number:
    inputs = (
        from_storage(hidden, bits, secure=setting.secure),
        from_storage(readout, FRACTION_BITS, secure=setting.secure),
    )
    logits: Number = apply_module(module, {"params": params}, *inputs, *labels)
    return logits


def _run_head_keeping(
    module: nn.Module, bits: int, setting: Setting, params: Tree, hidden: Array, readout: Array, *labels: Array
) -> tuple[Array, Array]:
    """The same, and the vectors that are read [batch, width]."""
    weights = from_storage(readout, FRACTION_BITS, secure=setting.secure)
    vector = read_out(from_storage(hidden, bits, secure=setting.secure), weights)
    return logits_of(module, params, vector, *labels), vector


def logits_of(module: nn.Module, params: Tree, vector: Array, *labels: Array) -> Array:
    """What a head makes of the vectors that it reads [batch, width]: each as a sequence of one token."""
    logits: Array = apply_module(module, {"params": params}, vector[:, None], jnp.ones((len(vector), 1)), *labels)
    return logits


def _assemble(prompts: Array, texts: Array, padding_mask: Array, readout: Array) -> tuple[Array, Array, Array]:
    """[prompt; text] for every pair of candidate and text, and the rows of every text for every candidate. Local."""
    candidates, count = prompts.shape[0], texts.shape[0]

    def spread(a: Array, axis: int) -> Array:
        shape = (candidates, count, *a.shape[1:])
        return jnp.broadcast_to(jnp.expand_dims(a, axis), shape).reshape(candidates * count, *a.shape[1:])

    hidden = jnp.concatenate([spread(prompts, 1), spread(texts, 0)], axis=1)
    return hidden, spread(padding_mask, 0), spread(readout, 0)
