"""Folds a layer's weights into the same function with fewer products, in plaintext at the model owner.

A norm has rows z, gain g and shift b, and the layers after it read g z + b. Folding puts g and b into the weights of
these layers, so that they read z; the residual keeps the gain. Attention's weights add up to one, so the values' bias
passes through attention unchanged, and folding adds it to the bias of attention's output. A folded norm gives zero rows
where it is told to: padding then has zero values at no cost.

    (g z + b) K + c  =  z (diag(g) K)  +  (b K + c)

Kernels and gains are returned as `protocol.to_storage` stores them, with the fraction bits that the layer reads.
"""

from __future__ import annotations

import numpy as np

from secp_spu.model.activation import activation_class
from secp_spu.model.attention import attention_class
from secp_spu.model.attention.random_features import squared_lengths
from secp_spu.model.precision import OUTPUT_WEIGHT_BITS, WEIGHT_BITS
from secp_spu.model.transformer_config import TransformerConfig
from secp_spu.protocol import to_storage
from secp_spu.trees import Floats, Tree


def fold_layer(params: Tree, before: Tree | None, config: TransformerConfig) -> Tree:
    """Parameters for a layer whose setting is folded.

    Args:
        params: a layer's, raw.
        before: "scale" and "bias" of the norm whose rows come in, `output_norm` of the layer before; None for the
            first layer, which reads the embeddings with gain and shift, and for a decoder, whose layers begin with one.
        config: of the transformer.
    Returns: numpy arrays; the exact sums may differ from the raw layer's in their last bits.
    """
    if config.causal:
        return _fold_decoder_layer(params, config)
    width = config.width
    gain, shift = (np.ones(width, np.float32), np.zeros(width, np.float32)) if before is None else _gain_shift(before)
    middle_gain, middle_shift = _gain_shift(params["attention_norm"])
    return {
        **_fold_attention(params, gain, shift, config, residual_shift=shift),
        "attention_residual": {"gain": to_storage(gain, WEIGHT_BITS)},
        **_fold_feed_forward(params, middle_gain, middle_shift, config, residual_shift=middle_shift),
        "output_residual": {"gain": to_storage(middle_gain, WEIGHT_BITS)},
    }


def _fold_decoder_layer(params: Tree, config: TransformerConfig) -> Tree:
    """The norms are the layer's own, and the residual stream has passed none of them."""
    return {
        **_fold_attention(params, *_gain_shift(params["attention_norm"]), config),
        **_fold_feed_forward(params, *_gain_shift(params["intermediate_norm"]), config),
    }


def _fold_attention(
    params: Tree,
    gain: Floats,
    shift: Floats,
    config: TransformerConfig,
    *,
    residual_shift: Floats | float = 0,
) -> Tree:
    """Projections and attention's output that read a norm's rows.

    Args:
        gain, shift: of that norm.
        residual_shift: what the residual lacks.
    """
    width = config.width
    kernel, bias = _absorb(params["query_key_value"], gain, shift)
    value_bias = bias[2 * width :]
    bias = np.concatenate([bias[: 2 * width], np.zeros(width, np.float32)])
    kernel, bias, own = attention_class(config).fold(kernel, bias, params.get("attention", {}), config)
    output = params["attention_output"]
    output_bias = output["bias"] + value_bias @ output["kernel"] + residual_shift
    folded = {
        "query_key_value": _dense(kernel, bias, WEIGHT_BITS),
        "attention_output": _dense(np.asarray(output["kernel"]), output_bias, WEIGHT_BITS),
    }
    return folded | ({"attention": own} if own else {})


def _fold_feed_forward(
    params: Tree,
    gain: Floats,
    shift: Floats,
    config: TransformerConfig,
    *,
    residual_shift: Floats | float = 0,
) -> Tree:
    """The two dense layers around the activation; arguments as in `_fold_attention`."""
    kernel, bias = _absorb(params["intermediate"], gain, shift)
    output_kernel, output_bias = (np.asarray(params["output"][name]) for name in ("kernel", "bias"))
    fold = activation_class(config).fold
    kernel, bias, output_bias = fold(params.get("activation", {}), kernel, bias, output_kernel, output_bias)
    return {
        "intermediate": _dense(kernel, bias, WEIGHT_BITS),
        "output": _dense(output_kernel, output_bias + residual_shift, OUTPUT_WEIGHT_BITS),
    }


def expected_squares(projection: Tree, before: Tree, config: TransformerConfig) -> Floats:
    """Expected |q|^2, |k|^2 and |v|^2 of every head, for rows of a norm [3, heads].

    Args:
        projection: "kernel" and "bias" of queries, keys and values.
        before: "scale" and "bias" of the norm whose rows come in.
        config: of the transformer.
    """
    return squared_lengths(*_absorb(projection, *_gain_shift(before)), config)


def fold_head(params: Tree, before: Tree | None) -> Tree:
    """Parameters of `LabelWordHead` that read the rows of the last norm: its read-out row adds up to one.

    Args:
        params: raw.
        before: "scale" and "bias" of the last layer's `output_norm`; None for a decoder, whose head begins with one.
    """
    if before is None:
        return params
    kernel, bias = _absorb(params["dense"], *_gain_shift(before))
    return {**params, "dense": {"kernel": np.float32(kernel), "bias": np.float32(bias)}}


def _gain_shift(norm: Tree) -> tuple[Floats, Floats]:
    return np.asarray(norm["scale"]), np.asarray(norm["bias"])


def _absorb(dense: Tree, gain: Floats, shift: Floats) -> tuple[Floats, Floats]:
    kernel = np.asarray(dense["kernel"])
    return gain[:, None] * kernel, shift @ kernel + np.asarray(dense["bias"])


def _dense(kernel: Floats, bias: Floats, bits: int) -> Tree:
    return {"kernel": to_storage(np.asarray(kernel, np.float32), bits), "bias": np.asarray(bias, np.float32)}
