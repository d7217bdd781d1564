"""The backward pass of an encoder's folded layers: cotangents of hidden states alone, of weights none.

The cotangent of x is the derivative of a loss by x. A layer's forward pass keeps what its backward pass reads
(`keep_for_backward`); with it and the weights, g being the cotangent of the result:

    norm n = c s:         dx = s (g - mean g - n mean(g n)), with rows c centred and s their inverse deviation
    dense y = x K + b:    dx = g K^T
    residual x * gain:    dx = g * gain
    activation f(u):      du = f'(u) g        (`Activation.pull_back`)
    attention:            see `Attention.pull_back`

Nothing is opened: the cosines' derivatives are the sines that the forward pass has, and the rest is products. Cost of a
layer: tests/inference/test_secure_backward.py pins it; with RoBERTa-large's shape 1.24 forward passes.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp

from secp_spu.model.activation import activation_class
from secp_spu.model.attention import attention_class
from secp_spu.model.layers import SHARE_BITS
from secp_spu.model.precision import (
    COTANGENT_BITS,
    HEAD_COTANGENT_BITS,
    INNER_COTANGENT_BITS,
    OUTPUT_WEIGHT_BITS,
    SUM_BITS,
    WEIGHT_BITS,
)
from secp_spu.model.setting import Setting
from secp_spu.model.transformer import join_heads, split_heads
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import (
    Fixed,
    Number,
    constant,
    from_storage,
    from_storage_like,
    multiply,
    rearranged,
    rounded,
    to_storage,
    widened,
)
from secp_spu.protocol.fixed import DROP_BITS
from secp_spu.trees import Tree

MEAN_BITS, ALONG_BITS, DEVIATION_BITS = 21, 10, 9
"""Fraction bits of mean g, of mean(g n), whose product with rows of HIDDEN_BITS has 21 too, and of s: of the product
with it SPU's own truncation leaves COTANGENT_BITS. An error of mean(g n) weighs most of all, for it is a row's as a
whole, and much alike before all texts."""

MOST_INPUT_BITS = 36
"""Fraction bits that the cotangent of an activation's input may have: with more it is truncated before the product."""

ALL = slice(None)
"""All tokens."""

KERNEL_BITS = {
    "query_key_value": WEIGHT_BITS,
    "attention_output": WEIGHT_BITS,
    "intermediate": WEIGHT_BITS,
    "output": OUTPUT_WEIGHT_BITS,
}
"""Dense layers of an encoder's layer, and the fraction bits of their folded kernels."""


def lacks_backward(config: TransformerConfig) -> str | None:
    """What of a model has no backward pass, as its configuration names it; None if all has one."""
    if config.causal:
        return "a decoder"
    if not attention_class(config).has_backward:
        return f"attention {config.attention}"
    if not activation_class(config).has_backward:
        return f"activation {config.activation}"
    return None


def backward_params(config: TransformerConfig, params: Tree, *, secure: bool) -> Tree:
    """A layer's parameters as `pull_back_layer` reads them: once a run.

    Args:
        config: of the transformer.
        params: of the layer, folded; a dense layer's kernel may have the bias as its last row.
        secure: the program is for SPU.
    Returns: transposed kernels, encoded as folded ones, and the residuals' gains.
    """
    kernels = {name: _transposed(config, name, params[name], secure) for name in KERNEL_BITS}
    return kernels | {name: params[name] for name in ("attention_residual", "output_residual")}


def _transposed(config: TransformerConfig, name: str, dense: Tree, secure: bool) -> Tree:
    bits = KERNEL_BITS[name]
    kernel = from_storage(dense["kernel"][:-1] if "one" in dense else dense["kernel"], bits, secure=secure)
    if name == "query_key_value":
        kernel = attention_class(config).backward_kernel(kernel, config)
    kernel = rearranged(jnp.transpose, kernel)
    return {"kernel": kernel.ring if isinstance(kernel, Fixed) else to_storage(kernel, bits)}


def pull_back_layer(
    config: TransformerConfig, setting: Setting, params: Tree, kept: Tree, cotangent: Number, wanted: slice = ALL
) -> Number:
    """The cotangent of a layer's input by that of its result.

    Args:
        config: of the transformer.
        setting: where it runs, with folded parameters.
        params: what `backward_params` gives.
        kept: the collection "kept" of the layer's forward pass.
        cotangent: [batch, tokens, width]; under SPU of COTANGENT_BITS for the last layer and SUM_BITS for others.
        wanted: tokens whose rows are wanted: of the first layer, the prompt's.
    Returns: [batch, tokens, width] of these, of SUM_BITS. Rows of padding are zero but for what keys and values of
        padding would get, which is no part of a text's derivative: the norm before zeroes them.
    """
    g = pull_back_norm(kept["output_norm"], cotangent)
    inner = rounded(_pull_back_dense(params, "output", g), INNER_COTANGENT_BITS)
    inner = activation_class(config).pull_back(kept["activation"], inner)
    if isinstance(inner, Fixed) and inner.bits > MOST_INPUT_BITS:
        inner = inner.to(inner.bits - DROP_BITS)
    g = rounded(_pull_back_dense(params, "intermediate", inner) + _residual(params, "output", g), SUM_BITS)

    g = pull_back_norm(kept["attention_norm"], g)
    attended = rounded(_pull_back_dense(params, "attention_output", g), HEAD_COTANGENT_BITS)
    heads = rearranged(partial(split_heads, heads=config.heads), attended)
    parts = attention_class(config).pull_back(kept["attention"], heads, kept["tokens"], setting, wanted)
    joined = rearranged(lambda *a: jnp.concatenate([join_heads(x) for x in a], -1), *parts)
    projected = _pull_back_dense(params, "query_key_value", joined)
    return rounded(projected + _residual(params, "attention", g[:, wanted]), SUM_BITS)


def pull_back_norm(kept: Tree, cotangent: Number) -> Number:
    """Of a norm's input by its result's: s (g - mean g - n mean(g n)), of COTANGENT_BITS under SPU.

    Args:
        kept: "rows" n [..., width] and "scale" s [..., 1].
        cotangent: g [..., width].
    """
    rows: Number = kept["rows"]
    scale: Number = rounded(kept["scale"], DEVIATION_BITS)
    width = rows.shape[-1]
    share = constant(1 / width, SHARE_BITS, rows)
    mean = rounded(cotangent.sum(-1, keepdims=True) * share, MEAN_BITS)
    along = rounded((cotangent * rows).sum(-1, keepdims=True) * share, ALONG_BITS)
    across = cotangent - widened(mean, width) - rows * widened(along, width)
    return rounded(multiply(across, widened(scale, width)), COTANGENT_BITS)


def _pull_back_dense(params: Tree, name: str, cotangent: Number) -> Number:
    """g K^T, with all bits of the product."""
    return cotangent @ from_storage_like(params[name]["kernel"], KERNEL_BITS[name], cotangent)


def _residual(params: Tree, of: str, cotangent: Number) -> Number:
    """g times the gain of the norm that stands before the sublayer."""
    return cotangent * from_storage_like(params[f"{of}_residual"]["gain"], WEIGHT_BITS, cotangent)
