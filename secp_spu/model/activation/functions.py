"""The activations that are functions of SPU's own: GELU by erf, GELU by tanh, and ReLU."""

from __future__ import annotations

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from secp_spu.model.activation.activation import Activation
from secp_spu.model.layers import keep_for_backward, keeps_for_backward
from secp_spu.model.transformer_config import ActivationKind
from secp_spu.protocol import Fixed, Number, to_fixed, to_float


def gelu(x: Array) -> Array:
    """GELU by erf."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Array) -> Array:
    """GELU's tanh form, off by 5e-4 at most."""
    return jax.nn.gelu(x, approximate=True)


def gelu_tanh_and_slope(x: Array) -> tuple[Array, Array]:
    """`gelu_tanh` and its derivative, of one tanh."""
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    tanh = jnp.tanh(scale * x * (1 + cubic * square))
    share = (1 + tanh) / 2
    return x * share, share + x * (1 - tanh * tanh) * (scale / 2) * (1 + 3 * cubic * square)


class Gelu(Activation):
    """GELU by erf. Under MPC an element takes 1,951 bytes and 181 sends (SEMI2K)."""

    about: ClassVar[str] = "GELU"
    element_bytes: ClassVar[int] = 750
    function = staticmethod(gelu)
    hub_names: ClassVar[tuple[str, ...]] = ("gelu",)
    gelu_head: ClassVar[ActivationKind | None] = "gelu"

    def __call__(self, u: Number) -> Number:
        """Apply; of `Fixed` the result has 18 fraction bits."""
        return to_fixed(gelu(to_float(u)), u)


class GeluTanh(Activation):
    """GELU's tanh form. Under MPC an element takes 396 bytes and 45 sends (SEMI2K)."""

    about: ClassVar[str] = "GELU's tanh form, off by 5e-4 and under MPC by 8e-3; five times cheaper"
    element_bytes: ClassVar[int] = 430
    function = staticmethod(gelu_tanh)
    hub_names: ClassVar[tuple[str, ...]] = ("gelu_new", "gelu_pytorch_tanh")
    gelu_head: ClassVar[ActivationKind | None] = "gelu_tanh"
    has_backward: ClassVar[bool] = True

    def __call__(self, u: Number) -> Number:
        """Apply; of `Fixed` the result has 18 fraction bits."""
        if not keeps_for_backward(self):
            return to_fixed(gelu_tanh(to_float(u)), u)
        value, slope = gelu_tanh_and_slope(to_float(u))
        keep_for_backward(self, slope=to_fixed(slope, u))
        return to_fixed(value, u)


class Relu(Activation):
    """max(u, 0). Under MPC an element takes 72 bytes (SEMI2K), or 60 (ABY3)."""

    about: ClassVar[str] = "for checkpoints of relu"
    element_bytes: ClassVar[int] = 250
    function = staticmethod(jax.nn.relu)
    hub_names: ClassVar[tuple[str, ...]] = ("relu",)
    has_backward: ClassVar[bool] = True

    def __call__(self, u: Number) -> Number:
        """Apply. A ring integer has the sign of its number, so the result has as many fraction bits as u."""
        if not keeps_for_backward(self):
            return Fixed(jnp.maximum(u.ring, 0), u.bits) if isinstance(u, Fixed) else jax.nn.relu(u)
        ring = u.ring if isinstance(u, Fixed) else u
        positive = (ring > 0).astype(ring.dtype)
        keep_for_backward(self, slope=Fixed(positive, 0) if isinstance(u, Fixed) else positive)
        return Fixed(ring * positive, u.bits) if isinstance(u, Fixed) else u * positive

    @staticmethod
    def result_bits(bits: int) -> int:
        """As many as the inputs have."""
        return bits
