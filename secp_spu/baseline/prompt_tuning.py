"""Gradient prompt tuning under MPC: forward and backward pass through fixed weights, Adam on the soft prompt."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array

from secp_spu.baseline.adam import Adam
from secp_spu.baseline.backpropagation import Backpropagation, OnLayer, Segment, silent
from secp_spu.model import Norm, TransformerConfig, apply_module
from secp_spu.runtime import Owned, Runtime, Stored
from secp_spu.trees import Tree


class GradientPromptTuning:
    """Trains a secret soft prompt on a batch of texts; all other weights stay as they are.

    Args:
        runtime: where it runs.
        config: of an encoder with softmax attention.
        weights: the model owner's, a pytree: `layers` (a list of params of `EncoderLayer`), `head` (params of
            `LabelWordHead`).
        embeddings: the data owner's params of `Embeddings`.
        prompt: the data owner's first prompt [prompt_tokens, width], in the space of word embeddings.
        texts: the data owner's `TrainingTexts`, of which `text` is embeddings ready for the first layer
            [texts, text_tokens, width]; rows and masks are of prompt and text.
        rate: Adam's learning rate.
        on_layer: called after every layer, forward and back, for progress.
    Raises: ValueError for attention by features, and for a decoder.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: TransformerConfig,
        weights: Owned,
        embeddings: Owned,
        prompt: Owned,
        texts: Owned,
        *,
        rate: float,
        on_layer: OnLayer = silent,
    ):
        self._runtime = runtime
        self._passes = Backpropagation(runtime, config, texts.value.labels.shape[-1], weights=False, on_layer=on_layer)
        self._assemble = Segment(runtime, "assemble", partial(_assemble, config))
        with runtime.ledger.phase("setup"):
            self._layers = [runtime.share(Owned(weights.party, params)) for params in weights.value["layers"]]
            self._head = runtime.share(Owned(weights.party, weights.value["head"]))
            self._added = runtime.share(Owned(embeddings.party, _added(config, embeddings.value, len(prompt.value))))
            self._texts = runtime.share(texts)
            self.prompt: Stored = runtime.share(prompt)
        self._adam = Adam(runtime, rate)
        self._moments = self._adam.begin(self.prompt)

    def step(self) -> Stored:
        """One step of Adam on the whole batch; returns the loss before it [], secret."""
        hidden, residuals = self._assemble.forward(self.prompt, self._added, self._texts.text)
        loss = self._passes.forward(self._layers, self._head, hidden, self._texts)
        cotangent = self._passes.backward(_nothing)
        gradient = self._assemble.backward(residuals, cotangent)
        self.prompt = self._adam.step("adam.prompt", self.prompt, gradient, self._moments)
        return loss


def _added(config: TransformerConfig, embeddings: Tree, tokens: int) -> Tree:
    """What the embedding adds to a prompt, and the layer norm that follows."""
    first = config.position_offset
    rows = embeddings["position"]["embedding"][first : first + tokens] + embeddings["type"]["embedding"][0]
    return {"rows": rows, "norm": embeddings["norm"]}


def _assemble(config: TransformerConfig, prompt: Array, added: Tree, texts: Array) -> Array:
    """[prompt; text] for every text [texts, tokens, width]."""
    norm = Norm(config.layer_norm_epsilon)
    hidden: Array = apply_module(norm, {"params": added["norm"]}, prompt + added["rows"])
    return jnp.concatenate([jnp.broadcast_to(hidden, (len(texts), *hidden.shape)), texts], 1)


def _nothing(_number: int, _gradients: Tree) -> None:
    """Nothing is trained but the prompt."""
