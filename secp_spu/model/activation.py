"""The activations of feed-forward layers and heads: SPU's own functions, a series of one opening, a learned square."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from secp_spu.model.layers import spent_correlation
from secp_spu.model.transformer_config import FunctionKind, TransformerConfig, is_function
from secp_spu.protocol import (
    Fixed,
    declare_series,
    rounded,
    series_gelu,
    to_fixed,
    to_float,
)
from secp_spu.protocol.fixed import DROP_BITS

INPUT_DEVIATION = 1.25
"""Root mean square of what a feed-forward layer gives its activation; 0.9 to 1.6 in the layers of MiniLM."""


def activation(kind: FunctionKind) -> Callable[[Array], Array]:
    """The function called `kind`, for arrays of any shape.

    Under MPC, bytes an element and sends (SEMI2K): "gelu" 1,951 and 181, "gelu_tanh" 396 and 45, "relu" 72 (60 under
    ABY3).
    """
    functions: dict[FunctionKind, Callable[[Array], Array]]
    functions = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": jax.nn.relu}
    return functions[kind]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


class Activation(nn.Module):
    """What stands between the two dense layers of a feed-forward layer.

    "series" declares its correlation, "series" in the collection "correlations", and spends it. "quadratic" has three
    parameters a neuron, (scale u + shift)**2 + offset: any a u**2 + b u + c with a > 0. Folded into the dense layers
    around it by `fold_quadratic` it is u**2 and has none.

    Under MPC a party sends for an element: "series" 8 bytes and 1 message in all; "quadratic", folded, 52/3 and 8/3
    under ABY3, 20 and 2 under SEMI2K with two parties; for the others see `activation`.

    Attributes:
        folded: the parameters of "quadratic" are in the layers around it.
    """

    config: TransformerConfig
    folded: bool = False

    @nn.compact
    def __call__(self, u: Any) -> Any:
        """Apply.

        Args:
            u: [..., intermediate], `Fixed` or arrays; "quadratic" takes `Fixed` only folded.
        Returns: the same shape; of `Fixed` with 35 fraction bits ("series"), 16 fewer than twice as many as u has
            ("quadratic"), as many as u ("relu"), or 18 (SPU's own functions).
        """
        kind, series = self.config.activation, self.config.series
        if series is not None:
            correlation = spent_correlation(self, "series", partial(declare_series, u.shape, series))
            return series_gelu(u, series, correlation)
        if is_function(kind):
            return _apply(kind, u)
        return _square(u) if self.folded else self._quadratic(u)

    def _quadratic(self, u: Array) -> Array:
        if isinstance(u, Fixed):
            raise ValueError("activation quadratic has parameters of its own: fold them with fold_quadratic")
        initial = dict(zip(QUADRATIC, gelu_quadratic(INPUT_DEVIATION), strict=True))
        scale, shift, offset = (
            self.param(name, nn.initializers.constant(value), u.shape[-1:]) for name, value in initial.items()
        )
        return (u * scale + shift) ** 2 + offset


def _apply(kind: FunctionKind, u: Any) -> Any:
    """SPU's own function; of ring integers the sign is that of the number, so that "relu" needs no other bits."""
    if kind == "relu" and isinstance(u, Fixed):
        return Fixed(jnp.maximum(u.ring, 0), u.bits)
    return to_fixed(activation(kind)(to_float(u)), u)


def _square(u: Any) -> Any:
    """u**2, without the bits that one cheap truncation drops."""
    return rounded(u * u, 2 * u.bits - DROP_BITS) if isinstance(u, Fixed) else u * u


QUADRATIC = ("scale", "shift", "offset")
"""Parameters of "quadratic", each [intermediate]."""


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


def fold_quadratic(
    params: Mapping[str, np.ndarray],
    kernel: np.ndarray,
    bias: np.ndarray,
    output_kernel: np.ndarray,
    output_bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put a quadratic's parameters into the dense layers around it, so that the activation is a square.

    (scale (x K + b) + shift)**2 + offset = (x (K scale) + (b scale + shift))**2 + offset, and the offset times the next
    kernel goes into the next bias.

    Args:
        params: "scale", "shift", "offset" [intermediate].
        kernel, bias: of the layer before [width, intermediate], [intermediate].
        output_kernel, output_bias: of the layer after [intermediate, width], [width].
    Returns: kernel, bias and output_bias; output_kernel stays.
    """
    scale, shift, offset = (params[name] for name in QUADRATIC)
    return kernel * scale, bias * scale + shift, output_bias + offset @ output_kernel
