"""The activation that is a learned square: three parameters a neuron, none when folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.activation.activation import Activation
from secp_spu.model.activation.functions import gelu
from secp_spu.model.layers import keep_for_backward
from secp_spu.protocol import Fixed, Number, doubled, rounded
from secp_spu.protocol.fixed import DROP_BITS
from secp_spu.trees import Floats

INPUT_DEVIATION = 1.25
"""Root mean square of what a feed-forward layer gives its activation; 0.9 to 1.6 in the layers of MiniLM."""

LEAST_CURVATURE = 0.02
"""Of the square that a neuron starts with: without any it would be a line, whose square has no finite shift."""


class Quadratic(Activation):
    """(scale u + shift)**2 + offset: any a u**2 + b u + c with a > 0, learned for each neuron.

    Folded into the dense layers around it, it is u**2 and has no parameters. Under MPC an element of the folded square
    takes 52/3 bytes and 8/3 sends (ABY3), or 20 and 2 (SEMI2K with two parties).
    """

    about: ClassVar[str] = "a learned quadratic function, for checkpoints that were adapted to it"
    element_bytes: ClassVar[int] = 170
    parameters: ClassVar[tuple[str, ...]] = ("scale", "shift", "offset")
    has_backward: ClassVar[bool] = True

    @nn.compact
    def __call__(self, u: Number) -> Number:
        """Apply; u is `Fixed` only with folded parameters, and the result has 16 bits fewer than the whole square."""
        keep_for_backward(self, inputs=u)
        if self.setting.folded:  # without the bits that one cheap truncation drops
            return rounded(u * u, 2 * u.bits - DROP_BITS) if isinstance(u, Fixed) else u * u
        if isinstance(u, Fixed):
            raise ValueError("activation quadratic has parameters of its own: fold them with fold_layer")
        return self._unfolded(u)

    def _unfolded(self, u: Array) -> Array:
        scale, shift, offset = (
            self.param(name, nn.initializers.constant(value), u.shape[-1:])
            for name, value in zip(self.parameters, gelu_quadratic(INPUT_DEVIATION), strict=True)
        )
        return (u * scale + shift) ** 2 + offset

    @staticmethod
    def initial(inputs: Floats) -> dict[str, Floats]:
        """Values with which each neuron's square is nearest to GELU on its own inputs."""
        return dict(zip(Quadratic.parameters, fitted_squares(inputs), strict=True))

    @staticmethod
    def fold(
        params: Mapping[str, Floats],
        kernel: Floats,
        bias: Floats,
        output_kernel: Floats,
        output_bias: Floats,
    ) -> tuple[Floats, Floats, Floats]:
        """Put the parameters into the dense layers around the activation, which is then a square.

        (scale (x K + b) + shift)**2 + offset = (x (K scale) + (b scale + shift))**2 + offset, and the offset times the
        next kernel goes into the next bias.
        """
        scale, shift, offset = (params[name] for name in Quadratic.parameters)
        return kernel * scale, bias * scale + shift, output_bias + offset @ output_kernel

    @staticmethod
    def pull_back(kept: Mapping[str, Number], cotangent: Number) -> Number:
        """2 u times the cotangent: of the folded square."""
        return doubled(kept["inputs"] * cotangent)

    @staticmethod
    def result_bits(bits: int) -> int:
        """Those of the square, less what one cheap truncation drops."""
        return 2 * bits - DROP_BITS


def gelu_quadratic(deviation: float) -> tuple[float, float, float]:
    """Scale, shift and offset such that (scale x + shift)**2 + offset is nearest to GELU in the mean square.

    For x normal with mean zero: by Stein's lemma a = E GELU''/2, b = E GELU' = 1/2, and c = E GELU - a deviation**2.

    Args:
        deviation: standard deviation of x.
    """
    variance = deviation**2
    density = 1 / math.sqrt(2 * math.pi * (1 + variance))  # E phi(x)
    a = density * (2 - variance / (1 + variance)) / 2
    c = density * variance - a * variance
    scale = math.sqrt(a)
    shift = 1 / (4 * scale)
    return scale, shift, c - shift**2


def fitted_squares(inputs: Floats) -> tuple[Floats, Floats, Floats]:
    """Scale, shift and offset [neurons] such that (scale x + shift)**2 + offset is nearest to GELU in the mean square.

    A neuron whose inputs ask for less curvature than LEAST_CURVATURE gets that, and the line that is best beside it.

    Args:
        inputs: x of each neuron for a sample of tokens [tokens, neurons].
    """
    x, wanted = np.asarray(inputs, np.float64), np.asarray(gelu(jnp.asarray(inputs)), np.float64)
    center = x.mean(0)
    line = x - center
    square = np.square(line)
    bend = square - square.mean(0) - _ratio(square, line) * line  # what of the square is in no line
    a = np.maximum(_ratio(wanted, bend), LEAST_CURVATURE)
    remaining = wanted - a * square
    slope, level = _ratio(remaining, line), remaining.mean(0)  # a line**2 + slope line + level
    scale = np.sqrt(a)
    turned = slope / (2 * scale)  # scale line + turned is scale x + shift
    found = scale, turned - scale * center, level - np.square(turned)
    return tuple(part.astype(np.float32) for part in found)


def _ratio(values: Floats, base: Floats) -> Floats:
    """How much of `base` is in the values of each column, by least squares; 0 where the base is zero."""
    share: Floats = (values * base).mean(0) / np.maximum(np.square(base).mean(0), np.finfo(np.float64).tiny)
    return share
