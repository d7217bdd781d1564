"""Runs a model's backward pass on a runtime: from the logits' cotangents, which a data owner shares, to the prompts'.

The cotangent of x is the derivative of the data owner's loss by x. The loss stays at home, as in tuning with forward
passes alone: its derivative by the logits comes in, scaled, and no derivative of a weight is ever formed.
"""

from __future__ import annotations

from functools import cache, partial

import flax.linen as nn
import jax
from jax import Array

from secp_spu.inference.secure_model import Kept, SecureModel, keep_openings, logits_of, setting_of
from secp_spu.model import Setting, TransformerConfig
from secp_spu.model.backward import backward_params, lacks_backward, pull_back_layer
from secp_spu.model.precision import COTANGENT_BITS, HEAD_COTANGENT_BITS, SUM_BITS
from secp_spu.protocol import FRACTION_BITS, from_storage, rounded, to_fixed, to_storage
from secp_spu.runtime.handles import Stored
from secp_spu.trees import Tree


class BackwardPass:
    """The way back through a model that the compute parties have.

    Its transposed kernels take the memory of the weights once more (SEMI2K, which keeps their openings).

    Args:
        model: with its labels embedded, if it is to compare with them.
    Raises: ValueError for a model of which something has no backward pass, see `lacks_backward`; or whose layers are
        streamed.
    """

    def __init__(self, model: SecureModel):
        if missing := lacks_backward(model.config):
            raise ValueError(f"{missing} has no backward pass")
        self._model, setting = model, setting_of(model.runtime)
        config, runtime = model.config, model.runtime
        prepare = partial(backward_params, config, secure=setting.secure)
        self._params = [runtime.run("transpose", prepare, params) for params in model.layer_params]
        if model.keeps_openings:
            runtime.pin([dense["kernel"] for params in self._params for dense in params.values() if "kernel" in dense])
        self._layer = cache(partial(partial, _pull_back_layer, config, setting, model.keeps_openings))
        self._of_prompts = cache(partial(partial, _of_prompts, setting))
        self._head = partial(_pull_back_head, model.head_module, setting)

    def prompts(self, kept: Kept, cotangents: Stored, prompt_tokens: int) -> Stored:
        """The cotangents of each prompt, added up over its texts.

        Args:
            kept: by the forward pass; deleted.
            cotangents: of the logits, times a scale of the data owner's [candidates * texts, labels].
            prompt_tokens: of a prompt.
        Returns: of what the first layer reads, times the scale, encoded with SUM_BITS fraction bits
            [candidates, prompt_tokens, width].
        """
        model, run = self._model, self._model.runtime.run
        found: Stored = run(
            "head.backward", self._head, model.head, kept.vector, kept.readout, cotangents, *model.labels
        )
        model.runtime.free([kept.vector, kept.readout])
        for number in reversed(range(len(kept.layers))):
            bits = COTANGENT_BITS if number == len(kept.layers) - 1 else SUM_BITS  # of the head's, or the layer after
            program = self._layer(bits, None if number else prompt_tokens)
            before, found = found, run("layer.backward", program, self._params[number], kept.layers[number], found)
            model.runtime.free([before, kept.layers[number]])
            model.on_layer()
        rows_of_prompts: Stored = run("prompts.backward", self._of_prompts(kept.texts), found)
        model.runtime.free(found)
        return rows_of_prompts


def _pull_back_layer(
    config: TransformerConfig,
    setting: Setting,
    cached: bool,
    bits: int,
    rows: int | None,
    params: Tree,
    kept: Tree,
    cotangent: Array,
) -> Array:
    """Of a layer, for its first rows or all."""
    params = keep_openings(params) if cached else params
    g = from_storage(cotangent, bits, secure=setting.secure)
    return to_storage(pull_back_layer(config, setting, params, kept, g, slice(rows)), SUM_BITS)


def _pull_back_head(
    module: nn.Module, setting: Setting, params: Tree, vector: Array, readout: Array, cotangents: Array, *labels: Array
) -> Array:
    """Of hidden states by that of the logits: by JAX through what follows the read-out, on SPU's own fixed point."""
    weights = from_storage(readout, FRACTION_BITS, secure=setting.secure)
    _, pull_back = jax.vjp(lambda read: logits_of(module, params, read, *labels), vector)
    of_vector = rounded(to_fixed(pull_back(cotangents)[0], weights), HEAD_COTANGENT_BITS)
    return to_storage(rounded(weights[..., None] * of_vector[:, None], COTANGENT_BITS), COTANGENT_BITS)


def _of_prompts(setting: Setting, texts: int, cotangent: Array) -> Array:
    """Rows of prompts, added up over the texts that stand behind each. Local."""
    _, tokens, width = cotangent.shape
    rows = from_storage(cotangent.reshape(-1, texts, tokens * width), SUM_BITS, secure=setting.secure)
    return to_storage(rows.sum(1), SUM_BITS).reshape(-1, tokens, width)
