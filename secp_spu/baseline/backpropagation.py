"""Computes a secret loss and secret gradients of secret weights and texts: layer by layer, forward and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from secp_spu.baseline.adam import LOSS_SCALE
from secp_spu.model import ATTENTIONS, EncoderLayer, LabelWordHead, TransformerConfig, apply_module, attention_class
from secp_spu.runtime import Runtime, Stored
from secp_spu.trees import Tree

OnLayer = Callable[[], None]

Secret: TypeAlias = Stored | Array | npt.NDArray[np.generic]
"""An array of the data owner: its handle, or at the owner the array itself."""


def silent() -> None:
    """For `on_layer`: no progress."""


@dataclass(frozen=True)
class TrainingTexts:
    """The data owner's texts, as arrays or as handles.

    Attributes:
        text: what the method's first program reads: see `FineTuning` and `GradientPromptTuning`.
        padding_mask: 1 for tokens, 0 for padding [texts, tokens].
        readout: one at the mask position [texts, tokens].
        labels: one-hot [texts, labels].
    """

    text: Tree
    padding_mask: Secret
    readout: Secret
    labels: Secret


jax.tree_util.register_dataclass(TrainingTexts, ["text", "padding_mask", "readout", "labels"], [])


class Segment:
    """A function as two programs. Forward keeps, in shares, what backward needs, so nothing is computed twice.

    Args:
        runtime: where it runs.
        name: of the programs: NAME.forward and NAME.backward.
        function: a JAX function of a pytree that is differentiated, and of others that are not.
    """

    def __init__(self, runtime: Runtime, name: str, function: Callable[..., Array]):
        self._runtime, self._name = runtime, name
        self._forward = partial(_linearise, function)

    def forward(self, active: Tree, *fixed: Tree) -> tuple[Stored, Tree]:
        """The result, and what `backward` wants of it."""
        result, residuals = self._runtime.run(f"{self._name}.forward", self._forward, active, fixed)
        return result, residuals

    def backward(self, residuals: Tree, cotangent: Stored) -> Tree:
        """The gradient at `active`. Frees the residuals and the cotangent."""
        (gradient,) = self._runtime.run(f"{self._name}.backward", _pull_back, residuals, cotangent)
        self._runtime.free([residuals, cotangent])
        return gradient


def _linearise(function: Callable[..., Array], active: Tree, fixed: tuple[Tree, ...]) -> tuple[Array, Tree]:
    return jax.vjp(lambda active: function(active, *fixed), active)


def _pull_back(residuals: Tree, cotangent: Array) -> Tree:
    return residuals(cotangent)


class Backpropagation:
    """Layers, label-word head and cross-entropy, forward and back.

    Args:
        runtime: where it runs.
        config: of an encoder with softmax attention.
        labels: how many.
        weights: differentiate at the weights too, not only at what comes in.
        on_layer: called after every layer, forward and back, for progress.
    Raises: ValueError for attention by features, which is for forward passes, and for a decoder.
    """

    def __init__(self, runtime: Runtime, config: TransformerConfig, labels: int, *, weights: bool, on_layer: OnLayer):
        if not attention_class(config).has_gradients:
            allowed = ", ".join(name for name, kind in ATTENTIONS.items() if kind.has_gradients)
            raise ValueError(f"attention is {config.attention!r}, but the baselines train with {allowed}")
        if config.causal:
            raise ValueError("config is a decoder's, but the baselines train encoders: take one of BERT's or RoBERTa's")
        self._runtime, self._weights, self._on_layer = runtime, weights, on_layer
        layer, head = partial(_run_layer, EncoderLayer(config)), partial(_loss, LabelWordHead(config, labels))
        self._layer = Segment(runtime, "layer", layer if weights else _with_fixed_weights(layer))
        self._head = Segment(runtime, "head", head if weights else _with_fixed_weights(head))
        self._residuals: list[Tree] = []

    def forward(self, layers: Sequence[Tree], head: Tree, hidden: Stored, texts: TrainingTexts) -> Stored:
        """The mean cross-entropy of the label words [], secret."""
        for params in layers:
            result = self._keep(self._layer, params, hidden, texts.padding_mask)
            self._runtime.free(hidden)
            hidden = result
            self._on_layer()
        loss = self._keep(self._head, head, hidden, texts.readout, texts.labels)
        self._runtime.free(hidden)
        return loss

    def _keep(self, segment: Segment, params: Tree, hidden: Stored, *fixed: Secret) -> Stored:
        if self._weights:
            result, residuals = segment.forward((hidden, params), *fixed)
        else:
            result, residuals = segment.forward((hidden,), params, *fixed)
        self._residuals.append(residuals)
        return result

    def backward(self, take: Callable[[int, Tree], None]) -> Stored:
        """Back through the last forward pass; returns LOSS_SCALE times the gradient at what came in.

        Args:
            take: called with the number of every layer, the head's being their count, and with the gradient at its
                weights, which it has to free; not called where weights are not trained.
        """
        cotangent: Stored = self._runtime.publish(jnp.float32(LOSS_SCALE))
        head = len(self._residuals) - 1
        for number in reversed(range(len(self._residuals))):
            segment = self._head if number == head else self._layer
            cotangent, *gradients = segment.backward(self._residuals.pop(), cotangent)
            if gradients:
                take(number, gradients[0])
            if number < head:
                self._on_layer()
        return cotangent


def _run_layer(module: EncoderLayer, active: tuple[Array, Tree], padding_mask: Array) -> Array:
    hidden, params = active
    result: Array = apply_module(module, {"params": params}, hidden, padding_mask)
    return result


def _loss(module: LabelWordHead, active: tuple[Array, Tree], readout: Array, labels: Array) -> Array:
    hidden, params = active
    logits: Array = apply_module(module, {"params": params}, hidden, readout)
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * labels, -1))


def _with_fixed_weights(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same, with the weights among what is not differentiated."""
    return lambda active, params, *fixed: function((active[0], params), *fixed)
