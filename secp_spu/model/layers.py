"""The parts that a layer is built of, each for plain arrays and for secrets: dense layer, layer norm, residual.

Parameters are raw, as checkpoints have them, or folded (folding.py). A layer with folded parameters takes fewer secure
products and gives the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from secp_spu.model.precision import (
    SCALE_BITS,
    STREAM_BITS,
    STREAM_SCALE_BITS,
    STREAM_VARIANCE_BITS,
    SUM_BITS,
    VARIANCE_BITS,
    WEIGHT_BITS,
)
from secp_spu.model.setting import PLAIN, Setting
from secp_spu.protocol import (
    FRACTION_BITS,
    CosineCorrelation,
    Fixed,
    Number,
    NumberT,
    as_fixed,
    constant,
    from_storage_like,
    inverse_sqrt,
    mean_of,
    multiply,
    rounded,
    spend,
    to_fixed,
    to_ring,
    widened,
)
from secp_spu.trees import Tree

SHARE_BITS, ROOT_BITS = 20, 14
"""Fraction bits of the public factors that a norm makes of the width: 1/width, and a root between 0.7 and 1."""

SUMS = SUM_BITS, VARIANCE_BITS, SCALE_BITS
STREAM = STREAM_BITS, STREAM_VARIANCE_BITS, STREAM_SCALE_BITS
"""Fraction bits of a norm's input, its variance and 1/deviation: in encoders, and for a decoder's residual stream."""


def spent_correlation(
    module: nn.Module, name: str, declare: Callable[[], CosineCorrelation]
) -> CosineCorrelation | None:
    """What a call of a module spends: of the collection "correlations", or by a runtime's `jit`; None in plaintext.

    Args:
        module: that is being called.
        name: of the correlation.
        declare: what it is, told during `init`.
    """
    if module.is_initializing():
        module.variable("correlations", name, declare)
        return None
    if module.has_variable("correlations", name):
        return module.get_variable("correlations", name)
    return spend(declare)


def keeps_for_backward(module: nn.Module) -> bool:
    """Whether a call of a module is to keep what the backward pass reads (`mutable=["kept"]`)."""
    return module.is_mutable_collection("kept") and not module.is_initializing()


def keep_for_backward(module: nn.Module, **values: Number) -> None:
    """Put what the backward pass reads into the collection "kept", where a call asks for it."""
    if keeps_for_backward(module):
        for name, value in values.items():
            module.put_variable("kept", name, value)


def apply_module(module: nn.Module, variables: Tree, *inputs: Tree) -> Tree:
    """What a module computes, where no collection of its variables changes."""
    result: Tree = module.apply(variables, *inputs)
    return result


class Dense(nn.Module):
    """x @ kernel + bias, with all bits of the product.

    Under SPU the bias may be the last row of the kernel (`with_bias`): to add a row to all others takes a sixth of the
    seconds of the product.

    Attributes:
        features: columns of the kernel.
        setting: where it runs; folded, the kernel is encoded with `bits`.
        bits: fraction bits of a folded kernel.
    """

    features: int
    setting: Setting = PLAIN
    bits: int = WEIGHT_BITS

    @nn.compact
    def __call__(self, x: NumberT) -> NumberT:
        """[..., width] to [..., features]."""
        if isinstance(x, Fixed) and self.has_variable("params", "one"):
            return self._with_bias(x)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        weight = self._weight(kernel, x)
        if isinstance(x, Fixed):
            return x @ as_fixed(weight) + to_fixed(bias, x)
        # As one matrix: of a batch of them XLA takes nearly twice as long for the gradient of the weights.
        return (x.reshape(-1, x.shape[-1]) @ weight + bias).reshape(*x.shape[:-1], self.features)

    def _weight(self, kernel: Array, x: Number) -> Number:
        return from_storage_like(kernel, self.bits, x) if self.setting.folded else kernel

    def _with_bias(self, x: Fixed) -> Fixed:
        """Rows [x, 1] times the kernel whose last row is the bias."""
        kernel: Array = self.get_variable("params", "kernel")
        one: Array = self.get_variable("params", "one")
        bits = x.bits + self.bits
        column = jnp.broadcast_to(Fixed(one, FRACTION_BITS).to(bits).ring, (*x.shape[:-1], 1))
        return Fixed(jnp.concatenate([x.ring, column], -1) @ kernel, bits)


def with_bias(params: Tree) -> Tree:
    """In a program: a dense layer's folded parameters, for `Dense` to take bias and kernel in one product.

    Args:
        params: "kernel" [width, features] and "bias" [features], as owners share them.
    Returns: "kernel" [width + 1, features] and a secret "one" [1], ring integers.
    """
    kernel, bias = params["kernel"], params["bias"]
    one = to_ring(bias[:1] - bias[:1]) + 1  # a public one in a row of secrets would cost ABY3's debugging builds bytes
    return {"kernel": jnp.concatenate([to_ring(kernel), to_ring(bias)[None]]), "one": one}


class Norm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) over the last axis, times a gain, plus a shift; folded: without these.

    The variance is taken after the mean: the one-pass formula cancels in fixed point. Under MPC a row takes one inverse
    square root, an element two products and no division.

    Attributes:
        epsilon: added to the variance.
        setting: where it runs; folded, gain and shift are in what reads the result.
        stream: x is a decoder's residual stream, of any size, and of STREAM_BITS under SPU.
    """

    epsilon: float
    setting: Setting = PLAIN
    stream: bool = False

    @nn.compact
    def __call__(self, x: NumberT, keep: NumberT | None = None) -> NumberT:
        """Normalise.

        Args:
            x: [..., width], of SUM_BITS fraction bits under SPU, or STREAM_BITS.
            keep: rows times this number, 1 or 0 [...]; only folded, where a zero row stays zero.
        Returns: [..., width], of HIDDEN_BITS fraction bits under SPU.
        """
        width = x.shape[-1]
        bits, variance_bits, scale_bits = STREAM if self.stream else SUMS
        mean = rounded(x.sum(-1, keepdims=True) * constant(1 / width, SHARE_BITS, x), bits, small=not self.stream)
        centred = x - widened(mean, width)
        halvings = math.ceil(math.log2(width))
        variance = rounded(mean_of((centred * centred).sum(-1, keepdims=True), width), variance_bits)
        surplus = 2**halvings / width
        scale = inverse_sqrt(variance, self.epsilon / surplus) * constant(1 / math.sqrt(surplus), ROOT_BITS, x)
        if keep is not None:
            scale = scale * keep[..., None]
        scale = rounded(scale, scale_bits, small=keep is None)
        normed = multiply(centred, widened(scale, width))
        keep_for_backward(self, rows=normed, scale=scale)
        if self.setting.folded:
            return normed
        gain = self.param("scale", nn.initializers.ones, (width,))
        shift = self.param("bias", nn.initializers.zeros, (width,))
        return normed * to_fixed(gain, x) + to_fixed(shift, x)


class Residual(nn.Module):
    """The way around a sublayer: x itself, or with folded parameters x times the gain of the norm before."""

    setting: Setting = PLAIN

    @nn.compact
    def __call__(self, x: NumberT) -> NumberT:
        """[..., width] to the same; the norm's shift is in the sublayer's bias."""
        if not self.setting.folded:
            return x
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],))
        return x * from_storage_like(gain, WEIGHT_BITS, x)
